package liar

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/roomserver/event"
)

// TestEvents sends events that lie, among good ones.
func TestEvents(t *testing.T) {
	play(t, []row{
		{name: "signed with another key", want: `error "event it: signature of liar: event: the signature does not match", not shown`, lie: func(s *scene) {
			other := s.peer.Signer
			other.Key = NewSigner("other", "2").Key
			d := s.draft("x")
			d.Signer = &other
			s.send(s.room.Make(d))
		}},
		{name: "signed with a key that is not published", want: `error "event it: signature of liar: the key of the signature is not known", not shown`, lie: func(s *scene) {
			other := NewSigner(s.peer.Name, "2")
			d := s.draft("x")
			d.Signer = &other
			s.send(s.room.Make(d))
		}},
		{name: "in the name of another server's user", want: `error "event it: signature of c.test: a signature is missing", not shown`, lie: func(s *scene) {
			d := s.draft("x")
			d.Sender = s.carol.UserID
			s.send(s.room.Make(d))
		}},
		{name: "in the name of the node's own user", want: `error "event it: signature of a.test: a signature is missing", not shown`, lie: func(s *scene) {
			d := s.draft("x")
			d.Sender = s.alice.UserID
			s.send(s.room.Make(d))
		}},
		{name: "content that was not hashed", want: "ok, shown; its content is {}", lie: func(s *scene) {
			e := s.room.Make(s.draft("x"))
			changed := bytes.Replace(e.JSON(), []byte(`"body":"x"`), []byte(`"body":"y"`), 1)
			_, answer := s.transact("hash", changed)
			s.noteResult(answer.Get("pdus").Map(), e)
			var got json.RawMessage
			s.must(s.alice.Call(s.ctx, "GET", "/_matrix/client/v3/rooms/"+s.id+"/event/"+e.EventID(), nil, &got))
			s.note("its content is %s", gjson.GetBytes(got, "content").Raw)
			s.room.Add(e)
		}},
		{name: "giving itself power", want: `error "the event is not allowed by the room's rules", not shown`, lie: func(s *scene) {
			s.send(s.state1("m.room.power_levels", "", Object{"users": Object{s.peer.User("liar"): 100, s.alice.UserID: 0}}))
		}},
		{name: "banning the room's creator", want: `error "the event is not allowed by the room's rules", not shown`, lie: func(s *scene) {
			s.send(s.state1("m.room.member", s.alice.UserID, Object{"membership": "ban"}))
		}},
		{name: "a second m.room.create", want: `error "the event is not allowed by the room's rules", not shown`, lie: func(s *scene) {
			s.send(s.state1("m.room.create", "", Object{"creator": s.peer.User("liar"), "room_version": "10"}))
		}},
		{name: "a first m.room.create", want: `error "the event names no prev events, which only the room's first one may", not shown`, lie: func(s *scene) {
			s.send(s.room.Make(Draft{Type: "m.room.create", Key: Key(""), Sender: s.peer.User("liar"), Prev: []string{}, Auth: []string{},
				Content: Object{"creator": s.peer.User("liar"), "room_version": "10"}}))
		}},
		{name: "state under another user's id", want: `error "the event is not allowed by the room's rules", not shown`, lie: func(s *scene) {
			s.send(s.state1("m.widget", s.alice.UserID, Object{}))
		}},
		{name: "citing the same auth event twice", want: `error "the event is not allowed by the room's rules", not shown`, lie: func(s *scene) {
			d := s.draft("x")
			d.Auth = s.room.selectAuth(d, nil)
			d.Auth = append(d.Auth, d.Auth[0])
			s.send(s.room.Make(d))
		}},
		{name: "citing no m.room.create", want: `error "the event is not allowed by the room's rules", not shown`, lie: func(s *scene) {
			d := s.draft("x")
			d.Auth = s.room.selectAuth(d, nil)[1:]
			s.send(s.room.Make(d))
		}},
		{name: "citing auth events of another room", want: `error "the event refers to an event of another room: it2", not shown`, lie: func(s *scene) {
			other, err := s.alice.CreateRoom(s.ctx, Object{"preset": "public_chat", "room_version": "10"})
			s.must(err)
			foreign, err := s.peer.Join(s.ctx, s.a, other, s.peer.User("liar"))
			s.must(err)
			d := s.draft("x")
			d.Auth = foreign.selectAuth(d, nil)
			e := s.room.Make(d)
			s.send(e)
			s.got[0] = strings.Replace(s.got[0], d.Auth[0], "it2", 1)
		}},
		{name: "following an event of another room", want: `error "the event refers to an event of another room: it2", not shown`, lie: func(s *scene) {
			other, err := s.alice.CreateRoom(s.ctx, Object{"preset": "public_chat", "room_version": "10"})
			s.must(err)
			foreign, err := s.peer.Join(s.ctx, s.a, other, s.peer.User("liar"))
			s.must(err)
			d := s.draft("x")
			d.Prev = foreign.Heads
			s.send(s.room.Make(d))
			s.got[0] = strings.Replace(s.got[0], d.Prev[0], "it2", 1)
		}},
		{name: "following nothing", want: `error "the event names no prev events, which only the room's first one may", not shown`, lie: func(s *scene) {
			d := s.draft("x")
			d.Prev = []string{}
			s.send(s.room.Make(d))
		}},
		{name: "the greatest depth", want: "ok, shown", lie: func(s *scene) {
			d := s.draft("x")
			d.Depth = 1<<53 - 1
			s.send(s.room.Make(d))
		}},
		{name: "50 forks", want: "few forward extremities are left; alice has not read them; no client is shown why", lie: func(s *scene) {
			var forks []*event.Event
			for i := range 50 {
				forks = append(forks, s.room.Make(s.draft(fmt.Sprint("fork ", i))))
			}
			if status, answer := s.transact("forks", raws(forks)...); status != 200 {
				s.Fatalf("%d %s", status, answer)
			}
			s.must(lab.Poll(s.ctx, func() error {
				if n := len(s.extremities(s.a)); n > 10 {
					return fmt.Errorf("%d forward extremities", n)
				}
				return nil
			}))
			s.note("few forward extremities are left")
			s.must(s.alice.Sync(s.ctx, 0))
			s.must(s.alice.Until(s.ctx, func(v *lab.View) error {
				if n := v.Room(s.id).Unread; n >= 50 {
					s.note("alice has not read them")
				} else {
					s.note("alice has %d unread", n)
				}
				return nil
			}))
			s.silent(forks[49])
		}},
		{name: "21 prev events", want: "left out, not shown", lie: func(s *scene) {
			e, err := Craft(s.room.V, s.room.Make(s.draft("x")), Object{"prev_events": many(21)}, s.peer.Signer)
			if err == nil {
				s.send(e)
				return
			}
			s.note("left out, not shown")
		}},
	})
}

