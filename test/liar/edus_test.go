package liar

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
)

// token is where alice's news begin.
func (s *scene) token() string {
	s.Helper()
	var answer struct {
		Next string `json:"next_batch"`
	}
	s.must(s.alice.Call(s.ctx, "GET", lab.V3("sync")+"?timeout=0", nil, &answer))
	return answer.Next
}

// news is what alice is told since a token, once it has what is looked for.
func (s *scene) news(since string, has func(gjson.Result) bool) (news gjson.Result) {
	s.Helper()
	s.must(lab.Poll(s.ctx, func() error {
		var raw json.RawMessage
		if err := s.alice.Call(s.ctx, "GET", lab.V3("sync")+"?"+url.Values{"timeout": {"0"}, "since": {since}}.Encode(), nil, &raw); err != nil {
			return err
		}
		if news = gjson.ParseBytes(raw); !has(news) {
			return errors.New("the truth did not come: " + news.Raw)
		}
		return nil
	}))
	return news
}

func edu(kind string, content any) Object { return Object{"edu_type": kind, "content": content} }

// edus sends EDUs in one transaction.
func (s *scene) edus(list ...Object) {
	s.Helper()
	s.peers++
	status, answer := s.peer.JSON(s.ctx, s.a, "PUT", fmt.Sprint("/_matrix/federation/v1/send/edu", s.peers), Object{"origin": s.peer.Name, "pdus": []any{}, "edus": list})
	if status != 200 {
		s.Errorf("%d %s", status, answer)
	}
}

// ephemeral is the events of a type that a sync shows in the room.
func (s *scene) ephemeral(news gjson.Result, typ string) (contents []gjson.Result) {
	for _, e := range news.Get("rooms.join").Map()[s.id].Get("ephemeral.events").Array() {
		if e.Get("type").Str == typ {
			contents = append(contents, e.Get("content"))
		}
	}
	return contents
}

func (s *scene) names(users []string) string {
	for i, user := range users {
		users[i] = strings.Replace(user, s.peer.Name, "liar", 1)
	}
	slices.Sort(users)
	return strings.Join(users, " ")
}

func typing(room, user string) Object {
	return edu("m.typing", Object{"room_id": room, "user_id": user, "typing": true})
}

func receipt(room, user, event string) Object {
	return edu("m.receipt", Object{room: Object{"m.read": Object{user: Object{"event_ids": []string{event}, "data": Object{"ts": 1}}}}})
}

func message(sender, id string, messages Object) Object {
	return edu("m.direct_to_device", Object{"sender": sender, "type": "m.test", "message_id": id, "messages": messages})
}

