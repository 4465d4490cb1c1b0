package sync

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/tidwall/gjson"

	"knock/internal/account"
	"knock/internal/ephemeral"
	"knock/internal/httpx"
	"knock/internal/pushrules"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
	"knock/test/shapes"
)

const server = "hs"

// rig is a node without listeners.
type rig struct {
	t        testing.TB
	db       *sqldb.DB
	hub      *stream.Hub
	rooms    *roomserver.Server
	accounts *account.Service
	push     *pushrules.Service
	typing   *ephemeral.Typing
	receipts *ephemeral.Receipts
	presence *ephemeral.Presence
	sync     *Sync
	router   http.Handler
	closing  context.CancelFunc
}

func each(t *testing.T, fn func(g *rig)) {
	t.Helper()
	for name, url := range sqldbtest.URLs(t) {
		t.Run(name, func(t *testing.T) { fn(newRig(t, url)) })
	}
}

func newRig(t testing.TB, url string) *rig {
	t.Helper()
	db := sqldbtest.OpenURL(t, url)
	pos, err := db.Position(t.Context())
	must(t, err)
	g := &rig{t: t, db: db, hub: stream.New(pos)}
	db.OnPublish(g.hub.Advance)
	db.Start(t.Context())
	log := logrus.NewEntry(logrus.New())
	g.accounts = account.New(account.Options{DB: db, Hub: g.hub, ServerName: server})
	g.push = pushrules.New(pushrules.Options{DB: db, Hub: g.hub, Log: log})
	must(t, g.push.Load(t.Context()))
	g.rooms = roomserver.New(roomserver.Options{ServerName: server, Hub: g.hub, Store: store.New(store.Options{DB: db}),
		Signer:       event.Signer{Server: server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", 32)))},
		Participants: []roomserver.Participant{counters{g}}, Log: log})
	must(t, g.rooms.Start(t.Context()))
	g.typing = ephemeral.NewTyping(ephemeral.TypingOptions{Hub: g.hub})
	g.receipts = ephemeral.NewReceipts(ephemeral.ReceiptOptions{DB: db, Hub: g.hub, Events: places{g}, Counts: g.push,
		AccountData: g.accounts, Log: log})
	g.presence = ephemeral.NewPresence(ephemeral.PresenceOptions{Enabled: true, Hub: g.hub})
	g.restart()
	return g
}

// restart makes the part under test anew, as a start of the node does.
func (g *rig) restart() {
	g.sync = New(Options{DB: g.db, Hub: g.hub, Rooms: g.rooms, Accounts: g.accounts, Push: g.push, Typing: g.typing,
		Receipts: g.receipts, Presence: g.presence})
	g.router = shapes.Watched(g.t, httpx.NewRouter(g.sync.Routes(), g.hooks()))
}

func (g *rig) hooks() httpx.Hooks {
	closing, cancel := context.WithCancel(context.Background())
	g.closing = cancel
	g.t.Cleanup(cancel)
	return httpx.Hooks{Closing: closing,
		Authenticate: func(_ context.Context, token string, _ *httpx.Request) (httpx.Caller, error) {
			user, device, _ := strings.Cut(token, "/")
			return httpx.Caller{UserID: user, DeviceID: device}, nil
		}}
}

// counters and places do what cmd/knock does between parts.
type counters struct{ g *rig }

func (c counters) Load(context.Context, int64) error { return nil }
func (c counters) Forget(int64)                      {}

func (c counters) Prepare(a *roomserver.Accepted) func(tx *sqldb.Tx, pos int64) error {
	return c.g.push.Prepare(context.Background(), &pushrules.Occurrence{
		Room: a.RoomID, RoomNID: a.RoomNID, EventID: a.Event.EventID(), Sender: a.Event.Sender(), JSON: a.Event.JSON(), Members: a.JoinedMembers,
		Local: func(user string) bool { return event.ServerOf(user) == server }, IsMember: a.IsLocalMember,
		LocalMembers: func() []string { return c.g.hub.JoinedUsers(a.RoomID) },
		CanNotify: func(key string) bool {
			powers := auth.PowerLevels(a.State)
			return powers.UserLevel(a.Event.Sender()) >= powers.Notification(key)
		},
		DisplayName: func(string) string { return "" },
	})
}

type places struct{ g *rig }

func (p places) Locate(ctx context.Context, _, id string) (place ephemeral.Place, ok bool, err error) {
	err = p.g.db.Read(ctx, func(tx *sqldb.Tx) error {
		e, err := p.g.rooms.Store.EventByID(tx, id)
		if err == nil {
			place, ok = ephemeral.Place{RoomNID: e.Room, Ord: e.Ord, Pos: e.Pos, Thread: pushrules.Main}, true
		}
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	return place, ok, err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// user makes an account and returns its id.
func (g *rig) user(name string) string {
	g.t.Helper()
	_, err := g.accounts.CreateUser(context.Background(), account.NewUser{Username: name})
	must(g.t, err)
	return "@" + name + ":" + server
}

func (g *rig) create(q roomserver.CreateRequest) string {
	g.t.Helper()
	if q.Preset == "" {
		q.Preset = "public_chat"
	}
	id, err := g.rooms.Create(context.Background(), q)
	must(g.t, err)
	return id
}

func (g *rig) member(room, sender, target, membership string) {
	g.t.Helper()
	_, err := g.rooms.SetMembership(context.Background(), roomserver.MembershipRequest{RoomID: room, Sender: sender, Target: target, Membership: membership})
	must(g.t, err)
}

func (g *rig) join(room string, users ...string) {
	g.t.Helper()
	for _, u := range users {
		g.member(room, u, u, "join")
	}
}

func (g *rig) say(room, user, text string) string {
	g.t.Helper()
	id, err := g.rooms.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: user, Type: "m.room.message",
		Content: json.RawMessage(fmt.Sprintf(`{"body":%q,"msgtype":"m.text"}`, text))})
	must(g.t, err)
	return id
}

func (g *rig) state(room, user, typ, key, content string) string {
	g.t.Helper()
	id, err := g.rooms.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: user, Type: typ, StateKey: &key, Content: json.RawMessage(content)})
	must(g.t, err)
	return id
}

