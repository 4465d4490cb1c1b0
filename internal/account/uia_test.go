package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"knock/internal/matrixerr"
)

// verdicts let a stage pass when its auth dictionary says so.
func verdicts(_ context.Context, _ *UIASession, _ string, auth json.RawMessage) error {
	var a struct {
		Pass *bool `json:"pass"`
	}
	_ = json.Unmarshal(auth, &a)
	switch {
	case a.Pass == nil:
		return matrixerr.Forbidden("never")
	case *a.Pass:
		return nil
	}
	return matrixerr.New(401, "M_FORBIDDEN", "try again")
}

func TestUIA(t *testing.T) {
	c := &clock{time.UnixMilli(1)}
	u := NewUIA(c.now)
	flows := [][]string{{"a", "b"}, {"a", "c"}}
	session := ""
	try := func(operation, auth string) (completed []string, outcome string) {
		s, err := u.Authorize(context.Background(), UIARequest{Operation: operation, UserID: "@u:x", Flows: flows,
			Auth: json.RawMessage(auth), Verify: verdicts})
		var more *UIAChallenge
		switch {
		case err == nil:
			session = s.id
			s.Leave()
			return nil, "done"
		case errors.As(err, &more) && more.Cause != nil:
			session = more.Session
			return more.Completed, more.Cause.Code
		case errors.As(err, &more):
			session = more.Session
			return more.Completed, "more"
		}
		return nil, "ended " + code(err)
	}
	for i, step := range []struct {
		operation, auth, wanted string // %s in auth is the last session
		completed               []string
	}{
		{"op", ``, "more", nil},
		{"op", `null`, "more", nil},
		{"op", `{"type":"b","session":"%s","pass":true}`, "M_UNKNOWN", nil}, // not first
		{"op", `{"type":"a","session":"%s","pass":false}`, "M_FORBIDDEN", nil},
		{"op", `{"type":"a","session":"%s"}`, "ended M_FORBIDDEN", nil},
		{"op", `{"type":"a","session":"%s","pass":true}`, "more", []string{"a"}},
		{"op", `{"type":"a","session":"%s","pass":false}`, "more", []string{"a"}}, // not retried
		{"op", `{"session":"%s"}`, "more", []string{"a"}},
		{"other", `{"type":"b","session":"%s","pass":true}`, "M_UNKNOWN", nil}, // another operation
		{"op", `{"type":"a","pass":true}`, "more", []string{"a"}},              // without a session
		{"op", `{"type":"c","session":"%s","pass":true}`, "done", nil},
		{"op", `{"session":"%s"}`, "done", nil}, // until Done
		{"op", `[]`, "ended M_BAD_JSON", nil},
		{"op", `{"type":1}`, "ended M_BAD_JSON", nil},
	} {
		auth := step.auth
		if len(auth) > 4 && auth[0] == '{' {
			auth = replaceSession(auth, session)
		}
		completed, outcome := try(step.operation, auth)
		if outcome != step.wanted || !cmp.Equal(completed, step.completed) {
			t.Fatalf("step %d: %s %v, want %s %v", i, outcome, completed, step.wanted, step.completed)
		}
	}
	c.advance(uiaLifetime)
	if _, outcome := try("op", replaceSession(`{"session":"%s"}`, session)); outcome != "M_UNKNOWN" {
		t.Errorf("an old session: %s", outcome)
	}
}

func replaceSession(auth, session string) string {
	var m map[string]any
	if json.Unmarshal([]byte(auth), &m) != nil || m["session"] != "%s" {
		return auth
	}
	m["session"] = session
	out, _ := json.Marshal(m)
	return string(out)
}

func TestUIASessionsAreBoundedAndEnd(t *testing.T) {
	c := &clock{time.UnixMilli(1)}
	u := NewUIA(c.now)
	ended := 0
	keep := func(_ context.Context, s *UIASession, _ string, _ json.RawMessage) error {
		s.Keep("k", "v", func() { ended++ })
		return nil
	}
	var last *UIASession
	for i := range maxUIASessions + 5 {
		s, err := u.Authorize(context.Background(), UIARequest{Operation: fmt.Sprint(i), Flows: [][]string{{"a"}},
			Auth: json.RawMessage(`{"type":"a"}`), Verify: keep})
		if err != nil || s.Value("k") != "v" {
			t.Fatal(err)
		}
		last = s
	}
	if len(u.sessions) != maxUIASessions || u.order.Len() != maxUIASessions || ended != 5 {
		t.Errorf("%d sessions, %d ended", len(u.sessions), ended)
	}
	last.Done()
	last.Done()
	if ended != 6 {
		t.Errorf("%d ended after Done", ended)
	}
	c.advance(uiaLifetime)
	u.begin(UIARequest{})
	if len(u.sessions) != 1 || ended != maxUIASessions+5 {
		t.Errorf("%d sessions, %d ended after their lifetime", len(u.sessions), ended)
	}
	last.Keep("k", "v", func() { ended++ }) // too late: undone at once
	if ended != maxUIASessions+6 {
		t.Errorf("%d ended", ended)
	}
}

