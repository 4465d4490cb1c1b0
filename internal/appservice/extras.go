package appservice

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"knock/internal/e2ee"
	"knock/internal/ephemeral"
	"knock/internal/sqldb"
)

// Sources are what knows what services get beside events.
type Sources struct {
	Typing   *ephemeral.Typing
	Receipts *ephemeral.Receipts
	Presence *ephemeral.Presence
	Keys     *e2ee.Service
}

// Bounds of what one transaction has beside events.
const (
	maxReceipts = 1000
	maxLists    = 1000
	maxMessages = 100
	roomsAtOnce = 500 // asked for receipts
)

// extras are what one transaction has beside events (Application Service API, "Pushing ephemeral data"; MSC4203;
// MSC3202).
type extras struct {
	took     noted
	from, to int64 // positions: receipts and lists in (from, to] are looked at
	until    int64 // everything up to here is in this transaction or in earlier ones
	eph      int64

	ephemeral []json.RawMessage
	messages  []e2ee.Waiting
	more      bool // messages are left
	changed   map[string]bool
	left      map[string]bool
	oneTime   map[string]map[string]map[string]int // user → device → algorithm
	unused    map[string]map[string][]string
}

func (x *extras) empty() bool {
	return len(x.ephemeral)+len(x.messages)+len(x.changed)+len(x.left)+len(x.oneTime) == 0
}

// partial says that something was left for the next transaction.
func (x *extras) partial() bool { return x != nil && (x.more || x.until < x.to) }

// beside is how far a service got what is no event. body is what the transaction under way has of it; nil for none.
type beside struct {
	pos, eph int64
	body     []byte
}

// gather looks for what changed since the last transaction. It is nil for a service that takes events only. Unless it
// is done, what was taken from the marks must go back.
func (l *link) gather(ctx context.Context) (*extras, error) {
	if l.marks == nil {
		return nil, nil
	}
	to := l.s.o.Hub.Published()
	x := &extras{from: l.x.pos, to: to, until: to, took: l.marks.take(to), eph: l.s.o.Hub.Ephemeral(),
		changed: map[string]bool{}, left: map[string]bool{},
		oneTime: map[string]map[string]map[string]int{}, unused: map[string]map[string][]string{}}
	err := l.fill(ctx, x)
	if err != nil {
		l.marks.putBack(x.took)
	}
	return x, err
}

func (l *link) fill(ctx context.Context, x *extras) error {
	if l.v.takesEphemeral() {
		rooms, err := l.roomsOf(ctx, x)
		if err != nil {
			return err
		}
		if err := l.addReceipts(ctx, x, rooms); err != nil {
			return err
		}
		if err := l.addPassing(ctx, x, rooms); err != nil {
			return err
		}
	}
	if !l.v.Encryption {
		return nil
	}
	if err := l.addMessages(ctx, x); err != nil {
		return err
	}
	if err := l.addLists(ctx, x); err != nil {
		return err
	}
	return l.addCounts(ctx, x)
}

// roomsOf are those of the rooms noted that are of interest.
func (l *link) roomsOf(ctx context.Context, x *extras) (rooms []string, err error) {
	if x.took.all {
		return l.allRooms(ctx)
	}
	noted := slices.Clone(x.took.rooms)
	for _, user := range x.took.users { // whose private receipts concern nobody else
		noted = append(noted, l.s.o.Hub.JoinedRooms(user)...)
	}
	slices.Sort(noted)
	for _, room := range slices.Compact(noted) {
		in, err := l.wantsRoom(ctx, room)
		if err != nil {
			return nil, err
		}
		if in {
			rooms = append(rooms, room)
		}
	}
	return rooms, nil
}

func (l *link) allRooms(ctx context.Context) ([]string, error) {
	rooms := l.s.watch.attendedBy(l.v)
	if len(l.v.Rooms)+len(l.v.Aliases) == 0 {
		return rooms, nil
	}
	named := map[int64]string{}
	err := l.s.namedRooms(ctx, l.v, named)
	for _, room := range named {
		rooms = append(rooms, room)
	}
	slices.Sort(rooms)
	return slices.Compact(rooms), err
}