// TestTransactions sends transactions that lie, and reads what is answered for the whole.
func TestTransactions(t *testing.T) {
	const send = "/_matrix/federation/v1/send/"
	play(t, []row{
		{name: "in another server's name", want: "401 M_UNAUTHORIZED", lie: func(s *scene) {
			s.call(Request{Method: "PUT", Path: send + "1", Body: []byte(`{"pdus":[]}`), Origin: "c.test"})
		}},
		{name: "in the node's own name", want: "401 M_UNAUTHORIZED", lie: func(s *scene) {
			s.call(Request{Method: "PUT", Path: send + "1", Body: []byte(`{"pdus":[]}`), Origin: "a.test"})
		}},
		{name: "meant for another server", want: "401 M_UNAUTHORIZED", lie: func(s *scene) {
			s.call(Request{Method: "PUT", Path: send + "1", Body: []byte(`{"pdus":[]}`), Destination: "c.test"})
		}},
		{name: "another body than was signed", want: "401 M_UNAUTHORIZED", lie: func(s *scene) {
			s.call(Request{Method: "PUT", Path: send + "1", Body: []byte(`{"pdus":[]}`), Signed: []byte(`{"pdus":[1]}`)})
		}},
		{name: "no body", want: "400 M_NOT_JSON", lie: func(s *scene) { s.call(Request{Method: "PUT", Path: send + "1"}) }},
		{name: "a list", want: "400 M_NOT_JSON", lie: func(s *scene) { s.call(Request{Method: "PUT", Path: send + "1", Body: []byte(`[]`)}) }},
		{name: "half a body", want: "400 M_NOT_JSON", lie: func(s *scene) {
			s.call(Request{Method: "PUT", Path: send + "1", Body: []byte(`{"pdus":[{}`)})
		}},
		{name: "PDUs that are no list", want: "400 M_BAD_JSON", lie: func(s *scene) {
			s.call(Request{Method: "PUT", Path: send + "1", Body: []byte(`{"pdus":{"a":[]},"edus":7}`)})
		}},
		{name: "51 PDUs", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			s.call(Request{Method: "PUT", Path: send + "1", Body: []byte(`{"pdus":[0` + strings.Repeat(",0", 50) + `]}`)})
		}},
		{name: "101 EDUs", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			s.call(Request{Method: "PUT", Path: send + "1", Body: []byte(`{"pdus":[],"edus":[0` + strings.Repeat(",0", 100) + `]}`)})
		}},
		{name: "an id of 256 bytes", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			s.call(Request{Method: "PUT", Path: send + strings.Repeat("1", 256), Body: []byte(`{"pdus":[]}`)})
		}},
		{name: "11 MB", want: "413 M_TOO_LARGE", lie: func(s *scene) {
			s.call(Request{Method: "PUT", Path: send + "1", Body: []byte(`{"pdus":["` + strings.Repeat("x", 11<<20) + `"]}`)})
		}},
		{name: "one value of 10 MB, and a good event", want: "200, the good event taken", lie: func(s *scene) { s.among(`"` + strings.Repeat("x", 10_000_000) + `"`) }},
		{name: "65 KiB that were not hashed", want: "200, the good event taken, the lie without its content", lie: func(s *scene) {
			s.among(s.swap(`"content":{`, `"content":{"aa":"`+strings.Repeat("x", 65<<10)+`",`))
		}},
		{name: "an event of 65 KiB", want: "200, the good event taken", lie: func(s *scene) {
			d := s.draft(strings.Repeat("x", 65<<10))
			if _, err := s.room.Build(d); !errors.Is(err, event.ErrTooLarge) {
				s.Fatal(err)
			}
			body, signer := s.room.Make(s.draft("x")).JSON(), s.peer.Signer
			s.among(string(signed(s, body, d.Content, signer)))
		}},
		{name: "bytes that are not UTF-8", want: "200, the good event taken", lie: func(s *scene) { s.among(s.swap(`"content":{`, "\"content\":{\"aa\":\"\xff\xfe\",")) }},
		{name: "half a surrogate pair", want: "200, the good event taken", lie: func(s *scene) { s.among(s.swap(`"content":{`, `"content":{"aa":"\ud800",`)) }},
		{name: "lists nested without end", want: "200, the good event taken", lie: func(s *scene) {
			s.among(s.swap(`"content":{`, `"content":{"aa":`+strings.Repeat("[", 400_000)+strings.Repeat("]", 400_000)+","))
		}},
		{name: "objects nested without end", want: "200, the good event taken", lie: func(s *scene) {
			s.among(s.swap(`"content":{`, `"content":{"aa":`+strings.Repeat(`{"a":`, 200_000)+"1"+strings.Repeat("}", 200_000)+","))
		}},
		{name: "a number of a million digits", want: "200, the good event taken", lie: func(s *scene) {
			s.among(s.swap(`"content":{`, `"content":{"aa":`+strings.Repeat("9", 1_000_000)+","))
		}},
		{name: "100,000 keys that were not hashed", want: "200, the good event taken, the lie without its content", lie: func(s *scene) {
			var keys strings.Builder
			for i := range 100_000 {
				fmt.Fprintf(&keys, `"%d":0,`, 100_000-i)
			}
			s.among(s.swap(`"content":{`, `"content":{`+keys.String()))
		}},
		{name: "a replay", want: "the same answer; the event came once", lie: func(s *scene) {
			e := s.room.Make(s.draft("once"))
			_, first := s.transact("again", e.JSON())
			s.arrives(e)
			if _, second := s.transact("again", e.JSON()); second.Raw == first.Raw {
				s.note("the same answer")
			}
			s.room.Add(e)
			s.come("once")
		}},
		{name: "a replay with other events", want: "the same answer; not shown", lie: func(s *scene) {
			e, other := s.room.Make(s.draft("one")), s.room.Make(s.draft("other"))
			_, first := s.transact("again", e.JSON())
			if _, second := s.transact("again", other.JSON()); second.Raw == first.Raw {
				s.note("the same answer")
			}
			if !s.has(other.EventID()) {
				s.note("not shown")
			}
		}},
		{name: "a replay under other ids", want: "ok, shown; ok, shown; ok, shown; the event came once", lie: func(s *scene) {
			e := s.room.Make(s.draft("once"))
			for i := range 3 {
				_, answer := s.transact(fmt.Sprint("other", i), e.JSON(), e.JSON())
				s.noteResult(answer.Get("pdus").Map(), e)
			}
			s.room.Add(e)
			s.come("once")
		}},
		{name: "20 at once", want: "200, or 429 M_LIMIT_EXCEEDED", lie: func(s *scene) {
			answers := make(chan string, 20)
			for i := range cap(answers) {
				e := s.room.Make(s.draft(fmt.Sprint("flood ", i)))
				go func() {
					status, body := s.peer.Call(s.ctx, s.a, Request{Method: "PUT", Path: send + fmt.Sprint("f", i), Body: []byte(`{"pdus":[` + string(e.JSON()) + `]}`)})
					answers <- code(status, body)
				}()
			}
			for range cap(answers) {
				if got := <-answers; got != "200" && got != "429 M_LIMIT_EXCEEDED" {
					s.note("%s", got)
				}
			}
			s.note("200, or 429 M_LIMIT_EXCEEDED")
		}},
	})
}

