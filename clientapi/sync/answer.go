package sync

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"knock/internal/account"
	"knock/internal/ephemeral"
	"knock/internal/pushrules"
	"knock/internal/sqldb"
	"knock/roomserver/store"
)

// answer is one answer under way: first it finds out which rooms have something
// new, then it reads what to tell of them, then it is encoded.
type answer struct {
	*Sync
	q    *request
	at   token
	from int64 // positions after this one are new; 0: all

	data   map[string][]account.Datum // account data by room, "" for the global one
	rules  json.RawMessage            // m.push_rules, when they changed
	before []string                   // rooms that the user was in at from, and is
	joined map[string]*room
	todo   []*room     // rooms to tell of, joined and left
	others []*standing // invites and knocks

	receipts map[string][]ephemeral.Receipt
	typing   map[string][]string
	counts   map[string]pushrules.Counts
	arrived  []string                  // users who came into rooms that the user is in
	fresh    bool                      // the user came into a room
	given    []uint64                  // member events, for the device to remember
	searched int                       // events that were looked at for timelines
	stickies map[int64][]*store.Stored // by room

	sections // encoded
	deviceNews
	presence []ephemeral.State
	profiles account.ProfileNews
}

// sections are the parts of an answer, each as the members of an object or array
// that end with a comma.
type sections struct{ join, invite, knock, leave []byte }

// snapshotTime bounds each read snapshot, and snapshotRooms the rooms that one is used for.
const (
	snapshotTime  = 5 * time.Second
	snapshotRooms = 64
)

// answer returns the encoded answer, and whether it tells of anything.
func (s *Sync) answer(ctx context.Context, q *request, at token) (body []byte, some bool, err error) {
	a := &answer{Sync: s, q: q, at: at, joined: map[string]*room{}}
	if !q.initial {
		a.from = q.since.pos
	}
	if q.ignored, err = s.o.Accounts.IgnoredUsers(ctx, q.user); err != nil {
		return nil, false, err
	}
	if err := a.countKeys(ctx); err != nil {
		return nil, false, err
	}
	if err := a.find(ctx); err != nil {
		return nil, false, err
	}
	for first := true; first || len(a.todo) > 0; first = false {
		err := a.read(ctx, func(tx *sqldb.Tx) error {
			if first {
				if err := a.shared(tx); err != nil {
					return err
				}
			}
			return a.tell(tx)
		})
		if err != nil {
			return nil, false, err
		}
	}
	a.sharePresence()
	if err := a.shareProfiles(ctx); err != nil {
		return nil, false, err
	}
	body, some = a.encode()
	q.seen.Offer(a.at, a.given)
	return body, some, nil
}

func (a *answer) read(ctx context.Context, fn func(tx *sqldb.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, snapshotTime)
	defer cancel()
	return a.o.DB.Read(ctx, fn)
}

// find finds the rooms that have something new and looks at them. The rooms come
// before the personal position: who leaves a room meanwhile raises that first.
func (a *answer) find(ctx context.Context) error {
	joined := a.o.Hub.JoinedRooms(a.q.user)
	changed := joined
	if a.from > 0 && !a.q.full {
		changed = a.o.Hub.ChangedRooms(a.q.user, a.from)
	}
	moved, away := map[string]bool{}, map[string]bool{} // away: the user was not there all the time
	if a.from == 0 || a.personalNews() {
		standings, err := a.standings(ctx)
		if err != nil {
			return err
		}
		for _, st := range standings {
			moved[st.key.ID] = true
			away[st.key.ID] = st.before != store.Join || st.now != store.Join // otherwise another name, for instance
			if err := a.place(ctx, st); err != nil {
				return err
			}
		}
	}
	if a.before = joined; len(away) > 0 {
		a.before = slices.DeleteFunc(slices.Clone(joined), func(id string) bool { return away[id] })
	}
	for _, id := range changed {
		if moved[id] || !a.wants(id) {
			continue
		}
		r := a.room(id)
		r.full = a.q.full
		if _, came := a.o.Rooms.MembersCame(id, a.from, a.at.pos); came && !a.q.filter.state.lazy {
			r.fresh() // it was withheld until now
		}
		if err := r.look(ctx, a.at.pos); err != nil {
			return err
		}
	}
	if err := a.findSticky(ctx, moved); err != nil {
		return err
	}
	return a.findMoves(ctx, changed, moved)
}

