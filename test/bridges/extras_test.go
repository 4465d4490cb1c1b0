package bridges

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

const encrypting = "receive_ephemeral: true\nde.sorunome.msc2409.push_ephemeral: true\norg.matrix.msc3202: true\n"

// startWith starts a node with a service whose registration has more lines, and a room of its sender in which alice is.
func startWith(t *testing.T, s *hstest.Site, more string) (n *hstest.Node, v *service, b bot, alice *lab.Client, room string) {
	v = newService(t, more)
	n = s.Add(server, "registration.mode=open", "presence.enabled=true", "app_service_files=["+v.file+"]")
	if err := n.StartProcess(); err != nil {
		t.Fatal(err)
	}
	b = bot{t, n.Client()}
	b.c.Token = asToken
	alice = n.MustRegister("alice")
	room = b.as("", "POST", lab.V3("createRoom"), map[string]any{"preset": "public_chat"})["room_id"].(string)
	if _, err := alice.Join(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	return n, v, b, alice, room
}

func call(t *testing.T, c *lab.Client, method, path string, body any) {
	t.Helper()
	if err := c.Call(t.Context(), method, path, body, nil); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
}

func says(content []byte, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(string(content), p) })
}

func TestEphemeral(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		n, v, b, alice, room := startWith(t, s, encrypting)
		if err := b.register("irc_zoe"); err != nil {
			t.Fatal(err)
		}
		b.as("irc_zoe", "POST", lab.V3("rooms", room, "join"), map[string]string{})
		own, err := alice.CreateRoom(t.Context(), map[string]any{})
		if err != nil {
			t.Fatal(err)
		}
		aside, err := alice.Say(t.Context(), own, "nobody of the service is here")
		if err != nil {
			t.Fatal(err)
		}
		call(t, alice, "POST", lab.V3("rooms", own, "receipt", "m.read", aside), map[string]string{})
		call(t, alice, "PUT", lab.V3("rooms", own, "typing", alice.UserID), map[string]any{"typing": true, "timeout": 30000})

		// Typing begins and ends.
		call(t, alice, "PUT", lab.V3("rooms", room, "typing", alice.UserID), map[string]any{"typing": true, "timeout": 30000})
		typing := func(users string) func(passing) bool {
			return func(p passing) bool {
				return p.Type == "m.typing" && p.Room == room && string(p.Content) == `{"user_ids":[`+users+`]}`
			}
		}
		v.passes("typing", typing(`"`+alice.UserID+`"`))
		call(t, alice, "PUT", lab.V3("rooms", room, "typing", alice.UserID), map[string]any{"typing": false})
		v.passes("the end of typing", typing(""))
		v.gets("the name of MSC2409", func(b beside) bool { return slices.ContainsFunc(b.Unstable, typing("")) })

		// Receipts: private ones of the service's own users alone.
		id := b.say("", room, "read me")
		call(t, alice, "POST", lab.V3("rooms", room, "receipt", "m.read.private", id), map[string]string{})
		b.as("irc_zoe", "POST", lab.V3("rooms", room, "receipt", "m.read.private", id), map[string]string{})
		call(t, alice, "POST", lab.V3("rooms", room, "receipt", "m.read", id), map[string]string{"thread_id": "main"})
		receipt := func(parts ...string) func(passing) bool {
			return func(p passing) bool { return p.Type == "m.receipt" && p.Room == room && says(p.Content, parts...) }
		}
		v.passes("alice's receipt", receipt(id, `"m.read"`, alice.UserID, `"thread_id":"main"`))
		v.passes("zoe's private receipt", receipt(id, `"m.read.private"`, "@irc_zoe:"+server))

		// Presence of those with whom rooms are shared, and of its own.
		stranger := n.MustRegister("stranger")
		call(t, stranger, "PUT", lab.V3("presence", stranger.UserID, "status"), map[string]string{"presence": "online", "status_msg": "unseen"})
		call(t, alice, "PUT", lab.V3("presence", alice.UserID, "status"), map[string]string{"presence": "online", "status_msg": "here"})
		b.as("irc_zoe", "PUT", lab.V3("presence", "@irc_zoe:"+server, "status"), map[string]string{"presence": "unavailable", "status_msg": "lurking"})
		presence := func(user, status string) func(passing) bool {
			return func(p passing) bool { return p.Type == "m.presence" && p.Sender == user && says(p.Content, status) }
		}
		v.passes("alice's presence", presence(alice.UserID, "here"))
		v.passes("zoe's presence", presence("@irc_zoe:"+server, "lurking"))

		// What is not for it has not come.
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, b := range v.beside {
			for _, p := range b.Ephemeral {
				if p.Room == own || p.Sender == stranger.UserID || p.Type == "m.receipt" && says(p.Content, "m.read.private", alice.UserID) && !says(p.Content, "irc_zoe") {
					t.Errorf("the service got %+v %s", p, p.Content)
				}
			}
		}
	})
}

// TestEphemeralIsAskedFor has a service that did not ask for anything but events.
func TestEphemeralIsAskedFor(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		_, v, b, alice, room := startWith(t, s, "")
		id := b.say("", room, "read me")
		call(t, alice, "POST", lab.V3("rooms", room, "receipt", "m.read", id), map[string]string{})
		call(t, alice, "PUT", lab.V3("rooms", room, "typing", alice.UserID), map[string]any{"typing": true})
		if _, err := alice.Say(t.Context(), room, "last"); err != nil {
			t.Fatal(err)
		}
		v.said("last")
		v.mu.Lock()
		defer v.mu.Unlock()
		if len(v.beside) > 0 {
			t.Errorf("it got %+v", v.beside)
		}
	})
}

