package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// teller is a b.example that tells what the room's state was.
type teller struct {
	*across
	brief bool                                                // only the newest of the missing events are given
	lie   func(server string, ids []string) ([]string, error) // what is told instead of the ids of the state
	asks  int
}

func (x *teller) StateIDs(ctx context.Context, server, roomID, eventID string) ([]string, []string, error) {
	x.asks++
	state, chain, err := x.to.StateBefore(ctx, "a.example", roomID, eventID)
	ids := idsOf(state)
	if err == nil && x.lie != nil {
		ids, err = x.lie(server, ids)
	}
	return ids, idsOf(chain), err
}

func (x *teller) MissingEvents(ctx context.Context, server, roomID string, earliest, latest []string, limit int, depth int64) ([]json.RawMessage, error) {
	raws, err := x.across.MissingEvents(ctx, server, roomID, earliest, latest, limit, depth)
	if x.brief && len(raws) > 1 {
		raws = raws[len(raws)-1:]
	}
	return raws, err
}

func (x *teller) State(ctx context.Context, _, roomID, eventID string, into JoinSink) error {
	state, chain, err := x.to.StateBefore(ctx, "a.example", roomID, eventID)
	for _, raw := range PDUs(append(state, chain...)) {
		if err == nil {
			err = into.Auth(raw)
		}
	}
	return err
}

func (x *teller) Event(ctx context.Context, _, eventID string) (json.RawMessage, error) {
	e, err := x.to.EventForServer(ctx, "a.example", eventID)
	if err != nil {
		return nil, err
	}
	return e.Event.JSON(), nil
}

func (x *teller) EventAuth(ctx context.Context, _, roomID, eventID string) ([]json.RawMessage, error) {
	chain, err := x.to.EventAuth(ctx, "a.example", roomID, eventID)
	return PDUs(chain), err
}

func idsOf(list []*store.Stored) (ids []string) {
	for _, e := range list {
		ids = append(ids, e.ID)
	}
	return ids
}

// partialWorld is a room of b.example that carol of a.example joined without its members.
type partialWorld struct {
	t    *testing.T
	s    *Server
	x    *teller
	room string
	sent int64 // the newest position of b.example that a.example has
}

const (
	derek = "@derek:b.example"
	elsie = "@elsie:b.example"
	fred  = "@fred:b.example"
)

// eachPartial runs a test with a room of @bob, @derek and @elsie of b.example and six more, of whom fred came and left, after
// prepare; then carol joins.
func eachPartial(t *testing.T, prepare, fn func(w *partialWorld)) {
	eachPair(t, func(t *testing.T, s *Server, x *across) {
		w := &partialWorld{t: t, s: s, x: &teller{across: x}}
		s.Remote, s.PartialJoins = w.x, true
		w.room = createRoom(t, x.to, CreateRequest{Creator: farBob, Version: "11", Preset: "public_chat", Name: "Far"})
		for _, user := range []string{derek, elsie, fred, "@g:b.example", "@h:b.example", "@i:b.example"} {
			w.far(user, user, "join")
		}
		w.farState(farBob, "m.room.power_levels", fmt.Sprintf(`{"users":{%q:100,%q:100,%q:100,%q:50}}`, farBob, derek, fred, elsie))
		w.far(fred, fred, "leave")
		if prepare != nil {
			prepare(w)
		}
		must(t, join(s, w.room, carol))
		w.sent = x.to.Hub.Published()
		fn(w)
	})
}

func (w *partialWorld) far(sender, target, membership string) {
	w.t.Helper()
	_, err := w.x.to.SetMembership(w.t.Context(), MembershipRequest{RoomID: w.room, Sender: sender, Target: target, Membership: membership})
	must(w.t, err)
}

func (w *partialWorld) farState(sender, typ, content string) string {
	w.t.Helper()
	key := ""
	id, err := w.x.to.Send(w.t.Context(), SendRequest{RoomID: w.room, Sender: sender, Type: typ, StateKey: &key, Content: json.RawMessage(content)})
	must(w.t, err)
	return id
}

