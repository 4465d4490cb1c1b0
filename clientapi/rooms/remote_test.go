package rooms

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// peer is the server "far" as ours reaches it: its room server without a
// network between.
type peer struct {
	roomserver.Remote // what is not needed here
	s                 *roomserver.Server
	home              *roomserver.Server
	down              bool
	joining           func() // called while a join is answered
}

func (p *peer) reach(server string) error {
	if p.down || server != "far" {
		return matrixerr.Unknown(502, server+" cannot be reached")
	}
	return nil
}

func passOn(err error) error { return roomserver.MatrixError(err) }

func (p *peer) Make(ctx context.Context, kind, server, roomID, userID string, versions []string) (string, json.RawMessage, error) {
	if err := p.reach(server); err != nil {
		return "", nil, err
	}
	version, template, err := p.s.Template(ctx, kind, roomID, userID, versions)
	return version, template, passOn(err)
}

func (p *peer) SendJoin(ctx context.Context, server, roomID, eventID string, e json.RawMessage, _ bool, into roomserver.JoinSink) error {
	a, err := p.s.AcceptMembership(ctx, "join", "hs", roomID, eventID, e, false)
	if err != nil {
		return passOn(err)
	}
	if p.joining != nil {
		p.joining()
	}
	if err := errors.Join(pour(a.State, into.State), pour(a.Auth, into.Auth)); err != nil {
		return err
	}
	return into.Event(a.Event.JSON())
}

func (p *peer) SendLeave(ctx context.Context, server, roomID, eventID string, e json.RawMessage) error {
	_, err := p.s.AcceptMembership(ctx, "leave", "hs", roomID, eventID, e, false)
	return passOn(err)
}

func (p *peer) SendKnock(ctx context.Context, server, roomID, eventID string, e json.RawMessage) ([]json.RawMessage, error) {
	if _, err := p.s.AcceptMembership(ctx, "knock", "hs", roomID, eventID, e, false); err != nil {
		return nil, passOn(err)
	}
	list, err := p.s.KnockState(ctx, roomID, "@far:far")
	return list, passOn(err)
}

func (p *peer) Backfill(ctx context.Context, server, roomID string, from []string, limit int) ([]json.RawMessage, error) {
	if err := p.reach(server); err != nil {
		return nil, err
	}
	events, err := p.s.BackfillFor(ctx, "hs", roomID, from, limit)
	return bodies(events), err
}

func (p *peer) Invite(ctx context.Context, server, roomID, eventID, version string, e json.RawMessage, stripped []json.RawMessage) (json.RawMessage, error) {
	if err := p.reach(server); err != nil {
		return nil, err
	}
	raw, err := p.s.AcceptInvite(ctx, "hs", roomID, eventID, version, e, stripped)
	return raw, passOn(err)
}

func (p *peer) StateIDs(ctx context.Context, server, roomID, eventID string) (state, chain []string, err error) {
	s, a, err := p.s.StateBefore(ctx, "hs", roomID, eventID)
	return ids(s), ids(a), err
}

func (p *peer) State(ctx context.Context, server, roomID, eventID string, into roomserver.JoinSink) error {
	state, chain, err := p.s.StateBefore(ctx, "hs", roomID, eventID)
	if err != nil {
		return err
	}
	return errors.Join(pour(state, into.State), pour(chain, into.Auth))
}

func pour(events []*store.Stored, take func(json.RawMessage) error) error {
	for _, e := range events {
		if err := take(e.Event.JSON()); err != nil {
			return err
		}
	}
	return nil
}

func (p *peer) Event(ctx context.Context, server, eventID string) (json.RawMessage, error) {
	e, err := p.s.EventForServer(ctx, "hs", eventID)
	if err != nil {
		return nil, err
	}
	return e.Event.JSON(), nil
}

// home is our server as the peer reaches it, for invites.
type home struct {
	roomserver.Remote
	p *peer
}

