package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// across is how a.example reaches b.example: its room server without a network between.
type across struct {
	Remote
	to *Server

	mu       sync.Mutex
	sent     []string                                      // users whose joins were sent
	sending  func(ctx context.Context, user string)        // called when a join was taken, before its answer comes
	nameless bool                                          // no server is named as in the room
	altering func(state []*store.Stored) []json.RawMessage // what is told of the state
}

func (x *across) Make(ctx context.Context, kind, server, roomID, user string, versions []string) (string, json.RawMessage, error) {
	if server != x.to.ServerName {
		return "", nil, errFar
	}
	return x.to.Template(ctx, kind, roomID, user, versions)
}

func (x *across) SendJoin(ctx context.Context, server, roomID, eventID string, e json.RawMessage, omit bool, into JoinSink) error {
	a, err := x.to.AcceptMembership(ctx, "join", "a.example", roomID, eventID, e, omit)
	if err != nil {
		return err
	}
	user := a.Event.Sender()
	x.mu.Lock()
	x.sent = append(x.sent, user)
	x.mu.Unlock()
	if x.sending != nil {
		x.sending(ctx, user)
	}
	state := PDUs(a.State)
	if x.altering != nil {
		state = x.altering(a.State)
	}
	for _, raw := range state {
		if err := into.State(raw); err != nil {
			return err
		}
	}
	for _, raw := range PDUs(a.Auth) {
		if err := into.Auth(raw); err != nil {
			return err
		}
	}
	if a.Omitted {
		if x.nameless {
			a.Servers = nil
		}
		if err := into.Omitted(a.Servers); err != nil {
			return err
		}
	}
	return into.Event(a.Event.JSON())
}

func (x *across) MissingEvents(ctx context.Context, _, roomID string, earliest, latest []string, limit int, depth int64) ([]json.RawMessage, error) {
	events, err := x.to.MissingFor(ctx, "a.example", roomID, earliest, latest, limit, depth)
	return PDUs(events), err
}

func (x *across) StateIDs(context.Context, string, string, string) (state, auth []string, err error) {
	return nil, nil, errFar
}

// eachPair runs a test with a.example, which reaches b.example where @bob:b.example is.
func eachPair(t *testing.T, fn func(t *testing.T, s *Server, x *across)) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		other := sqldbtest.Open(t, db.Dialect())
		hub := stream.New(0)
		other.OnPublish(hub.Advance)
		far := New(Options{ServerName: "b.example", Signer: farSigner, Store: store.New(store.Options{DB: other}), Hub: hub})
		must(t, far.Start(t.Context()))
		s, x := newTestServer(t, db), &across{to: far}
		s.Remote = x
		fn(t, s, x)
	})
}

const (
	carol = "@carol:a.example"
	dave  = "@dave:a.example"
)

func join(s *Server, room, user string) error {
	_, err := s.Join(context.Background(), JoinRequest{RoomIDOrAlias: room, User: user, Via: []string{"b.example"}})
	return err
}