// pass hands what happened at b.example on to a.example.
func (w *partialWorld) pass() {
	w.t.Helper()
	now := w.x.to.Hub.Published()
	events, _, err := w.x.to.Timeline(w.t.Context(), w.room, w.sent, now, 1000)
	must(w.t, err)
	w.sent = now
	w.give(events...)
}

func (w *partialWorld) give(events ...*store.Stored) {
	w.t.Helper()
	_, err := w.s.Receive(w.t.Context(), "b.example", PDUs(events))
	must(w.t, err)
	w.placeAll()
}

// giveRaw hands events to a.example of which b.example knows nothing.
func (w *partialWorld) giveRaw(events ...*event.Event) {
	w.t.Helper()
	for _, e := range events {
		w.give(&store.Stored{Event: e})
	}
}

// placeAll works off what waits.
func (w *partialWorld) placeAll() {
	w.t.Helper()
	w.s.retryInbound()
	key, err := w.s.Room(w.t.Context(), w.room)
	must(w.t, err)
	w.s.drainRoom(w.t.Context(), key)
}

// complete has a.example ask for the members once.
func (w *partialWorld) complete() error {
	w.t.Helper()
	j := w.s.partials.underWay(w.room)
	if j == nil {
		w.t.Fatal("no join without members is under way")
	}
	j = w.s.partials.take(w.s.Clock().Add(time.Hour))
	f := j.flight
	defer w.s.partials.rest(j, w.s.Clock(), nil)
	_ = f
	return w.s.completeRound(w.t.Context(), j)
}

// flags returns how a.example judged an event.
func (w *partialWorld) flags(id string) store.Flags {
	w.t.Helper()
	e, err := w.s.here(w.t.Context(), id)
	must(w.t, err)
	if e == nil {
		w.t.Fatalf("%s is not here", id)
	}
	return e.Flags
}

func (w *partialWorld) expectFlags(what, id string, want store.Flags) {
	w.t.Helper()
	if got := w.flags(id) &^ store.Gapped; got != want {
		w.t.Errorf("%s: flags %b, want %b", what, got, want)
	}
}

// expectSame compares the newest state of both, and that before each event that both delivered.
func (w *partialWorld) expectSame() {
	w.t.Helper()
	if a, b := w.newest(w.s), w.newest(w.x.to); !slices.Equal(a, b) {
		w.t.Errorf("the newest state differs:\n%v\n%v", a, b)
	}
	if a, b := w.members(w.s), w.members(w.x.to); !slices.Equal(a, b) {
		w.t.Errorf("the members differ:\n%v\n%v", a, b)
	}
	events, _, err := w.s.Timeline(w.t.Context(), w.room, 0, w.s.Hub.Published(), 1000)
	must(w.t, err)
	if len(events) == 0 {
		w.t.Error("the timeline is empty")
	}
	for _, e := range events {
		there, err := w.x.to.here(w.t.Context(), e.ID)
		must(w.t, err)
		if there == nil || e.Flags&store.Partial != 0 {
			w.t.Errorf("%s %s: flags %b", e.Event.Type(), e.ID, e.Flags)
			continue
		}
		if a, b := stateBefore(w.t, w.s, e), stateBefore(w.t, w.x.to, there); !slices.Equal(a, b) {
			w.t.Errorf("the state before %s %s differs:\n%v\n%v", e.Event.Type(), e.ID, a, b)
		}
	}
	w.expectReloaded()
}

// expectReloaded compares the handle with what a new one reads.
func (w *partialWorld) expectReloaded() {
	w.t.Helper()
	r, err := w.s.handle(w.t.Context(), w.room)
	must(w.t, err)
	again, err := w.s.load(w.t.Context(), r.key)
	must(w.t, err)
	if a, b := fmt.Sprint(r.tip.servers, r.tip.joined, r.tip.rev, r.tip.partial == nil, r.tip.torn, r.tip.state.NID, tipIDs(r)),
		fmt.Sprint(again.tip.servers, again.tip.joined, again.tip.rev, again.tip.partial == nil, again.tip.torn, again.tip.state.NID, tipIDs(again)); a != b {
		w.t.Errorf("the handle says\n%s\nthe database\n%s", a, b)
	}
}

func tipIDs(r *room) (ids []string) {
	for _, x := range r.tip.extremities {
		ids = append(ids, fmt.Sprint(x.id, x.after.NID, x.flags))
	}
	return ids
}

