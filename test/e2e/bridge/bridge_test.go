//go:build goolm

package bridge

import (
	"context"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/appservice"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

const (
	server = "bridged.test"
	bot    = id.UserID("@wabot:" + server)
	zoe    = id.UserID("@wa_zoe:" + server)
)

// heard are the events that came, for tests that wait for one.
type heard struct {
	t      *testing.T
	mu     hstest.Board
	events []*event.Event
}

func newHeard(t *testing.T) *heard { return &heard{t: t} }

func (h *heard) add(_ context.Context, e *event.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
	h.mu.Changed()
}

func (h *heard) until(what string, want func(e *event.Event) bool) (found *event.Event) {
	h.t.Helper()
	h.mu.Until(h.t, func() bool {
		at := slices.IndexFunc(h.events, want)
		if at >= 0 {
			found = h.events[at]
		}
		return at >= 0
	}, func() string { return "waited in vain for " + what })
	return found
}

func (h *heard) said(text string) *event.Event {
	h.t.Helper()
	return h.until(text, func(e *event.Event) bool { return e.Type == event.EventMessage && e.Content.AsMessage().Body == text })
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// service starts a node and a bridge that it knows.
func service(t *testing.T, s *hstest.Site) (*hstest.Node, *appservice.AppService, *appservice.EventProcessor, *heard) {
	as := appservice.Create()
	web := httptest.NewServer(as.Router)
	t.Cleanup(web.Close)
	r := appservice.CreateRegistration()
	limited := false
	r.ID, r.URL, r.SenderLocalpart, r.RateLimited = "wa", web.URL, "wabot", &limited
	r.EphemeralEvents, r.SoruEphemeralEvents, r.MSC3202, r.MSC4190 = true, true, true, true
	r.Namespaces.UserIDs = appservice.NamespaceList{{Regex: "@wa_.+:" + server, Exclusive: true}}
	file := filepath.Join(t.TempDir(), "wa.yaml")
	check(t, r.Save(file))
	n := s.Start(server, "registration.mode=open", "presence.enabled=true", "app_service_files=["+file+"]")
	as.Registration, as.HomeserverDomain = r, server
	as.StateStore = mautrix.NewMemoryStateStore().(appservice.StateStore)
	check(t, as.SetHomeserverURL(n.URL()))
	ep := appservice.NewEventProcessor(as)
	ep.ExecMode = appservice.Sync
	h := newHeard(t)
	for _, typ := range []event.Type{event.EventMessage, event.StateMember, event.EphemeralEventTyping, event.EphemeralEventReceipt, event.EphemeralEventPresence} {
		ep.On(typ, h.add)
	}
	t.Cleanup(as.HTTPClient.CloseIdleConnections)
	return n, as, ep, h
}

func run(t *testing.T, ctx context.Context, ep *appservice.EventProcessor) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ep.Start(ctx)
	}()
	t.Cleanup(func() {
		ep.Stop()
		<-done
	})
}

// signUp is a person with a client of their own.
func signUp(t *testing.T, ctx context.Context, n *hstest.Node, name string) *mautrix.Client {
	c := must(mautrix.NewClient(n.URL(), "", ""))(t)
	t.Cleanup(c.Client.CloseIdleConnections)
	made := must(c.RegisterDummy(ctx, &mautrix.ReqRegister{Username: name, Password: "correct horse battery staple"}))(t)
	c.UserID, c.DeviceID, c.AccessToken = made.UserID, made.DeviceID, made.AccessToken
	c.Syncer = eager{c.Syncer.(*mautrix.DefaultSyncer)}
	return c
}

// eager syncs again at once when the node is back.
type eager struct{ *mautrix.DefaultSyncer }

func (eager) OnFailedSync(*mautrix.RespSync, error) (time.Duration, error) {
	return 50 * time.Millisecond, nil
}

func TestBridge(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		t.Cleanup(cancel)
		n, as, ep, h := service(t, s)
		run(t, ctx, ep)
		alice := signUp(t, ctx, n, "alice")
		must(as.BotClient().AppservicePing(ctx, "wa", "txn"))(t)
		check(t, as.BotIntent().EnsureRegistered(ctx))
		room := must(as.BotIntent().CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "public_chat", Name: "WhatsApp"}))(t).RoomID
		ghost := as.Intent(zoe)
		check(t, ghost.EnsureRegistered(ctx))
		check(t, ghost.SetDisplayName(ctx, "Zoe (WA)"))
		check(t, ghost.EnsureJoined(ctx, room))
		must(alice.JoinRoomByID(ctx, room))(t)

		// Both ways.
		must(alice.SendText(ctx, room, "to the bridge"))(t)
		if e := h.said("to the bridge"); e.Sender != alice.UserID || e.RoomID != room {
			t.Errorf("%+v", e)
		}
		then := int64(1_500_000_000_000)
		from := must(ghost.SendMassagedMessageEvent(ctx, room, event.EventMessage, &event.MessageEventContent{MsgType: event.MsgText, Body: "from the bridge"}, then))(t)
		e := must(alice.GetEvent(ctx, room, from.EventID))(t)
		check(t, e.Content.ParseRaw(e.Type))
		if e.Sender != zoe || e.Timestamp != then || e.Content.AsMessage().Body != "from the bridge" {
			t.Errorf("%+v", e)
		}
		members := must(alice.JoinedMembers(ctx, room))(t).Joined
		if members[zoe].DisplayName != "Zoe (WA)" || len(members) != 3 {
			t.Errorf("members %v", members)
		}

		// What passes.
		must(alice.UserTyping(ctx, room, true, time.Minute))(t)
		h.until("typing", func(e *event.Event) bool {
			return e.Type == event.EphemeralEventTyping && e.RoomID == room && slices.Contains(e.Content.AsTyping().UserIDs, alice.UserID)
		})
		check(t, alice.MarkRead(ctx, room, from.EventID))
		h.until("the receipt", func(e *event.Event) bool {
			return e.Type == event.EphemeralEventReceipt && e.RoomID == room && (*e.Content.AsReceipt())[from.EventID][event.ReceiptTypeRead][alice.UserID].Timestamp.UnixMilli() > then
		})
		check(t, alice.SetPresence(ctx, mautrix.ReqPresence{Presence: event.PresenceOnline, StatusMsg: "at work"}))
		h.until("presence", func(e *event.Event) bool {
			return e.Type == event.EphemeralEventPresence && e.Sender == alice.UserID && e.Content.AsPresence().StatusMessage == "at work"
		})
		must(ghost.UserTyping(ctx, room, true, time.Minute))(t)
		check(t, ghost.MarkRead(ctx, room, e.ID))

		// The ghost is thrown out and comes no more.
		must(as.BotIntent().KickUser(ctx, room, &mautrix.ReqKickUser{UserID: zoe, Reason: "bye"}))(t)
		h.until("the kick", func(e *event.Event) bool {
			return e.Type == event.StateMember && e.GetStateKey() == zoe.String() && e.Content.AsMember().Membership == event.MembershipLeave
		})
	})
}