func (s *Server) mustBe(t *testing.T, room, user string, want store.Membership) {
	t.Helper()
	m, err := s.Membership(t.Context(), room, user)
	if errors.Is(err, ErrUnknownRoom) {
		err = nil
	}
	if must(t, err); m.State != want {
		t.Errorf("%s is %q in the room, want %q", user, m.State, want)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("it never came to this: %s", what)
}

// TestTwoJoinOneRoomAtOnce has the second user come while the first one's join is under way.
func TestTwoJoinOneRoomAtOnce(t *testing.T) {
	eachPair(t, func(t *testing.T, s *Server, x *across) {
		room := createRoom(t, x.to, CreateRequest{Creator: farBob, Preset: "public_chat"})
		second := make(chan error, 1)
		x.sending = func(context.Context, string) {
			x.sending = nil
			go func() { second <- join(s, room, dave) }()
			eventually(t, "the second waits", func() bool { list := s.Joins(); return len(list) == 1 && list[0].Waiting == 1 })
			if j := s.Joins()[0]; j.Room != room || j.User != carol || j.Server != "b.example" || j.Step != stepSend {
				t.Errorf("the join under way: %+v", j)
			}
		}
		must(t, join(s, room, carol))
		said := sendText(t, s, room, carol, "hello")
		must(t, <-second)
		s.mustBe(t, room, carol, store.Join)
		s.mustBe(t, room, dave, store.Join)
		if len(x.sent) != 1 || len(s.Joins()) != 0 {
			t.Errorf("joins were sent for %v; under way: %v", x.sent, s.Joins())
		}
		if e, err := s.here(t.Context(), said); err != nil || e == nil {
			t.Errorf("what the first said is gone: %v", err)
		}
	})
}

// TestAnswersToTwoJoins has two answers come for one room: the second must not undo what happened since the first.
func TestAnswersToTwoJoins(t *testing.T) {
	eachPair(t, func(t *testing.T, s *Server, x *across) {
		room := createRoom(t, x.to, CreateRequest{Creator: farBob, Preset: "public_chat"})
		through := func(user string) error {
			return s.joinThrough(t.Context(), &flight{}, "b.example", MembershipRequest{RoomID: room, Sender: user, Target: user, Membership: "join"})
		}
		var said string
		x.sending = func(context.Context, string) {
			x.sending = nil
			must(t, through(dave))
			said = sendText(t, s, room, dave, "hello")
		}
		must(t, through(carol))
		s.mustBe(t, room, carol, store.Join)
		s.mustBe(t, room, dave, store.Join)
		if prevs := snap(t, s, room).prevs; !slices.Contains(prevs, said) {
			t.Errorf("the next event follows %v, not what was said, %s", prevs, said)
		}
	})
}

// TestRestrictedJoinThroughAnother has a user join a room that this server is in, which only another server may allow,
// while that one lacks the newest event from here.
func TestRestrictedJoinThroughAnother(t *testing.T) {
	eachPair(t, func(t *testing.T, s *Server, x *across) {
		club := createRoom(t, x.to, CreateRequest{Creator: farBob, Version: "10", Preset: "public_chat"})
		rules := fmt.Sprintf(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, club)
		room := createRoom(t, x.to, CreateRequest{Creator: farBob, Version: "10", PowerLevelOverride: map[string]json.RawMessage{"invite": json.RawMessage("50")},
			InitialState: []StateEvent{{Type: "m.room.join_rules", Content: json.RawMessage(rules)}}})
		must(t, join(s, club, carol))
		must(t, join(s, club, dave))
		receiveAt(t, x.to, s, club, dave)
		must(t, join(s, room, carol))
		x.sent = nil
		said := sendText(t, s, room, carol, "not sent yet")
		must(t, join(s, room, dave))
		s.mustBe(t, room, dave, store.Join)
		if !slices.Equal(x.sent, []string{dave}) {
			t.Fatalf("joins sent for %v: this server could let the user in itself", x.sent)
		}
		e, err := s.CurrentState(t.Context(), room, "m.room.member", dave)
		must(t, err)
		if prevs := snap(t, s, room).prevs; !slices.Contains(prevs, said) || !slices.Contains(prevs, e.ID) {
			t.Errorf("the next event follows %v, want %s and %s", prevs, said, e.ID)
		}
	})
}

// receiveAt sends a user's member event to another server, as the queue would.
func receiveAt(t *testing.T, to, from *Server, room, user string) {
	t.Helper()
	e, err := from.CurrentState(t.Context(), room, "m.room.member", user)
	must(t, err)
	_, err = to.Receive(t.Context(), from.ServerName, []json.RawMessage{e.Event.JSON()})
	must(t, err)
	to.mustBe(t, room, user, store.Join)
}

// TestJoinOutlivesItsRequest has the client hang up in the middle of a join.
func TestJoinOutlivesItsRequest(t *testing.T) {
	eachPair(t, func(t *testing.T, s *Server, x *across) {
		room := createRoom(t, x.to, CreateRequest{Creator: farBob, Preset: "public_chat"})
		ctx, hangUp := context.WithCancel(t.Context())
		goOn, joined := make(chan struct{}), make(chan string, 1)
		x.sending = func(ctx context.Context, _ string) {
			hangUp()
			<-goOn
			if ctx.Err() != nil {
				t.Error("the join ends with its request")
			}
		}
		_, err := s.Join(ctx, JoinRequest{RoomIDOrAlias: room, User: carol, Via: []string{"b.example"}, Joined: func(_ context.Context, room string) { joined <- room }})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("the request: %v", err)
		}
		close(goOn)
		if got := <-joined; got != room {
			t.Errorf("joined %q", got)
		}
		s.mustBe(t, room, carol, store.Join)
	})
}

