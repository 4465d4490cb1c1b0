package policy

import (
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"

	"knock/roomserver/event"
)

// made is an event of @a:b; key is its state key, "-" for none.
func made(t *testing.T, typ, key, content string) *event.Event {
	t.Helper()
	v, _ := event.GetVersion("11")
	b := event.Builder{Version: v, Type: typ, Sender: "@a:b", RoomID: "!r:b", Depth: 1, TS: 1, Content: json.RawMessage(content)}
	if key != "-" {
		b.StateKey = &key
	}
	e, err := b.Build(event.Signer{Server: "b", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestRules(t *testing.T) {
	j := New(Options{Serve: []string{"!r:b"}, DenyUsers: []string{"@evil*:*", "@bad:b"}, DenyServers: []string{"*.evil"}, DenyPhrases: []string{"Buy  NOW", ""}, MaxMentions: 1})
	for name, c := range map[string]struct {
		e    *event.Event
		good bool
	}{
		"a message":                {made(t, "m.room.message", "-", `{"body":"hello, buy it now"}`), true},
		"a phrase":                 {made(t, "m.room.message", "-", `{"body":"hello, ＢＵＹ now!"}`), false},
		"a phrase in an edit":      {made(t, "m.room.message", "-", `{"body":"*","m.new_content":{"body":"buy now"}}`), false},
		"a phrase in a topic":      {made(t, "m.room.topic", "", `{"topic":"buy now"}`), false},
		"a body of another type":   {made(t, "m.room.message", "-", `{"body":["buy now"]}`), true},
		"one mention":              {made(t, "m.room.message", "-", `{"m.mentions":{"user_ids":["@a:b"]}}`), true},
		"two mentions":             {made(t, "m.room.message", "-", `{"m.mentions":{"user_ids":["@a:b","@b:b"]}}`), false},
		"an invite":                {made(t, "m.room.member", "@c:b", `{"membership":"invite"}`), true},
		"an invite of the banned":  {made(t, "m.room.member", "@evil1:b", `{"membership":"invite"}`), false},
		"of a banned server":       {made(t, "m.room.member", "@c:x.evil", `{"membership":"invite"}`), false},
		"a ban of the banned":      {made(t, "m.room.member", "@bad:b", `{"membership":"ban"}`), true},
		"a leave with a phrase":    {made(t, "m.room.member", "@a:b", `{"membership":"leave","displayname":"buy now"}`), true},
		"a name with a phrase":     {made(t, "m.room.member", "@a:b", `{"membership":"join","displayname":"buy now"}`), false},
		"mentions of another type": {made(t, "m.room.message", "-", `{"m.mentions":{"user_ids":7}}`), true},
	} {
		reason, err := j.Judge(t.Context(), c.e)
		if err != nil || (reason == "") != c.good {
			t.Errorf("%s: %q %v", name, reason, err)
		}
	}
	other := New(Options{Serve: []string{"!other:b"}})
	if reason, err := other.Judge(t.Context(), made(t, "m.room.message", "-", `{}`)); reason == "" || err != nil {
		t.Errorf("a room that is not served: %q %v", reason, err)
	}
}

func TestListsOfRules(t *testing.T) {
	var r rules
	for _, c := range [][2]string{
		{"m.policy.rule.user", `{"entity":"@a:b","recommendation":"m.ban"}`},
		{"org.matrix.mjolnir.rule.server", `{"entity":"*.x","recommendation":"org.matrix.mjolnir.ban"}`},
		{"m.room.rule.room", `{"entity":"!r?:b","recommendation":"m.ban"}`},
		{"m.policy.rule.user", `{"entity":"@watched:b","recommendation":"m.watch"}`},
		{"m.policy.rule.user", `{"entity":"","recommendation":"m.ban"}`},
		{"m.policy.rule.user", `{"entity":"` + strings.Repeat("*", maxPattern+1) + `","recommendation":"m.ban"}`},
		{"m.policy.rule.weather", `{"entity":"*","recommendation":"m.ban"}`},
		{"m.policy.rule.user", `{}`},
	} {
		r.take(made(t, c[0], "key", c[1]))
	}
	for _, c := range []struct {
		s    subjects
		good bool
	}{
		{subjects{"!r:b", []string{"@c:b"}}, true}, {subjects{"!r:b", []string{"@watched:b"}}, true}, {subjects{"!r:b", []string{"@a:b"}}, false},
		{subjects{"!r:b", []string{"@c:b", "@a:b"}}, false}, {subjects{"!r:b", []string{"@c:y.x"}}, false}, {subjects{"!r1:b", []string{"@c:b"}}, false},
	} {
		if reason := r.match(c.s); (reason == "") != c.good {
			t.Errorf("%v: %q", c.s, reason)
		}
	}
}