// TestEDUs speaks for others, and too much.
func TestEDUs(t *testing.T) {
	play(t, []row{
		{name: "typing of others, and of nobody", want: "typing: @liar:liar", lie: func(s *scene) {
			since := s.token()
			s.edus(typing(s.id, s.carol.UserID), typing(s.id, s.alice.UserID), typing(s.id, s.peer.User("nobody")), typing("!nowhere:a.test", s.peer.User("liar")),
				typing(s.id, s.peer.User("liar")))
			news := s.news(since, func(r gjson.Result) bool { return len(s.ephemeral(r, "m.typing")) > 0 })
			var users []string
			for _, user := range s.ephemeral(news, "m.typing")[0].Get("user_ids").Array() {
				users = append(users, user.Str)
			}
			s.note("typing: %s", s.names(users))
		}},
		{name: "receipts of others, and of nobody", want: "read by: @liar:liar", lie: func(s *scene) {
			since, at := s.token(), s.room.Heads[0]
			s.edus(receipt(s.id, s.carol.UserID, at), receipt(s.id, s.alice.UserID, at), receipt(s.id, s.peer.User("nobody"), at),
				receipt("!nowhere:a.test", s.peer.User("liar"), at), receipt(s.id, s.peer.User("liar"), at))
			readers := func(r gjson.Result) (users []string) {
				for _, content := range s.ephemeral(r, "m.receipt") {
					for _, kinds := range content.Map() {
						for user := range kinds.Get("m\\.read").Map() {
							users = append(users, user)
						}
					}
				}
				return users
			}
			s.note("read by: %s", s.names(readers(s.news(since, func(r gjson.Result) bool { return slices.Contains(readers(r), s.peer.User("liar")) }))))
		}},
		{name: "receipts in 1,001 rooms", want: "read by nobody", lie: func(s *scene) {
			rooms := Object{}
			for i := range 1001 {
				rooms[fmt.Sprintf("!%d:a.test", i)] = Object{}
			}
			rooms[s.id] = Object{"m.read": Object{s.peer.User("liar"): Object{"event_ids": []string{s.room.Heads[0]}, "data": Object{"ts": 1}}}}
			since := s.token()
			s.edus(edu("m.receipt", rooms), typing(s.id, s.peer.User("liar")))
			if news := s.news(since, func(r gjson.Result) bool { return len(s.ephemeral(r, "m.typing")) > 0 }); len(s.ephemeral(news, "m.receipt")) == 0 {
				s.note("read by nobody")
			}
		}},
		{name: "presence of others", want: "present: @liar:liar", lie: func(s *scene) {
			since := s.token()
			presence := func(user string) Object {
				return Object{"user_id": user, "presence": "online", "status_msg": "a lie", "last_active_ago": 1}
			}
			s.edus(edu("m.presence", Object{"push": []Object{presence(s.carol.UserID), presence(s.alice.UserID), presence(s.peer.User("liar"))}}))
			liars := func(r gjson.Result) (users []string) {
				for _, e := range r.Get("presence.events").Array() {
					if e.Get("content.status_msg").Str == "a lie" {
						users = append(users, e.Get("sender").Str)
					}
				}
				return users
			}
			s.note("present: %s", s.names(liars(s.news(since, func(r gjson.Result) bool { return len(liars(r)) > 0 }))))
		}},
		{name: "messages of others, to nobody, and twice", want: "from: @liar:liar", lie: func(s *scene) {
			since := s.token()
			to := func(user string) Object { return Object{user: Object{"*": Object{"x": 1}}} }
			s.edus(message(s.carol.UserID, "1", to(s.alice.UserID)), message(s.alice.UserID, "2", to(s.alice.UserID)),
				message(s.peer.User("liar"), "3", to("@nobody:a.test")), message(s.peer.User("liar"), "4", to(s.carol.UserID)),
				message(s.peer.User("liar"), "5", Object{s.alice.UserID: Object{"NODEVICE": Object{}}}),
				message(s.peer.User("liar"), "6", to(s.alice.UserID)), message(s.peer.User("liar"), "6", to(s.alice.UserID)))
			s.edus(message(s.peer.User("liar"), "6", to(s.alice.UserID)))
			senders := func(r gjson.Result) (users []string) {
				for _, e := range r.Get("to_device.events").Array() {
					users = append(users, e.Get("sender").Str)
				}
				return users
			}
			s.note("from: %s", s.names(senders(s.news(since, func(r gjson.Result) bool { return len(senders(r)) > 0 }))))
		}},
		{name: "device lists of others", want: "changed: @liar:liar", lie: func(s *scene) {
			since := s.token()
			update := func(user string) Object {
				return edu("m.device_list_update", Object{"user_id": user, "device_id": "X", "stream_id": 7, "prev_id": []int{}, "deleted": false,
					"keys": Object{"user_id": user, "device_id": "X", "algorithms": []string{}, "keys": Object{}, "signatures": Object{}}})
			}
			s.edus(update(s.carol.UserID), update(s.alice.UserID), update(s.peer.User("nobody")), update(s.peer.User("liar")),
				edu("m.signing_key_update", Object{"user_id": s.carol.UserID, "master_key": Object{"user_id": s.carol.UserID, "usage": []string{"master"}, "keys": Object{}}}))
			changed := func(r gjson.Result) (users []string) {
				for _, user := range r.Get("device_lists.changed").Array() {
					users = append(users, user.Str)
				}
				return users
			}
			s.note("changed: %s", s.names(changed(s.news(since, func(r gjson.Result) bool { return len(changed(r)) > 0 }))))
		}},
		{name: "1,000 device list updates with gaps", want: "the node asked seldom", lie: func(s *scene) {
			for round := range 10 {
				var list []Object
				for i := range 100 {
					n := round*100 + i
					list = append(list, edu("m.device_list_update", Object{"user_id": s.peer.User("liar"), "device_id": fmt.Sprint("D", n), "stream_id": 2*n + 10, "prev_id": []int{2*n + 9}}))
				}
				s.edus(list...)
			}
			if n := s.peer.Asked("user"); n <= 100 {
				s.note("the node asked seldom")
			} else {
				s.note("the node asked %d times", n)
			}
		}},
		{name: "EDUs that are none", want: "the rest is taken", lie: func(s *scene) {
			since := s.token()
			var list []Object
			for _, kind := range []string{"m.typing", "m.receipt", "m.presence", "m.direct_to_device", "m.device_list_update", "m.signing_key_update", "", "x"} {
				for _, content := range []any{nil, 7, "x", []any{}, Object{}, Object{"user_id": 7, "room_id": []any{}, "sender": nil, "messages": []any{}, "push": Object{}},
					json.RawMessage(strings.Repeat("[", 900) + strings.Repeat("]", 900))} {
					list = append(list, edu(kind, content))
				}
			}
			s.edus(append(list, Object{}, Object{"edu_type": 7}, typing(s.id, s.peer.User("liar")))...)
			s.news(since, func(r gjson.Result) bool { return len(s.ephemeral(r, "m.typing")) > 0 })
			s.note("the rest is taken")
		}},
	})
}

