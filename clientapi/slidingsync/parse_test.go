package slidingsync

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"knock/internal/matrixerr"
	"knock/roomserver/store"
)

func TestParseErrors(t *testing.T) {
	many := func(n int, format string) string {
		var out []string
		for i := range n {
			out = append(out, strings.ReplaceAll(format, "%", fmt.Sprint(i)))
		}
		return strings.Join(out, ",")
	}
	long := strings.Repeat("x", 256)
	for _, c := range []struct{ unstable, v4, code string }{
		{`[]`, `[]`, "M_BAD_JSON"},
		{`{"lists":[]}`, `{"lists":1}`, "M_BAD_JSON"},
		{`{"lists":{"a":{}}}`, `{"lists":{"a":{"required_state":{}}}}`, "M_MISSING_PARAM"},
		{`{"room_subscriptions":{"!a":{}}}`, `{"room_subscriptions":{"!a":{"timeline_limit":1}}}`, "M_MISSING_PARAM"},
		{`{"lists":{"a":{"timeline_limit":-1}}}`, `{"lists":{"a":{"timeline_limit":-1,"required_state":{}}}}`, "M_INVALID_PARAM"},
		{`{"lists":{"a":{"timeline_limit":1,"ranges":[[2,1]]}}}`, `{"lists":{"a":{"timeline_limit":1,"required_state":{},"range":[-1,1]}}}`, "M_INVALID_PARAM"},
		{`{"lists":{` + many(101, `"%":{"timeline_limit":1}`) + `}}`, `{"lists":{` + many(101, `"%":{"timeline_limit":1,"required_state":{}}`) + `}}`, "M_INVALID_PARAM"},
		{`{"room_subscriptions":{` + many(101, `"%":{"timeline_limit":1}`) + `}}`, `{"room_subscriptions":{` + many(101, `"%":{"timeline_limit":1,"required_state":{}}`) + `}}`, "M_INVALID_PARAM"},
		{`{"lists":{"a":{"timeline_limit":1,"required_state":[` + many(101, `["%","*"]`) + `]}}}`, `{"lists":{"a":{"timeline_limit":1,"required_state":{"exclude":[` + many(101, `{}`) + `]}}}}`, "M_INVALID_PARAM"},
		{`{"lists":{"a":{"timeline_limit":1,"required_state":[["` + long + `",""]]}}}`, `{"lists":{"a b":{"timeline_limit":1,"required_state":{}}}}`, "M_INVALID_PARAM"},
		{`{"conn_id":"` + long + `"}`, `{"conn_id":"` + long + `"}`, "M_INVALID_PARAM"},
		{`{"extensions":{"to_device":{"limit":0}}}`, `{"timeout":-1}`, "M_INVALID_PARAM"},
		{`{"extensions":{"typing":{"lists":[` + many(101, `"%"`) + `]}}}`, `{"set_presence":"busy"}`, "M_INVALID_PARAM"},
		{`{"lists":{` + many(100, `"%":{"timeline_limit":1,"required_state":[["%`+long[:200]+`","`+long[:255]+`"],["`+long[:200]+`%","`+long[:255]+`"]]}`) + `}}`, `{"pos":"nonsense"}`, ""},
	} {
		for i, body := range []string{c.unstable, c.v4} {
			q, err := parseUnstable([]byte(body), "@a:hs", "", 0)
			if i == 1 {
				q, err = parseV4([]byte(body), "@a:hs")
			}
			if err == nil {
				err = q.check()
			}
			got := ""
			if err != nil {
				got = matrixerr.From(err).Code
			}
			want := c.code
			if want == "" {
				want = []string{"M_INVALID_PARAM", "M_UNKNOWN_POS"}[i]
			}
			if got != want {
				t.Errorf("%.80s: got %q, want %q", body, got, want)
			}
		}
	}
}

