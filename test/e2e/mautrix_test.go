package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"knock/test/hstest"
)

// person is a mautrix client that syncs and remembers what its syncer was given.
type person struct {
	*mautrix.Client
	t *testing.T

	mu     hstest.Board // changed after each sync
	synced bool
	events map[id.EventID]*event.Event
	typing map[id.RoomID][]id.UserID
	read   map[id.UserID]id.EventID
	unread map[id.RoomID]mautrix.UnreadNotificationCounts
	left   map[id.RoomID]bool
}

// signUp registers an account, signs in on another device of it and syncs there until the test ends.
func signUp(t *testing.T, ctx context.Context, url, name string) *person {
	t.Helper()
	const password = "correct horse battery staple"
	c := must(mautrix.NewClient(url, "", ""))(t)
	made := must(c.RegisterDummy(ctx, &mautrix.ReqRegister{Username: name, Password: password}))(t)
	must(c.Login(ctx, &mautrix.ReqLogin{Type: mautrix.AuthTypePassword, Password: password, StoreCredentials: true,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: made.UserID.String()}}))(t)
	if c.UserID != made.UserID || c.DeviceID == made.DeviceID {
		t.Fatalf("registered %s on %s, logged in as %s on %s", made.UserID, made.DeviceID, c.UserID, c.DeviceID)
	}
	p := &person{Client: c, t: t, events: map[id.EventID]*event.Event{}, typing: map[id.RoomID][]id.UserID{},
		read: map[id.UserID]id.EventID{}, unread: map[id.RoomID]mautrix.UnreadNotificationCounts{}, left: map[id.RoomID]bool{}}
	c.StateStore = mautrix.NewMemoryStateStore()
	p.listen()
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- c.SyncWithContext(ctx) }()
	t.Cleanup(func() {
		stop()
		defer c.Client.CloseIdleConnections()
		if err := <-done; !errors.Is(err, context.Canceled) && !errors.Is(err, mautrix.MUnknownToken) {
			t.Errorf("%s stopped syncing: %v", c.UserID, err)
		}
	})
	p.wait("the first sync", func() bool { return p.synced })
	return p
}

// must fails the test when a call did.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// listen hangs handlers into the syncer. The syncer runs the handlers of whole answers before those of events.
func (p *person) listen() {
	s := p.Syncer.(*mautrix.DefaultSyncer)
	s.OnEvent(p.StateStoreSyncHandler)
	s.OnEvent(func(_ context.Context, e *event.Event) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch content := e.Content.Parsed.(type) {
		case *event.TypingEventContent:
			p.typing[e.RoomID] = content.UserIDs
		case *event.ReceiptEventContent:
			for at, receipts := range *content {
				for user := range receipts[event.ReceiptTypeRead] {
					p.read[user] = at
				}
			}
		default:
			p.events[e.ID] = e
		}
	})
	p.Syncer = &announcer{DefaultSyncer: s, after: p.answered}
}

func (p *person) answered(r *mautrix.RespSync) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for room, joined := range r.Rooms.Join {
		if joined.UnreadNotifications != nil {
			p.unread[room] = *joined.UnreadNotifications
		}
		delete(p.left, room)
	}
	for room := range r.Rooms.Leave {
		p.left[room] = true
	}
	p.synced = true
	p.mu.Changed()
}

// announcer calls after when all handlers have seen a sync.
type announcer struct {
	*mautrix.DefaultSyncer
	after func(*mautrix.RespSync)
}

func (a *announcer) ProcessResponse(ctx context.Context, r *mautrix.RespSync, since string) error {
	err := a.DefaultSyncer.ProcessResponse(ctx, r, since)
	a.after(r)
	return err
}

// wait waits until check, which runs under the lock after each sync, is true.
func (p *person) wait(what string, check func() bool) {
	p.t.Helper()
	p.mu.Until(p.t, check, func() string { return fmt.Sprintf("%s has waited in vain for %s", p.UserID, what) })
}

// sees waits for an event and returns it as it came.
func (p *person) sees(e id.EventID) (got *event.Event) {
	p.t.Helper()
	p.wait("event "+e.String(), func() bool { got = p.events[e]; return got != nil })
	return got
}

