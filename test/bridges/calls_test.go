package bridges

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"knock/cmd/knock/demo/lab"
	"knock/internal/sqldb"
	"knock/test/hstest"
)

// TestEveryCall has a node do everything that it may ask of application services, and compares that with the
// specification's list.
func TestEveryCall(t *testing.T) {
	s := hstest.New(t, sqldb.SQLite)
	mux := http.NewServeMux()
	var mu sync.Mutex
	called := map[string]bool{}
	arrived := make(chan struct{}, 100)
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	var want []string
	for _, line := range strings.Split(spec(t), "\n") {
		f := strings.Split(line, "\t")
		if len(f) < 4 || f[0] != "application-service" {
			continue
		}
		pattern := f[1] + " " + f[2]
		want = append(want, pattern)
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer "+hsToken {
				t.Errorf("%s comes with %q", pattern, r.Header.Get("Authorization"))
			}
			mu.Lock()
			called[pattern] = true
			mu.Unlock()
			select {
			case arrived <- struct{}{}:
			default:
			}
			_, _ = w.Write([]byte("{}"))
		})
	}
	file := filepath.Join(t.TempDir(), "irc.yaml")
	text := "id: irc\nurl: " + web.URL + "\nas_token: " + asToken + "\nhs_token: " + hsToken +
		"\nsender_localpart: ircbot\nprotocols: [irc]\nnamespaces:\n  users: [{exclusive: true, regex: \"@irc_.*\"}]\n  aliases: [{exclusive: true, regex: \"#irc_.*\"}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n := s.Start(server, "registration.mode=open", "app_service_files=["+file+"]")
	b := bot{t, n.Client()}
	b.c.Token = asToken
	b.as("", "POST", "/_matrix/client/v1/appservice/irc/ping", object{})
	b.as("", "POST", lab.V3("createRoom"), object{"preset": "public_chat"})
	alice := n.MustRegister("alice")
	third := lab.V3("thirdparty")
	for _, path := range []string{lab.V3("profile", "@irc_x:"+server), lab.V3("directory", "room", "#irc_x:"+server), third + "/protocol/irc", third + "/user/irc?nick=x",
		third + "/location/irc?channel=x", third + "/location?alias=" + url.QueryEscape("#irc_x:"+server), third + "/user?userid=" + url.QueryEscape("@irc_x:"+server)} {
		_ = alice.Call(t.Context(), "GET", path, nil, nil) // that the service is asked is what matters
	}
	all := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(called) == len(want)
	}
	for !all() {
		select {
		case <-arrived:
		case <-time.After(hstest.Patience):
			t.Fatalf("called %v of %v", called, want)
		}
	}
}

func spec(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../../docs/spec-endpoints.tsv")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
