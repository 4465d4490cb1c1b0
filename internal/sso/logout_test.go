package sso

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"knock/internal/sso/ssotest"
)

func TestLogout(t *testing.T) {
	eachWith(t, func(p *Provider) { p.Backchannel = true }, func(d *desk) {
		var heard []Logout
		var trouble error
		logout := func(token string) error {
			return d.s.Logout(t.Context(), "idp", token, func(_ context.Context, out Logout) error {
				if trouble == nil {
					heard = append(heard, out)
				}
				return trouble
			})
		}
		good := d.idp.LogoutToken(map[string]any{"sub": "sub of alice", "sid": "session"})
		trouble = errors.New("the disk is full")
		if err := logout(good); !errors.Is(err, trouble) {
			t.Fatal(err)
		}
		trouble = nil
		if err := logout(good); err != nil { // the provider tries again
			t.Fatal(err)
		}
		d.refused(logout(good), http.StatusBadRequest, "not good")
		if len(heard) != 1 || heard[0] != (Logout{d.idp.URL, "sub of alice", "session"}) {
			t.Fatal(heard)
		}
		for name, claims := range map[string]map[string]any{
			"nobody":         {},
			"an ID token":    {"sub": "x", "nonce": "y"},
			"another event":  {"sub": "x", "events": map[string]any{"other": map[string]any{}}},
			"other audience": {"sub": "x", "aud": "somebody else"},
			"other issuer":   {"sub": "x", "iss": "https://evil.example"},
			"expired":        {"sub": "x", "exp": d.now.Add(-time.Minute).Unix()},
			"for ever":       {"sub": "x", "exp": d.now.Add(24 * time.Hour).Unix()},
			"no id":          {"sub": "x", "jti": ""},
			"long":           {"sub": strings.Repeat("x", 256)},
		} {
			if err := logout(d.idp.LogoutToken(claims)); err == nil {
				t.Error(name, "is heard")
			}
		}
		parts := strings.Split(d.idp.LogoutToken(map[string]any{"sub": "x"}), ".")
		d.refused(logout(parts[0]+"."+parts[1]+"."+strings.Split(good, ".")[2]), http.StatusBadRequest, "not good")
		for _, raw := range []string{"", "x", "a.b.c", strings.Repeat("x", maxLogoutToken+1)} {
			d.refused(logout(raw), http.StatusBadRequest, "not good")
		}
		if len(heard) != 1 {
			t.Error(heard)
		}
		d.idp.Set(func(p *ssotest.Provider) { p.Break, p.BreakPath = ssotest.Down, "/keys" })
		if err := logout(d.idp.LogoutToken(map[string]any{"sub": "x"})); err != nil { // with the keys that are known
			t.Error(err)
		}
	})
	each(t, func(d *desk) {
		err := d.s.Logout(t.Context(), "idp", d.idp.LogoutToken(map[string]any{"sub": "x"}), func(context.Context, Logout) error {
			t.Error("heard")
			return nil
		})
		d.refused(err, http.StatusNotFound, "not heard")
	})
}
