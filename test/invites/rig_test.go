package invites

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

// world is two nodes with a user each.
type world struct {
	t          *testing.T
	ctx        context.Context
	a, b       *hstest.Node
	alice, bob *lab.Client
}

func each(t *testing.T, fn func(w *world), settings ...string) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		defer cancel()
		w := &world{t: t, ctx: ctx, a: s.Start("a.test", settings...), b: s.Start("b.test", settings...)}
		w.alice, w.bob = w.a.MustRegister("alice"), w.b.MustRegister("bob")
		fn(w)
	})
}

// try makes a request and returns the error's code, "" for 200.
func (w *world) try(c *lab.Client, method, path string, body any) (gjson.Result, string) {
	w.t.Helper()
	var raw json.RawMessage
	err := c.Call(w.ctx, method, path, body, &raw)
	var refused *lab.Error
	if errors.As(err, &refused) {
		return gjson.ParseBytes(refused.Body), refused.Code
	}
	w.must(err)
	return gjson.ParseBytes(raw), ""
}

func (w *world) call(c *lab.Client, method, path string, body any) gjson.Result {
	w.t.Helper()
	answer, code := w.try(c, method, path, body)
	if code != "" {
		w.t.Fatalf("%s %s: %s", method, path, answer.Raw)
	}
	return answer
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create(c *lab.Client, request any) string {
	w.t.Helper()
	id, err := c.CreateRoom(w.ctx, request)
	w.must(err)
	return id
}

type object = map[string]any

func (w *world) say(c *lab.Client, kind string, content object) {
	w.t.Helper()
	w.call(c, http.MethodPut, lab.V3("user", c.UserID, "account_data", kind), content)
}

// invited lists the rooms to which a first sync of either kind says that the user is invited.
func (w *world) invited(c *lab.Client, room string) (classic, sliding bool) {
	w.t.Helper()
	escaped := gjson.Escape(room)
	classic = w.call(c, http.MethodGet, lab.V3("sync"), nil).Get("rooms.invite." + escaped).Exists()
	body := object{"lists": object{"all": object{"ranges": [][]int{{0, 99}}, "timeline_limit": 1, "required_state": [][]string{}}},
		"room_subscriptions": object{room: object{"timeline_limit": 1, "required_state": [][]string{}}}}
	sliding = w.call(c, http.MethodPost, "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", body).Get("rooms." + escaped).Exists()
	return classic, sliding
}

func (w *world) expect(what string, got, want any) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("%s: %v, want %v", what, got, want)
	}
}
