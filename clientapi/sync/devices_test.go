package sync

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/tidwall/gjson"

	"knock/internal/account"
	"knock/internal/e2ee"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// company does what cmd/knock does between parts.
type company struct{ s *store.Store }

func (c company) Servers(tx *sqldb.Tx, user string) ([]string, error) {
	return c.s.ServersWith(tx, user)
}

func (c company) SharedRooms(tx *sqldb.Tx, user string) ([]string, error) {
	return c.s.RoomsWithLocals(tx, user)
}

func (c company) Members(tx *sqldb.Tx, room string) ([]string, error) {
	key, err := c.s.RoomTx(tx, room)
	if err != nil {
		return nil, err
	}
	return c.s.Joined(tx, key.NID)
}

func (c company) Sharing(tx *sqldb.Tx, user string, others []string) ([]string, error) {
	return c.s.Sharing(tx, user, others)
}

func eachEncrypted(t *testing.T, fn func(g *rig, keys *e2ee.Service)) {
	each(t, func(g *rig) {
		keys := e2ee.New(e2ee.Options{DB: g.db, Hub: g.hub, Rooms: company{g.rooms.Store}, Accounts: g.accounts, ServerName: server, Verify: event.VerifyJSON})
		g.accounts.OnDevices(keys)
		must(g.t, keys.Start(context.Background()))
		g.sync.o.Keys = keys
		fn(g, keys)
	})
}

// device makes an account with one device, and returns its id and how it calls.
func (g *rig) device(name string) (user, as string) {
	g.t.Helper()
	_, err := g.accounts.CreateUser(context.Background(), account.NewUser{Username: name, Password: "correct horse", Device: &account.NewDevice{ID: "D"}})
	must(g.t, err)
	user = "@" + name + ":" + server
	return user, user + "/D"
}

// sendTo sends n messages to a user's device.
func sendTo(g *rig, keys *e2ee.Service, user string, first, n int) {
	g.t.Helper()
	for i := first; i < first+n; i++ {
		content := json.RawMessage(fmt.Sprintf(`{"body":"%d"}`, i))
		must(g.t, keys.SendToDevice(context.Background(), "@s:"+server, "S", "m.test", fmt.Sprint(i), e2ee.Messages{user: {"D": content}}))
	}
}

func messages(res gjson.Result) (first, last string, n int) {
	all := res.Get("to_device.events.#.content.body").Array()
	if len(all) == 0 {
		return "", "", 0
	}
	return all[0].Str, all[len(all)-1].Str, len(all)
}

func TestMessagesToADevice(t *testing.T) {
	eachEncrypted(t, func(g *rig, keys *e2ee.Service) {
		t := g.t
		a, as := g.device("a")
		since := next(g.get(as))
		sendTo(g, keys, a, 0, 250)
		for _, want := range []string{"0 99 100", "100 199 100", "200 249 50"} {
			res := g.get(as, "since", since, "timeout", "60000")
			expect(t, "first", join(messages(res)), want)
			res = g.get(as, "since", since, "timeout", "60000")
			expect(t, "again, for the answer was lost", join(messages(res)), want)
			since = next(res)
		}
		expect(t, "nothing is left", join(messages(g.get(as, "since", since))), "  0")
		expect(t, "and what was acknowledged does not come again", join(messages(g.get(as))), "  0")

		since = next(g.get(as))
		answers := make(chan gjson.Result)
		go func() { answers <- g.get(as, "since", since, "timeout", "60000") }()
		sendTo(g, keys, a, 300, 1)
		expect(t, "woken", join(messages(<-answers)), "300 300 1")
	})
}

func join(first, last string, n int) string { return fmt.Sprint(first, " ", last, " ", n) }

func TestDeviceLists(t *testing.T) {
	eachEncrypted(t, func(g *rig, _ *e2ee.Service) {
		t := g.t
		a, as := g.device("a")
		b, _ := g.device("b")
		c, _ := g.device("c")
		room := g.create(roomserver.CreateRequest{Creator: a})
		g.join(room, c)
		since := next(g.get(as))
		look := func(what, changed, left string, args ...string) {
			t.Helper()
			res := g.get(as, append(args, "since", since)...)
			since = next(res)
			expect(t, what+": changed", res.Get("device_lists.changed.#").String()+res.Get("device_lists.changed.0").Str, changed)
			expect(t, what+": left", res.Get("device_lists.left.#").String()+res.Get("device_lists.left.0").Str, left)
		}
		look("nothing happened", "", "")
		g.join(room, b)
		look("b joins", "1"+b, "0")
		profile(g, room, b)
		look("b has a new name", "", "")
		g.member(room, b, b, "leave")
		g.join(room, b)
		look("b came back", "1"+b, "0")
		g.member(room, b, b, "leave")
		look("b leaves", "0", "1"+b)
		g.join(room, b)
		look("a filter leaves rooms out", "1"+b, "0", "filter", `{"room":{"rooms":[]}}`)
		second := g.create(roomserver.CreateRequest{Creator: b})
		g.join(second, a)
		since = next(g.get(as))
		g.member(room, b, b, "leave")
		look("another room is shared", "", "")
		g.member(room, a, a, "leave")
		look("a leaves c", "0", "1"+c)
		g.join(room, a)
		look("a joins c", "2"+a, "0")
	})
}

// profile gives a member a new name in a room.
func profile(g *rig, room, user string) {
	g.t.Helper()
	_, err := g.rooms.SetMembership(context.Background(), roomserver.MembershipRequest{RoomID: room, Sender: user, Target: user, Membership: "join",
		Content: map[string]json.RawMessage{"displayname": json.RawMessage(`"new"`)}})
	must(g.t, err)
}

// TestIdlePollNeedsNoDatabase closes the database under a device that polls.
func TestIdlePollNeedsNoDatabase(t *testing.T) {
	eachEncrypted(t, func(g *rig, keys *e2ee.Service) {
		t := g.t
		_, as := g.device("a")
		since := next(g.get(as))
		since = next(g.get(as, "since", since, "timeout", "1"))
		must(t, g.db.Close())
		res := g.get(as, "since", since, "timeout", "1")
		expect(t, "the same token", next(res), since)
		expect(t, "key counts", res.Get("device_one_time_keys_count.signed_curve25519").Raw, "0")
	})
}

// TestMessagesAreKeptForSync has a client begin with the API before /sync, which tells of no messages to devices: going on
// with /sync it gets them all.
func TestMessagesAreKeptForSync(t *testing.T) {
	eachEncrypted(t, func(g *rig, keys *e2ee.Service) {
		t := g.t
		a, as := g.device("a")
		sendTo(g, keys, a, 0, 3)
		_, res := g.call(as, "GET", "/_matrix/client/v3/initialSync", "")
		_, _, n := messages(g.get(as, "since", res.Get("end").Str))
		expect(t, "after /initialSync", n, 3)

		b, as := g.device("b")
		told := next(g.get(as))
		sendTo(g, keys, b, 3, 2)
		g.router = g.events()
		_, res = g.call(as, "GET", "/_matrix/client/v3/events?from="+told, "")
		g.restart()
		g.sync.o.Keys = keys
		_, _, n = messages(g.get(as, "since", res.Get("end").Str))
		expect(t, "after /events", n, 2)
	})
}
