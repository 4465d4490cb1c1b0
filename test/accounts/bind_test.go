package accounts

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/roomserver/event"
	"knock/test/hstest"
	"knock/test/idserver"
)

var xMatrix = regexp.MustCompile(`^X-Matrix origin="([^"]+)",destination="([^"]+)",key="([^"]+)",sig="([^"]+)"$`)

// checkSignature verifies that the node signed a request to unbind.
func (w *world) checkSignature(id *idserver.Server, keys *lab.Client) func(authorization string, body []byte) error {
	published := w.call(keys, http.MethodGet, "/_matrix/key/v2/server", nil)
	return func(authorization string, body []byte) error {
		f := xMatrix.FindStringSubmatch(authorization)
		if f == nil {
			return fmt.Errorf("no signature: %s", authorization)
		}
		key, err := base64.RawStdEncoding.DecodeString(published.Get("verify_keys." + f[3] + ".key").Str)
		if err != nil || len(key) != ed25519.PublicKeySize {
			return fmt.Errorf("no such key: %s", f[3])
		}
		if f[1] != "a.test" || f[2] != id.Name {
			return fmt.Errorf("from %s to %s", f[1], f[2])
		}
		signed, err := json.Marshal(map[string]any{"method": "POST", "uri": "/_matrix/identity/v2/3pid/unbind", "origin": f[1], "destination": f[2],
			"content": json.RawMessage(body), "signatures": map[string]any{f[1]: map[string]string{f[3]: f[4]}}})
		if err != nil {
			return err
		}
		return event.VerifyJSON(signed, f[1], f[3], key)
	}
}

// TestBind publishes addresses through an identity server and takes them back.
func TestBind(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		defer cancel()
		id := idserver.New(t)
		s.Trust(id.Certificate())
		w := &world{t, ctx, s.Start("a.test", "registration.mode=open", "identity_servers.allow_networks=[127.0.0.0/8]")}
		alice := w.n.MustRegister("alice")
		id.OnUnbind(w.checkSignature(id, w.n.Client()))
		path := func(what string) string { return lab.V3("account", "3pid") + what }
		good := map[string]any{"sid": "1", "client_secret": secret, "id_server": id.Name, "id_access_token": idserver.Token}
		with := func(key string, value any) map[string]any {
			body := map[string]any{key: value}
			for k, v := range good {
				if k != key {
					body[k] = v
				}
			}
			return body
		}
		w.refused(404, "M_NO_VALID_SESSION", alice, http.MethodPost, path("/bind"), good)
		w.refused(403, "M_THREEPID_AUTH_FAILED", alice, http.MethodPost, path(""), map[string]any{"three_pid_creds": good})
		w.refused(403, "M_FORBIDDEN", alice, http.MethodPost, path("/bind"), with("id_access_token", "wrong"))
		w.refused(400, "M_MISSING_PARAM", alice, http.MethodPost, path("/bind"), with("sid", ""))
		w.refused(400, "M_INVALID_PARAM", alice, http.MethodPost, path("/bind"), with("id_server", "host/path"))
		w.refused(502, "M_UNKNOWN", alice, http.MethodPost, path("/bind"), with("id_server", "10.0.0.1")) // a network that is not ours to call

		bind := func(address string) {
			t.Helper()
			id.Validate("1", secret, address)
			w.call(alice, http.MethodPost, path("/bind"), good)
			if got := id.Bound(address); got != alice.UserID {
				t.Errorf("%s is bound to %q", address, got)
			}
		}
		result := func(what string, body map[string]string) string {
			t.Helper()
			return w.call(alice, http.MethodPost, path(what), body).Get("id_server_unbind_result").Str
		}
		mail := func(address string) map[string]string {
			return map[string]string{"medium": "email", "address": address}
		}
		if got := w.call(alice, http.MethodGet, path(""), nil).Get("threepids.#").Int(); got != 0 {
			t.Error("binding is not adding")
		}
		bind("a@example.com")
		if got := result("/unbind", mail("A@example.com")); got != "success" || id.Bound("a@example.com") != "" {
			t.Errorf("%s; bound to %q", got, id.Bound("a@example.com"))
		}
		if got := result("/unbind", mail("a@example.com")); got != "no-support" {
			t.Error(got)
		}
		bind("a@example.com")
		id.Misbehave(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotImplemented) })
		if got := result("/unbind", mail("a@example.com")); got != "no-support" {
			t.Error(got)
		}
		id.Misbehave(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		w.refused(502, "M_UNKNOWN", alice, http.MethodPost, path("/unbind"), mail("a@example.com"))
		if got := result("/delete", mail("a@example.com")); got != "success" || id.Bound("a@example.com") != "" {
			t.Errorf("%s; bound to %q", got, id.Bound("a@example.com"))
		}
		bind("b@example.com")
		bind("c@example.com")
		gone := w.call(alice, http.MethodPost, lab.V3("account", "deactivate"), map[string]any{"auth": map[string]any{"type": "m.login.password",
			"identifier": map[string]string{"type": "m.id.user", "user": "alice"}, "password": alice.Password}})
		if gone.Get("id_server_unbind_result").Str != "success" || id.Bound("b@example.com")+id.Bound("c@example.com") != "" {
			t.Error(gone)
		}
	})
}