// seesTopic waits until a sync has brought a topic.
func (p *person) seesTopic(room id.RoomID, want string) {
	p.t.Helper()
	p.wait("the topic "+want, func() bool {
		for _, e := range p.events {
			if topic, ok := e.Content.Parsed.(*event.TopicEventContent); ok && e.RoomID == room && topic.Topic == want {
				return true
			}
		}
		return false
	})
}

func (p *person) seesMember(ctx context.Context, room id.RoomID, user id.UserID, want event.Membership) {
	p.t.Helper()
	p.wait(fmt.Sprintf("%s of %s", want, user), func() bool { return p.StateStore.IsMembership(ctx, room, user, want) })
}

func (p *person) says(ctx context.Context, room id.RoomID, text string) id.EventID {
	p.t.Helper()
	return must(p.SendText(ctx, room, text))(p.t).EventID
}

// TestMautrix is a second, independent client library against one node.
func TestMautrix(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		t.Cleanup(cancel)
		url := s.Start(platform, open).URL()
		carol, dave := signUp(t, ctx, url, "carol"), signUp(t, ctx, url, "dave")
		room := meet(t, ctx, carol, dave)
		talk(t, ctx, carol, dave, room)
		sharePicture(t, ctx, carol, dave, room)
		readAndType(t, ctx, carol, dave, room)
		pageBack(t, ctx, dave, room)
		lookAround(t, ctx, carol, dave, room)
		part(t, ctx, carol, dave, room)
	})
}