func (h home) Invite(ctx context.Context, server, roomID, eventID, version string, e json.RawMessage, stripped []json.RawMessage) (json.RawMessage, error) {
	raw, err := h.p.home.AcceptInvite(ctx, "far", roomID, eventID, version, e, stripped)
	return raw, passOn(err)
}

func ids(events []*store.Stored) (out []string) {
	for _, e := range events {
		out = append(out, e.ID)
	}
	return out
}

func bodies(events []*store.Stored) (out []json.RawMessage) {
	for _, e := range events {
		out = append(out, e.Event.JSON())
	}
	return out
}

// eachPair runs a test with our server and the server "far".
func eachPair(t *testing.T, fn func(t *testing.T, n *node, far *peer)) {
	t.Helper()
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		other := sqldbtest.Open(t, db.Dialect())
		hub := stream.New(0)
		other.OnPublish(hub.Advance)
		p := &peer{}
		signer := event.Signer{Server: "far", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("f", 32)))}
		p.s = roomserver.New(roomserver.Options{ServerName: "far", Signer: signer, Store: store.New(store.Options{DB: other}), Hub: hub, Remote: home{p: p}})
		n := newNode(t, db)
		n.s.Remote = p
		p.home = n.s
		fn(t, n, p)
	})
}

func (p *peer) create(t *testing.T, q roomserver.CreateRequest) string {
	t.Helper()
	q.Creator = "@far:far"
	id, err := p.s.Create(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestJoinsUnderWay lists a join while the other server answers it.
func TestJoinsUnderWay(t *testing.T) {
	eachPair(t, func(t *testing.T, n *node, far *peer) {
		const list = "/_knock/admin/v1/joins"
		room := far.create(t, roomserver.CreateRequest{Preset: "public_chat"})
		far.joining = func() {
			joins := n.ok("admin", "GET", list, ``)["joins"].([]any)
			if len(joins) != 1 {
				t.Fatalf("under way: %v", joins)
			}
			if j := joins[0].(answer); j["room_id"] != room || j["user_id"] != "@alice:hs" || j["server"] != "far" || j["age_ms"] == nil {
				t.Errorf("under way: %v", j)
			}
		}
		n.ok("alice", "POST", in(room, "join")+"?via=far", ``)
		n.expect(403, "M_FORBIDDEN", "alice", "GET", list, ``)
		if got := n.ok("admin", "GET", list, ``)["joins"].([]any); len(got) != 0 {
			t.Errorf("afterwards: %v", got)
		}
	})
}

func TestHistoryOfAnotherServer(t *testing.T) {
	eachPair(t, func(t *testing.T, n *node, far *peer) {
		room := far.create(t, roomserver.CreateRequest{Preset: "public_chat", Name: "Far"})
		var sent []string
		for i := range 250 {
			id, err := far.s.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: "@far:far", Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"body":"%d"}`, i))})
			if err != nil {
				t.Fatal(err)
			}
			sent = append(sent, id)
		}
		n.expect(404, "M_NOT_FOUND", "alice", "POST", in(room, "join"), ``)
		n.expect(502, "M_UNKNOWN", "alice", "POST", in(room, "join")+"?via=gone", ``)
		n.ok("alice", "POST", in(room, "join")+"?via=gone&via=far", ``)
		said := n.say("alice", room, "hello")

		far.down = true
		ids, end, _ := n.page("alice", room, "dir=b&limit=50")
		if ids[0] != said || len(ids) != 2 || end == "" {
			t.Fatalf("while the other server is down: %v, end %q", ids, end)
		}
		far.down = false
		all := n.walkAll("alice", room, "b", "", 30)
		slices.Reverse(all)
		if len(all) != 6+250+2 || !slices.Equal(all[6:256], sent) || all[257] != said {
			t.Errorf("%d events of history", len(all))
		}
		if got := n.walkAll("alice", room, "b", end, 30); len(got) != 256 {
			t.Errorf("from the old token: %d events", len(got))
		}
		if forward := n.walkAll("alice", room, "f", "", 40); !slices.Equal(forward, all) {
			t.Errorf("forward: %d events", len(forward))
		}
	})
}

func TestInvitesFromAnotherServer(t *testing.T) {
	eachPair(t, func(t *testing.T, n *node, far *peer) {
		ctx := context.Background()
		for _, v := range []string{"1", "11", "12"} {
			room := far.create(t, roomserver.CreateRequest{Version: v, Name: "Far", Invite: []string{"@alice:hs", "@bob:hs"}})
			n.expect(403, "M_FORBIDDEN", "alice", "GET", in(room, "messages?dir=b"), "")
			n.expect(403, "M_FORBIDDEN", "alice", "GET", in(room, "state"), "")
			n.expect(403, "M_FORBIDDEN", "alice", "PUT", in(room, "send/m.room.message/1"), `{}`)
			n.expect(403, "M_FORBIDDEN", "eve", "POST", in(room, "join")+"?via=far", ``)
			n.ok("bob", "POST", in(room, "leave"), `{"reason":"no"}`)
			if m, err := far.s.Membership(ctx, room, "@bob:hs"); err != nil || m.State != store.Leave {
				t.Errorf("version %s: there, bob's membership is %v, %v", v, m.State, err)
			}
			n.ok("bob", "POST", in(room, "forget"), ``)
			n.ok("alice", "POST", in(room, "join"), ``)
			n.say("alice", room, "hello")
			if name := n.content("alice", room, "m.room.name")["name"]; name != "Far" {
				t.Errorf("version %s: the name is %v", v, name)
			}
		}
		room := far.create(t, roomserver.CreateRequest{Invite: []string{"@alice:hs"}})
		far.down = true
		n.expect(502, "M_UNKNOWN", "alice", "POST", in(room, "join"), ``)
		n.ok("alice", "POST", in(room, "leave"), ``)
		n.ok("alice", "POST", in(room, "forget"), ``)
	})
}

func TestKnockOnAnotherServer(t *testing.T) {
	eachPair(t, func(t *testing.T, n *node, far *peer) {
		room := far.create(t, roomserver.CreateRequest{Name: "Far", InitialState: []roomserver.StateEvent{{Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"knock"}`)}}})
		closed := far.create(t, roomserver.CreateRequest{})
		knock := func(room string) string { return v3 + "knock/" + url.PathEscape(room) + "?server_name=far" }
		n.expect(403, "M_FORBIDDEN", "alice", "POST", knock(closed), `{}`)
		n.ok("alice", "POST", knock(room), `{"reason":"hello"}`)
		if m, err := far.s.Membership(context.Background(), room, "@alice:hs"); err != nil || m.State != store.Knock {
			t.Errorf("there, the membership is %v, %v", m.State, err)
		}
		n.expect(403, "M_FORBIDDEN", "alice", "POST", in(room, "join")+"?via=far", ``)
		n.ok("alice", "POST", in(room, "leave"), ``)
	})
}

// An invite that fails does not cost the room, nor the invites after it.
func TestCreateWithInvitesElsewhere(t *testing.T) {
	eachPair(t, func(t *testing.T, n *node, far *peer) {
		room := n.create("alice", `{"invite":["@far:far","@x:gone","@bob:hs"],"is_direct":true}`)
		for user, want := range map[string]store.Membership{"@far:far": store.Invite, "@x:gone": store.NoMembership, "@bob:hs": store.Invite} {
			if m, err := n.s.Membership(context.Background(), room, user); err != nil || m.State != want {
				t.Errorf("%s: %v, %v", user, m.State, err)
			}
		}
		n.expect(502, "M_UNKNOWN", "alice", "POST", in(room, "invite"), `{"user_id":"@x:gone"}`)
		n.expect(502, "M_UNKNOWN", "alice", "PUT", in(room, "state/m.room.member/@x:gone"), `{"membership":"invite"}`)
	})
}
