package notices

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"knock/cmd/knock/demo/lab"
	"knock/cmd/knock/node"
	"knock/test/hstest"
)

// TestServerNotice has an administrator send notices, and the user decline, join, leave and be told again.
func TestServerNotice(t *testing.T) {
	each(t, func(w *world) {
		alice := w.n.MustRegister("alice")
		w.refused("403 M_FORBIDDEN", alice, http.MethodPost, tools, object{})
		id := w.notify(alice, "", "hello")
		room, membership := w.standing(alice)
		if membership != "invite" {
			t.Fatalf("alice's membership is %q", membership)
		}
		invite := w.call(alice, http.MethodGet, lab.V3("sync"), nil).Get("rooms.invite.*.invite_state.events")
		if from, name := invite.Get("0.sender").Str, invite.Get(`#(type=="m.room.name").content.name`).Str; from != sender || name != "Server notices" {
			t.Errorf("an invite by %s to %s", from, name)
		}
		if tags := w.call(alice, http.MethodGet, lab.V3("user", alice.UserID, "rooms", room, "tags"), nil); !tags.Get("tags.m\\.server_notice").IsObject() {
			t.Errorf("tags %s", tags)
		}
		const no = "403 M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"
		w.refused(no, alice, http.MethodPost, lab.V3("rooms", room, "leave"), object{})
		w.refused(no, alice, http.MethodPut, lab.V3("rooms", room, "state", "m.room.member", alice.UserID), object{"membership": "leave"})
		w.restart()
		w.refused(no, alice, http.MethodPost, lab.V3("rooms", room, "leave"), object{})

		_, err := alice.Join(w.ctx, room)
		w.must(err)
		if e := w.call(alice, http.MethodGet, lab.V3("rooms", room, "event", id), nil); e.Get("sender").Str != sender || e.Get("content.body").Str != "hello" {
			t.Errorf("the notice is %s", e)
		}
		w.refused("403 M_FORBIDDEN", alice, http.MethodPut, lab.V3("rooms", room, "send", "m.room.message", "1"), text("back"))
		w.refused("403 M_FORBIDDEN", alice, http.MethodPost, lab.V3("rooms", room, "invite"), object{"user_id": w.root.UserID})
		w.must(alice.Act(w.ctx, room, "leave", object{}))
		w.notify(alice, "", "again")
		if again, membership := w.standing(alice); again != room || membership != "invite" {
			t.Errorf("then %s in %s, before in %s", membership, again, room)
		}
		_, err = alice.Join(w.ctx, room)
		w.must(err)
		if got := w.bodies(alice, room); !slices.Equal(got, []string{"hello", "again"}) {
			t.Errorf("notices %q", got)
		}
	})
}

// One transaction id is one notice, whatever happened in between.
func TestTransactions(t *testing.T) {
	each(t, func(w *world) {
		alice, bob := w.n.MustRegister("alice"), w.n.MustRegister("bob")
		first := w.notify(alice, "1", "once")
		if again := w.notify(alice, "1", "once"); again != first {
			t.Errorf("%s, then %s", first, again)
		}
		if other := w.notify(bob, "1", "for bob"); other == first {
			t.Error("another user's notice is the same")
		}
		room, _ := w.standing(alice)
		_, err := alice.Join(w.ctx, room)
		w.must(err)
		w.must(alice.Act(w.ctx, room, "leave", object{}))
		w.restart()
		if again := w.notify(alice, "1", "once"); again != first {
			t.Errorf("%s, after a restart %s", first, again)
		}
		if _, membership := w.standing(alice); membership != "leave" {
			t.Errorf("a repetition brought her back: %s", membership)
		}
		if other := w.notify(alice, "2", "twice"); other == first {
			t.Error("another transaction is the same")
		}
		w.refused("400 M_INVALID_PARAM", w.root, http.MethodPost, tools, object{"user_id": "@x:elsewhere.test", "content": text("x")})
		w.refused("400 M_INVALID_PARAM", w.root, http.MethodPost, tools, object{"user_id": sender, "content": text("x")})
		w.refused("404 M_NOT_FOUND", w.root, http.MethodPost, tools, object{"user_id": "@nobody:a.test", "content": text("x")})
		w.refused("400 M_MISSING_PARAM", w.root, http.MethodPost, tools, object{"content": text("x")})
		w.refused("400 M_MISSING_PARAM", w.root, http.MethodPost, tools, object{"user_id": alice.UserID})
		w.refused("400 M_BAD_JSON", w.root, http.MethodPost, tools, object{"user_id": alice.UserID, "content": "x"})
		if e := w.call(w.root, http.MethodPost, tools, object{"user_id": alice.UserID, "type": "m.room.topic", "state_key": "", "content": object{"topic": "News"}}); e.Get("event_id").Str == "" {
			t.Errorf("a state event: %s", e)
		}
	})
}

