package sync

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/store"
)

func TestFilters(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a})
		other := g.create(roomserver.CreateRequest{Creator: a})
		g.join(room, b)
		since := next(g.get(a))
		g.say(other, a, "elsewhere")
		g.say(room, a, "one")
		g.say(room, b, "two")
		_, err := g.rooms.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: b, Type: "m.room.message",
			Content: []byte(`{"body":"pic","url":"mxc://hs/1"}`)})
		must(t, err)
		g.state(room, a, "x.y", "k", `{"body":"state"}`)
		for i, c := range []struct{ filter, timeline, state string }{
			{`{}`, "one two pic state", ""},
			{`{"room":{"timeline":{"types":["m.room.message"]}}}`, "one two pic", "state"},
			{`{"room":{"timeline":{"types":["m.*"]}}}`, "one two pic", "state"},
			{`{"room":{"timeline":{"types":["*"],"not_types":["*.message"]}}}`, "state", ""},
			{`{"room":{"timeline":{"types":[]}}}`, "", "state"},
			{`{"room":{"timeline":{"senders":["@b:hs"]}}}`, "two pic", "state"},
			{`{"room":{"timeline":{"not_senders":["@b:hs"]}}}`, "one state", ""},
			{`{"room":{"timeline":{"contains_url":true}}}`, "pic", "state"},
			{`{"room":{"timeline":{"contains_url":false}}}`, "one two state", ""},
			{`{"room":{"timeline":{"limit":1,"types":["m.room.message"]}}}`, "pic", "state"},
			{`{"room":{"timeline":{"limit":0}}}`, "", "state"},
			{`{"room":{"timeline":{"rooms":["` + other + `"]}}}`, "", "state"},
			{`{"room":{"timeline":{"types":[]},"state":{"not_types":["x.*"]}}}`, "", ""},
			{`{"room":{"timeline":{"types":[]},"state":{"not_rooms":["` + room + `"]}}}`, "", ""},
			{`{"room":{"not_rooms":["` + room + `"]}}`, "", ""},
			{`{"room":{"rooms":["` + other + `"]}}`, "", ""},
			{`{"room":{"rooms":["` + room + `"],"not_rooms":["` + room + `"]}}`, "", ""},
		} {
			res := g.get(a, "since", since, "filter", c.filter)
			expect(t, fmt.Sprint(i, c.filter), list(in(res, "join", room, "timeline.events")), c.timeline)
			expect(t, fmt.Sprint(i, " state ", c.filter), list(in(res, "join", room, "state.events")), c.state)
		}
		parent := g.say(room, a, "parent")
		since = next(g.get(a))
		_, err = g.rooms.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: b, Type: "m.room.message",
			Content: []byte(`{"body":"reply","m.relates_to":{"rel_type":"m.thread","event_id":"` + parent + `"}}`)})
		must(t, err)
		g.state(room, a, "x.y", "k", `{"body":"state","n":2}`)
		for filter, want := range map[string]string{
			`"org.matrix.msc3874.rel_types":["m.thread"]`:     "reply",
			`"org.matrix.msc3874.rel_types":["m.reference"]`:  "",
			`"org.matrix.msc3874.not_rel_types":["m.thread"]`: "state",
		} {
			expect(t, filter, list(in(g.get(a, "since", since, "filter", `{"room":{"timeline":{`+filter+`}}}`), "join", room, "timeline.events")), want)
		}
		g.sync.o.Related = func(_ *sqldb.Tx, events []*store.Stored, rels, senders *[]string) ([]*store.Stored, error) {
			if len(*rels) != 1 || senders != nil {
				t.Error("asked for", rels, senders)
			}
			return events[1:], nil
		}
		expect(t, "related", list(in(g.get(a, "since", since, "filter", `{"room":{"timeline":{"related_by_rel_types":["m.thread"]}}}`), "join", room, "timeline.events")), "state")
		res := g.get(a, "since", since, "filter", `{"event_fields":["content.body","sender"],"room":{"timeline":{"limit":1}}}`)
		expect(t, "fields", in(res, "join", room, "timeline.events").Raw, `[{"content":{"body":"state"},"sender":"@a:hs"}]`)
		res = g.get(a, "since", since, "filter", `{"event_format":"federation"}`)
		expect(t, "format", in(res, "join", room, "timeline.events.0.hashes").Exists(), true)
	})
}