// TestStoppingEndsJoins has the server stop while another one does not answer.
func TestStoppingEndsJoins(t *testing.T) {
	eachPair(t, func(t *testing.T, s *Server, x *across) {
		room := createRoom(t, x.to, CreateRequest{Creator: farBob, Preset: "public_chat"})
		asked := make(chan struct{})
		x.sending = func(ctx context.Context, _ string) {
			close(asked)
			<-ctx.Done()
		}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		result := make(chan error, 1)
		go func() { result <- join(s, room, carol) }()
		<-asked
		stop()
		running.Wait()
		if len(s.Joins()) != 0 {
			t.Error("a join goes on after the end")
		}
		if err := <-result; err == nil {
			t.Error("the join succeeded")
		}
		if err := join(s, room, carol); !errors.Is(err, errStopping) {
			t.Errorf("a join after the end: %v", err)
		}
	})
}

// TestFailedJoinLeavesNothing has answers come that do not hold, and then a good one.
func TestFailedJoinLeavesNothing(t *testing.T) {
	eachPair(t, func(t *testing.T, s *Server, x *across) {
		var room string
		without := func(typ string) func([]*store.Stored) []json.RawMessage {
			return func(state []*store.Stored) []json.RawMessage {
				return PDUs(slices.DeleteFunc(slices.Clone(state), func(e *store.Stored) bool { return e.Event.Type() == typ }))
			}
		}
		for name, alter := range map[string]func([]*store.Stored) []json.RawMessage{
			"no create event": without("m.room.create"),
			"no join rules":   without("m.room.join_rules"),
			"an event twice": func(state []*store.Stored) []json.RawMessage {
				empty := ""
				e := snap(t, x.to, room).build(t, x.to, room, farSigner, farBob, "m.room.name", &empty, `{"name":"Other"}`)
				return append(PDUs(state), e.JSON())
			},
		} {
			room = createRoom(t, x.to, CreateRequest{Creator: farBob, Version: "11", Preset: "public_chat", Name: "Far"})
			x.altering = alter
			if err := join(s, room, carol); !errors.Is(err, ErrBadAnswer) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := s.Room(t.Context(), room); !errors.Is(err, ErrUnknownRoom) {
				t.Errorf("%s: the room is known: %v", name, err)
			}
			if s.Hub.IsJoined(carol, room) || len(s.Joins()) != 0 || s.held.Load() != 0 {
				t.Errorf("%s: something is left", name)
			}
		}
		x.altering = nil
		must(t, join(s, room, carol))
		s.mustBe(t, room, farBob, store.Join)
	})
}

// TestJoinAfterACrash has the node die when a join's events were stored and its room was not opened yet; what the server
// told was a lie, too.
func TestJoinAfterACrash(t *testing.T) {
	eachPair(t, func(t *testing.T, s *Server, x *across) {
		room := createRoom(t, x.to, CreateRequest{Creator: farBob, Version: "11", Preset: "public_chat"})
		for _, version := range []string{"10", "11"} {
			v, _ := event.GetVersion(version)
			a := &joinAnswer{s: s, v: v, room: room}
			for _, e := range stateOf(snap(t, x.to, room)) {
				must(t, a.addState(e.JSON()))
			}
			a.order = authOrder(a.byID, nil)
			key, err := s.ensureRoom(t.Context(), room, v)
			must(t, err)
			_, err = s.storeAnswer(t.Context(), key, a)
			must(t, err)
			s.forgetHandles()
			s.Store = store.New(store.Options{DB: s.db})
		}
		if resident, err := s.IsResident(t.Context(), room); err != nil || resident {
			t.Fatalf("resident %v, %v", resident, err)
		}
		must(t, join(s, room, carol))
		key, err := s.Room(t.Context(), room)
		must(t, err)
		must(t, s.db.Read(t.Context(), func(tx *sqldb.Tx) error {
			v, err := s.Current(t.Context(), room)
			if err != nil {
				return err
			}
			events, err := s.StateEvents(tx, v.State, nil)
			for _, e := range events {
				if e.Event.V() != key.Version || key.Version.ID != "11" {
					t.Errorf("%s is read as of version %s, its room has %s", e.Event.Type(), e.Event.V().ID, key.Version.ID)
				}
			}
			return err
		}))
	})
}

