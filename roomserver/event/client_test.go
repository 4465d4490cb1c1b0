package event

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestAppendClient(t *testing.T) {
	e := build(t, version(t, "11"), "m.room.topic", ptr("\"k\""), `{"topic":"é\n"}`)
	for what, c := range map[string]struct {
		options ClientOptions
		want    string
	}{
		"plain": {ClientOptions{}, `{"content":{"topic":"é\n"},"event_id":"` + e.EventID() +
			`","origin_server_ts":1700000000000,"sender":"@alice:domain","state_key":"\"k\"","type":"m.room.topic"}`},
		"all": {ClientOptions{
			RoomID: true, Age: -5, HasAge: true, TransactionID: "t\"", PrevContent: json.RawMessage(`{}`), PrevSender: "@b:c",
			ReplacesState: "$x", Membership: "join", RedactedBecause: json.RawMessage(`{"a":1}`), Relations: json.RawMessage(`{}`),
			Extra: []Field{{"x", json.RawMessage(`[]`)}},
		}, `{"content":{"topic":"é\n"},"event_id":"` + e.EventID() +
			`","origin_server_ts":1700000000000,"room_id":"!room:domain","sender":"@alice:domain","state_key":"\"k\"","type":"m.room.topic","unsigned":{` +
			`"age":-5,"transaction_id":"t\"","prev_content":{},"prev_sender":"@b:c","replaces_state":"$x","membership":"join",` +
			`"redacted_because":{"a":1},"m.relations":{},"x":[]}}`},
	} {
		if got := string(e.AppendClient([]byte("x"), c.options)); got != "x"+c.want {
			t.Errorf("%s:\n%s\nwant\n%s", what, got, c.want)
		}
	}
	if got := string(e.AppendStripped(nil)); got != `{"content":{"topic":"é\n"},"sender":"@alice:domain","state_key":"\"k\"","type":"m.room.topic"}` {
		t.Errorf("stripped: %s", got)
	}
}

// A redaction of an old room may say in its content already what it redacts.
func TestAppendClientRedaction(t *testing.T) {
	for content, want := range map[string]string{
		`{}`:              `{"redacts":"$a:b"}`,
		`{"redacts":"y"}`: `{"redacts":"y"}`,
	} {
		b := Builder{Version: version(t, "10"), Type: "m.room.redaction", Sender: "@a:domain", RoomID: "!r:domain", Redacts: "$a:b", Content: json.RawMessage(content)}
		e, err := b.Build(specSigner(t))
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Redacts string
			Content json.RawMessage
		}
		if err := json.Unmarshal(e.AppendClient(nil, ClientOptions{}), &got); err != nil || got.Redacts != "$a:b" || string(got.Content) != want {
			t.Errorf("%s: %+v, %v", content, got, err)
		}
	}
	e := build(t, version(t, "10"), "m.room.message", nil, `{"redacts":"$x"}`)
	if e.RedactsID() != "" {
		t.Error("a message redacts")
	}
}

func TestContentAccess(t *testing.T) {
	e := build(t, version(t, "11"), "m.x", nil, `{"a":{"b":"c"},"m.x":"y","n":1,"\"":2}`)
	if e.ContentString("a.b") != "c" || e.ContentString("n") != "" || e.ContentString(`m\.x`) != "y" || e.ContentString("z") != "" {
		t.Error("ContentString")
	}
	if string(e.ContentField("m.x")) != `"y"` || string(e.ContentField(`"`)) != "2" || e.ContentField("A") != nil {
		t.Error("ContentField")
	}
	if e.ContentGet("n").Int() != 1 {
		t.Error("ContentGet")
	}
	if raw, err := json.Marshal(map[string]*Event{"e": e}); err != nil || string(raw) != `{"e":`+string(e.JSON())+`}` {
		t.Errorf("%s, %v", raw, err)
	}
}

// TestSticky builds and reads sticky events (MSC4354), in place among the keys of canonical JSON.
func TestSticky(t *testing.T) {
	for id := range map[string]bool{"1": true, "5": true, "11": true, "12": true} {
		v := version(t, id)
		ms := int64(600_000)
		b := Builder{Version: v, Type: "x", Sender: "@alice:domain", RoomID: "!room:domain", Content: json.RawMessage(`{"a":1}`), Depth: 1, TS: 1, Sticky: &ms}
		if id == "12" {
			b.RoomID = "!0000000000000000000000000000000000000000000"
		}
		e, err := b.Build(specSigner(t))
		if err != nil {
			t.Fatalf("version %s: %v", id, err)
		}
		if got, ok := e.Sticky(); got != ms || !ok {
			t.Errorf("version %s: sticky for %d (%v)", id, got, ok)
		}
		again, err := Parse(v, e.JSON())
		if err != nil || again.EventID() != e.EventID() || again.Redacted() {
			t.Errorf("version %s: read again: %v", id, err)
		}
		if got, ok := again.Sticky(); got != ms || !ok {
			t.Errorf("version %s: read again it is sticky for %d (%v)", id, got, ok)
		}
		if text := string(e.AppendClient(nil, ClientOptions{})); !strings.Contains(text, `,"msc4354_sticky":{"duration_ms":600000},"origin_server_ts":1`) {
			t.Errorf("version %s: clients get %s", id, text)
		}
		if _, ok := e.Redact().Sticky(); ok {
			t.Errorf("version %s: redacted, it is sticky", id)
		}
	}
	for _, bad := range []string{`7`, `{}`, `{"duration_ms":"7"}`, `{"duration_ms":-1}`, `{"duration_ms":3600001}`, `{"duration_ms":null}`, `[]`} {
		e := build(t, version(t, "11"), "x", nil, `{}`)
		odd, err := FromStored(version(t, "11"), e.EventID(), []byte(strings.Replace(string(e.JSON()), `"origin_server_ts"`, `"msc4354_sticky":`+bad+`,"origin_server_ts"`, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if ms, ok := odd.Sticky(); ok {
			t.Errorf("%s is sticky for %d", bad, ms)
		}
	}
}
