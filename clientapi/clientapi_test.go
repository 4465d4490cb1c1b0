package clientapi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"knock/clientapi/calls"
	"knock/internal/clock"
	"knock/internal/httpx"
	"knock/internal/limits"
)

func TestAbout(t *testing.T) {
	rt := httpx.NewRouter(Assemble(nil, New(Options{PublicBaseURL: "https://m.example.org/", SupportEmail: "a@example.org",
		RoomVersions: []string{"11", "12"}, DefaultVersion: "12", Features: []string{"org.matrix.msc4222"}})), httpx.Hooks{})
	for path, want := range map[string]string{
		"/_matrix/client/versions":        `"unstable_features":{"org.matrix.msc4222":true},"versions":["v1.1",`,
		"/.well-known/matrix/client":      `{"m.homeserver":{"base_url":"https://m.example.org"}}`,
		"/.well-known/matrix/server":      `M_UNRECOGNIZED`,
		"/.well-known/matrix/support":     `{"contacts":[{"email_address":"a@example.org","role":"m.role.admin"}]}`,
		"/_matrix/client/v3/capabilities": `M_MISSING_TOKEN`,
	} {
		w := httptest.NewRecorder()
		rt.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if !strings.Contains(w.Body.String(), want) || w.Header().Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %s %v", path, w.Body, w.Header())
		}
	}
}

func TestFoci(t *testing.T) {
	o := Options{PublicBaseURL: "https://m.example.org", Foci: calls.Options{LiveKit: []string{"https://rtc.example.org"}}.Transports()}
	w := httptest.NewRecorder()
	httpx.NewRouter(New(o).Routes(), httpx.Hooks{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/.well-known/matrix/client", nil))
	want := `"org.matrix.msc4143.rtc_foci":[{"type":"livekit","livekit_service_url":"https://rtc.example.org"}]`
	if !strings.Contains(w.Body.String(), want) {
		t.Error(w.Body)
	}
}

func TestRateLimitKeys(t *testing.T) {
	now := clock.NewManual(time.UnixMilli(0))
	hook := RateLimit(limits.New(limits.Options{Classes: map[string]limits.Class{"x": {PerSecond: 1, Burst: 1}}, Clock: now.Now}), nil)
	alice, bob := httpx.Caller{UserID: "@alice:x"}, httpx.Caller{UserID: "@bob:x"}
	for i, c := range []struct {
		caller httpx.Caller
		ip     string
		free   bool
	}{{alice, "1", true}, {bob, "1", true}, {alice, "2", false}, {httpx.Caller{}, "1", true}, {httpx.Caller{}, "1", false}, {httpx.Caller{Origin: "y"}, "1", true},
		{httpx.Caller{}, "2001:db8:1:2::1", true}, {httpx.Caller{}, "2001:db8:1:2:ffff::9", false}, {httpx.Caller{}, "2001:db8:1:3::1", true}} {
		if free := hook("x", c.caller, c.ip) == nil; free != c.free {
			t.Errorf("call %d: %v", i, free)
		}
	}
}
