package liar

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/roomserver/event"
)

// bend changes an honest answer.
func bend(change func(Object)) Lie {
	return func(w http.ResponseWriter, _ *http.Request, honest Object) {
		if honest != nil {
			change(honest)
		}
		Write(w, honest)
	}
}

// say answers with a text.
func say(text string) Lie {
	return func(w http.ResponseWriter, _ *http.Request, _ Object) { _, _ = w.Write([]byte(text)) }
}

// endless answers with a text and then with another one for as long as it is read.
func endless(start, more string) Lie {
	return func(w http.ResponseWriter, _ *http.Request, _ Object) {
		_, err := w.Write([]byte(start))
		for block := []byte(strings.Repeat(more, 1+(64<<10)/len(more))); err == nil; {
			_, err = w.Write(block)
		}
	}
}

// template changes the event of a make_join answer.
func template(change func(Object)) Lie {
	return bend(func(o Object) {
		var e Object
		if raw, ok := o["event"].(json.RawMessage); !ok || json.Unmarshal(raw, &e) != nil {
			panic("no template")
		}
		change(e)
		o["event"] = e
	})
}

// TestTemplates has alice join rooms of a liar, which lies when it is asked for a template, and again when it does not.
func TestTemplates(t *testing.T) {
	const bad, large, fine = "502 M_UNKNOWN; 200 when it is honest", "502 M_TOO_LARGE; 200 when it is honest", "200; 200 when it is honest"
	lie := func(name, want string, l Lie) row {
		return row{name: name, want: want, lie: func(s *scene) { s.join("make_join", l) }}
	}
	play(t, []row{
		lie("for another user", bad, template(func(e Object) { e["sender"], e["state_key"] = "@x:a.test", "@x:a.test" })),
		lie("for another room", bad, template(func(e Object) { e["room_id"] = "!other:a.test" })),
		lie("of another type", bad, template(func(e Object) { e["type"] = "m.room.power_levels" })),
		lie("of another membership", fine, template(func(e Object) { e["content"] = Object{"membership": "ban"} })),
		lie("with words put in the user's mouth", fine, template(func(e Object) {
			e["content"] = Object{"membership": "join", "displayname": "fool", "reason": "I am one"}
		})),
		lie("that the user's own server is to vouch for", bad, template(func(e Object) {
			e["content"] = Object{"membership": "join", "join_authorised_via_users_server": "@alice:a.test"}
		})),
		lie("with 21 prev events", bad, template(func(e Object) { e["prev_events"] = many(21) })),
		lie("with 11 auth events", bad, template(func(e Object) { e["auth_events"] = many(11) })),
		lie("with prev events that are no list", bad, template(func(e Object) { e["prev_events"] = "all" })),
		lie("with ids that are none", bad, template(func(e Object) { e["prev_events"] = []any{7, "x", "$" + strings.Repeat("x", 300)} })),
		lie("below depth 0", bad, template(func(e Object) { e["depth"] = -5 })),
		lie("of the greatest depth", fine, template(func(e Object) { e["depth"] = json.Number("9007199254740991") })),
		lie("beyond the greatest depth", fine, template(func(e Object) { e["depth"] = json.Number("1e400") })),
		lie("of a room version that is unknown", "400 M_UNSUPPORTED_ROOM_VERSION; 200 when it is honest", bend(func(o Object) { o["room_version"] = "99" })),
		lie("of another room version", bad, bend(func(o Object) { o["room_version"] = "1" })),
		lie("of another room version with the same events", bad, bend(func(o Object) { o["room_version"] = "9" })),
		lie("of a room version that needs no server in the room id", bad, bend(func(o Object) { o["room_version"] = "12" })),
		lie("without an event", bad, bend(func(o Object) { delete(o, "event") })),
		lie("that is no JSON", bad, say(`{"event":`)),
		lie("that is not UTF-8", bad, say("{\"event\":{\"type\":\"\xff\"}}")),
		lie("of 2 MB", large, template(func(e Object) { e["x"] = strings.Repeat("x", 2<<20) })),
		lie("without end", large, endless(`{"event":{"x":"`, "x")),
		lie("nested without end", bad, say(`{"event":{"content":`+strings.Repeat("[", 400_000)+strings.Repeat("]", 400_000)+`}}`)),
	})
}