// TestEncryption: what a service needs to encrypt as its users, and that none of it is lost.
func TestEncryption(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		n, v, b, alice, room := startWith(t, s, encrypting)
		const zoe = "@irc_zoe:" + server
		if err := b.register("irc_zoe"); err != nil {
			t.Fatal(err)
		}
		b.as("irc_zoe", "POST", lab.V3("rooms", room, "join"), map[string]string{})
		refused(t, b.try("irc_zoe", "PUT", lab.V3("devices", "GHOST"), map[string]string{"display_name": "Zoe"}, nil), 201, "")
		refused(t, b.try("irc_zoe", "POST", lab.V3("keys", "upload"), map[string]any{}, nil), 400, "M_INVALID_PARAM")
		upload := lab.V3("keys", "upload") + "?device_id=GHOST"
		b.as("irc_zoe", "POST", upload, map[string]any{
			"one_time_keys": map[string]any{"signed_curve25519:A": signedKey(zoe, "GHOST"), "signed_curve25519:B": signedKey(zoe, "GHOST")},
			"fallback_keys": map[string]any{"signed_curve25519:F": signedKey(zoe, "GHOST")}})
		counts := func(oneTime int, fallback string) func(beside) bool {
			return func(b beside) bool {
				return b.OneTime[zoe]["GHOST"]["signed_curve25519"] == oneTime && fmt.Sprint(b.Fallback[zoe]["GHOST"]) == fallback
			}
		}
		v.gets("two keys", counts(2, "[signed_curve25519]"))
		claim := map[string]any{"one_time_keys": map[string]any{zoe: map[string]string{"GHOST": "signed_curve25519"}}}
		call(t, alice, "POST", lab.V3("keys", "claim"), claim)
		v.gets("one key", counts(1, "[signed_curve25519]"))

		// Device lists: who has new keys, who comes, who goes.
		call(t, alice, "POST", lab.V3("keys", "upload"), map[string]any{"device_keys": deviceKeys(alice.UserID, alice.DeviceID)})
		lists := func(user string, left bool) func(beside) bool {
			return func(b beside) bool {
				return !left && slices.Contains(b.Lists.Changed, user) || left && slices.Contains(b.Lists.Left, user)
			}
		}
		v.gets("alice's keys", lists(alice.UserID, false))
		bob := n.MustRegister("bob")
		if _, err := bob.Join(t.Context(), room); err != nil {
			t.Fatal(err)
		}
		v.gets("bob, who came", lists(bob.UserID, false))
		call(t, bob, "POST", lab.V3("rooms", room, "leave"), map[string]string{})
		v.gets("bob, who left", lists(bob.UserID, true))
		there, err := bob.CreateRoom(t.Context(), map[string]any{"preset": "public_chat"})
		if err != nil {
			t.Fatal(err)
		}
		v.mu.Lock()
		v.beside = nil
		v.mu.Unlock()
		b.as("irc_zoe", "POST", lab.V3("rooms", there, "join"), map[string]string{})
		v.gets("bob, to whom zoe came", lists(bob.UserID, false))

		// Messages to a device come once, in order, whatever happens; and not by /sync as well.
		var want []string
		for round := range 3 {
			v.behave(func(w http.ResponseWriter, txn string, body []byte) bool {
				if round == 0 {
					v.take(txn, body) // and says that it did not
				}
				if round < 2 {
					w.WriteHeader(http.StatusInternalServerError)
				}
				return round < 2
			})
			for i := range 5 {
				text := fmt.Sprint(round, ".", i)
				want = append(want, text)
				call(t, alice, "PUT", lab.V3("sendToDevice", "m.test", text), map[string]any{"messages": map[string]any{
					zoe: map[string]any{"*": map[string]string{"n": text}}, bob.UserID: map[string]any{"*": map[string]string{"n": text}}}})
			}
			if round < 2 {
				if err := n.Kill(); err != nil {
					t.Fatal(err)
				}
				v.behave(nil)
				alice.Close()
				bob.Close()
				if err := n.StartProcess(); err != nil {
					t.Fatal(err)
				}
			}
			v.gets(text(round), func(b beside) bool {
				return slices.ContainsFunc(b.ToDevice, func(m toDevice) bool { return m.Content["n"] == want[len(want)-1] })
			})
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		var got []string
		for _, b := range v.beside {
			for _, m := range b.ToDevice {
				got = append(got, fmt.Sprint(m.Content["n"]))
				if m.User != zoe || m.Device != "GHOST" || m.Sender != alice.UserID || m.Type != "m.test" {
					t.Errorf("%+v", m)
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("messages %v", got)
		}
		var sync struct {
			ToDevice struct{ Events []any } `json:"to_device"`
		}
		if err := b.try("irc_zoe", "GET", lab.V3("sync")+"?device_id=GHOST", nil, &sync); err != nil || len(sync.ToDevice.Events) > 0 {
			t.Error(sync, err)
		}
	})
}

func text(round int) string { return fmt.Sprint("the messages of round ", round) }

// signedKey is a one-time key; nobody verifies it here.
func signedKey(user, device string) map[string]any {
	return map[string]any{"key": "bm90IGEga2V5", "signatures": map[string]any{user: map[string]string{"ed25519:" + device: "bm9uZQ"}}}
}

func deviceKeys(user, device string) map[string]any {
	return map[string]any{"user_id": user, "device_id": device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys":       map[string]string{"ed25519:" + device: "bm90IGEga2V5", "curve25519:" + device: url.QueryEscape("bm90IGEga2V5")},
		"signatures": map[string]any{user: map[string]string{"ed25519:" + device: "bm9uZQ"}}}
}
