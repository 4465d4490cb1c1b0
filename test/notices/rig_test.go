package notices

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

type object = map[string]any

// world is a node with an administrator.
type world struct {
	t    *testing.T
	ctx  context.Context
	n    *hstest.Node
	root *lab.Client
}

const (
	tools  = "/_synapse/admin/v1/send_server_notice"
	ours   = "/_knock/admin/v1/notices"
	sender = "@_server:a.test"
)

func each(t *testing.T, fn func(w *world), settings ...string) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		defer cancel()
		w := &world{t: t, ctx: ctx, n: s.Start("a.test", append(settings, "registration.shared_secret=secret")...)}
		w.root = w.admin("root")
		fn(w)
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// admin makes an administrator.
func (w *world) admin(name string) *lab.Client {
	w.t.Helper()
	const path = "/_synapse/admin/v1/register"
	c := w.n.Client()
	nonce := w.call(c, http.MethodGet, path, nil).Get("nonce").Str
	h := hmac.New(sha1.New, []byte("secret"))
	h.Write([]byte(nonce + "\x00" + name + "\x00password of " + name + "\x00admin"))
	made := w.call(c, http.MethodPost, path, object{"nonce": nonce, "username": name, "password": "password of " + name,
		"admin": true, "mac": hex.EncodeToString(h.Sum(nil))})
	c.UserID, c.DeviceID, c.Token = made.Get("user_id").Str, made.Get("device_id").Str, made.Get("access_token").Str
	return c
}

// try makes a request and returns status and code of its error, "" for 200.
func (w *world) try(c *lab.Client, method, path string, body any) (gjson.Result, string) {
	w.t.Helper()
	var raw json.RawMessage
	err := c.Call(w.ctx, method, path, body, &raw)
	var refused *lab.Error
	if errors.As(err, &refused) {
		return gjson.ParseBytes(refused.Body), fmt.Sprint(refused.Status, " ", refused.Code)
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

func (w *world) refused(want string, c *lab.Client, method, path string, body any) {
	w.t.Helper()
	if answer, code := w.try(c, method, path, body); code != want {
		w.t.Errorf("%s %s: %s %s, want %s", method, path, code, answer.Raw, want)
	}
}

func (w *world) restart(settings ...string) {
	w.t.Helper()
	w.must(w.n.Stop())
	w.n.Set(settings...)
	w.must(w.n.Start())
}

func text(s string) object { return object{"msgtype": "m.text", "body": s} }

// notify sends a notice as tools do, with a transaction id unless it is "", and returns the event's id.
func (w *world) notify(c *lab.Client, txn, body string) string {
	w.t.Helper()
	method, path := http.MethodPost, tools
	if txn != "" {
		method, path = http.MethodPut, tools+"/"+txn
	}
	return w.call(w.root, method, path, object{"user_id": c.UserID, "content": text(body)}).Get("event_id").Str
}

// standing is what a user's first sync says about rooms for notices: the id of the only one, and the membership in it,
// "" when there is none.
func (w *world) standing(c *lab.Client) (room, membership string) {
	w.t.Helper()
	sync := w.call(c, http.MethodGet, lab.V3("sync")+`?filter={"room":{"include_leave":true}}`, nil)
	n := 0
	for _, is := range []string{"join", "invite", "leave"} {
		sync.Get("rooms." + is).ForEach(func(id, what gjson.Result) bool {
			n++
			room, membership = id.Str, is
			return true
		})
	}
	if n > 1 {
		w.t.Errorf("%s has %d rooms: %s", c.UserID, n, sync.Get("rooms").Raw)
	}
	return room, membership
}

// bodies are the texts of a room's messages, oldest first, as a member sees them.
func (w *world) bodies(c *lab.Client, room string) (list []string) {
	w.t.Helper()
	page := w.call(c, http.MethodGet, lab.V3("rooms", room, "messages")+"?dir=f&limit=100", nil)
	for _, e := range page.Get("chunk").Array() {
		if e.Get("type").Str == "m.room.message" {
			list = append(list, e.Get("content.body").Str)
		}
	}
	return list
}