// personalNews reports whether something that concerns the user alone may have
// changed since.
func (a *answer) personalNews() bool {
	return a.o.Hub.LastPersonal(a.q.user) > a.from
}

// wants reports whether the client is told of a room: its filter takes it and, unless the client loads members lazily,
// all of them are known.
func (a *answer) wants(id string) bool {
	return a.q.filter.rooms.has(id) && (a.q.filter.state.lazy || !a.o.Rooms.MembersMissing(id, a.at.pos))
}

// room returns a joined room of the answer, adding it.
func (a *answer) room(id string) *room {
	r := a.joined[id]
	if r == nil {
		r = &room{a: a, id: id, from: a.from}
		a.joined[id] = r
		a.todo = append(a.todo, r)
	}
	return r
}

// place puts a room where the user's standing changed into its section.
func (a *answer) place(ctx context.Context, st *standing) error {
	if st.now == store.Join && !a.wants(st.key.ID) || !a.q.filter.rooms.has(st.key.ID) {
		return nil
	}
	switch st.now {
	case store.Join:
		r := a.room(st.key.ID)
		r.full = a.q.full
		if st.before != store.Join {
			r.fresh()
		}
		return r.look(ctx, a.at.pos)
	case store.Invite, store.Knock:
		if st.changed {
			a.others = append(a.others, st)
		}
	case store.Leave, store.Ban:
		return a.placeLeft(ctx, st)
	}
	return nil
}

// shared reads what is read for all rooms at once.
func (a *answer) shared(tx *sqldb.Tx) error {
	for _, st := range a.others {
		if err := a.tellOther(tx, st); err != nil {
			return err
		}
	}
	if err := a.readEphemeral(tx); err != nil {
		return err
	}
	if err := a.placeData(tx); err != nil {
		return err
	}
	if err := a.readCounts(tx); err != nil {
		return err
	}
	if err := a.readAllSticky(tx); err != nil {
		return err
	}
	return a.readDeviceNews(tx)
}

// placeData adds the rooms with account data. Of a room that the user came into
// the client gets all there is: it was told nothing of it while the user was out.
func (a *answer) placeData(tx *sqldb.Tx) error {
	for id := range a.data {
		if slices.Contains(a.before, id) && a.wants(id) {
			a.room(id)
		}
	}
	if !a.fresh || a.from == 0 {
		return nil
	}
	list, err := a.o.Accounts.AccountDataSince(tx, a.q.user, 0, a.at.pos)
	if err != nil {
		return err
	}
	all := groupData(list)
	for _, id := range a.newlyJoined() {
		if len(all[id]) > 0 {
			a.data = merged(a.data, map[string][]account.Datum{id: all[id]})
		}
	}
	return nil
}

// newlyJoined returns the rooms of which the client knows nothing.
func (a *answer) newlyJoined() []string {
	var ids []string
	for id, r := range a.joined {
		if r.newly {
			ids = append(ids, id)
		}
	}
	return ids
}

// readCounts reads the unread counts of rooms where they may have changed.
func (a *answer) readCounts(tx *sqldb.Tx) (err error) {
	var keys []pushrules.RoomKey
	for id, r := range a.joined {
		r.counted = r.looked || slices.ContainsFunc(a.receipts[id], func(rc ephemeral.Receipt) bool { return rc.User == a.q.user })
		if !r.counted {
			continue
		}
		if r.key.NID == 0 {
			if r.key, err = a.o.Rooms.Store.RoomTx(tx, id); err != nil {
				return err
			}
		}
		keys = append(keys, pushrules.RoomKey{ID: id, NID: r.key.NID})
	}
	a.counts, err = a.o.Push.Unread(tx, a.q.user, keys, a.at.pos, slices.Collect(maps.Keys(a.q.ignored))...)
	return err
}

// tell encodes some of the rooms that are left to tell of.
func (a *answer) tell(tx *sqldb.Tx) error {
	n := min(len(a.todo), snapshotRooms)
	for _, r := range a.todo[:n] {
		if err := r.read(tx); err != nil {
			return err
		}
		if r.left != nil {
			a.leave = r.encode(a.leave)
		} else {
			a.join = r.encode(a.join)
		}
	}
	a.todo = a.todo[n:]
	return nil
}