// call makes a request of alice's node and notes its status and error.
func (s *scene) call(q Request) {
	s.Helper()
	s.note("%s", code(s.peer.Call(s.ctx, s.a, q)))
}

// signed is an event with other content, hashed and signed, whatever its size.
func signed(s *scene, like []byte, content any, signer event.Signer) []byte {
	s.Helper()
	var o Object
	s.must(json.Unmarshal(like, &o))
	o["content"] = content
	delete(o, "signatures")
	delete(o, "hashes")
	body, err := canonical(o)
	s.must(err)
	h := sha256.Sum256(body)
	o["hashes"] = Object{"sha256": base64.RawStdEncoding.EncodeToString(h[:])}
	redacted := maps.Clone(o)
	redacted["content"] = Object{}
	o["signatures"] = SignObject(redacted, signer)["signatures"]
	body, err = canonical(o)
	s.must(err)
	return body
}

// swap is a message of the liar as text, with one thing changed in it.
func (s *scene) swap(old, with string) string {
	text := string(s.room.Make(s.draft("x")).JSON())
	if !strings.Contains(text, old) {
		s.Fatal("the event has no " + old)
	}
	return strings.Replace(text, old, with, 1)
}

// among sends what is no event before a good one.
func (s *scene) among(lie string) {
	s.Helper()
	good := s.room.Make(s.draft("good"))
	status, answer := s.transact("among", json.RawMessage(lie), good.JSON())
	got := fmt.Sprint(status)
	results := answer.Get("pdus").Map()
	if r, ok := results[good.EventID()]; ok && !r.Get("error").Exists() {
		got += ", the good event taken"
		s.arrives(good)
	}
	s.room.Add(good)
	delete(results, good.EventID())
	for id := range results {
		var e struct{ Content json.RawMessage }
		if s.alice.Call(s.ctx, "GET", lab.V3("rooms", s.id, "event", id), nil, &e) == nil {
			got += ", the lie shown"
			if string(e.Content) == "{}" {
				got = strings.Replace(got, "the lie shown", "the lie without its content", 1)
			}
		}
	}
	s.note("%s", got)
}

