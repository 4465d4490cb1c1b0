package calls

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"knock/internal/httpx"
)

func ask(t *testing.T, o Options, caller httpx.Caller, path string) (code int, body map[string]any) {
	t.Helper()
	o.Now = func() time.Time { return time.Unix(1_700_000_000, 0) }
	router := httpx.NewRouter(New(o).Routes(), httpx.Hooks{Authenticate: func(context.Context, string, *httpx.Request) (httpx.Caller, error) {
		return caller, nil
	}})
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("Authorization", "Bearer t")
	w := httptest.NewRecorder()
	router.ServeHTTP(w, r)
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatal(err)
	}
	return w.Code, body
}

const turn = "/_matrix/client/v3/voip/turnServer"

// TestTURN checks the answers. The password of the shared secret was made with
// printf '1700003600:@alice:hs' | openssl dgst -sha1 -hmac 'shh' -binary | base64.
func TestTURN(t *testing.T) {
	alice, guest := httpx.Caller{UserID: "@alice:hs"}, httpx.Caller{UserID: "@1:hs", Guest: true}
	uris := []string{"turn:turn.hs:3478?transport=udp"}
	shared := TURN{URIs: uris, Secret: "shh", TTL: time.Hour}
	fixed := TURN{URIs: uris, User: "u", Password: "p", TTL: time.Minute, Guests: true}
	answer := func(user, password string, ttl float64) map[string]any {
		return map[string]any{"username": user, "password": password, "ttl": ttl, "uris": []any{uris[0]}}
	}
	for name, c := range map[string]struct {
		turn   TURN
		caller httpx.Caller
		want   map[string]any
	}{
		"none":          {TURN{}, alice, map[string]any{}},
		"shared secret": {shared, alice, answer("1700003600:@alice:hs", "aZXQmlZzp18esh0/VMtKfV+yp4w=", 3600)},
		"no guests":     {shared, guest, map[string]any{}},
		"fixed":         {fixed, alice, answer("u", "p", 60)},
		"guests":        {fixed, guest, answer("u", "p", 60)},
	} {
		code, got := ask(t, Options{TURN: c.turn}, c.caller, turn)
		if diff := cmp.Diff(c.want, got); code != 200 || diff != "" {
			t.Errorf("%s: %d %s", name, code, diff)
		}
	}
}

func TestTransports(t *testing.T) {
	alice := httpx.Caller{UserID: "@alice:hs"}
	for _, path := range []string{"/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", "/_matrix/client/v1/rtc/transports"} {
		code, got := ask(t, Options{LiveKit: []string{"https://a", "https://b"}}, alice, path)
		want := map[string]any{"rtc_transports": []any{
			map[string]any{"type": "livekit", "livekit_service_url": "https://a"},
			map[string]any{"type": "livekit", "livekit_service_url": "https://b"}}}
		if diff := cmp.Diff(want, got); code != 200 || diff != "" {
			t.Errorf("%s: %d %s", path, code, diff)
		}
		if _, got := ask(t, Options{}, alice, path); !cmp.Equal(got, map[string]any{"rtc_transports": []any{}}) {
			t.Errorf("without any: %v", got)
		}
		if code, _ := ask(t, Options{}, httpx.Caller{UserID: "@1:hs", Guest: true}, path); code != 403 {
			t.Errorf("a guest got %d", code)
		}
	}
}