// TestVersionThatAStrangerClaims has a stranger invite to a room under a version that it does not have.
func TestVersionThatAStrangerClaims(t *testing.T) {
	eachPair(t, func(t *testing.T, s *Server, x *across) {
		for _, claimed := range []string{"1", "3", "11"} {
			room := createRoom(t, x.to, CreateRequest{Creator: farBob, Version: "10", Preset: "public_chat"})
			invite := func(version, user string) string {
				v, _ := event.GetVersion(version)
				e, err := (&event.Builder{Version: v, Type: "m.room.member", Sender: farBob, StateKey: &user, RoomID: room, Depth: 5, TS: 1,
					AuthEvents: []string{map[bool]string{false: "$x:b.example", true: "$" + strings.Repeat("A", 43)}[v.HashIDs()]}, Content: json.RawMessage(`{"membership":"invite"}`)}).Build(farSigner)
				must(t, err)
				_, err = s.AcceptInvite(t.Context(), "b.example", room, e.EventID(), version, e.JSON(), nil)
				must(t, err)
				return e.EventID()
			}
			ids := map[string]string{dave: invite(claimed, dave), carol: invite("10", carol)}
			readable := func(user string) {
				t.Helper()
				m, err := s.Membership(t.Context(), room, user)
				must(t, err)
				must(t, s.db.Read(t.Context(), func(tx *sqldb.Tx) error {
					e, err := s.Store.Event(tx, m.Event)
					if err == nil && e.ID != ids[user] {
						t.Errorf("version %s: the invite is %s, was %s", claimed, e.ID, ids[user])
					}
					if err == nil {
						_, err = s.Stripped(tx, m)
					}
					return err
				}))
			}
			invite(claimed, "@erin:a.example")
			s.forgetHandles()
			s.Store = store.New(store.Options{DB: s.db})
			readable(dave)
			readable(carol)
			must(t, join(s, room, carol))
			s.forgetHandles()
			s.Store = store.New(store.Options{DB: s.db})
			readable(dave)
			if key, err := s.Room(t.Context(), room); err != nil || key.Version.ID != "10" {
				t.Errorf("the room has version %s, %v", key.Version.ID, err)
			}
			v, _ := event.GetVersion(claimed)
			if _, err := s.ensureRoom(t.Context(), room, v); !errors.Is(err, errOtherVersion) {
				t.Errorf("a room that this server is in gets version %s: %v", claimed, err)
			}
			sendText(t, s, room, carol, "hello")
		}
	})
}

// TestCandidates asks which servers are asked about a room.
func TestCandidates(t *testing.T) {
	eachPair(t, func(t *testing.T, s *Server, x *across) {
		room := createRoom(t, x.to, CreateRequest{Creator: farBob, Version: "10"})
		user, v := carol, mustVersion(t, "10")
		e, err := (&event.Builder{Version: v, Type: "m.room.member", Sender: "@eve:inviter.example", StateKey: &user, RoomID: room, Depth: 5, TS: 1,
			Content: json.RawMessage(`{"membership":"invite"}`)}).Build(event.Signer{Server: "inviter.example", KeyID: farSigner.KeyID, Key: farSigner.Key})
		must(t, err)
		_, err = s.AcceptInvite(t.Context(), "inviter.example", room, e.EventID(), "10", e.JSON(),
			[]json.RawMessage{json.RawMessage(`{"type":"m.room.name","state_key":"","sender":"@x:namer.example","content":{}}`)})
		must(t, err)
		to := route{named: []string{"named.example", "down.example", "a.example", "not a name", "named.example"}, alias: []string{"alias.example", "inviter.example"}}
		s.Down = func(server string) bool { return server == "down.example" }
		got := strings.Join(s.candidates(t.Context(), room, carol, to, false), " ")
		if want := "named.example inviter.example namer.example alias.example down.example"; got != want {
			t.Errorf("asked are %s\nwant %s", got, want)
		}
		if got := s.candidates(t.Context(), "!other:c.example", dave, route{}, false); !slices.Equal(got, []string{"c.example"}) {
			t.Errorf("without a word of others, %v are asked", got)
		}
		public := createRoom(t, x.to, CreateRequest{Creator: farBob, Version: "12", Preset: "public_chat"})
		must(t, join(s, public, carol))
		for _, inside := range []bool{true, false} {
			if got := s.candidates(t.Context(), public, dave, route{named: []string{"c.example"}}, inside); slices.Contains(got, "b.example") != inside {
				t.Errorf("inside %v: %v are asked", inside, got)
			}
		}
		if got := s.candidates(t.Context(), public, dave, route{}, false); !slices.Equal(got, []string{"b.example"}) {
			t.Errorf("without a word of others, %v are asked", got)
		}
		for i := range 60 {
			to.named = append(to.named, fmt.Sprintf("n%d.example", i))
		}
		if got := s.candidates(t.Context(), room, carol, to, false); len(got) > maxCandidates || !slices.Contains(got, "inviter.example") {
			t.Errorf("asked are %v", got)
		}
	})
}

func mustVersion(t *testing.T, id string) *event.Version {
	t.Helper()
	v, ok := event.GetVersion(id)
	if !ok {
		t.Fatal("no version", id)
	}
	return v
}