// come notes how often alice gets a message.
func (s *scene) come(text string) {
	s.Helper()
	n := 0
	s.must(s.alice.Until(s.ctx, func(v *lab.View) error {
		n = 0
		for _, e := range v.Room(s.id).Timeline {
			if e.Text("body") == text {
				n++
			}
		}
		if n == 0 {
			return errors.New(text + " did not come")
		}
		return nil
	}))
	if n == 1 {
		s.note("the event came once")
	} else {
		s.note("the event came %d times", n)
	}
}

// silent sees that alice is shown an event, whichever way she looks, and none that says nothing.
func (s *scene) silent(shown *event.Event) {
	s.Helper()
	for path, body := range map[string]any{
		lab.V3("sync") + `?timeout=0&filter={"room":{"timeline":{"limit":200}}}`: nil,
		lab.V3("rooms", s.id, "messages") + "?dir=b&limit=200":                   nil,
		lab.V3("rooms", s.id, "context", shown.EventID()) + "?limit=200":         nil,
		"/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0": Object{"room_subscriptions": Object{
			s.id: Object{"timeline_limit": 100, "required_state": [][]string{}}}},
	} {
		method := "GET"
		if body != nil {
			method = "POST"
		}
		var raw json.RawMessage
		s.must(s.alice.Call(s.ctx, method, path, body, &raw))
		if !bytes.Contains(raw, []byte(shown.EventID())) || bytes.Contains(raw, []byte(event.DummyType)) {
			s.Errorf("%s: %s", path, raw)
		}
	}
	s.note("no client is shown why")
}

// state1 is a state event of the liar.
func (s *scene) state1(typ, key string, content any) *event.Event {
	s.Helper()
	return s.room.Make(Draft{Type: typ, Key: &key, Sender: s.peer.User("liar"), Content: content})
}

func many(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = "$" + fmt.Sprintf("%042dA", i)
	}
	return out
}