// join has alice join a room of the liar, which lies at an endpoint, and again after that; it notes what she got.
func (s *scene) join(endpoint string, lie Lie) {
	s.Helper()
	s.joinRoom(s.peer.CreateRoom("10"), endpoint, lie)
}

func (s *scene) joinRoom(r *Room, endpoint string, lie Lie) {
	s.Helper()
	s.peer.Tell(endpoint, lie)
	_, err := s.alice.Join(s.ctx, r.ID, s.peer.Name)
	s.note("%s", failed(err))
	if in := s.joined(r.ID); in != (err == nil) {
		s.Errorf("alice is in the room: %v, after %v", in, err)
	}
	s.peer.Tell(endpoint, nil)
	_, err = s.alice.Join(s.ctx, r.ID, s.peer.Name)
	s.note("%s when it is honest", failed(err))
	if err == nil {
		s.works(r)
	}
}

func (s *scene) joined(room string) bool {
	s.Helper()
	var rooms struct {
		Joined []string `json:"joined_rooms"`
	}
	s.must(s.alice.Call(s.ctx, "GET", lab.V3("joined_rooms"), nil, &rooms))
	return slices.Contains(rooms.Joined, room)
}

// works sees that a room of the liar that alice joined has the liar in it, and what the liar says there.
func (s *scene) works(r *Room) {
	s.Helper()
	honest := s.id
	s.id = r.ID
	defer func() { s.id = honest }()
	d := s.draft("welcome")
	e := r.Make(d)
	r.Add(e)
	status, answer := s.transact("w"+e.EventID()[1:9], e.JSON())
	if status != 200 {
		s.Errorf("%d %s", status, answer)
	}
	s.hears(s.alice, e.EventID(), "welcome")
	s.member(s.alice, s.peer.User("liar"), "join")
	for key := range s.state(s.a, s.alice) {
		if strings.HasPrefix(key.StateKey, "@carl:") {
			s.Errorf("%s is a member", key.StateKey)
		}
	}
	var own json.RawMessage
	s.must(s.alice.Call(s.ctx, "GET", lab.V3("rooms", r.ID, "state", "m.room.member", s.alice.UserID), nil, &own))
	if !strings.Contains(string(own), `"displayname":"alice"`) || strings.Contains(string(own), "fool") {
		s.Errorf("alice's membership is %s", own)
	}
}

// list changes a list of events in an answer.
func list(o Object, name string, change func([]*event.Event) []*event.Event, v *event.Version) {
	raw, ok := o[name].([]json.RawMessage)
	if !ok {
		panic(name + " is no list")
	}
	var events []*event.Event
	for _, one := range raw {
		e, err := event.Parse(v, one)
		if err != nil {
			panic(err)
		}
		events = append(events, e)
	}
	o[name] = raws(change(events))
}

// TestJoinAnswers has alice join rooms of a liar, which lies when it answers what their state is.
func TestJoinAnswers(t *testing.T) { play(t, joinAnswers("10")) }

// TestJoinAnswersSince12 does it where the room id is the hash of m.room.create, and nobody cites that.
func TestJoinAnswersSince12(t *testing.T) { play(t, joinAnswers("12")) }