// FuzzParse reads any body in both forms: what is accepted is within the bounds,
// and its unions are the same after a way through their texts.
func FuzzParse(f *testing.F) {
	f.Add(`{"lists":{"a":{"ranges":[[0,9]],"timeline_limit":3,"required_state":[["*","$ME"],["m.room.member","$LAZY"]],"filters":{"room_types":[null,"x"]}}}}`)
	f.Add(`{"pos":"p1_2_3_a_b","lists":{"a":{"range":[0,9],"timeline_limit":3,"required_state":{"include":[{}],"exclude":[{"type":"x"}],"lazy_members":true}}}}`)
	f.Add(`{"room_subscriptions":{"!a:b":{"timeline_limit":1}},"extensions":{"to_device":{"enabled":true,"since":"d1_x"}}}`)
	f.Fuzz(func(t *testing.T, body string) {
		for _, parse := range []func() (*request, error){
			func() (*request, error) { return parseUnstable([]byte(body), "@a:hs", "", 5) },
			func() (*request, error) { return parseV4([]byte(body), "@a:hs") },
		} {
			q, err := parse()
			if err == nil {
				err = q.check()
			}
			if err != nil {
				if matrixerr.From(err).HTTP >= 500 {
					t.Fatalf("%q: %v", body, err)
				}
				continue
			}
			if len(q.lists) > maxLists || len(q.subs) > maxSubs {
				t.Fatal("out of bounds")
			}
			for _, l := range q.lists {
				text := unionText([]string{l.text})
				u, err := parseUnion(text)
				if err != nil || l.limit > maxEvents {
					t.Fatalf("%q: %v", text, err)
				}
				if again := u.parts[0].canonical(); unionText([]string{again}) != text {
					t.Fatalf("%q became %q", text, again)
				}
				for _, name := range []store.Tuple{{Type: typeMember, Key: "@a:hs"}, {Type: "x"}} {
					if u.matches(name) != l.required.matches(name) {
						t.Fatalf("%q matches otherwise", text)
					}
				}
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add("p1_2_3_a_b")
	f.Add("d1_x")
	f.Fuzz(func(t *testing.T, text string) {
		if tok, ok := parseToken(text); ok {
			if again, ok := parseToken(tok.String()); !ok || again != tok {
				t.Fatalf("%q: %+v", text, tok)
			}
		}
		if pos, epoch, ok := parseDeviceToken(text); ok {
			if p, e, ok := parseDeviceToken(deviceToken(pos, epoch)); !ok || p != pos || e != epoch {
				t.Fatalf("%q: %d %q", text, pos, epoch)
			}
		}
	})
}

func FuzzState(f *testing.F) {
	u := newUnion(nil, "[]")
	f.Add((&connState{global: true, unions: []*union{u}, rooms: []record{{room: 3, limit: 1}, {room: 9, upto: 4, kind: gone, marks: markDM | markTyping}}}).encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeState(data)
		if err != nil {
			return
		}
		again, err := decodeState(s.encode())
		if err != nil || len(again.unions) != len(s.unions) || !reflect.DeepEqual(again.rooms, s.rooms) {
			t.Fatalf("%x: %v", data, err)
		}
	})
}

func TestDraft(t *testing.T) {
	base := &connState{gen: 1, rooms: []record{{room: 2}, {room: 5}}}
	d := newDraft(base)
	if d.apply() != base {
		t.Error("nothing changed")
	}
	for i := range 2 * maxUnions {
		d.intern(newUnion(nil, fmt.Sprint(i)))
	}
	d.set[3] = record{room: 3, union: d.intern(newUnion(nil, "7"))}
	d.set[5] = record{room: 5, upto: 8, union: d.intern(newUnion(nil, "9"))}
	d.drop[2] = true
	next := d.apply()
	if len(next.rooms) != 2 || next.rooms[0].room != 3 || next.rooms[1].upto != 8 || len(base.rooms) != 2 {
		t.Errorf("%+v", next)
	}
	if len(next.unions) != 2 || next.unions[next.rooms[0].union].text != "7" || next.unions[next.rooms[1].union].text != "9" {
		t.Errorf("%+v", next)
	}
}