// wantsRoom says whether what happens in a room now is for the service.
func (l *link) wantsRoom(ctx context.Context, room string) (bool, error) {
	in := l.s.watch.attended(room) | l.s.reg.room(room).in
	if in&l.v.bit != 0 {
		return true, nil
	}
	aliased, err := l.s.aliased(ctx, room)
	return aliased&l.v.bit != 0, err
}

// wantsUser says whether a user, of this server or another, is the service's own or in a room that is for it.
func (l *link) wantsUser(ctx context.Context, user string) (bool, error) {
	if l.owns(user) {
		return true, nil
	}
	rooms, err := l.s.rooms.RoomsOf(ctx, user)
	for _, room := range rooms {
		in, err := l.wantsRoom(ctx, room)
		if in || err != nil {
			return in, err
		}
	}
	return false, err
}

func (l *link) owns(user string) bool { return l.s.reg.user(user).in&l.v.bit != 0 }

// passing is an event that is stored in no room.
type passing struct {
	Type    string `json:"type"`
	Room    string `json:"room_id,omitempty"`
	Sender  string `json:"sender,omitempty"`
	Content any    `json:"content"`
}

func (x *extras) add(p passing) error {
	encoded, err := json.Marshal(p)
	x.ephemeral = append(x.ephemeral, encoded)
	return err
}

func (l *link) addReceipts(ctx context.Context, x *extras, rooms []string) error {
	var all []ephemeral.Receipt
	for len(rooms) > 0 {
		part := rooms[:min(roomsAtOnce, len(rooms))]
		rooms = rooms[len(part):]
		var list []ephemeral.Receipt
		err := l.s.o.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
			var until int64
			list, until, err = l.s.from.Receipts.Between(tx, part, x.from, x.until, maxReceipts)
			x.until = min(x.until, until)
			return err
		})
		if err != nil {
			return err
		}
		all = append(all, list...)
	}
	byRoom := map[string][]ephemeral.Receipt{}
	for _, r := range all {
		if r.Type != ephemeral.ReadPrivate || l.owns(r.User) {
			byRoom[r.Room] = append(byRoom[r.Room], r)
		}
	}
	for room, list := range byRoom {
		contents, err := ephemeral.Contents(list)
		if err != nil {
			return err
		}
		for _, content := range contents {
			if err := x.add(passing{Type: "m.receipt", Room: room, Content: content}); err != nil {
				return err
			}
		}
	}
	return nil
}

// addPassing adds who types and who is online.
func (l *link) addPassing(ctx context.Context, x *extras, rooms []string) error {
	for room, users := range l.s.from.Typing.Since(rooms, l.x.eph, x.eph) {
		if err := x.add(passing{Type: "m.typing", Room: room, Content: map[string][]string{"user_ids": users}}); err != nil {
			return err
		}
	}
	now := time.Now().UnixMilli()
	for _, s := range l.s.from.Presence.Changed(l.x.eph, x.eph) {
		wanted, err := l.wantsUser(ctx, s.User)
		if err == nil && wanted {
			err = x.add(passing{Type: "m.presence", Sender: s.User, Content: s.Content(now)})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addMessages adds the messages for devices of the service's users. They must be in the transaction before, or of, the
// events that can be read with them.
func (l *link) addMessages(ctx context.Context, x *extras) error {
	return l.s.o.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		users := x.took.users
		if x.took.all {
			if users, err = l.s.from.Keys.UsersWaiting(tx, x.to); err != nil {
				return err
			}
			users = slices.DeleteFunc(users, func(u string) bool { return !l.owns(u) })
		}
		if len(users) == 0 {
			return nil
		}
		x.messages, err = l.s.from.Keys.MessagesFor(tx, users, x.to, maxMessages)
		if x.more = len(x.messages) == maxMessages; x.more {
			x.until = min(x.until, x.messages[maxMessages-1].Pos-1)
		}
		return err
	})
}

func (l *link) addLists(ctx context.Context, x *extras) error {
	var users []string
	err := l.s.o.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		var until int64
		users, until, err = l.s.from.Keys.ListChanges(tx, x.from, max(x.from, x.until), maxLists)
		x.until = min(x.until, until)
		return err
	})
	for _, user := range users {
		if err == nil {
			x.changed[user], err = l.wantsUser(ctx, user)
		}
		if !x.changed[user] {
			delete(x.changed, user)
		}
	}
	return err
}