// Whoever wants no invites and ignores the sender is told all the same, nobody else can be the sender, and how it looks
// follows the configuration.
func TestSender(t *testing.T) {
	each(t, func(w *world) {
		alice := w.n.MustRegister("alice")
		if _, err := w.n.Register("_server"); err == nil {
			t.Error("a person has the sender's name")
		}
		for kind, content := range map[string]object{"m.invite_permission_config": {"default_action": "block"},
			"m.ignored_user_list": {"ignored_users": object{sender: object{}}}} {
			w.call(alice, http.MethodPut, lab.V3("user", alice.UserID, "account_data", kind), content)
		}
		w.notify(alice, "", "one")
		room, membership := w.standing(alice)
		if membership != "invite" {
			t.Errorf("membership %q", membership)
		}
		w.restart("server_notices.room_name=News", "server_notices.display_name=The office", "server_notices.avatar=mxc://a.test/picture", "server_notices.auto_join=true")
		w.notify(alice, "", "two")
		if again, membership := w.standing(alice); again != room || membership != "join" {
			t.Errorf("then %s in %s", membership, again)
		}
		w.must(alice.Until(w.ctx, func(v *lab.View) error {
			for key, want := range map[lab.Key][2]string{{Type: "m.room.name"}: {"name", "News"}, {Type: "m.room.avatar"}: {"url", "mxc://a.test/picture"},
				{Type: "m.room.member", StateKey: sender}: {"displayname", "The office"}} {
				if got := v.Room(room).State[key].Text(want[0]); got != want[1] {
					return fmt.Errorf("%s of %s is %q", want[0], key.Type, got)
				}
			}
			return nil
		}))
		if got := w.bodies(alice, room); !slices.Equal(got, []string{"one", "two"}) {
			t.Errorf("notices %q", got)
		}
		person := w.n.MustRegister("somebody")
		w.restart("server_notices.localpart=somebody")
		w.refused("403 M_FORBIDDEN", w.root, http.MethodPost, tools, object{"user_id": alice.UserID, "content": text("x")})
		w.restart(`server_notices.localpart=`)
		w.refused("404 M_UNRECOGNIZED", w.root, http.MethodPost, tools, object{"user_id": person.UserID, "content": text("x")})
	})
}

// Whoever leaves no place for the tag is told without it.
func TestNoTag(t *testing.T) {
	each(t, func(w *world) {
		alice := w.n.MustRegister("alice")
		w.notify(alice, "", "one")
		room, _ := w.standing(alice)
		_, err := alice.Join(w.ctx, room)
		w.must(err)
		tag := func(method, name string, content any) {
			w.call(alice, method, lab.V3("user", alice.UserID, "rooms", room, "tags", name), content)
		}
		tag(http.MethodDelete, "m.server_notice", nil)
		tag(http.MethodPut, "u.full", object{"x": strings.Repeat("x", 64<<10-len(`{"tags":{"u.full":{"x":""}}}`))})
		w.notify(alice, "", "two")
		if got := w.bodies(alice, room); !slices.Equal(got, []string{"one", "two"}) {
			t.Errorf("notices %q", got)
		}
	})
}

