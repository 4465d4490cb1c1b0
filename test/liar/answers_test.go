package liar

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/roomserver/event"
)

// status answers with an error.
func status(code int, body string) Lie {
	return func(w http.ResponseWriter, _ *http.Request, _ Object) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body))
	}
}

// TestAnswersToTransactions has a liar answer what alice's node sends it. Nobody else waits for that.
func TestAnswersToTransactions(t *testing.T) {
	answer := func(name string, lie Lie) row {
		return row{name: name, want: "the others hear it at once; it is asked again or not", lie: func(s *scene) {
			before := s.peer.Asked("send")
			s.peer.Tell("send", lie)
			id, err := s.alice.Say(s.ctx, s.id, "to a liar")
			s.must(err)
			s.hears(s.carol, id, "to a liar")
			s.note("the others hear it at once")
			s.must(lab.Poll(s.ctx, func() error {
				if s.peer.Asked("send") == before {
					return errors.New("the liar was told nothing")
				}
				return nil
			}))
			s.note("it is asked again or not")
			s.peer.Tell("send", nil)
		}}
	}
	play(t, []row{
		answer("an error", status(500, `{"errcode":"M_UNKNOWN"}`)),
		answer("all events refused", func(w http.ResponseWriter, r *http.Request, _ Object) {
			refused := Object{}
			for i := range 1000 {
				refused[many(1000)[i]] = Object{"error": strings.Repeat("no", 1000)}
			}
			Write(w, Object{"pdus": refused})
		}),
		answer("come again in a million years", status(429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":31536000000000000}`)),
		answer("come again before now", status(429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":-5}`)),
		answer("an answer without end", endless(`{"pdus":{"`, "x")),
		answer("an error without end", func(w http.ResponseWriter, r *http.Request, honest Object) {
			w.WriteHeader(500)
			endless(`{"errcode":"`, "x")(w, r, honest)
		}),
		answer("no JSON", say(`{"pdus":`)),
		answer("lists for objects", say(`{"pdus":[]}`)),
		answer("a redirect", func(w http.ResponseWriter, r *http.Request, _ Object) {
			http.Redirect(w, r, "https://10.0.0.1/", http.StatusTemporaryRedirect)
		}),
		answer("no answer", func(_ http.ResponseWriter, r *http.Request, _ Object) { <-r.Context().Done() }),
		answer("a broken connection", func(http.ResponseWriter, *http.Request, Object) { panic(http.ErrAbortHandler) }),
	})
}

// TestQueries has alice ask a liar about profiles, aliases, public rooms and invited users.
func TestQueries(t *testing.T) {
	ask := func(name, want, endpoint string, lie Lie, do func(s *scene) (string, error)) row {
		return row{name: name, want: want, lie: func(s *scene) {
			s.peer.Tell(endpoint, lie)
			got, err := do(s)
			if err == nil {
				s.note("200 %s", got)
			} else {
				s.note("%s", failed(err))
			}
		}}
	}
	get := func(path func(s *scene) string) func(s *scene) (string, error) {
		return func(s *scene) (string, error) {
			var raw json.RawMessage
			err := s.alice.Call(s.ctx, "GET", path(s), nil, &raw)
			return strings.ReplaceAll(string(raw), s.peer.Name, "liar"), err
		}
	}
	profile := func(name, want string, lie Lie) row {
		return ask("profile: "+name, want, "query", lie, get(func(s *scene) string { return lab.V3("profile", s.peer.User("liar")) }))
	}
	alias := func(name, want string, lie Lie) row {
		return ask("alias: "+name, want, "query", lie, get(func(s *scene) string { return lab.V3("directory", "room", "#x:"+s.peer.Name) }))
	}
	rooms := func(name, want string, lie Lie) row {
		return ask("public rooms: "+name, want, "publicRooms", lie, get(func(s *scene) string {
			return lab.V3("publicRooms") + "?" + url.Values{"server": {s.peer.Name}}.Encode()
		}))
	}
	invite := func(name, want string, lie func(s *scene) Lie) row {
		return row{name: "invite: " + name, want: want, lie: func(s *scene) {
			s.peer.Tell("invite", lie(s))
			user := s.peer.User("guest")
			err := s.alice.Act(s.ctx, s.id, "invite", Object{"user_id": user})
			s.note("%s", failed(err))
			if err == nil {
				s.member(s.carol, user, "invite")
				s.before = s.state(s.a, s.alice)
			}
		}}
	}
	const bad, large = "502 M_UNKNOWN", "502 M_TOO_LARGE"
	play(t, []row{
		profile("the truth", `200 {"displayname":"x"}`, say(`{"displayname":"x"}`)),
		profile("values of other types", `200 {}`, say(`{"displayname":7,"avatar_url":{},"m.tz":[]}`)),
		profile("a long name", bad, say(`{"displayname":"`+strings.Repeat("x", 100_000)+`"}`)),
		profile("no object", bad, say(`[]`)),
		profile("no JSON", bad, say(`{"displayname":`)),
		profile("without end", bad, endless(`{"displayname":"`, "x")),
		profile("an error of its own", "404 M_NOT_FOUND", status(404, `{"errcode":"M_NOT_FOUND","error":"x"}`)),
		profile("an error that logs alice out", bad, status(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"x","soft_logout":false}`)),
		alias("the truth", `200 {"room_id":"!x:liar","servers":["liar"]}`, func(w http.ResponseWriter, r *http.Request, _ Object) {
			Write(w, Object{"room_id": "!x:" + r.Host, "servers": []string{r.Host}})
		}),
		alias("what is no room", bad, say(`{"room_id":"x","servers":["a.test"]}`)),
		alias("a room that is no text", bad, say(`{"room_id":7,"servers":[]}`)),
		alias("servers that are none", `200 {"room_id":"!x:a.test","servers":["c.test"]}`, say(`{"room_id":"!x:a.test","servers":["c.test","","x y","a.test/../","`+strings.Repeat("x", 1000)+`"]}`)),
		alias("without end", large, endless(`{"room_id":"`, "x")),
		rooms("the truth", `200 {"chunk":[]}`, say(`{"chunk":[]}`)),
		rooms("no list", bad, say(`[]`)),
		rooms("no JSON", bad, say(`{"chunk":`)),
		rooms("without end", large, endless(`{"x":"`, "x")),
		invite("the truth", "200", func(s *scene) Lie { return s.signInvite(nil) }),
		invite("another event", bad, func(s *scene) Lie { return s.signInvite(func(*event.Event) any { return s.room.Make(s.draft("x")) }) }),
		invite("signed by others", "200", func(s *scene) Lie {
			return s.signInvite(func(e *event.Event) any {
				return json.RawMessage(strings.Replace(string(e.JSON()), s.peer.Name+`":{"ed25519`, `x":{"ed25519`, 1))
			})
		}),
		{name: "invite: another event under its id, up to room version 2", version: "1", want: "200; the levels are as they were; the invite has its reason", lie: func(s *scene) {
			s.peer.Tell("invite", s.signInvite(func(e *event.Event) any {
				power := Object{"type": "m.room.power_levels", "state_key": "", "content": Object{"users": Object{s.peer.User("liar"): 100, s.alice.UserID: 100}}}
				forged, err := Craft(s.room.V, e, power, s.peer.Signer)
				s.must(err)
				return forged
			}))
			s.invited()
		}},
		{name: "invite: without what it said", want: "200; the levels are as they were; the invite has its reason", lie: func(s *scene) {
			s.peer.Tell("invite", s.signInvite(func(e *event.Event) any {
				return json.RawMessage(strings.Replace(string(e.JSON()), `"reason":"come"`, `"reason":"go"`, 1))
			}))
			s.invited()
		}},
		invite("no event", bad, func(*scene) Lie { return say(`{}`) }),
		invite("no JSON", bad, func(*scene) Lie { return say(`{"event":`) }),
		invite("without end", large, func(*scene) Lie { return endless(`{"event":{"x":"`, "x") }),
		invite("a refusal", "403 M_FORBIDDEN", func(*scene) Lie { return status(403, `{"errcode":"M_FORBIDDEN","error":"no"}`) }),
	})
}

// invited has alice invite a user of the liar, and notes what became of it.
func (s *scene) invited() {
	s.Helper()
	guest := s.peer.User("guest")
	s.note("%s", failed(s.alice.Act(s.ctx, s.id, "invite", Object{"user_id": guest, "reason": "come"})))
	after := s.state(s.a, s.alice)
	if key := (lab.Key{Type: "m.room.power_levels"}); after[key] == s.before[key] {
		s.note("the levels are as they were")
	}
	var member struct{ Membership, Reason string }
	s.must(s.alice.Call(s.ctx, "GET", lab.V3("rooms", s.id, "state", "m.room.member", guest), nil, &member))
	if member.Membership == "invite" && member.Reason == "come" {
		s.note("the invite has its reason")
	}
	s.member(s.carol, guest, "invite")
	s.before = s.state(s.a, s.alice)
}

// signInvite answers with the invite that came, signed, or what change makes of it.
func (s *scene) signInvite(change func(*event.Event) any) Lie {
	return func(w http.ResponseWriter, r *http.Request, _ Object) {
		var body struct{ Event json.RawMessage }
		s.must(json.NewDecoder(r.Body).Decode(&body))
		e, err := event.Parse(s.room.V, body.Event)
		s.must(err)
		e, err = e.Sign(s.peer.Signer)
		s.must(err)
		if change != nil {
			Write(w, Object{"event": change(e)})
			return
		}
		Write(w, Object{"event": e})
	}
}