// addCounts adds the one-time keys that are left to devices whose keys changed, and to those that get messages.
func (l *link) addCounts(ctx context.Context, x *extras) error {
	devices := map[e2ee.Device]bool{}
	for _, d := range x.took.devices {
		devices[d] = true
	}
	for _, m := range x.messages {
		devices[m.Device] = true
	}
	if x.took.all {
		err := l.s.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
			all, err := l.s.from.Keys.DevicesWithKeys(tx)
			for _, d := range all {
				devices[d] = true
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for d := range devices {
		if !l.owns(d.User) {
			continue
		}
		oneTime, unused, err := l.s.from.Keys.KeyCounts(ctx, d.User, d.ID)
		if err != nil {
			return err
		}
		x.count(d, oneTime, unused)
	}
	return nil
}

func (x *extras) count(d e2ee.Device, oneTime map[string]int, unused []string) {
	if x.oneTime[d.User] == nil {
		x.oneTime[d.User], x.unused[d.User] = map[string]map[string]int{}, map[string][]string{}
	}
	x.oneTime[d.User][d.ID], x.unused[d.User][d.ID] = oneTime, unused
}

// limit keeps of events those that nothing in a later transaction is needed for.
func (x *extras) limit(list []due, whole bool) ([]due, bool) {
	n, _ := slices.BinarySearchFunc(list, x.until+1, func(d due, pos int64) int { return cmp.Compare(d.pos, pos) })
	return list[:n], whole && n == len(list) && !x.partial()
}

// toDevice is a message as services get it (MSC4203).
type toDevice struct {
	Content json.RawMessage `json:"content"`
	Sender  string          `json:"sender"`
	Type    string          `json:"type"`
	User    string          `json:"to_user_id"`
	Device  string          `json:"to_device_id"`
}

// encode makes the fields of the transaction's body, a JSON object; nil for none. Names are stable where the
// specification has them, or where the registration asks for them.
func (x *extras) encode(v *Service) ([]byte, error) {
	if x == nil || x.empty() {
		return nil, nil
	}
	fields := map[string]any{}
	if len(x.ephemeral) > 0 && v.ReceiveEphemeral {
		fields["ephemeral"] = x.ephemeral
	}
	if len(x.ephemeral) > 0 && v.UnstableEphemeral {
		fields["de.sorunome.msc2409.ephemeral"] = x.ephemeral
	}
	if len(x.messages) > 0 {
		messages := make([]toDevice, len(x.messages))
		for i, m := range x.messages {
			if err := json.Unmarshal(m.Event, &messages[i]); err != nil {
				return nil, err
			}
			messages[i].User, messages[i].Device = m.User, m.ID
		}
		fields["de.sorunome.msc2409.to_device"] = messages
	}
	if len(x.changed)+len(x.left) > 0 {
		fields["org.matrix.msc3202.device_lists"] = map[string][]string{"changed": sorted(x.changed), "left": sorted(x.left)}
	}
	if len(x.oneTime) > 0 {
		fields["org.matrix.msc3202.device_one_time_keys_count"] = x.oneTime
		fields["org.matrix.msc3202.device_unused_fallback_key_types"] = x.unused
	}
	return json.Marshal(fields)
}

func sorted(users map[string]bool) []string {
	out := make([]string, 0, len(users))
	for user := range users {
		out = append(out, user)
	}
	slices.Sort(out)
	return out
}
