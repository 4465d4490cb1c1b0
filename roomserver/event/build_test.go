package event

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestBuildParseStored(t *testing.T) {
	for _, id := range Versions() {
		v := version(t, id)
		for _, e := range []*Event{
			build(t, v, "m.room.message", nil, `{"msgtype":"m.text","body":"a \u0000 \" \\ \/ é"}`),
			build(t, v, "m.room.create", ptr(""), `{"room_version":"`+id+`","creator":"@alice:domain"}`),
		} {
			p, err := Parse(v, e.JSON())
			if err != nil {
				t.Fatalf("version %s: %v", id, err)
			}
			s, err := FromStored(v, e.EventID(), e.JSON())
			if err != nil {
				t.Fatal(err)
			}
			for _, got := range []*Event{p, s} {
				if got.EventID() != e.EventID() || got.Room() != e.Room() || got.Redacted() {
					t.Errorf("version %s: id %q room %q redacted %v", id, got.EventID(), got.Room(), got.Redacted())
				}
				if err := got.VerifySignature("domain", "ed25519:1", public(specSigner(t))); err != nil {
					t.Errorf("version %s: %v", id, err)
				}
			}
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	v := version(t, "11")
	for what, c := range map[string]struct {
		change func(*Builder)
		want   error
	}{
		"large content":     {func(b *Builder) { b.Content = json.RawMessage(`{"a":"` + strings.Repeat("x", MaxSize) + `"}`) }, ErrTooLarge},
		"long type":         {func(b *Builder) { b.Type = strings.Repeat("x", 256) }, ErrTooLarge},
		"long key in bytes": {func(b *Builder) { b.StateKey = ptr(strings.Repeat("é", 200)) }, ErrTooLarge},
		"float":             {func(b *Builder) { b.Content = json.RawMessage(`{"a":1.5}`) }, ErrNumber},
		"no content":        {func(b *Builder) { b.Content = nil }, ErrSyntax},
		"content list":      {func(b *Builder) { b.Content = json.RawMessage(`[]`) }, ErrFormat},
		"sender":            {func(b *Builder) { b.Sender = "alice" }, ErrFormat},
		"room":              {func(b *Builder) { b.RoomID = "!x" }, ErrFormat},
		"prev event":        {func(b *Builder) { b.PrevEvents = []string{"$x"} }, ErrFormat},
		"too many prevs":    {func(b *Builder) { b.PrevEvents = strings.Split(strings.Repeat(ref(v, 1)+" ", 21), " ")[:21] }, ErrFormat},
	} {
		b := Builder{Version: v, Type: "m.x", Sender: "@a:domain", RoomID: "!r:domain", Content: json.RawMessage(`{}`)}
		if c.change(&b); !errors.Is(second(b.Build(specSigner(t))), c.want) {
			t.Errorf("%s: %v", what, second(b.Build(specSigner(t))))
		}
	}
	b := Builder{Version: v, Type: "m.x", Sender: "@a:domain", RoomID: "!r:domain", Content: json.RawMessage(`{}`)}
	if _, err := b.Build(Signer{Server: "domain", KeyID: "ed25519:1"}); err == nil {
		t.Error("built without a key")
	}
}

func second(_ *Event, err error) error { return err }

func TestTemplate(t *testing.T) {
	for _, id := range Versions() {
		v := version(t, id)
		b := Builder{
			Version: v, Type: "m.room.member", Sender: "@bob:remote", RoomID: roomOf(v), StateKey: ptr("@bob:remote"),
			Content: json.RawMessage(`{"membership":"join"}`), Depth: 9, TS: 12,
			PrevEvents: []string{ref(v, 1)}, AuthEvents: []string{ref(v, 2)}, Hashes: map[string][32]byte{ref(v, 1): {1}},
		}
		raw, err := b.Template("")
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseTemplate(v, raw)
		if err != nil {
			t.Fatalf("version %s: %v", id, err)
		}
		e, err := got.Build(specSigner(t))
		if err != nil {
			t.Fatalf("version %s: %v", id, err)
		}
		if e.Sender() != b.Sender || e.Room() != b.RoomID || !e.IsState(b.Type, "@bob:remote") || e.Depth() != 9 || e.PrevEventIDs()[0] != ref(v, 1) {
			t.Errorf("version %s: %s", id, e.JSON())
		}
	}
	for _, raw := range []string{``, `[]`, `{}`, `{"type":"x"}`, `{"type":1,"content":{}}`, `{"type":"x","content":{},"prev_events":["a"]}`} {
		if b, err := ParseTemplate(version(t, "11"), []byte(raw)); err == nil {
			t.Errorf("%s: %+v", raw, b)
		}
	}
}

// Version 11 moved what a redaction redacts into its content.
func TestBuildRedaction(t *testing.T) {
	for id, inContent := range map[string]bool{"1": false, "10": false, "11": true, "12": true} {
		v := version(t, id)
		b := Builder{
			Version: v, Type: "m.room.redaction", Sender: "@alice:domain", RoomID: roomOf(v), Redacts: ref(v, 9),
			Content: json.RawMessage(`{"reason":"spam"}`),
		}
		e, err := b.Build(specSigner(t))
		if err != nil {
			t.Fatal(err)
		}
		if e.RedactsID() != ref(v, 9) || (e.ContentString("redacts") != "") != inContent {
			t.Errorf("version %s: %s", id, e.JSON())
		}
		var client struct {
			Redacts string
			Content struct{ Redacts, Reason string }
		}
		if err := json.Unmarshal(e.AppendClient(nil, ClientOptions{}), &client); err != nil {
			t.Fatal(err)
		}
		if client.Redacts != ref(v, 9) || client.Content.Redacts != ref(v, 9) || client.Content.Reason != "spam" {
			t.Errorf("version %s: %+v", id, client)
		}
	}
}