func stateBefore(t *testing.T, s *Server, e *store.Stored) (ids []string) {
	t.Helper()
	must(t, s.db.Read(t.Context(), func(tx *sqldb.Tx) error {
		ref, err := s.Store.Set(tx, e.State)
		if err != nil {
			return err
		}
		events, err := s.StateEvents(tx, ref, nil)
		ids = idsOf(events)
		return err
	}))
	slices.Sort(ids)
	return ids
}

func (w *partialWorld) newest(s *Server) (ids []string) {
	w.t.Helper()
	v, err := s.Current(w.t.Context(), w.room)
	must(w.t, err)
	must(w.t, s.db.Read(w.t.Context(), func(tx *sqldb.Tx) error {
		events, err := s.StateEvents(tx, v.State, nil)
		ids = idsOf(events)
		return err
	}))
	slices.Sort(ids)
	return ids
}

func (w *partialWorld) members(s *Server) (list []string) {
	w.t.Helper()
	key, err := s.Room(w.t.Context(), w.room)
	must(w.t, err)
	must(w.t, s.db.Read(w.t.Context(), func(tx *sqldb.Tx) error {
		members, err := s.Store.Members(tx, key.NID)
		for _, m := range members {
			list = append(list, m.User+" "+m.State.String())
		}
		return err
	}))
	slices.Sort(list)
	return list
}

func (w *partialWorld) say(s *Server, user, text string) string {
	w.t.Helper()
	return sendText(w.t, s, w.room, user, text)
}

// giveFar hands what a.example made on to b.example.
func (w *partialWorld) giveFar(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		e, err := w.s.here(w.t.Context(), id)
		must(w.t, err)
		_, err = w.x.to.Receive(w.t.Context(), "a.example", PDUs([]*store.Stored{e}))
		must(w.t, err)
	}
}

// TestPartialJoin uses a room before its members are known, with traffic both ways, and compares the two servers afterwards.
func TestPartialJoin(t *testing.T) {
	eachPartial(t, nil, func(w *partialWorld) {
		ctx := t.Context()
		if !w.s.MembersMissing(w.room, w.s.Hub.Published()) || !w.s.Hub.IsJoined(carol, w.room) {
			t.Fatal("the room is not used without its members")
		}
		if servers, err := w.s.JoinedServers(ctx, w.room); err != nil || !slices.Equal(servers, []string{"b.example"}) {
			t.Errorf("it has the servers %v: %v", servers, err)
		}
		if _, _, err := w.s.Template(ctx, "join", w.room, "@z:c.example", nil); !errors.Is(err, ErrPartial) {
			t.Errorf("a template of a join: %v", err)
		}
		for _, user := range []string{derek, fred} {
			if in, err := w.s.IsMember(ctx, w.room, user); err != nil || !in {
				t.Errorf("%s may not be a member: %v", user, err)
			}
		}
		w.giveFar(w.say(w.s, carol, "one"), w.say(w.s, carol, "two"))
		w.say(w.x.to, derek, "three")
		w.far(derek, derek, "leave")
		w.far(farBob, "@g:b.example", "ban")
		w.farState(elsie, "m.room.topic", `{"topic":"new"}`)
		w.far("@new:b.example", "@new:b.example", "join")
		w.pass()
		w.say(w.x.to, elsie, "four")
		w.pass()
		w.giveFar(w.say(w.s, carol, "five"))
		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		if err := w.s.AwaitMembers(short, w.room); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for the members: %v", err)
		}
		waited := make(chan error, 1)
		go func() { waited <- w.s.AwaitMembers(ctx, w.room) }()
		at := w.s.Hub.Published()
		must(t, w.complete())
		must(t, <-waited)
		w.expectSame()
		if _, came := w.s.MembersCame(w.room, at, w.s.Hub.Published()); !came || w.s.MembersMissing(w.room, w.s.Hub.Published()) {
			t.Error("the members did not come")
		}
		if _, _, err := w.s.Template(ctx, "join", w.room, "@z:c.example", nil); err != nil {
			t.Errorf("a template of a join: %v", err)
		}
		w.giveFar(w.say(w.s, carol, "six"))
		w.say(w.x.to, elsie, "seven")
		w.pass()
		w.expectSame()
	})
}