// TestDeviceAnswers has alice ask for the devices of a liar's user.
func TestDeviceAnswers(t *testing.T) {
	ask := func(name, want string, lie Lie) row {
		return row{name: name, want: want, lie: func(s *scene) {
			s.peer.Tell("user", lie)
			var raw json.RawMessage
			s.must(s.alice.Call(s.ctx, "POST", lab.V3("keys", "query"), Object{"device_keys": Object{s.peer.User("other"): []string{}}, "timeout": 5000}, &raw))
			answer := gjson.ParseBytes(raw)
			var users []string
			for user, devices := range answer.Get("device_keys").Map() {
				for device := range devices.Map() {
					users = append(users, user+"/"+device)
				}
			}
			failures := ""
			if answer.Get("failures").Map()[s.peer.Name].Exists() {
				failures = "a failure"
			}
			s.note("devices: %s; %s", s.names(users), failures)
		}}
	}
	device := func(user, id string) Object {
		return Object{"user_id": user, "device_id": id, "algorithms": []string{}, "keys": Object{"ed25519:" + id: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}, "signatures": Object{user: Object{"ed25519:" + id: strings.Repeat("A", 86)}}}
	}
	devices := func(of func(liar string) Object) Lie {
		return func(w http.ResponseWriter, r *http.Request, _ Object) { Write(w, of("@other:"+r.Host)) }
	}
	play(t, []row{
		ask("the truth", "devices: @other:liar/D; ", devices(func(liar string) Object {
			return Object{"device_keys": Object{liar: Object{"D": device(liar, "D")}}}
		})),
		ask("devices of others", "devices: @other:liar/D; ", devices(func(liar string) Object {
			return Object{"device_keys": Object{liar: Object{"D": device(liar, "D")}, "@carol:c.test": Object{"E": device("@carol:c.test", "E")},
				"@alice:a.test": Object{"F": device("@alice:a.test", "F")}}}
		})),
		ask("devices under other names", "devices: ; ", devices(func(liar string) Object {
			return Object{"device_keys": Object{liar: Object{"D": device(liar, "E"), "F": device("@carol:c.test", "F")}}}
		})),
		ask("no list", "devices: ; a failure", say(`{"device_keys":[]}`)),
		ask("no JSON", "devices: ; a failure", say(`{"device_keys":`)),
		ask("without end", "devices: ; a failure", endless(`{"device_keys":{"`, "x")),
	})
}
