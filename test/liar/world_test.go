package liar

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

// world is two honest nodes, with alice on one and carol on the other.
type world struct {
	site         *hstest.Site
	a, c         *hstest.Node
	alice, carol *lab.Client
	peers        int
}

// row is one lie and what its teller must get.
type row struct {
	name    string
	version string // of the honest room; "" is 10
	lie     func(s *scene)
	want    string
}

// scene is one row: a room of alice's with carol in it, and a liar, who is in it too.
type scene struct {
	*testing.T
	*world
	ctx    context.Context
	id     string
	peer   *Peer
	room   *Room // as the liar knows it
	got    []string
	before map[lab.Key]string // the state that the room must have in the end
}

// play runs rows on each engine, each in a room of its own and told by a server of its own, and prints what each lie got.
func play(t *testing.T, rows []row) {
	hstest.Each(t, func(t *testing.T, site *hstest.Site) {
		w := &world{site: site, a: site.Start("a.test"), c: site.Start("c.test")}
		w.alice, w.carol = w.a.MustRegister("alice"), w.c.MustRegister("carol")
		var table strings.Builder
		out := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
		for _, r := range rows {
			t.Run(r.name, func(t *testing.T) { fmt.Fprintf(out, "%s\t%s\n", r.name, w.row(t, r)) })
		}
		for _, n := range []*hstest.Node{w.a, w.c} {
			if strings.Contains(n.Log(), "panic") {
				t.Errorf("%s panicked:\n%s", n.Name, n.Log())
			}
		}
		out.Flush()
		t.Logf("what each lie got:\n%s", table.String())
	})
}

func (w *world) row(t *testing.T, r row) string {
	ctx, cancel := context.WithTimeout(t.Context(), 2*hstest.Patience)
	defer cancel()
	s := w.scene(ctx, t, cmp.Or(r.version, "10"))
	s.before = s.state(s.a, s.alice)
	r.lie(s)
	s.honest()
	got := strings.Join(s.got, "; ")
	if got != r.want {
		t.Errorf("the liar got  %s\nand not       %s", got, r.want)
	}
	return got
}

func (w *world) scene(ctx context.Context, t *testing.T, version string) *scene {
	t.Helper()
	s := &scene{T: t, world: w, ctx: ctx}
	var err error
	s.id, err = w.alice.CreateRoom(ctx, Object{"preset": "public_chat", "room_version": version})
	s.must(err)
	_, err = w.carol.Join(ctx, s.id, "a.test")
	s.must(err)
	s.peer = s.newPeer()
	s.room, err = s.peer.Join(ctx, w.a, s.id, s.peer.User("liar"))
	s.must(err)
	s.member(w.alice, s.carol.UserID, "join")
	s.member(w.carol, s.peer.User("liar"), "join")
	return s
}

// newPeer starts a server with a name that no node knows yet.
func (s *scene) newPeer() *Peer {
	s.peers++
	return NewPeer(s, s.site, fmt.Sprintf("liar%d.test", s.peers))
}

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// note adds to what the liar got.
func (s *scene) note(format string, args ...any) { s.got = append(s.got, fmt.Sprintf(format, args...)) }

// member waits until a client knows a membership.
func (s *scene) member(c *lab.Client, user, want string) {
	s.Helper()
	s.must(c.Until(s.ctx, func(v *lab.View) error {
		if is := v.Room(s.id).Member(user); is != want {
			return fmt.Errorf("%s is %q and not %s", user, is, want)
		}
		return nil
	}))
}

// state is the ids of the room's state by type and key, as a client's node has it.
func (s *scene) state(n *hstest.Node, c *lab.Client) map[lab.Key]string {
	s.Helper()
	events, err := c.State(s.ctx, s.id)
	s.must(err)
	out := map[lab.Key]string{}
	for _, e := range events {
		out[lab.Key{Type: e.Type, StateKey: *e.StateKey}] = e.ID
	}
	return out
}

// honest sees that the room works as before: messages go both ways, the state is as it was on both nodes, and so are,
// after the messages, the forward extremities.
func (s *scene) honest() {
	s.Helper()
	before := s.before
	for _, pair := range [][2]*lab.Client{{s.alice, s.carol}, {s.carol, s.alice}} {
		text := "honest words of " + pair[0].UserID
		id, err := pair[0].Say(s.ctx, s.id, text)
		s.must(err)
		s.hears(pair[1], id, text)
	}
	if after := s.state(s.a, s.alice); !maps.Equal(before, after) {
		s.Errorf("the state changed:\n%v\nwas\n%v", after, before)
	}
	s.must(lab.Poll(s.ctx, func() error {
		if other := s.state(s.c, s.carol); !maps.Equal(before, other) {
			return fmt.Errorf("the state of the other node:\n%v\nand not\n%v", other, before)
		}
		return nil
	}))
	ours := s.extremities(s.a)
	if len(ours) != 1 {
		s.Errorf("%d forward extremities are left", len(ours))
	}
	s.must(lab.Poll(s.ctx, func() error {
		if theirs := s.extremities(s.c); !slices.Equal(ours, theirs) {
			return fmt.Errorf("forward extremities %v and %v", ours, theirs)
		}
		return nil
	}))
}