// lying returns a snapshot in which an event takes its place in the state.
func (sn snapshot) lying(e *event.Event) snapshot {
	sn.state = lie{sn.state, e}
	return sn
}

type lie struct {
	auth.State
	e *event.Event
}

func (l lie) Lookup(typ, key string) *event.Event {
	if k, _ := l.e.Key(); l.e.Type() == typ && k == key {
		return l.e
	}
	return l.State.Lookup(typ, key)
}

// after returns the snapshot after an event that is in no state.
func (sn snapshot) after(e *event.Event) snapshot {
	sn.prevs, sn.depth = []string{e.EventID()}, sn.depth+1
	return sn
}

func (w *partialWorld) stayOf(user string) (join *event.Event) {
	w.t.Helper()
	events, _, err := w.x.to.Timeline(w.t.Context(), w.room, 0, w.x.to.Hub.Published(), 1000)
	must(w.t, err)
	for _, e := range events {
		if e.Event.IsState("m.room.member", user) && auth.Membership(e.Event) == auth.Join {
			join = e.Event
		}
	}
	return join
}

// TestPartialJoinJudgesAgain has fred, who left before the join, say that he is in the room: what he does holds until the members
// are known.
func TestPartialJoinJudgesAgain(t *testing.T) {
	eachPartial(t, nil, func(w *partialWorld) {
		empty, target := "", elsie
		sn := snap(t, w.x.to, w.room)
		mad := sn.lying(w.stayOf(fred))
		state := mad.build(t, w.x.to, w.room, farSigner, fred, "m.test", &empty, `{"a":1}`)
		mad = mad.after(state)
		kick := mad.build(t, w.x.to, w.room, farSigner, fred, "m.room.member", &target, `{"membership":"leave"}`)
		sn = sn.after(kick)
		topic := sn.build(t, w.x.to, w.room, farSigner, elsie, "m.room.topic", &empty, `{"topic":"by elsie"}`)
		sn = sn.after(topic)
		redaction := mad.after(topic).build(t, w.x.to, w.room, farSigner, fred, "m.room.redaction", nil, fmt.Sprintf(`{"redacts":%q}`, topic.EventID()))
		good := sn.after(redaction).build(t, w.x.to, w.room, farSigner, farBob, "m.room.message", nil, `{"body":"good","msgtype":"m.text"}`)
		for _, e := range []*event.Event{state, kick, topic, redaction, good} { // b.example sees through it
			_, err := w.x.to.Receive(t.Context(), "b.example", []json.RawMessage{e.JSON()})
			must(t, err)
		}
		w.giveRaw(state, kick, topic, redaction, good)
		w.expectFlags("the state of who is not there", state.EventID(), store.Partial)
		w.expectFlags("the kick by who is not there", kick.EventID(), store.Partial)
		w.expectFlags("the topic of who was kicked", topic.EventID(), store.Partial|store.Rejected)
		w.expectFlags("the redaction by who is not there", redaction.EventID(), store.Partial)
		w.expectFlags("a message", good.EventID(), store.Partial)
		w.s.mustBe(t, w.room, elsie, store.Leave)
		before := w.s.Hub.Published()
		must(t, w.complete())
		w.expectFlags("the state of who is not there", state.EventID(), store.Rejected)
		w.expectFlags("the kick by who is not there", kick.EventID(), store.Rejected)
		w.expectFlags("the topic of who was not kicked", topic.EventID(), 0)
		w.expectFlags("the redaction by who is not there", redaction.EventID(), store.Rejected)
		w.expectFlags("a message", good.EventID(), 0)
		w.s.mustBe(t, w.room, elsie, store.Join)
		w.expectSame()
		news, _, err := w.s.Timeline(t.Context(), w.room, before, w.s.Hub.Published(), 10)
		must(t, err)
		if len(news) != 1 || news[0].ID != topic.EventID() || !strings.Contains(string(news[0].Event.ContentJSON()), "by elsie") {
			t.Errorf("delivered with the members: %v", idsOf(news))
		}
		all, _, err := w.s.Timeline(t.Context(), w.room, 0, w.s.Hub.Published(), 100)
		must(t, err)
		if slices.Contains(idsOf(all), kick.EventID()) {
			t.Error("the kick is still in the timeline")
		}
	})
}