// joinAnswers are the lies for rooms of a version.
func joinAnswers(version string) []row {
	const bad, large, fine = "502 M_UNKNOWN; 200 when it is honest", "502 M_TOO_LARGE; 200 when it is honest", "200; 200 when it is honest"
	two := bad
	if version == "12" {
		two = fine
	}
	lie := func(name, want string, l func(s *scene, r *Room) Lie) row {
		return row{name: name, want: want, lie: func(s *scene) {
			r := s.peer.CreateRoom(version)
			s.joinRoom(r, "send_join", l(s, r))
		}}
	}
	both := func(r *Room, change func([]*event.Event) []*event.Event) Lie {
		return bend(func(o Object) {
			list(o, "state", change, r.V)
			list(o, "auth_chain", change, r.V)
		})
	}
	state := func(r *Room, change func([]*event.Event) []*event.Event) Lie {
		return bend(func(o Object) { list(o, "state", change, r.V) })
	}
	add := func(e *event.Event) func([]*event.Event) []*event.Event {
		return func(events []*event.Event) []*event.Event { return append(events, e) }
	}
	text := func(text string) func(*scene, *Room) Lie { return func(*scene, *Room) Lie { return say(text) } }
	return []row{
		lie("no m.room.create", bad, func(_ *scene, r *Room) Lie {
			return both(r, func(events []*event.Event) []*event.Event { return without(events, "m.room.create") })
		}),
		lie("m.room.create in the auth chain alone", bad, func(_ *scene, r *Room) Lie {
			return state(r, func(events []*event.Event) []*event.Event { return without(events, "m.room.create") })
		}),
		lie("an auth chain without m.room.create", fine, func(_ *scene, r *Room) Lie {
			return bend(func(o Object) {
				list(o, "auth_chain", func(e []*event.Event) []*event.Event { return without(e, "m.room.create") }, r.V)
			})
		}),
		lie("no state", bad, func(*scene, *Room) Lie { return bend(func(o Object) { o["state"] = []any{} }) }),
		lie("no auth chain and no state", bad, func(*scene, *Room) Lie {
			return bend(func(o Object) { o["state"], o["auth_chain"] = []any{}, []any{} })
		}),
		lie("lists that are none", bad, func(*scene, *Room) Lie { return bend(func(o Object) { o["state"], o["auth_chain"] = nil, Object{} }) }),
		lie("no lists", bad, func(*scene, *Room) Lie {
			return bend(func(o Object) { delete(o, "state"); delete(o, "auth_chain") })
		}),
		lie("two events for one place of the state", bad, func(s *scene, r *Room) Lie {
			me := s.peer.User("liar")
			return state(r, add(r.Make(Draft{Type: "m.room.member", Key: &me, Sender: me, Content: Object{"membership": "leave"}})))
		}),
		lie("two m.room.create", two, func(_ *scene, r *Room) Lie {
			if r.V.DomainlessRoomIDs { // another one makes another room
				return state(r, add(r.p.CreateRoom(version).State[create]))
			}
			return state(r, add(r.Make(Draft{Type: "m.room.create", Key: Key(""), Sender: r.p.User("liar"), Prev: []string{}, Auth: []string{}, Depth: 1,
				Content: Object{"creator": r.p.User("liar"), "room_version": version}})))
		}),
		lie("a forged member of the node", fine, func(s *scene, r *Room) Lie {
			forged := r.Make(Draft{Type: "m.room.member", Key: Key("@carl:a.test"), Sender: "@carl:a.test", Content: Object{"membership": "join"}})
			return state(r, add(forged))
		}),
		lie("a member that the rules do not allow", fine, func(s *scene, r *Room) Lie {
			x := s.peer.User("x")
			carl := r.Make(Draft{Type: "m.room.member", Key: Key("@carl:a.test"), Sender: x, Content: Object{"membership": "join"}})
			return state(r, add(carl))
		}),
		lie("a member that rests on events which are not there", fine, func(s *scene, r *Room) Lie {
			x := Key("@carl:" + s.peer.Name)
			return state(r, add(r.Make(Draft{Type: "m.room.member", Key: x, Sender: *x, Content: Object{"membership": "join"}, Auth: many(3)})))
		}),
		lie("events that rest on each other", fine, func(s *scene, r *Room) Lie {
			x := s.peer.User("x")
			first := r.Make(Draft{Type: "m.room.member", Key: &x, Sender: x, Content: Object{"membership": "join"}})
			carl := Key("@carl:" + s.peer.Name)
			second := r.Make(Draft{Type: "m.room.member", Key: carl, Sender: *carl, Content: Object{"membership": "join"}, Auth: []string{first.EventID(), many(1)[0]}})
			return both(r, func(events []*event.Event) []*event.Event { return append(events, second) })
		}),
		lie("an event of another room", fine, func(s *scene, r *Room) Lie {
			x := Key("@carl:" + s.peer.Name)
			other := s.peer.CreateRoom(version)
			return both(r, add(other.Make(Draft{Type: "m.room.member", Key: x, Sender: *x, Content: Object{"membership": "join"}})))
		}),
		lie("events that are none", fine, func(*scene, *Room) Lie {
			return bend(func(o Object) {
				list, ok := o["state"].([]json.RawMessage)
				if !ok {
					panic("no state")
				}
				for _, odd := range []string{`null`, `7`, `"x"`, `[]`, `{}`, `{"type":7}`, `[[[[]]]]`} {
					list = append(list, json.RawMessage(odd))
				}
				o["state"] = list
			})
		}),
		lie("a ban of the user", "403 M_FORBIDDEN; 200 when it is honest", func(s *scene, r *Room) Lie {
			return state(r, add(r.Make(Draft{Type: "m.room.member", Key: &s.alice.UserID, Sender: s.peer.User("liar"), Content: Object{"membership": "ban"}})))
		}),
		lie("another event as the join", bad, func(s *scene, r *Room) Lie {
			return bend(func(o Object) {
				o["event"] = r.Make(Draft{Type: "m.room.message", Sender: s.peer.User("liar"), Content: Object{}})
			})
		}),
		lie("a join with other content", fine, func(*scene, *Room) Lie {
			return bend(func(o Object) {
				raw, ok := o["event"].(json.RawMessage)
				if !ok {
					panic("no event")
				}
				o["event"] = json.RawMessage(strings.Replace(string(raw), `"membership":"join"`, `"membership":"join","reason":"I am a fool"`, 1))
			})
		}),
		lie("no JSON", bad, text(`{"state":[`)),
		lie("no object", bad, text(`[]`)),
		lie("nothing", bad, text(``)),
		lie("bytes that are not UTF-8", bad, text("{\"state\":[\"\xff\"],\"auth_chain\":[]}")),
		lie("a key twice", bad, text(`{"state":[],"state":[],"auth_chain":[]}`)),
		lie("1,000 keys", bad, text(`{"state":[],"auth_chain":[]`+strings.Repeat(`,"x":0`, 1000)+`}`)),
		lie("nested without end", bad, text(`{"state":[`+strings.Repeat("[", 400_000)+strings.Repeat("]", 400_000)+`],"auth_chain":[]}`)),
		lie("an event without end", large, func(*scene, *Room) Lie { return endless(`{"state":["`, "x") }),
		lie("a name without end", large, func(*scene, *Room) Lie { return endless(`{"`, "x") }),
		lie("events without end", large, func(s *scene, r *Room) Lie {
			return endless(`{"auth_chain":[`, string(r.State.events()[0].JSON())+strings.Repeat(" ", 200_000)+",")
		}),
		{name: "a connection that breaks", want: "502 M_UNKNOWN", lie: func(s *scene) {
			r := s.peer.CreateRoom(version)
			s.peer.Tell("send_join", func(w http.ResponseWriter, _ *http.Request, _ Object) {
				_, _ = w.Write([]byte(`{"state":[`))
				panic(http.ErrAbortHandler)
			})
			_, err := s.alice.Join(s.ctx, r.ID, s.peer.Name)
			s.note("%s", failed(err))
		}},
		{name: "a room whose m.room.create names another version", want: "502 M_UNKNOWN", lie: func(s *scene) {
			_, err := s.alice.Join(s.ctx, s.peer.CreateRoomWith(version, func(o Object) { o["room_version"] = "9" }).ID, s.peer.Name)
			s.note("%s", failed(err))
		}},
		{name: "a room whose m.room.create names no version", want: "502 M_UNKNOWN", lie: func(s *scene) {
			_, err := s.alice.Join(s.ctx, s.peer.CreateRoomWith(version, func(o Object) { delete(o, "room_version") }).ID, s.peer.Name)
			s.note("%s", failed(err))
		}},
		{name: "a server that answers with nothing but waits", want: "the other join is done meanwhile", lie: func(s *scene) {
			r := s.peer.CreateRoom(version)
			s.peer.Tell("send_join", func(_ http.ResponseWriter, q *http.Request, _ Object) { <-q.Context().Done() })
			began := make(chan error, 1)
			go func() {
				_, err := s.alice.Join(s.ctx, r.ID, s.peer.Name)
				began <- err
			}()
			s.must(lab.Poll(s.ctx, func() error {
				if s.peer.Asked("send_join") == 0 {
					return errors.New("alice's server did not ask")
				}
				return nil
			}))
			other, err := s.carol.CreateRoom(s.ctx, Object{"preset": "public_chat"})
			s.must(err)
			if _, err := s.alice.Join(s.ctx, other, "c.test"); err == nil {
				s.note("the other join is done meanwhile")
			}
			s.peer.Drop()
			if err := <-began; err == nil {
				s.Error("the join succeeded")
			}
		}},
	}
}