// TestOtherSender gives the notices another user: rooms of the one before stay, and are notices' no more.
func TestOtherSender(t *testing.T) {
	each(t, func(w *world) {
		alice := w.n.MustRegister("alice")
		w.notify(alice, "", "one")
		old, _ := w.standing(alice)
		w.restart("server_notices.localpart=office")
		w.call(w.root, http.MethodPut, ours+"/two", object{"everybody": true, "text": "two"})
		if sent, failed := w.settled("two"); sent != 2 || failed != 0 {
			t.Errorf("%d got it, %d did not", sent, failed)
		}
		w.notify(alice, "", "three")
		w.must(alice.Act(w.ctx, old, "leave", object{}))
		w.must(alice.Act(w.ctx, old, "forget", object{}))
		invites := w.call(alice, http.MethodGet, lab.V3("sync"), nil).Get("rooms.invite")
		if n := len(invites.Map()); n != 1 || invites.Get("*.invite_state.events.0.sender").Str != "@office:a.test" {
			t.Fatalf("invites %s", invites)
		}
		room := invites.Get("@keys.0").Str
		_, err := alice.Join(w.ctx, room)
		w.must(err)
		if got := w.bodies(alice, room); !slices.Equal(got, []string{"two", "three"}) {
			t.Errorf("notices %q", got)
		}
		for id, want := range map[string]bool{old: false, room: true} {
			tags := w.call(alice, http.MethodGet, lab.V3("user", alice.UserID, "rooms", id, "tags"), nil)
			if got := tags.Get("tags.m\\.server_notice").Exists(); got != want {
				t.Errorf("%s is tagged: %v", id, got)
			}
		}
		w.restart("server_notices.localpart=_server")
		w.notify(alice, "", "four") // in a third room: only the newest is a user's
		w.refused("403 M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", alice, http.MethodPost,
			lab.V3("rooms", w.call(alice, http.MethodGet, lab.V3("sync"), nil).Get("rooms.invite.@keys.0").Str, "leave"), object{})
	})
}

// settled waits until a notice to many has been sent.
func (w *world) settled(id string) (sent, failed int64) {
	w.t.Helper()
	for {
		job := w.call(w.root, http.MethodGet, ours+"/"+id, nil)
		if job.Get("state").Str == "sent" && job.Get("ended_ts").Int() > 0 {
			return job.Get("sent").Int(), job.Get("failed").Int()
		}
		if w.ctx.Err() != nil {
			w.t.Fatalf("not sent yet: %s", job)
		}
	}
}