// TestPartialJoinRedactions holds a redaction back until it is known who may redact.
func TestPartialJoinRedactions(t *testing.T) {
	eachPartial(t, nil, func(w *partialWorld) {
		said := w.say(w.s, carol, "to be redacted")
		w.giveFar(said)
		_, err := w.x.to.Send(t.Context(), SendRequest{RoomID: w.room, Sender: farBob, Type: "m.room.redaction", Redacts: said, Content: json.RawMessage(fmt.Sprintf(`{"redacts":%q}`, said))})
		must(t, err)
		w.pass()
		redacted := func() bool {
			e, err := w.s.here(t.Context(), said)
			must(t, err)
			return e.RedactedBy != 0
		}
		if redacted() {
			t.Error("it is redacted while not all members are known")
		}
		must(t, w.complete())
		if !redacted() {
			t.Error("it is not redacted when all members are known")
		}
		w.expectSame()
	})
}

// TestPartialJoinLies has servers tell wrong states: the room goes on without its members until somebody tells the right one.
func TestPartialJoinLies(t *testing.T) {
	eachPartial(t, nil, func(w *partialWorld) {
		without := func(typ string) func(string, []string) ([]string, error) {
			return func(_ string, ids []string) ([]string, error) {
				return slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
					e, err := w.x.to.here(t.Context(), id)
					return err == nil && e.Event.Type() == typ
				}), nil
			}
		}
		for name, lie := range map[string]func(string, []string) ([]string, error){
			"nothing":           func(string, []string) ([]string, error) { return nil, nil },
			"no create event":   without("m.room.create"),
			"no join rules":     without("m.room.join_rules"),
			"nobody is in it":   without("m.room.member"),
			"a failure":         func(string, []string) ([]string, error) { return nil, errFar },
			"events of nowhere": func(string, []string) ([]string, error) { return []string{"$" + strings.Repeat("x", 43)}, nil },
		} {
			w.x.lie = lie
			if err := w.complete(); err == nil {
				t.Errorf("%s: the room is complete", name)
			}
			w.giveFar(w.say(w.s, carol, name))
			if !w.s.MembersMissing(w.room, w.s.Hub.Published()) {
				t.Fatalf("%s: no member is missing", name)
			}
		}
		w.x.lie = nil
		must(t, w.complete())
		w.expectSame()
	})
}

// TestPartialJoinRestart stops between the join and its completion.
func TestPartialJoinRestart(t *testing.T) {
	eachPartial(t, nil, func(w *partialWorld) {
		w.say(w.x.to, derek, "before")
		w.pass()
		w.s = newTestServer(t, w.s.db)
		w.s.Remote, w.s.PartialJoins = w.x, true
		if !w.s.MembersMissing(w.room, w.s.Hub.Published()) {
			t.Fatal("after a restart no member is missing")
		}
		w.say(w.x.to, elsie, "after")
		w.pass()
		must(t, w.complete())
		w.expectSame()
		w.s = newTestServer(t, w.s.db)
		if w.s.MembersMissing(w.room, w.s.Hub.Published()) {
			t.Error("after another restart members are missing")
		}
		w.expectSame()
	})
}

// TestPartialJoinLeave leaves before the members are known, and comes back.
func TestPartialJoinLeave(t *testing.T) {
	eachPartial(t, nil, func(w *partialWorld) {
		ctx := t.Context()
		w.say(w.x.to, derek, "hello")
		w.pass()
		id, err := w.s.SetMembership(ctx, MembershipRequest{RoomID: w.room, Sender: carol, Target: carol, Membership: "leave"})
		must(t, err)
		w.giveFar(id)
		must(t, w.s.AwaitMembers(ctx, w.room))
		if in, err := w.s.IsResident(ctx, w.room); err != nil || in {
			t.Errorf("the server is in the room: %v", err)
		}
		w.expectReloaded()
		w.say(w.x.to, derek, "unheard")
		must(t, join(w.s, w.room, carol))
		w.sent = w.x.to.Hub.Published()
		w.say(w.x.to, derek, "heard")
		w.pass()
		must(t, w.complete())
		if a, b := w.newest(w.s), w.newest(w.x.to); !slices.Equal(a, b) {
			t.Errorf("the newest state differs:\n%v\n%v", a, b)
		}
		w.expectReloaded()
	})
}