// TestEncryptedBridge has the bot read and write in an encrypted room by transactions alone, also after it was gone.
func TestEncryptedBridge(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		t.Cleanup(cancel)
		n, as, ep, h := service(t, s)
		failed := func(e *event.Event, err error) { t.Errorf("%s cannot be decrypted: %v", e.ID, err) }

		alice := signUp(t, ctx, n, "alice")
		aliceHears := newHeard(t)
		alice.Syncer.(eager).OnEvent(aliceHears.add)
		hers := encrypts(t, ctx, alice, failed, nil)
		syncing := make(chan struct{})
		go func() {
			defer close(syncing)
			if err := alice.SyncWithContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("alice stopped syncing: %v", err)
			}
		}()
		t.Cleanup(func() {
			alice.StopSync()
			cancel()
			<-syncing
		})

		botClient := as.BotClient()
		check(t, botClient.CreateDeviceMSC4190(ctx, "WABOT", "WhatsApp bridge"))
		if who := must(botClient.Whoami(ctx))(t); who.DeviceID != "WABOT" || who.UserID != bot {
			t.Fatalf("%+v", who)
		}
		its := encrypts(t, ctx, botClient, failed, ep)
		ep.PrependHandler(event.StateMember, func(ctx context.Context, e *event.Event) { its.Machine().HandleMemberEvent(ctx, e) })
		ep.PrependHandler(event.StateEncryption, func(ctx context.Context, e *event.Event) { mautrix.UpdateStateStore(ctx, as.StateStore, e) })
		ep.PrependHandler(event.StateMember, func(ctx context.Context, e *event.Event) { mautrix.UpdateStateStore(ctx, as.StateStore, e) })
		run(t, ctx, ep)

		room := must(alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "private_chat", Invite: []id.UserID{bot},
			InitialState: []*event.Event{{Type: event.StateEncryption, Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}}}}}))(t).RoomID
		must(botClient.JoinRoomByID(ctx, room))(t)
		must(botClient.State(ctx, room))(t)
		aliceHears.until("the bot", func(e *event.Event) bool {
			return e.Type == event.StateMember && e.GetStateKey() == bot.String() && e.Content.AsMember().Membership == event.MembershipJoin
		})
		talk := func(from *cryptohelper.CryptoHelper, c *mautrix.Client, to *heard, text string) {
			t.Helper()
			say(t, ctx, from, c, room, text)
			to.said(text)
		}
		talk(hers, alice, h, "can you read this?")
		talk(its, botClient, aliceHears, "every word")
		talk(hers, alice, h, "once more")

		// The node stops and comes back: the bridge goes on where it was.
		check(t, n.Stop())
		check(t, n.Start())
		talk(hers, alice, h, "and after the restart?")
		talk(its, botClient, aliceHears, "still there")
	})
}

func say(t *testing.T, ctx context.Context, h *cryptohelper.CryptoHelper, c *mautrix.Client, room id.RoomID, text string) {
	t.Helper()
	content := &event.MessageEventContent{MsgType: event.MsgText, Body: text}
	encrypted := must(h.Encrypt(ctx, room, event.EventMessage, content))(t)
	must(c.SendMessageEvent(ctx, room, event.EventEncrypted, encrypted))(t)
}

// encrypts gives a client its keys. With an event processor, what it needs comes in transactions.
func encrypts(t *testing.T, ctx context.Context, c *mautrix.Client, failed func(*event.Event, error), ep *appservice.EventProcessor) *cryptohelper.CryptoHelper {
	t.Helper()
	if c.StateStore == nil {
		c.StateStore = mautrix.NewMemoryStateStore()
	}
	if syncer, ok := c.Syncer.(eager); ok {
		syncer.OnEvent(c.StateStoreSyncHandler)
	}
	c.Log = zerolog.Nop()
	h := must(cryptohelper.NewCryptoHelper(c, []byte("pickle"), crypto.NewMemoryStore(nil)))(t)
	h.DecryptErrorCallback = failed
	if ep != nil { // a nil one in the interface would be one
		h.ASEventProcessor = ep
	}
	check(t, h.Init(ctx))
	t.Cleanup(func() { check(t, h.Close()) })
	return h
}