func TestEverybody(t *testing.T) {
	each(t, func(w *world) {
		alice, bob, gone := w.n.MustRegister("alice"), w.n.MustRegister("bob"), w.n.MustRegister("gone")
		w.notify(gone, "", "before")
		_, err := w.n.Do(w.ctx, node.Command{Do: "user deactivate", User: "gone"})
		w.must(err)
		body := object{"everybody": true, "text": "The server is down tonight"}
		w.call(w.root, http.MethodPut, ours+"/tonight", body)
		if sent, failed := w.settled("tonight"); sent != 3 || failed != 0 {
			t.Errorf("%d got it, %d did not", sent, failed)
		}
		w.call(w.root, http.MethodPut, ours+"/tonight", body)
		w.refused("400 M_INVALID_PARAM", w.root, http.MethodPut, ours+"/tonight", object{"everybody": true, "text": "other"})
		w.call(w.root, http.MethodPut, ours+"/two", object{"users": []string{bob.UserID, alice.UserID, bob.UserID},
			"content": object{"msgtype": "m.notice", "body": "two"}})
		if sent, failed := w.settled("two"); sent != 2 || failed != 0 {
			t.Errorf("%d got it, %d did not", sent, failed)
		}
		for c, want := range map[*lab.Client][]string{alice: {"The server is down tonight", "two"}, bob: {"The server is down tonight", "two"},
			w.root: {"The server is down tonight"}} {
			room, membership := w.standing(c)
			if membership != "invite" {
				t.Errorf("%s is %s", c.UserID, membership)
				continue
			}
			_, err := c.Join(w.ctx, room)
			w.must(err)
			if got := w.bodies(c, room); !slices.Equal(got, want) {
				t.Errorf("%s got %q", c.UserID, got)
			}
		}
		list := w.call(w.root, http.MethodGet, ours, nil)
		if ids := list.Get("notices.#.notice_id").Raw; ids != `["two","tonight"]` && ids != `["tonight","two"]` {
			t.Errorf("list %s", list)
		}
		w.call(w.root, http.MethodDelete, ours+"/two", nil)
		for method, c := range map[string]*lab.Client{http.MethodGet: w.root, http.MethodDelete: w.root} {
			w.refused("404 M_NOT_FOUND", c, method, ours+"/two", nil)
		}
		for _, bad := range []object{{"text": "x"}, {"everybody": true, "users": []string{bob.UserID}, "text": "x"}, {"everybody": true},
			{"everybody": true, "content": object{"body": "x"}}, {"everybody": true, "text": "x", "content": text("x")}} {
			w.refused("400 M_BAD_JSON", w.root, http.MethodPut, ours+"/bad", bad)
		}
		w.refused("400 M_INVALID_PARAM", w.root, http.MethodPut, ours+"/bad", object{"users": []string{}, "text": "x"})
		w.refused("403 M_USER_DEACTIVATED", w.root, http.MethodPut, ours+"/bad", object{"users": []string{alice.UserID, gone.UserID}, "text": "x"})
		w.refused("404 M_NOT_FOUND", w.root, http.MethodPut, ours+"/bad", object{"users": []string{"@nobody:a.test"}, "text": "x"})
		w.refused("403 M_FORBIDDEN", alice, http.MethodPut, ours+"/bad", body)
	})
}

// A node that is killed while it tells everybody goes on after its start: each is told once.
func TestKilled(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		defer cancel()
		w := &world{t: t, ctx: ctx, n: s.Add("a.test", "registration.shared_secret=secret")}
		w.must(w.n.StartProcess())
		w.root = w.admin("root")
		people := make([]*lab.Client, 8)
		for i := range people {
			people[i] = w.n.MustRegister(fmt.Sprint("user", i))
		}
		w.call(w.root, http.MethodPut, ours+"/news", object{"everybody": true, "text": "news"})
		w.must(people[0].Until(ctx, func(v *lab.View) error {
			for _, r := range v.Rooms {
				if r.Membership == "invite" {
					return nil
				}
			}
			return fmt.Errorf("no invite in %d rooms", len(v.Rooms))
		}))
		w.must(w.n.Kill())
		w.must(w.n.StartProcess())
		if sent, failed := w.settled("news"); sent != int64(len(people))+1 || failed != 0 {
			t.Errorf("%d got it, %d did not", sent, failed)
		}
		for _, c := range append(people, w.root) {
			room, membership := w.standing(c)
			_, err := c.Join(ctx, room)
			w.must(err)
			if got := w.bodies(c, room); membership != "invite" || !slices.Equal(got, []string{"news"}) {
				t.Errorf("%s is %s and got %q", c.UserID, membership, got)
			}
		}
	})
}

// Many notices at once make one room for each user, and lose none.
func TestAtOnce(t *testing.T) {
	each(t, func(w *world) {
		people := make([]*lab.Client, 6)
		for i := range people {
			people[i] = w.n.MustRegister(fmt.Sprint("user", i))
		}
		const rounds = 5
		var all errgroup.Group
		for i := range rounds * len(people) {
			body := object{"user_id": people[i%len(people)].UserID, "content": text(fmt.Sprint(i / len(people)))}
			all.Go(func() error { return w.root.Call(w.ctx, http.MethodPost, tools, body, nil) })
		}
		w.must(all.Wait())
		for _, c := range people {
			room, _ := w.standing(c)
			_, err := c.Join(w.ctx, room)
			w.must(err)
			got := w.bodies(c, room)
			slices.Sort(got)
			if !slices.Equal(got, []string{"0", "1", "2", "3", "4"}) {
				t.Errorf("%s got %q", c.UserID, got)
			}
		}
	})
}
