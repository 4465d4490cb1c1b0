package event

import (
	"encoding/json"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// case-2: the library must not take "Users" for "users".
func TestContentWithoutVariants(t *testing.T) {
	v := version(t, "11")
	e := build(t, v, "m.room.power_levels", ptr(""), `{"users":{"@a:x":0,"@A:x":1},"Users":{"@a:x":100},"uſers":{"@a:x":99},"events":{"Users":3,"users":2}}`)
	levels, err := e.PDU().PowerLevels()
	if err != nil || levels.UserLevel("@a:x") != 0 || levels.UserLevel("@A:x") != 1 || levels.Events["Users"] != 3 {
		t.Errorf("%+v, %v", levels, err)
	}
	for _, c := range [][3]string{
		{"m.room.member", `{"Membership":"ban","membership":"join","x":{"Membership":1}}`, `{"membership":"join","x":{"Membership":1}}`},
		{"m.room.member", `{"third_party_invite":{"Signed":{},"signed":{"Mxid":"","mxid":"@a:b"}}}`, `{"third_party_invite":{"signed":{"mxid":"@a:b"}}}`},
		{"m.room.member", `{"Third_party_invite":1}`, `{}`},
		{"m.room.join_rules", `{"allow":[{"Type":1,"type":"x"},[{"Type":1}],2],"join_rule":"restricted"}`, `{"allow":[{"type":"x"},[{"Type":1}],2],"join_rule":"restricted"}`},
		{"m.room.create", `{"M.FEDERATE":false,"predecessor":{"Room_id":1},"Type":"x"}`, `{"predecessor":{}}`},
		{"m.room.message", `{"Body":1,"body":2}`, `{"Body":1,"body":2}`},
	} {
		e := build(t, v, c[0], ptr(""), c[1])
		if got := string(e.Content()); got != c[2] {
			t.Errorf("%s: %s, want %s", c[0], got, c[2])
		}
		if want, err := Canonical(nil, []byte(c[1])); err != nil || string(e.ContentJSON()) != string(want) {
			t.Errorf("%s: content became %s", c[0], e.ContentJSON())
		}
	}
}

func TestPDU(t *testing.T) {
	v := version(t, "10")
	p := build(t, v, "m.room.member", ptr("@b:c"), `{"membership":"join","x":1}`).PDU()
	if m, err := p.Membership(); m != "join" || err != nil {
		t.Errorf("%q, %v", m, err)
	}
	if _, err := p.JoinRule(); err == nil {
		t.Error("a member has a join rule")
	}
	if _, err := p.PowerLevels(); err == nil {
		t.Error("a member has power levels")
	}
	if err := p.SetUnsignedField("a.b", 1); err != nil || string(p.Unsigned()) != `{"a":{"b":1}}` {
		t.Errorf("%s, %v", p.Unsigned(), err)
	}
	raw, err := p.ToHeaderedJSON()
	if err != nil {
		t.Fatal(err)
	}
	back, err := gomatrixserverlib.NewEventFromHeaderedJSON(raw, false)
	if err != nil || back.EventID() != p.EventID() || string(back.Unsigned()) != `{"a":{"b":1}}` {
		t.Errorf("%s, %v", raw, err)
	}
	p.Redact()
	if !p.Redacted() || string(p.Content()) != `{"membership":"join"}` || !json.Valid(p.JSON()) {
		t.Errorf("%s", p.JSON())
	}
	rules := build(t, v, "m.room.join_rules", ptr(""), `{"join_rule":"knock"}`)
	vis := build(t, v, "m.room.history_visibility", ptr(""), `{"history_visibility":"shared"}`)
	if r, err := rules.JoinRule(); r != "knock" || err != nil {
		t.Errorf("%q, %v", r, err)
	}
	if h, err := vis.HistoryVisibility(); h != "shared" || err != nil {
		t.Errorf("%q, %v", h, err)
	}
}

// The library's auth rules run on our events.
func TestLibraryAllows(t *testing.T) {
	v := version(t, "11")
	create := build(t, v, "m.room.create", ptr(""), `{"room_version":"11"}`)
	join := build(t, v, "m.room.member", ptr("@alice:domain"), `{"membership":"join"}`)
	auth, err := gomatrixserverlib.NewAuthEvents([]gomatrixserverlib.PDU{create.PDU(), join.PDU()})
	if err != nil {
		t.Fatal(err)
	}
	topic := build(t, v, "m.room.topic", ptr(""), `{"topic":"x"}`)
	if err := gomatrixserverlib.Allowed(topic.PDU(), auth, userID); err != nil {
		t.Error(err)
	}
}

func userID(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
	return spec.NewUserID(string(sender), true)
}