func TestStoredFilters(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		path := "/_matrix/client/v3/user/" + a + "/filter"
		const body = `{ "room": {"timeline": {"limit": 1}}, "x": 1 }`
		code, res := g.call(a, "POST", path, body)
		id := res.Get("filter_id").Str
		if code != 200 || id == "" || id[0] == '{' {
			t.Fatalf("%d %s", code, res.Raw)
		}
		_, again := g.call(a, "POST", path, body)
		expect(t, "the same filter", again.Get("filter_id").Str, id)
		code, res = g.call(a, "GET", path+"/"+id, "")
		expect(t, "read", fmt.Sprint(code, res.Raw), `200{"room":{"timeline":{"limit":1}},"x":1}`)
		room := g.create(roomserver.CreateRequest{Creator: a})
		expect(t, "used", in(g.get(a, "filter", id), "join", room, "timeline.events.#").Int(), 1)
		for what, c := range map[string]struct {
			as, method, path, body, want string
		}{
			"unknown":      {a, "GET", path + "/none", "", "404M_NOT_FOUND"},
			"another's":    {b, "GET", path + "/" + id, "", "403M_FORBIDDEN"},
			"for another":  {b, "POST", path, `{}`, "403M_FORBIDDEN"},
			"not JSON":     {a, "POST", path, `{`, "400M_NOT_JSON"},
			"not object":   {a, "POST", path, `[]`, "400M_BAD_JSON"},
			"another's id": {b, "GET", "/_matrix/client/v3/sync?filter=" + id, "", "400M_INVALID_PARAM"},
		} {
			code, res := g.call(c.as, c.method, c.path, c.body)
			expect(t, what, fmt.Sprint(code, res.Get("errcode").Str), c.want)
		}
	})
}

func TestBadFilters(t *testing.T) {
	for _, f := range []string{
		`{"presence":"x"}`, `{"room":{"timeline":"x"}}`, `{"room":{"state":[]}}`, `{"room":{"timeline":{"rooms":"x"}}}`,
		`{"room":{"timeline":{"rooms":["x"]}}}`, `{"room":{"timeline":{"senders":["x"]}}}`, `{"room":{"timeline":{"types":"x"}}}`,
		`{"room":{"timeline":{"limit":-1}}}`, `{"event_format":"x"}`, `{"event_fields":"x"}`, `{`, `{"room":{"timeline":{"senders":[""]}}}`,
		`{"event_fields":["` + strings.Repeat("a.", 100) + `"]}`, strings.Repeat(" ", maxFilter+1),
	} {
		if _, err := parseFilter([]byte(f)); err == nil {
			t.Errorf("taken: %.80s", f)
		}
	}
	f, err := parseFilter([]byte(`{"room":{"timeline":{"types":null,"limit":99999}},"event_fields":null}`))
	if err != nil || f.timeline.types != nil || f.limit != maxEvents || f.fields != nil {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestFields(t *testing.T) {
	const e = `{"a":{"b":1,"c":{"d":2}},"x.y":3,"z":[1]}`
	for paths, want := range map[string]string{
		`["a"]`: `{"a":{"b":1,"c":{"d":2}}}`, `["a.c.d"]`: `{"a":{"c":{"d":2}}}`, `["a.b","a"]`: `{"a":{"b":1,"c":{"d":2}}}`,
		`["a","a.b"]`: `{"a":{"b":1,"c":{"d":2}}}`, `["x\\.y"]`: `{"x.y":3}`, `["z.0","no"]`: `{}`, `[]`: `{}`,
	} {
		f, err := parseFilter([]byte(`{"event_fields":` + paths + `}`))
		must(t, err)
		expect(t, paths, string(f.fields.pick(nil, gjson.Parse(e))), want)
	}
}

func FuzzToken(f *testing.F) {
	f.Add(token{1, 2, 3, "boot", "epoch", 0}.String())
	f.Add(token{5, 2, 3, "boot", "epoch", 4}.String())
	f.Add("s1_2_3_a_b_c")
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := parseToken(text)
		if err != nil {
			return
		}
		again, err := parseToken(tok.String())
		if err != nil || again != tok || tok.pos < 0 || tok.eph < 0 {
			t.Fatalf("%q: %+v, then %+v, %v", text, tok, again, err)
		}
	})
}

func FuzzFilter(f *testing.F) {
	f.Add(`{"room":{"timeline":{"types":["m.*"],"limit":3}},"event_fields":["content.body","a\\.b"]}`, `{"content":{"body":"x"},"a.b":1}`)
	f.Add(`{"room":{"state":{"lazy_load_members":true,"senders":["@a:b"]}}}`, `{}`)
	f.Fuzz(func(t *testing.T, text, object string) {
		flt, err := parseFilter([]byte(text))
		if err != nil {
			return
		}
		flt.timeline.hasType(object)
		if flt.fields != nil && json.Valid([]byte(object)) && gjson.Parse(object).IsObject() {
			if got := flt.fields.pick(nil, gjson.Parse(object)); !json.Valid(got) {
				t.Fatalf("%s of %s gives %s", text, object, got)
			}
		}
	})
}