// TestPartialJoinKicked is thrown out before the members are known.
func TestPartialJoinKicked(t *testing.T) {
	eachPartial(t, nil, func(w *partialWorld) {
		w.far(farBob, carol, "ban")
		w.pass()
		w.s.mustBe(t, w.room, carol, store.Ban)
		must(t, w.s.AwaitMembers(t.Context(), w.room))
		var refused *NotAllowed
		if err := join(w.s, w.room, carol); !errors.As(err, &refused) {
			t.Errorf("joining again: %v", err)
		}
	})
}

// TestPartialJoinSecondUser has another user join before the members are known: whether they may, the other server says.
func TestPartialJoinSecondUser(t *testing.T) {
	eachPartial(t, func(w *partialWorld) { w.far(farBob, "@banned:a.example", "ban") }, func(w *partialWorld) {
		must(t, join(w.s, w.room, dave))
		w.s.mustBe(t, w.room, dave, store.Join)
		var refused *NotAllowed
		if err := join(w.s, w.room, "@banned:a.example"); !errors.As(err, &refused) {
			t.Errorf("who is banned: %v", err)
		}
		id, err := w.s.SetMembership(t.Context(), MembershipRequest{RoomID: w.room, Sender: carol, Target: carol, Membership: "leave"})
		must(t, err)
		w.giveFar(id)
		if !w.s.MembersMissing(w.room, w.s.Hub.Published()) {
			t.Error("the first who joined took the room along")
		}
		must(t, w.complete())
		w.s.mustBe(t, w.room, "@banned:a.example", store.Ban)
		w.expectSame()
	})
}

// TestPartialJoinByInvite joins a room that one must be invited to: the invite comes with the join's auth events.
func TestPartialJoinByInvite(t *testing.T) {
	eachPartial(t, func(w *partialWorld) {
		w.farState(farBob, "m.room.join_rules", `{"join_rule":"invite"}`)
		key := carol
		e := snap(t, w.x.to, w.room).build(t, w.x.to, w.room, farSigner, farBob, "m.room.member", &key, `{"membership":"invite"}`)
		_, err := w.x.to.Receive(t.Context(), "b.example", []json.RawMessage{e.JSON()})
		must(t, err)
	}, func(w *partialWorld) {
		w.s.mustBe(t, w.room, carol, store.Join)
		must(t, w.complete())
		w.expectSame()
	})
}

// TestPartialJoinGap receives an event whose prev events are fetched with a state that is told, before the members are known.
func TestPartialJoinGap(t *testing.T) {
	for _, brief := range []bool{false, true} {
		eachPartial(t, nil, func(w *partialWorld) {
			w.x.brief = brief
			for i := range 3 {
				w.say(w.x.to, derek, fmt.Sprint("missed ", i))
			}
			w.far(farBob, "@h:b.example", "ban")
			w.say(w.x.to, elsie, "fetched")
			w.sent = w.x.to.Hub.Published()
			heard := w.say(w.x.to, elsie, "heard")
			w.pass()
			if f := w.flags(heard); f&(store.Rejected|store.SoftFailed|store.Outlier) != 0 {
				t.Errorf("an event behind a gap has the flags %b", f)
			}
			w.giveFar(w.say(w.s, carol, "answered"))
			must(t, w.complete())
			w.expectSame()
		})
	}
}

