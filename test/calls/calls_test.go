// Package calls owns the stories of calls that need a whole node: delayed events.
package calls

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"testing"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

// world is a network and what a test needs to talk to it.
type world struct {
	t   *testing.T
	ctx context.Context
	s   *hstest.Site
	n   *hstest.Node
}

func each(t *testing.T, fn func(w *world)) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		defer cancel()
		fn(&world{t, ctx, s, s.Add("a.test", "registration.mode=open")})
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

type rawJSON []byte

func (r *rawJSON) UnmarshalJSON(b []byte) error {
	*r = append(*r, b...)
	return nil
}

// call does a request that must be answered with 200.
func (w *world) call(c *lab.Client, method, path string, body any) gjson.Result {
	w.t.Helper()
	var out rawJSON
	w.must(c.Call(w.ctx, method, path, body, &out))
	return gjson.ParseBytes(out)
}

// refused does a request that must be answered with an error.
func (w *world) refused(status int, code string, c *lab.Client, method, path string, body any) gjson.Result {
	w.t.Helper()
	err := c.Call(w.ctx, method, path, body, nil)
	var e *lab.Error
	if !errors.As(err, &e) || e.Status != status || e.Code != code {
		w.t.Fatalf("%s %s: %v, want %d %s", method, path, err, status, code)
	}
	return gjson.ParseBytes(e.Body)
}

// room makes a room in which everybody may send everything.
func (w *world) room(c *lab.Client) string {
	w.t.Helper()
	room, err := c.CreateRoom(w.ctx, map[string]any{"preset": "public_chat", "power_level_content_override": map[string]any{"state_default": 0}})
	w.must(err)
	return room
}

// until syncs until a user sees an event of a type in a room, and returns it.
func (w *world) until(c *lab.Client, room, kind string) gjson.Result {
	w.t.Helper()
	for since, path := "", lab.V3("sync")+"?timeout=10000"; ; {
		news := w.call(c, http.MethodGet, path+since, nil)
		for _, part := range []string{"timeline", "state"} {
			found := news.Get("rooms.join." + escape(room) + "." + part + `.events.#(type=="` + kind + `")`)
			if found.Exists() {
				return found
			}
		}
		since = "&since=" + url.QueryEscape(news.Get("next_batch").Str)
	}
}

// escape makes a name one part of a path of gjson.
func escape(name string) string {
	out := ""
	for _, r := range name {
		if r == '.' || r == '*' || r == '?' || r == '!' || r == '|' || r == '#' || r == '@' {
			out += `\`
		}
		out += string(r)
	}
	return out
}
