package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// hashed canonicalises the event and gives it the right content hash.
func hashed(t testing.TB, v *Version, raw []byte) []byte {
	t.Helper()
	b, err := canonicalObject(nil, raw, false, v.drops)
	if err != nil {
		t.Fatal(err)
	}
	list, _ := fieldsOf(nil, b)
	h := contentHash(b, list)
	sum, err := json.Marshal(map[string]spec.Base64Bytes{"sha256": h[:]})
	if err != nil {
		t.Fatal(err)
	}
	return setMember(b, "hashes", sum)
}

// testdata/parse: members given are set in an otherwise good event of the
// version ("null" removes the member); "hash" gives it the right hash first.
func TestParse(t *testing.T) {
	datadriven.RunTest(t, "testdata/parse", func(t *testing.T, d *datadriven.TestData) string {
		var id string
		d.ScanArgs(t, "version", &id)
		v := version(t, id)
		raw := []byte(strings.TrimSpace(d.Input))
		if !d.HasArg("raw") {
			raw = withMembers(t, build(t, v, "m.room.topic", ptr(""), `{"topic":"x"}`).JSON(), raw)
		}
		if d.HasArg("hash") {
			raw = hashed(t, v, raw)
		}
		e, err := Parse(v, raw)
		if err != nil {
			return err.Error()
		}
		return describe(t, e)
	})
}

func withMembers(t testing.TB, b, members []byte) []byte {
	t.Helper()
	if len(members) == 0 {
		return b
	}
	list, ok := fieldsOf(nil, members)
	if !ok {
		t.Fatalf("not canonical: %s", members)
	}
	for _, f := range list {
		key := keyText(members[f.name:f.nameTo])
		if val := members[f.val:f.end]; string(val) != "null" {
			b = setMember(b, key, val)
		} else {
			drop := func(name []byte) bool { return string(name) == key }
			b, _ = canonicalObject(nil, b, false, drop)
		}
	}
	return b
}

// describe prints an event as it is, and fails if it is another one after a reload.
func describe(t testing.TB, e *Event) string {
	t.Helper()
	again, err := FromStored(e.V(), e.EventID(), e.JSON())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []*Event{e, again} {
		if o.Type() != e.Type() || o.Room() != e.Room() || o.Sender() != e.Sender() || o.TS() != e.TS() || o.Depth() != e.Depth() ||
			!bytes.Equal(o.Content(), e.Content()) || o.RedactsID() != e.RedactsID() || o.Oversized() != e.Oversized() {
			t.Errorf("another event after a reload: %s", e.JSON())
		}
	}
	var out strings.Builder
	out.WriteString(e.Type())
	if key, ok := e.Key(); ok {
		out.WriteString(" [" + key + "]")
	}
	out.WriteString(" " + e.Sender() + " " + e.Room() + "\ncontent " + string(e.ContentJSON()))
	if e.Redacted() {
		out.WriteString("\nredacted")
	}
	if e.Oversized() {
		out.WriteString("\noversized")
	}
	if e.RedactsID() != "" {
		out.WriteString("\nredacts " + e.RedactsID())
	}
	return out.String()
}

