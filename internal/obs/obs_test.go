package obs

import (
	"bytes"
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestLevels(t *testing.T) {
	var out bytes.Buffer
	logs, err := NewLogs(&out, LogOptions{Level: "warn", Levels: map[string]string{"http": "debug"}})
	if err != nil {
		t.Fatal(err)
	}
	http, sync := logs.Component("http"), logs.Component("sync")
	http.Debug("one")
	sync.Info("two")
	if err := logs.SetLevels(LogOptions{Level: "info"}); err != nil {
		t.Fatal(err)
	}
	http.Debug("three")
	sync.Info("four")
	if err := logs.SetLevels(LogOptions{Level: "loud"}); err == nil {
		t.Error("an unknown level is taken")
	}
	sync.Info("five")
	for word, want := range map[string]bool{"one": true, "two": false, "three": false, "four": true, "five": true, "part=http": true} {
		if got := strings.Contains(out.String(), word); got != want {
			t.Errorf("%q logged: %v", word, got)
		}
	}
}

func TestBadOptions(t *testing.T) {
	for _, o := range []LogOptions{{Format: "xml"}, {Level: "panic"}, {Levels: map[string]string{"a": "b"}}} {
		if _, err := NewLogs(&bytes.Buffer{}, o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

func TestPages(t *testing.T) {
	var broken error
	h := Handler(NewRegistry("1.2.3"), Check{"database", func(context.Context) error { return broken }})
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code, w.Body.String()
	}
	for _, c := range []struct {
		path   string
		broken error
		code   int
		want   string
	}{
		{"/metrics", nil, 200, `knock_build_info{version="1.2.3"} 1`},
		{"/_knock/health", errors.New("gone"), 200, "ok"},
		{"/_knock/ready", nil, 200, "ready"},
		{"/_knock/ready", errors.New("gone"), 503, `"database":"gone"`},
		{"/", nil, 404, ""},
	} {
		broken = c.broken
		if code, body := get(c.path); code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s", c.path, code, body)
		}
	}
}
