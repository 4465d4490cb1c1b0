// Package accounts owns the stories of accounts that need a whole node: moderation, e-mail, other ways to log in.
package accounts

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"testing"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

// world is one node and what a test needs to talk to it.
type world struct {
	t   *testing.T
	ctx context.Context
	n   *hstest.Node
}

func each(t *testing.T, settings []string, fn func(w *world)) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		defer cancel()
		fn(&world{t, ctx, s.Start("a.test", append(settings, "registration.mode=open", "registration.shared_secret=secret")...)})
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// call does a request that must be answered with 200.
func (w *world) call(c *lab.Client, method, path string, body any) gjson.Result {
	w.t.Helper()
	var out rawJSON
	w.must(c.Call(w.ctx, method, path, body, &out))
	return gjson.ParseBytes(out)
}

type rawJSON []byte

func (r *rawJSON) UnmarshalJSON(b []byte) error {
	*r = append(*r, b...)
	return nil
}

// refused does a request that must be answered with an error.
func (w *world) refused(status int, code string, c *lab.Client, method, path string, body any) gjson.Result {
	w.t.Helper()
	return w.refusal(status, code, c.Call(w.ctx, method, path, body, nil))
}

func (w *world) refusal(status int, code string, err error) gjson.Result {
	w.t.Helper()
	var e *lab.Error
	if !errors.As(err, &e) || e.Status != status || e.Code != code {
		w.t.Fatalf("%v, want %d %s", err, status, code)
	}
	return gjson.ParseBytes(e.Body)
}

// admin makes an administrator.
func (w *world) admin(name string) *lab.Client {
	w.t.Helper()
	const path = "/_synapse/admin/v1/register"
	c := w.n.Client()
	nonce := w.call(c, http.MethodGet, path, nil).Get("nonce").Str
	h := hmac.New(sha1.New, []byte("secret"))
	h.Write([]byte(nonce + "\x00" + name + "\x00password of " + name + "\x00admin"))
	made := w.call(c, http.MethodPost, path, map[string]any{"nonce": nonce, "username": name, "password": "password of " + name,
		"admin": true, "mac": hex.EncodeToString(h.Sum(nil))})
	c.UserID, c.DeviceID, c.Token = made.Get("user_id").Str, made.Get("device_id").Str, made.Get("access_token").Str
	return c
}

func v1(path string) string { return "/_matrix/client/v1" + path }

func v3(path string) string { return "/_matrix/client/v3" + path }

func esc(s string) string { return url.PathEscape(s) }
