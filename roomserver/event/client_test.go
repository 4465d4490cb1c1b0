package event

import (
	"encoding/json"
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