// call makes a request as a user ("@a:hs", or "@a:hs/DEVICE").
func (g *rig) call(as, method, path, body string) (int, gjson.Result) {
	g.t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+as)
	rec := httptest.NewRecorder()
	g.router.ServeHTTP(rec, req)
	if !gjson.ValidBytes(rec.Body.Bytes()) {
		g.t.Fatalf("%s %s answers what is not JSON: %s", method, path, rec.Body)
	}
	return rec.Code, gjson.ParseBytes(rec.Body.Bytes())
}

// get syncs; args are names and values of the query.
func (g *rig) get(as string, args ...string) gjson.Result {
	g.t.Helper()
	code, res := g.try(as, args...)
	if code != http.StatusOK {
		g.t.Fatalf("sync %v: %d %s", args, code, res.Raw)
	}
	return res
}

func (g *rig) try(as string, args ...string) (int, gjson.Result) {
	g.t.Helper()
	v := url.Values{}
	for i := 0; i+1 < len(args); i += 2 {
		v.Set(args[i], args[i+1])
	}
	return g.call(as, http.MethodGet, "/_matrix/client/v3/sync?"+v.Encode(), "")
}

func next(res gjson.Result) string { return res.Get("next_batch").Str }

// in returns a part of a room of an answer.
func in(res gjson.Result, section, room, path string) gjson.Result {
	r := res.Get("rooms." + section).Map()[room]
	if path == "" {
		return r
	}
	return r.Get(path)
}

// list writes events as "type body/key" words, for comparison.
func list(events gjson.Result) string {
	var words []string
	for _, e := range events.Array() {
		switch {
		case e.Get("content.body").Exists():
			words = append(words, e.Get("content.body").Str)
		case e.Get("content.membership").Exists():
			words = append(words, e.Get("content.membership").Str+":"+strings.TrimSuffix(e.Get("state_key").Str, ":"+server))
		case e.Get("content.name").Exists():
			words = append(words, "name="+e.Get("content.name").Str)
		case e.Get("content.topic").Exists():
			words = append(words, "topic="+e.Get("content.topic").Str)
		default:
			words = append(words, strings.TrimPrefix(e.Get("type").Str, "m.room."))
		}
	}
	return strings.Join(words, " ")
}

func expect(t testing.TB, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