// TestPartialJoinSoftFailure has h, who was banned before the join, send an event from before the ban.
func TestPartialJoinSoftFailure(t *testing.T) {
	var old snapshot
	eachPartial(t, func(w *partialWorld) {
		old = snap(t, w.x.to, w.room)
		w.far(farBob, "@h:b.example", "ban")
	}, func(w *partialWorld) {
		late := old.build(t, w.x.to, w.room, farSigner, "@h:b.example", "m.room.message", nil, `{"body":"late","msgtype":"m.text"}`)
		_, err := w.x.to.Receive(t.Context(), "b.example", []json.RawMessage{late.JSON()})
		must(t, err)
		w.giveRaw(late)
		w.expectFlags("before", late.EventID(), 0)
		must(t, w.complete())
		w.expectFlags("when the members are known", late.EventID(), store.SoftFailed)
		all, _, err := w.s.Timeline(t.Context(), w.room, 0, w.s.Hub.Published(), 100)
		must(t, err)
		if slices.Contains(idsOf(all), late.EventID()) {
			t.Error("it is still in the timeline")
		}
		if a, b := w.newest(w.s), w.newest(w.x.to); !slices.Equal(a, b) {
			t.Errorf("the newest state differs:\n%v\n%v", a, b)
		}
	})
}

// completions notes what a room's completion told participants.
type completions struct{ list []*Completed }

func (*completions) Load(context.Context, int64) error                     { return nil }
func (*completions) Forget(int64)                                          {}
func (*completions) Prepare(*Accepted) func(tx *sqldb.Tx, pos int64) error { return nil }
func (c *completions) Completed(done *Completed) func(*sqldb.Tx, int64) error {
	return func(*sqldb.Tx, int64) error {
		c.list = append(c.list, done)
		return nil
	}
}

// TestPartialJoinTellsParticipants has a server that was not named be in the room, and who left be taken for a member.
func TestPartialJoinTellsParticipants(t *testing.T) {
	told := &completions{}
	eachPartial(t, func(w *partialWorld) {
		told.list = nil
		w.x.nameless = true
		w.s.Participants = []Participant{told}
	}, func(w *partialWorld) {
		if servers, err := w.s.JoinedServers(t.Context(), w.room); err != nil || len(servers) != 0 {
			t.Errorf("the room has the servers %v: %v", servers, err)
		}
		mad := snap(t, w.x.to, w.room).lying(w.stayOf(fred)).build(t, w.x.to, w.room, farSigner, fred, "m.room.message", nil, `{"body":"mad","msgtype":"m.text"}`)
		_, err := w.x.to.Receive(t.Context(), "b.example", []json.RawMessage{mad.JSON()})
		must(t, err)
		w.giveRaw(mad)
		w.s.mustBe(t, w.room, fred, store.Join)
		must(t, w.complete())
		w.s.mustBe(t, w.room, fred, store.Leave)
		if servers, err := w.s.JoinedServers(t.Context(), w.room); err != nil || !slices.Equal(servers, []string{"b.example"}) {
			t.Errorf("the room has the servers %v: %v", servers, err)
		}
		if len(told.list) != 1 || !slices.Equal(told.list[0].Servers, []string{"b.example"}) || !slices.Equal(told.list[0].Gone, []string{fred}) {
			t.Errorf("participants were told %+v", told.list)
		}
	})
}

// TestPartialJoinIsCounted has the worker complete a room: the outcome is known although the end of the join ends its context.
func TestPartialJoinIsCounted(t *testing.T) {
	eachPartial(t, nil, func(w *partialWorld) {
		if list := w.s.Joins(); len(list) != 1 || !list[0].Usable || list[0].User != carol || list[0].Step != stepWait {
			t.Errorf("under way: %+v", list)
		}
		w.x.lie = func(string, []string) ([]string, error) { return nil, errFar }
		w.s.completeRoom(t.Context(), w.s.partials.take(w.s.Clock()))
		if list := w.s.Joins(); len(list) != 1 || !strings.Contains(list[0].Failure, errFar.Error()) {
			t.Errorf("after a failure: %+v", list)
		}
		if w.s.partials.take(w.s.Clock()) != nil {
			t.Error("it is tried again at once")
		}
		w.x.lie = nil
		w.s.completeRoom(t.Context(), w.s.partials.take(w.s.Clock().Add(completeRest)))
		if len(w.s.Joins()) != 0 || w.s.MembersMissing(w.room, w.s.Hub.Published()) {
			t.Errorf("it is not complete: %+v", w.s.Joins())
		}
		if got := counted(t, w.s.partials.metrics.rounds.WithLabelValues("complete")); got != 1 {
			t.Errorf("%v rounds are counted", got)
		}
	})
}