func TestParseSizes(t *testing.T) {
	v := version(t, "11")
	e := build(t, v, "m.x", nil, `{}`)
	for what, c := range map[string]struct {
		members string
		want    error
		over    bool
	}{
		"type of 255 codepoints":   {`{"type":"` + strings.Repeat("é", 255) + `"}`, nil, true},
		"type of 256 codepoints":   {`{"type":"` + strings.Repeat("e", 256) + `"}`, ErrTooLarge, false},
		"key of 255 bytes":         {`{"state_key":"` + strings.Repeat("e", 255) + `"}`, nil, false},
		"key of 256 codepoints":    {`{"state_key":"` + strings.Repeat("é", 256) + `"}`, ErrTooLarge, false},
		"sender of 300 bytes":      {`{"sender":"@` + strings.Repeat("é", 150) + `:a"}`, nil, true},
		"sender of 300 codepoints": {`{"sender":"@` + strings.Repeat("e", 300) + `:a"}`, ErrTooLarge, false},
		"room of 300 codepoints":   {`{"room_id":"!` + strings.Repeat("e", 300) + `:a"}`, ErrTooLarge, false},
		"over 64 KiB":              {`{"content":{"a":"` + strings.Repeat("x", MaxSize) + `"}}`, ErrTooLarge, false},
		"over 64 KiB in unsigned":  {`{"unsigned":{"a":"` + strings.Repeat("x", MaxSize) + `"}}`, nil, false},
		"over 1 MiB in unsigned":   {`{"unsigned":{"a":"` + strings.Repeat("x", maxRaw) + `"}}`, ErrTooLarge, false},
	} {
		raw := withMembers(t, e.JSON(), []byte(c.members))
		got, err := Parse(v, setMember(raw, "hashes", lookup(hashed(t, v, raw), "hashes")))
		if !errors.Is(err, c.want) || err == nil && got.Oversized() != c.over {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// An event whose hash does not fit may exceed the limit where the redacted one
// does not.
func TestLargeUnprovenEvent(t *testing.T) {
	v := version(t, "11")
	e := build(t, v, "m.x", nil, `{}`)
	got, err := Parse(v, setMember(e.JSON(), "content", []byte(`{"a":"`+strings.Repeat("x", MaxSize)+`"}`)))
	if err != nil || !got.Redacted() || got.EventID() != e.EventID() {
		t.Errorf("%v", err)
	}
}

// The library is right about the ids of events without the oddities it mishandles.
func TestIDsLikeLibrary(t *testing.T) {
	contents := []string{`{}`, `{"membership":"join","displayname":"x","reason":"é\n"}`, `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"!a:b"}],"x":1}`,
		`{"ban":1,"invite":2,"users":{"@a:b":100},"z":[]}`, `{"history_visibility":"shared","a":null}`, `{"creator":"@alice:domain","room_version":"x","aliases":["#a:b"],"redacts":"$x"}`}
	types := []string{"m.room.create", "m.room.member", "m.room.join_rules", "m.room.power_levels", "m.room.aliases",
		"m.room.history_visibility", "m.room.redaction", "m.room.message", "m.room.third_party_invite"}
	for _, id := range Versions() {
		v := version(t, id)
		lib := gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(id))
		for i, typ := range types {
			for _, content := range contents {
				e := build(t, v, typ, []*string{ptr(""), nil}[i%2], content)
				pdu, err := lib.NewEventFromUntrustedJSON(e.JSON())
				if err != nil {
					t.Fatalf("version %s: %v: %s", id, err, e.JSON())
				}
				if pdu.EventID() != e.EventID() || pdu.RoomID().String() != e.Room() || pdu.Redacted() {
					t.Errorf("version %s: %s", id, e.JSON())
				}
				redacted, err := lib.RedactEventJSON(e.JSON())
				if err != nil {
					t.Fatal(err)
				}
				if want, err := Canonical(nil, redacted); err != nil || !bytes.Equal(want, e.Redact().JSON()) {
					t.Errorf("version %s: redacted to\n%s, the library to\n%s", id, e.Redact().JSON(), want)
				}
			}
		}
	}
}

func TestFromStoredNeverPanics(t *testing.T) {
	e := build(t, version(t, "1"), "m.room.topic", ptr(""), `{"topic":"x"}`)
	for i := range e.JSON() {
		_, _ = FromStored(e.V(), e.EventID(), e.JSON()[:i])
		_, _ = FromStored(e.V(), "", e.JSON()[i:])
		for _, c := range []byte(`{}[]",:0\`) {
			b := bytes.Clone(e.JSON())
			b[i] = c
			if got, err := FromStored(e.V(), e.EventID(), b); err == nil {
				got.AppendClient(nil, ClientOptions{RoomID: true})
				got.Redact()
				got.SignatureServers()
			}
		}
	}
}
