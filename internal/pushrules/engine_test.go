package pushrules

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
)

// occurrence makes an event in a room of three, where nobody may notify @room.
func occurrence(event string) *Occurrence {
	return &Occurrence{
		Room: "!r:x", RoomNID: 1, EventID: "$e", Sender: "@bob:x", JSON: []byte(event), Members: 3,
		Local:        func(user string) bool { return strings.HasSuffix(user, ":x") },
		IsMember:     func(user string) bool { return true },
		LocalMembers: func() []string { return nil },
		CanNotify:    func(string) bool { return false },
		DisplayName:  func(string) string { return "Alice W*" },
	}
}

func evaluate(rs *ruleset, o *Occurrence) string {
	out := rs.evaluate(newSubject(o), person{"@alice:x"})
	if out == nil {
		return ""
	}
	s := out.Rule
	if out.Notify {
		s += " notify"
	}
	if out.Highlight {
		s += " highlight"
	}
	if out.Sound != "" {
		s += " " + out.Sound
	}
	return s
}

func TestDefaultRules(t *testing.T) {
	text := `{"type":"m.room.message","content":{"msgtype":"m.text","body":"hi"}}`
	for name, c := range map[string]struct {
		event   string
		members int
		may     bool
		want    string
		class   Class
	}{
		"message":           {text, 3, false, ".m.rule.message notify", classMessage},
		"message in direct": {text, 2, false, ".m.rule.room_one_to_one notify default", classMessage | classDirect},
		"encrypted": {`{"type":"m.room.encrypted","content":{}}`, 3, false,
			".m.rule.encrypted notify", classEncrypted},
		"encrypted in direct": {`{"type":"m.room.encrypted","content":{}}`, 2, false,
			".m.rule.encrypted_room_one_to_one notify default", classEncrypted | classEncryptedDirect},
		"notice": {`{"type":"m.room.message","content":{"msgtype":"m.notice","body":"hi"}}`, 3, false,
			".m.rule.suppress_notices", classMessage | classNotice},
		"notice with mention": {`{"type":"m.room.message","content":{"msgtype":"m.notice","m.mentions":{"user_ids":["@alice:x"]}}}`, 3, false,
			".m.rule.suppress_notices", classMessage | classNotice},
		"invite for me": {`{"type":"m.room.member","state_key":"@alice:x","content":{"membership":"invite"}}`, 3, false,
			".m.rule.invite_for_me notify default", classMember},
		"invite for another": {`{"type":"m.room.member","state_key":"@carol:x","content":{"membership":"invite"}}`, 3, false,
			".m.rule.member_event", classMember},
		"join": {`{"type":"m.room.member","state_key":"@carol:x","content":{"membership":"join"}}`, 3, false,
			".m.rule.member_event", classMember},
		"mention": {`{"type":"m.room.message","content":{"m.mentions":{"user_ids":["@carol:x","@alice:x"]}}}`, 3, false,
			".m.rule.is_user_mention notify highlight default", classMessage},
		"mention of another": {`{"type":"m.room.message","content":{"m.mentions":{"user_ids":["@alice:xy"]}}}`, 3, false,
			".m.rule.message notify", classMessage},
		"room mention": {`{"type":"m.room.message","content":{"m.mentions":{"room":true}}}`, 3, true,
			".m.rule.is_room_mention notify highlight", classMessage | classRoomMention},
		"room mention without power": {`{"type":"m.room.message","content":{"m.mentions":{"room":true}}}`, 3, false,
			".m.rule.message notify", classMessage},
		"room mention as text": {`{"type":"m.room.message","content":{"m.mentions":{"room":"true"}}}`, 3, true,
			".m.rule.message notify", classMessage},
		"tombstone":             {`{"type":"m.room.tombstone","state_key":"","content":{}}`, 3, false, ".m.rule.tombstone notify highlight", classTombstone},
		"tombstone not state":   {`{"type":"m.room.tombstone","content":{}}`, 3, false, "", 0},
		"tombstone another key": {`{"type":"m.room.tombstone","state_key":"a","content":{}}`, 3, false, "", 0},
		"reaction":              {`{"type":"m.reaction","content":{}}`, 3, false, ".m.rule.reaction", classReaction},
		"server acl":            {`{"type":"m.room.server_acl","state_key":"","content":{}}`, 3, false, ".m.rule.room.server_acl", classServerACL},
		"edit": {`{"type":"m.room.message","content":{"m.relates_to":{"rel_type":"m.replace"}}}`, 3, false,
			".m.rule.suppress_edits", classMessage | classEdit},
		"edit with new mention": {`{"type":"m.room.message","content":{"m.mentions":{"user_ids":["@alice:x"]},"m.relates_to":{"rel_type":"m.replace"}}}`, 3, false,
			".m.rule.is_user_mention notify highlight default", classMessage | classEdit},
		"call":  {`{"type":"m.call.invite","content":{}}`, 3, false, ".m.rule.call notify ring", classCall},
		"topic": {`{"type":"m.room.topic","state_key":"","content":{"topic":"x"}}`, 3, false, "", 0},
		"poll":  {`{"type":"org.matrix.msc3381.poll.start","content":{}}`, 3, false, ".org.matrix.msc3930.rule.poll_start notify", classPollStart},
		"poll of two": {`{"type":"org.matrix.msc3381.poll.start","content":{}}`, 2, false,
			".org.matrix.msc3930.rule.poll_start_one_to_one notify default", classPollStart | classPollStartDirect},
		"vote": {`{"type":"org.matrix.msc3381.poll.response","content":{"m.mentions":{"user_ids":["@carol:x"]}}}`, 3, false,
			".org.matrix.msc3930.rule.poll_response", classPollResponse},
		"end of a poll": {`{"type":"org.matrix.msc3381.poll.end","content":{}}`, 3, false, ".org.matrix.msc3930.rule.poll_end notify", classPollEnd},
		"end of a poll of two": {`{"type":"org.matrix.msc3381.poll.end","content":{}}`, 2, false,
			".org.matrix.msc3930.rule.poll_end_one_to_one notify default", classPollEnd | classPollEndDirect},
		"no type":  {`{}`, 3, false, "", 0},
		"odd type": {`{"type":7,"content":[]}`, 3, false, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			o := occurrence(c.event)
			o.Members = c.members
			o.CanNotify = func(key string) bool { return c.may && key == "room" }
			if got := evaluate(unchanged, o); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if got := classify(newSubject(o)); got != c.class {
				t.Errorf("class %b, want %b", got, c.class)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	event := `{"type":"m.room.message","sender":"@bob:x","content":{"body":"An Exciting triple-whammy, alice w* here",
		"topic":"Lunch plans","m.federate":true,"n":7,"nul":null,"big":9007199254740993,"f":1.5,"o":{"a.b":{"c\\d":"deep"}},
		"list":["#a:x",5,true,null,{"x":1},"#b:x"]}}`
	for name, c := range map[string]struct {
		condition string
		want      bool
	}{
		"unknown":             {`{"kind":"org.example.other"}`, false},
		"glob":                {`{"kind":"event_match","key":"content.topic","pattern":"lunc?*"}`, true},
		"whole value":         {`{"kind":"event_match","key":"content.topic","pattern":"lunch"}`, false},
		"absent":              {`{"kind":"event_match","key":"content.absent","pattern":"*"}`, false},
		"not a string":        {`{"kind":"event_match","key":"content.n","pattern":"*"}`, false},
		"no pattern":          {`{"kind":"event_match","key":"content.topic"}`, false},
		"no key":              {`{"kind":"event_match","pattern":"*"}`, false},
		"body by words":       {`{"kind":"event_match","key":"content.body","pattern":"ex*ple"}`, true},
		"room id":             {`{"kind":"event_match","key":"room_id","pattern":"!r:x"}`, true},
		"event id":            {`{"kind":"event_match","key":"event_id","pattern":"$e"}`, true},
		"escaped dot":         {`{"kind":"event_match","key":"content.o.a\\.b.c\\\\d","pattern":"DEEP"}`, true},
		"unescaped dot":       {`{"kind":"event_match","key":"content.o.a.b","pattern":"*"}`, false},
		"index of array":      {`{"kind":"event_match","key":"content.list.0","pattern":"*"}`, false},
		"is true":             {`{"kind":"event_property_is","key":"content.m\\.federate","value":true}`, true},
		"is not text":         {`{"kind":"event_property_is","key":"content.m\\.federate","value":"true"}`, false},
		"is not 1":            {`{"kind":"event_property_is","key":"content.m\\.federate","value":1}`, false},
		"is number":           {`{"kind":"event_property_is","key":"content.n","value":7}`, true},
		"is null":             {`{"kind":"event_property_is","key":"content.nul","value":null}`, true},
		"absent is not null":  {`{"kind":"event_property_is","key":"content.absent","value":null}`, false},
		"is exact":            {`{"kind":"event_property_is","key":"content.topic","value":"lunch plans"}`, false},
		"not canonical":       {`{"kind":"event_property_is","key":"content.big","value":9007199254740993}`, false},
		"fraction":            {`{"kind":"event_property_is","key":"content.f","value":1.5}`, false},
		"compound":            {`{"kind":"event_property_is","key":"content.o","value":{}}`, false},
		"contains":            {`{"kind":"event_property_contains","key":"content.list","value":"#b:x"}`, true},
		"contains number":     {`{"kind":"event_property_contains","key":"content.list","value":5}`, true},
		"contains null":       {`{"kind":"event_property_contains","key":"content.list","value":null}`, true},
		"contains part":       {`{"kind":"event_property_contains","key":"content.list","value":":x"}`, false},
		"contains no array":   {`{"kind":"event_property_contains","key":"content.topic","value":"Lunch plans"}`, false},
		"display name":        {`{"kind":"contains_display_name"}`, true},
		"count":               {`{"kind":"room_member_count","is":"3"}`, true},
		"count ==":            {`{"kind":"room_member_count","is":"==3"}`, true},
		"count <":             {`{"kind":"room_member_count","is":"<3"}`, false},
		"count <=":            {`{"kind":"room_member_count","is":"<=3"}`, true},
		"count >":             {`{"kind":"room_member_count","is":">2"}`, true},
		"count > max":         {`{"kind":"room_member_count","is":">9223372036854775807"}`, false},
		"count >=":            {`{"kind":"room_member_count","is":">=4"}`, false},
		"count junk":          {`{"kind":"room_member_count","is":"=>3"}`, false},
		"count empty":         {`{"kind":"room_member_count","is":""}`, false},
		"count negative":      {`{"kind":"room_member_count","is":">-1"}`, false},
		"permission":          {`{"kind":"sender_notification_permission","key":"room"}`, true},
		"permission of other": {`{"kind":"sender_notification_permission","key":"other"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			st := &stored{}
			st.Custom[Override] = []customRule{{ID: "x", Actions: json.RawMessage(`["notify"]`),
				Conditions: json.RawMessage("[" + c.condition + "]")}}
			o := occurrence(event)
			o.CanNotify = func(key string) bool { return key == "room" }
			if got := evaluate(compile(st), o) == "x notify"; got != c.want {
				t.Errorf("matches: %v, want %v", got, c.want)
			}
		})
	}
}

func TestOrderOfKinds(t *testing.T) {
	st := &stored{}
	rule := func(k Kind, id string, more string) {
		def := &Definition{}
		if err := json.Unmarshal([]byte(`{"actions":["notify",{"set_tweak":"sound","value":"`+k.String()+`"}]`+more+`}`), def); err != nil {
			t.Fatal(err)
		}
		if err := st.put(k, id, def, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	event := occurrence(`{"type":"m.room.message","sender":"@bob:x","content":{"body":"time for tea"}}`)
	rule(Underride, "u", "")
	want := "u notify underride"
	check := func() {
		t.Helper()
		if got := evaluate(compile(st), event); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	check()
	rule(Sender, "@bob:x", "")
	want = "@bob:x notify sender"
	check()
	rule(Room, "!r:x", "")
	want = "!r:x notify room"
	check()
	rule(Content, "tea", `,"pattern":"tea"`)
	want = "tea notify content"
	check()
	rule(Content, "time", `,"pattern":"time"`)
	want = "time notify content"
	check()
	if err := st.setEnabled(Content, "time", false); err != nil {
		t.Fatal(err)
	}
	want = "tea notify content"
	check()
	rule(Override, "o", "")
	want = "o notify override"
	check()
	if err := st.setEnabled(Override, master, true); err != nil {
		t.Fatal(err)
	}
	want = master
	check()
}

func TestWordGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"ex*ple", "An example event.", true},
		{"ex*ple", "exple", true},
		{"ex*ple", "An exciting triple-whammy", true},
		{"cake", "cakes", false},
		{"cake", "the Cake!", true},
		{"cake", "a_cake", false},
		{"cake*lie", "cake is a lie", true},
		{"cake*lie", "cake is a lied", false},
		{"@room", "foo@room", true},
		{"@room", "@roomy", false},
		{"caf", "café", true},
		{"会议", "今天会议室", true},
		{"?a?", "xx bad", true},
		{"?a?", "xxbadd", false},
		{"*", "", true},
		{"a*", "ba", false},
		{"*a", "ba", true},
		{"*b*", "abc", true},
		{"aa", "aaa aa", true},
		{"É", "é", true},
	} {
		g := newGlob(c.pattern, true)
		if got := g.match(strings.ToLower(c.text)); got != c.want {
			t.Errorf("%q in %q: %v", c.pattern, c.text, got)
		}
	}
}

// reference is the specification's text as a regular expression.
func reference(pattern string, word bool) *regexp.Regexp {
	var b strings.Builder
	for _, r := range strings.ToLower(pattern) {
		switch r {
		case '*':
			b.WriteString(`.*`)
		case '?':
			b.WriteString(`.`)
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	if word {
		return regexp.MustCompile(`(?s)(?:^|\b|\W)` + b.String() + `(?:$|\b|\W)`)
	}
	return regexp.MustCompile(`(?s)^` + b.String() + `$`)
}

func FuzzGlob(f *testing.F) {
	for _, s := range []string{"a*b", "?a", "a?*b*", "**", "é?", "a b"} {
		f.Add(s, "a b ab éaab b_", true)
		f.Add(s, "axb", false)
	}
	f.Fuzz(func(t *testing.T, pattern, text string, word bool) {
		pattern, text = strings.ToValidUTF8(pattern, "x"), strings.ToLower(strings.ToValidUTF8(text, "y"))
		if len(pattern) > 100 || len(text) > 1000 || word && strings.Trim(pattern, "*") == "" {
			return
		}
		g := newGlob(pattern, word)
		if got, want := g.match(text), reference(pattern, word).MatchString(text); got != want {
			t.Errorf("%q in %q (word %v): %v, want %v", pattern, text, word, got, want)
		}
		if token := indexToken(pattern); word && token != "" && g.match(text) {
			found := false
			eachToken(text, func(s string) { found = found || s == token })
			if !found {
				t.Errorf("%q matches %q, which does not have the token %q", pattern, text, token)
			}
		}
	})
}

func TestIndexToken(t *testing.T) {
	for pattern, want := range map[string]string{
		"cake": "cake", "Cake": "cake", "cak*": "", "cake*lie": "", "foo bar*": "foo", "a bcd": "bcd",
		"会议": "会", "*会*": "会", "@room": "room", "??": "", "": "", "!": "", "re*d bike": "bike",
	} {
		if got := indexToken(pattern); got != want {
			t.Errorf("%q: %q, want %q", pattern, got, want)
		}
	}
}

func TestPut(t *testing.T) {
	for _, c := range []struct {
		name          string
		id            string
		before, after string
		want          string // ids after the call, or the error
	}{
		{"new first", "n", "", "", "n a b c"},
		{"before", "n", "b", "", "a n b c"},
		{"after", "n", "", "b", "a b n c"},
		{"before wins", "n", "a", "c", "n a b c"},
		{"update keeps its place", "b", "", "", "a b c"},
		{"moved up", "c", "a", "", "c a b"},
		{"moved down", "a", "", "c", "b c a"},
		{"moved down before", "a", "c", "", "b a c"},
		{"unknown", "n", "zz", "", "M_UNKNOWN: before/after rule not found: zz"},
		{"default", "n", "", ".m.rule.call", "M_UNKNOWN: before/after rule not found: .m.rule.call"},
		{"itself", "a", "a", "", "M_UNKNOWN: before/after rule not found: a"},
		{"reserved", ".n", "", "", "M_INVALID_PARAM: Rule ids that start with a dot are reserved for server-default rules"},
		{"slash", "a/b", "", "", "M_INVALID_PARAM: A rule id must not contain slashes or backslashes"},
		{"backslash", `a\b`, "", "", "M_INVALID_PARAM: A rule id must not contain slashes or backslashes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := &stored{}
			st.Custom[Override] = []customRule{{ID: "a"}, {ID: "b"}, {ID: "c"}}
			got := ""
			if err := st.put(Override, c.id, &Definition{Actions: json.RawMessage(`[]`)}, c.before, c.after); err != nil {
				got = err.Error()
			} else {
				var ids []string
				for _, r := range st.Custom[Override] {
					ids = append(ids, r.ID)
				}
				got = strings.Join(ids, " ")
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestDefinitionErrors(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		body string
		want string
	}{
		{Override, `{}`, "M_MISSING_PARAM"},
		{Override, `{"actions":"notify"}`, "M_BAD_JSON"},
		{Override, `{"actions":null}`, "M_BAD_JSON"},
		{Override, `{"actions":["shout"]}`, "M_INVALID_PARAM"},
		{Override, `{"actions":[{}]}`, "M_INVALID_PARAM"},
		{Override, `{"actions":[],"conditions":{}}`, "M_BAD_JSON"},
		{Override, `{"actions":[],"conditions":[{}]}`, "M_MISSING_PARAM"},
		{Override, `{"actions":[],"conditions":[{"kind":"event_match"}]}`, "M_INVALID_PARAM"},
		{Override, `{"actions":[],"conditions":[{"kind":"room_member_count","is":"x"}]}`, "M_INVALID_PARAM"},
		{Override, `{"actions":["dont_notify","coalesce"],"conditions":[{"kind":"new.kind"}]}`, ""},
		{Override, `{"actions":[],"conditions":null}`, ""},
		{Content, `{"actions":[]}`, "M_MISSING_PARAM"},
		{Content, `{"actions":[],"pattern":"` + strings.Repeat("a", maxPattern+1) + `"}`, "M_INVALID_PARAM"},
		{Content, `{"actions":[],"pattern":"x"}`, ""},
		{Room, `{"actions":[],"conditions":"ignored"}`, ""},
	} {
		def := &Definition{}
		if err := json.Unmarshal([]byte(c.body), def); err != nil {
			t.Fatal(err)
		}
		_, err := def.check(c.kind, "id")
		got := fmt.Sprint(err)
		if err == nil {
			got = ""
		}
		if got, _, _ = strings.Cut(got, ":"); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.kind, c.body, got, c.want)
		}
	}
}

func TestRenderRoundTrip(t *testing.T) {
	st := &stored{}
	put := func(k Kind, id, body string) {
		def := &Definition{}
		_ = json.Unmarshal([]byte(body), def)
		if err := st.put(k, id, def, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	put(Override, "mine", `{"actions":["dont_notify",{"set_tweak":"highlight","value":false}]}`)
	put(Content, "cake", `{"actions":["notify"],"pattern":"cake*lie"}`)
	if err := st.setActions(Underride, ".m.rule.message", json.RawMessage(`[]`)); err != nil {
		t.Fatal(err)
	}
	data, err := st.encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := json.Marshal(st.render("@a\"lice:x"))
	got, _ := json.Marshal(again.render("@a\"lice:x"))
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
	var g Global
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatal(err)
	}
	o := g.Global.Override
	if o[0].ID != master || o[1].ID != "mine" || string(o[1].Conditions) != "[]" ||
		string(o[1].Actions) != `["dont_notify",{"set_tweak":"highlight","value":false}]` {
		t.Errorf("override rules: %+v", o[:2])
	}
	if !strings.Contains(string(got), `"value":"@a\"lice:x"`) {
		t.Errorf("the mention rule does not name the user: %s", got)
	}
	if len(o) != 13 || len(g.Global.Underride) != 9 || len(g.Global.Content) != 1 || g.Global.Room == nil {
		t.Errorf("%d override, %d underride, %d content rules", len(o), len(g.Global.Underride), len(g.Global.Content))
	}
}

func TestCopyRoom(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		hub := stream.New(0)
		s := New(Options{DB: db, Hub: hub, Log: logrus.NewEntry(logrus.New())})
		rule := func(room string) string {
			r, err := s.Rule(t.Context(), "@a:x", Room, room)
			if err != nil {
				return err.Error()
			}
			return string(r.Actions)
		}
		copied := func(from, to string) {
			t.Helper()
			if err := s.CopyRoom(t.Context(), "@a:x", from, to); err != nil {
				t.Fatal(err)
			}
		}
		copied("!old:x", "!new:x")
		if hub.LastUser("@a:x") != 0 {
			t.Error("nothing to copy is a change")
		}
		for room, actions := range map[string]string{"!old:x": `["dont_notify"]`, "!other:x": `["notify"]`} {
			if err := s.Put(t.Context(), "@a:x", Room, room, &Definition{Actions: json.RawMessage(actions)}, "", ""); err != nil {
				t.Fatal(err)
			}
		}
		copied("!old:x", "!new:x")
		copied("!other:x", "!new:x")
		for _, room := range []string{"!old:x", "!new:x"} {
			if got := rule(room); got != `["dont_notify"]` {
				t.Errorf("%s: %s", room, got)
			}
		}
	})
}