// TestUIASessionsAreSmall: what a client sends is not kept, however much it is, and nobody crowds out the others.
func TestUIASessionsAreSmall(t *testing.T) {
	u := NewUIA(nil)
	long := strings.Repeat("x", 1<<20)
	ask := func(operation, userID, auth string) (session string, err error) {
		s, err := u.Authorize(t.Context(), UIARequest{Operation: operation, UserID: userID, Flows: [][]string{{"a"}}, Auth: json.RawMessage(auth), Verify: verdicts})
		var more *UIAChallenge
		if errors.As(err, &more) {
			return more.Session, err
		}
		if s != nil {
			s.Leave()
		}
		return "", err
	}
	session, _ := ask("op\x00"+long, "@u:x", `{"type":"a","pass":false,"more":"`+long+`"}`)
	s := u.Session(session)
	if size := len(s.operation) + len(s.latest.Operation) + len(s.latest.Auth); size > 4096 {
		t.Errorf("a session keeps %d bytes", size)
	}
	pass := fmt.Sprintf(`{"type":"a","pass":true,"session":%q}`, session)
	if _, err := ask("op\x00"+long+"y", "@u:x", pass); err == nil {
		t.Error("a session is good for another long operation")
	}
	if _, err := ask("op\x00"+long, "@u:x", pass); err != nil {
		t.Error(err)
	}
	other, _ := ask("op", "@other:x", "")
	for i := range maxUserSessions + 10 {
		session, _ = ask(fmt.Sprint(i), "@u:x", "")
	}
	if len(u.sessions) != maxUserSessions+1 || u.order.Len() != maxUserSessions+1 || u.Session(other) == nil || u.Session(session) == nil {
		t.Errorf("%d sessions, other %v", len(u.sessions), u.Session(other))
	}
}

// TestUIATurns: a session is one request's at a time, and nobody's once its operation is done.
func TestUIATurns(t *testing.T) {
	u := NewUIA(nil)
	r := UIARequest{Operation: "op", Flows: [][]string{{"a"}}, Auth: json.RawMessage(`{"type":"a","pass":true}`), Verify: verdicts}
	s, err := u.Authorize(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	r.Auth = json.RawMessage(fmt.Sprintf(`{"session":%q}`, s.id))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := u.Authorize(gone, r); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	s.Leave() // the operation failed
	if s, err = u.Authorize(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	second := make(chan error)
	go func() {
		_, err := u.Authorize(context.WithoutCancel(t.Context()), r)
		second <- err
	}()
	s.Done()
	s.Leave()
	var more *UIAChallenge
	if err := <-second; !errors.As(err, &more) || more.Session == s.id {
		t.Error(err)
	}
}

func FuzzUIAAuth(f *testing.F) {
	for _, s := range []string{``, `null`, `{}`, `{"type":"m.login.dummy"}`, `{"session":1}`, `[`, `{"type":"a","pass":true}`} {
		f.Add([]byte(s))
	}
	u := NewUIA(nil)
	f.Fuzz(func(t *testing.T, auth []byte) {
		s, err := u.Authorize(context.Background(), UIARequest{Operation: "op", Flows: [][]string{{"a"}, {"b", "c"}},
			Auth: auth, Verify: verdicts})
		if s != nil {
			s.Leave()
		}
		var more *UIAChallenge
		var known *matrixerr.Error
		if err != nil && !errors.As(err, &more) && !errors.As(err, &known) {
			t.Fatal(err)
		}
		if more != nil {
			if _, err := json.Marshal(more.Body()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzParseArgon(f *testing.F) {
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=4294967295,t=1,p=255$$")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseArgon(s)
		if err != nil {
			return
		}
		b, err := parseArgon(a.String())
		if err != nil || b.String() != a.String() {
			t.Fatalf("%q: %v", a.String(), err)
		}
	})
}

func FuzzLocalpart(f *testing.F) {
	f.Add("@alice:example.org")
	f.Add("@:example.org")
	s := &Service{suffix: ":example.org"}
	f.Fuzz(func(t *testing.T, id string) {
		if local, ok := s.Localpart(id); ok && s.userID(local) != id {
			t.Fatalf("%q became %q", id, local)
		}
		if local, err := s.Canonical(id); err == nil {
			if again, err := s.Canonical(local); err != nil || again != local {
				t.Fatalf("%q is not canonical", local)
			}
		}
	})
}