// TestMautrixBridge runs package bridge with the build tag that the library's encryption in Go needs.
func TestMautrixBridge(t *testing.T) {
	out, err := command(t, 5*time.Minute, nil, "go", "test", "-count=1", "-tags=goolm", "./bridge")
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// meet makes a room into which carol invites dave.
func meet(t *testing.T, ctx context.Context, carol, dave *person) id.RoomID {
	room := must(carol.CreateRoom(ctx, &mautrix.ReqCreateRoom{Name: "Order 4711", Topic: "delivery", Preset: "private_chat"}))(t).RoomID
	carol.seesMember(ctx, room, carol.UserID, event.MembershipJoin)
	carol.seesTopic(room, "delivery")
	for i := range 30 {
		carol.says(ctx, room, fmt.Sprintf("order %d", i+1))
	}
	must(carol.InviteUser(ctx, room, &mautrix.ReqInviteUser{UserID: dave.UserID}))(t)
	dave.seesMember(ctx, room, dave.UserID, event.MembershipInvite)
	must(dave.JoinRoomByID(ctx, room))(t)
	dave.seesMember(ctx, room, dave.UserID, event.MembershipJoin)
	carol.seesMember(ctx, room, dave.UserID, event.MembershipJoin)
	dave.seesTopic(room, "delivery")
	members := must(dave.JoinedMembers(ctx, room))(t).Joined
	if len(members) != 2 {
		t.Errorf("members: %v", members)
	}
	return room
}

func talk(t *testing.T, ctx context.Context, carol, dave *person, room id.RoomID) {
	for _, pair := range [][2]*person{{carol, dave}, {dave, carol}} {
		from, to := pair[0], pair[1]
		e := to.sees(from.says(ctx, room, "hello from "+from.UserID.String()))
		if e.Sender != from.UserID || e.Content.AsMessage().Body != "hello from "+from.UserID.String() || e.RoomID != room {
			t.Errorf("got %+v", e)
		}
	}
	if _, err := dave.SendStateEvent(ctx, room, event.StateTopic, "", &event.TopicEventContent{Topic: "mine"}); !errors.Is(err, mautrix.MForbidden) {
		t.Errorf("a topic without the power for it: %v", err)
	}
	sent := must(carol.SendStateEvent(ctx, room, event.StateTopic, "", &event.TopicEventContent{Topic: "delivered on Friday"}))(t)
	dave.seesTopic(room, "delivered on Friday")
	var now event.TopicEventContent
	if err := dave.StateEvent(ctx, room, event.StateTopic, "", &now); err != nil || now.Topic != "delivered on Friday" {
		t.Errorf("topic %q, %v", now.Topic, err)
	}
	if e := must(dave.GetEvent(ctx, room, sent.EventID))(t); e.Sender != carol.UserID {
		t.Errorf("got %+v", e)
	}
	once := mautrix.ReqSendEvent{TransactionID: "only once"}
	text := &event.MessageEventContent{MsgType: event.MsgText, Body: "sent twice"}
	one := must(carol.SendMessageEvent(ctx, room, event.EventMessage, text, once))(t).EventID
	if again := must(carol.SendMessageEvent(ctx, room, event.EventMessage, text, once))(t).EventID; again != one {
		t.Errorf("the same transaction made %s and %s", one, again)
	}
	oops := carol.says(ctx, room, "oops")
	dave.sees(oops)
	dave.sees(must(carol.RedactEvent(ctx, room, oops))(t).EventID)
	if e := must(dave.GetEvent(ctx, room, oops))(t); e.Unsigned.RedactedBecause == nil || len(e.Content.Raw) > 0 {
		t.Errorf("a redacted event: %+v", e)
	}
}

func sharePicture(t *testing.T, ctx context.Context, carol, dave *person, room id.RoomID) {
	file := picture()
	up := must(carol.UploadBytesWithName(ctx, file, "image/png", "parcel.png"))(t)
	sent := must(carol.SendMessageEvent(ctx, room, event.EventMessage, &event.MessageEventContent{MsgType: event.MsgImage, Body: "parcel.png",
		URL: up.ContentURI.CUString(), Info: &event.FileInfo{MimeType: "image/png", Size: len(file)}}))(t)
	uri := must(dave.sees(sent.EventID).Content.AsMessage().URL.Parse())(t)
	if got := must(dave.DownloadBytes(ctx, uri))(t); !bytes.Equal(got, file) {
		t.Errorf("downloaded %d bytes of %d", len(got), len(file))
	}
}

func readAndType(t *testing.T, ctx context.Context, carol, dave *person, room id.RoomID) {
	unread := func(total, highlight int) {
		t.Helper()
		want := mautrix.UnreadNotificationCounts{NotificationCount: total, HighlightCount: highlight}
		dave.wait(fmt.Sprintf("unread counts of %+v", want), func() bool { return dave.unread[room] == want })
	}
	last := carol.says(ctx, room, "read me")
	dave.sees(last)
	if err := dave.MarkRead(ctx, room, last); err != nil {
		t.Fatal(err)
	}
	unread(0, 0)
	carol.wait("the receipt", func() bool { return carol.read[dave.UserID] == last })
	carol.says(ctx, room, "one")
	mention := &event.MessageEventContent{MsgType: event.MsgText, Body: "two", Mentions: &event.Mentions{UserIDs: []id.UserID{dave.UserID}}}
	last = must(carol.SendMessageEvent(ctx, room, event.EventMessage, mention))(t).EventID
	unread(2, 1)
	if err := dave.SetReadMarkers(ctx, room, &mautrix.ReqSetReadMarkers{Read: last, FullyRead: last}); err != nil {
		t.Fatal(err)
	}
	unread(0, 0)

	must(carol.UserTyping(ctx, room, true, 30*time.Second))(t)
	dave.wait("typing", func() bool { return len(dave.typing[room]) == 1 && dave.typing[room][0] == carol.UserID })
	must(carol.UserTyping(ctx, room, false, 0))(t)
	dave.wait("the end of typing", func() bool { return len(dave.typing[room]) == 0 })
}

// pageBack reads the room from its end to its creation.
func pageBack(t *testing.T, ctx context.Context, dave *person, room id.RoomID) {
	var all []*event.Event
	seen := map[id.EventID]bool{}
	for from, pages := "", 0; ; pages++ {
		page := must(dave.Messages(ctx, room, from, "", mautrix.DirectionBackward, nil, 7))(t)
		for _, e := range page.Chunk {
			if seen[e.ID] {
				t.Errorf("%s came twice", e.ID)
			}
			seen[e.ID] = true
			all = append(all, e)
		}
		if from = page.End; from == "" {
			break
		}
		if pages > 30 {
			t.Fatal("paging does not end")
		}
	}
	if oldest := all[len(all)-1]; oldest.Type.Type != event.StateCreate.Type {
		t.Errorf("the oldest event is %s", oldest.Type.Type)
	}
	var orders []string
	for _, e := range all {
		if body, _ := e.Content.Raw["body"].(string); strings.HasPrefix(body, "order ") {
			orders = append(orders, body)
		}
	}
	if len(orders) != 30 || orders[0] != "order 30" || orders[29] != "order 1" {
		t.Errorf("paged over %q", orders)
	}
}

// lookAround asks for what clients show beside the timeline.
func lookAround(t *testing.T, ctx context.Context, carol, dave *person, room id.RoomID) {
	if v := must(carol.Versions(ctx))(t); !v.ContainsGreaterOrEqual(mautrix.SpecV111) {
		t.Errorf("versions: %v", v.Versions)
	}
	if v := must(carol.Capabilities(ctx))(t).RoomVersions; v == nil || v.Available[v.Default] != mautrix.CapRoomVersionStable {
		t.Errorf("room versions: %+v", v)
	}
	if err := carol.SetDisplayName(ctx, "Carol"); err != nil {
		t.Fatal(err)
	}
	dave.wait("carol's name", func() bool {
		m, err := dave.StateStore.TryGetMember(ctx, room, carol.UserID)
		return err == nil && m != nil && m.Displayname == "Carol"
	})
	if p := must(dave.GetProfile(ctx, carol.UserID))(t); p.DisplayName != "Carol" {
		t.Errorf("profile: %+v", p)
	}
	alias := id.NewRoomAlias("orders", carol.UserID.Homeserver())
	must(carol.CreateAlias(ctx, alias, room))(t)
	if found := must(dave.ResolveAlias(ctx, alias))(t); found.RoomID != room || len(found.Servers) != 1 {
		t.Errorf("alias: %+v", found)
	}
	if err := dave.AddTag(ctx, room, event.RoomTagFavourite, 0.5); err != nil {
		t.Fatal(err)
	}
	tags := must(dave.GetTags(ctx, room))(t).Tags
	if order, err := tags[event.RoomTagFavourite].Order.Float64(); len(tags) != 1 || order != 0.5 || err != nil {
		t.Errorf("tags: %v", tags)
	}
	e := dave.sees(carol.says(ctx, room, "in the middle"))
	carol.says(ctx, room, "after it")
	around := must(dave.Context(ctx, room, e.ID, nil, 4))(t)
	if around.Event.ID != e.ID || len(around.EventsBefore) != 2 || len(around.EventsAfter) != 1 {
		t.Errorf("context: %d before, %d after", len(around.EventsBefore), len(around.EventsAfter))
	}
	state := must(dave.State(ctx, room))(t)
	for _, want := range []event.Type{event.StateCreate, event.StatePowerLevels, event.StateJoinRules, event.StateRoomName, event.StateTopic} {
		if state[want][""] == nil {
			t.Errorf("the state lacks %s", want.Type)
		}
	}
}

func part(t *testing.T, ctx context.Context, carol, dave *person, room id.RoomID) {
	must(dave.LeaveRoom(ctx, room))(t)
	carol.seesMember(ctx, room, dave.UserID, event.MembershipLeave)
	dave.wait("the room among those left", func() bool { return dave.left[room] })
	if _, err := dave.SendText(ctx, room, "still here?"); !errors.Is(err, mautrix.MForbidden) {
		t.Errorf("sending after leaving: %v", err)
	}
	must(dave.ForgetRoom(ctx, room))(t)
	if rooms := must(dave.JoinedRooms(ctx))(t).JoinedRooms; len(rooms) != 0 {
		t.Errorf("dave is still in %v", rooms)
	}
	must(dave.Logout(ctx))(t)
	if _, err := dave.Whoami(ctx); err == nil {
		t.Error("the token lives on after the logout")
	}
}