func (s *scene) extremities(n *hstest.Node) []string {
	s.Helper()
	ids, err := n.Extremities(s.ctx, s.id)
	s.must(err)
	return ids
}

// hears waits until a client gets an event with a text.
func (s *scene) hears(c *lab.Client, id, text string) {
	s.Helper()
	s.must(c.Until(s.ctx, func(v *lab.View) error {
		if e, ok := v.Room(s.id).Message(text); !ok || e.ID != id {
			return errors.New(text + " did not come")
		}
		return nil
	}))
}

// has tells whether alice's node shows her an event.
func (s *scene) has(id string) bool {
	err := s.alice.Call(s.ctx, "GET", lab.V3("rooms", s.id, "event", id), nil, nil)
	return err == nil
}

// Places in a room's state.
var (
	create = auth.Tuple{Type: "m.room.create"}
	levels = auth.Tuple{Type: "m.room.power_levels"}
)

func member(user string) auth.Tuple { return auth.Tuple{Type: "m.room.member", Key: user} }

// draft is a message of the liar.
func (s *scene) draft(text string) Draft {
	return Draft{Type: "m.room.message", Sender: s.peer.User("liar"), Content: Object{"msgtype": "m.text", "body": text}}
}

// transact sends PDUs to alice's node and returns the status and what it said of each.
func (s *scene) transact(txn string, pdus ...json.RawMessage) (int, gjson.Result) {
	s.Helper()
	body := `{"origin":"` + s.peer.Name + `","origin_server_ts":1,"pdus":[`
	for i, raw := range pdus {
		if i > 0 {
			body += ","
		}
		body += string(raw)
	}
	status, answer := s.peer.Call(s.ctx, s.a, Request{Method: "PUT", Path: "/_matrix/federation/v1/send/" + txn, Body: []byte(body + "]}")})
	return status, gjson.ParseBytes(answer)
}

// send sends events, and a good one after them, which must be taken, and notes what became of each.
func (s *scene) send(events ...*event.Event) {
	s.Helper()
	good := s.room.Make(s.draft("good"))
	status, answer := s.transact("t"+good.EventID()[1:9], raws(append(slices.Clone(events), good))...)
	if status != 200 {
		s.note("%d %s", status, answer.Get("errcode").Str)
		return
	}
	results := answer.Get("pdus").Map()
	for _, e := range events {
		s.noteResult(results, e)
	}
	if e, ok := results[good.EventID()]; !ok || e.Get("error").Exists() {
		s.Errorf("the good event: %s", answer)
	}
	s.arrives(good)
}

// noteResult notes what a transaction's answer says of an event, and whether users see it.
func (s *scene) noteResult(results map[string]gjson.Result, e *event.Event) {
	s.Helper()
	r, ok := results[e.EventID()]
	seen := "not shown"
	if s.has(e.EventID()) {
		seen = "shown"
	}
	switch reason := r.Get("error").Str; {
	case !ok:
		s.note("left out, %s", seen)
	case reason != "":
		reason = strings.NewReplacer(e.EventID(), "it", s.peer.Name, "liar").Replace(reason)
		s.note("error %q, %s", reason, seen)
	default:
		s.note("ok, %s", seen)
	}
}

// arrives waits until alice's node shows her an event.
func (s *scene) arrives(e *event.Event) {
	s.Helper()
	s.must(lab.Poll(s.ctx, func() error {
		if !s.has(e.EventID()) {
			return errors.New(e.EventID() + " did not come")
		}
		return nil
	}))
}

// code is the error code of an answer with its status.
func code(status int, body []byte) string {
	if status == 200 {
		return "200"
	}
	return fmt.Sprintf("%d %s", status, gjson.GetBytes(body, "errcode").Str)
}

// failed is the same of a client's call.
func failed(err error) string {
	var e *lab.Error
	switch {
	case err == nil:
		return "200"
	case errors.As(err, &e):
		return fmt.Sprintf("%d %s", e.Status, e.Code)
	}
	return err.Error()
}
