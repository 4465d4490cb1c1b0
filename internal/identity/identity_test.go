package identity_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"knock/internal/identity"
	"knock/internal/matrixerr"
	"knock/test/idserver"
)

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func code(err error) string {
	var e *matrixerr.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func TestLookup(t *testing.T) {
	s := idserver.New(t)
	c := identity.New(identity.Options{HTTP: s.Client(), Allowed: func(name string) bool { return name == s.Name }})
	who := identity.Account{Server: s.Name, Token: idserver.Token}
	s.Know("strauss@example.com", "@strauss:a")
	address := identity.Address{Medium: "email", Address: "Strauß@Example.com"}.Canonical()
	if user, err := c.Lookup(t.Context(), who, address); user != "@strauss:a" || err != nil {
		t.Errorf("%q %v", user, err)
	}
	if user, err := c.Lookup(t.Context(), who, identity.Address{Medium: "email", Address: "nobody@example.com"}); user != "" || err != nil {
		t.Errorf("%q %v", user, err)
	}
	s.Misbehave(says(200, `{"lookup_pepper":"old","algorithms":["sha256"]}`))
	if user, err := c.Lookup(t.Context(), who, address); user != "@strauss:a" || err != nil {
		t.Errorf("with a new pepper: %q %v", user, err)
	}
	s.PlainOnly()
	if user, err := c.Lookup(t.Context(), who, address); user != "@strauss:a" || err != nil {
		t.Errorf("in plain text: %q %v", user, err)
	}
	for name, c := range map[string]struct {
		got  error
		want string
	}{
		"another token": {lookup(t.Context(), c, s.Name, "x", nil), "M_FORBIDDEN"},
		"not allowed":   {lookup(t.Context(), c, "elsewhere", idserver.Token, nil), "M_SERVER_NOT_TRUSTED"},
		"terms":         {lookup(t.Context(), c, s.Name, idserver.Token, s, says(403, `{"errcode":"M_TERMS_NOT_SIGNED"}`)), "M_TERMS_NOT_SIGNED"},
		"no JSON":       {lookup(t.Context(), c, s.Name, idserver.Token, s, says(200, `<html>`)), "M_UNKNOWN"},
		"much":          {lookup(t.Context(), c, s.Name, idserver.Token, s, says(200, strings.Repeat(" ", 100_000)+"{}")), "M_UNKNOWN"},
		"a redirect":    {lookup(t.Context(), c, s.Name, idserver.Token, s, says(302, ``)), "M_UNKNOWN"},
	} {
		if code(c.got) != c.want {
			t.Errorf("%s: %v, want %s", name, c.got, c.want)
		}
	}
}

func lookup(ctx context.Context, c *identity.Client, server, token string, s *idserver.Server, odd ...http.HandlerFunc) error {
	if s != nil {
		s.Misbehave(odd...)
	}
	_, err := c.Lookup(ctx, identity.Account{Server: server, Token: token}, identity.Address{Medium: "email", Address: "x@example.com"})
	return err
}

func TestStore(t *testing.T) {
	s := idserver.New(t)
	c := identity.New(identity.Options{HTTP: s.Client()})
	who := identity.Account{Server: s.Name, Token: idserver.Token}
	i := identity.Invite{Medium: "email", Address: "x@example.com", RoomID: "!r:a", Sender: "@a:a"}
	stored, err := c.Store(t.Context(), who, i)
	if err != nil || stored.Token == "" || len(stored.PublicKeys) != 2 || stored.BoundTo != "" {
		t.Fatalf("%+v %v", stored, err)
	}
	if valid, err := c.KeyValid(t.Context(), stored.PublicKeys[0].ValidityURL, stored.PublicKeys[0].PublicKey); !valid || err != nil {
		t.Errorf("%v %v", valid, err)
	}
	for _, url := range []string{"http://" + s.Name, "https://user@" + s.Name, "file:///etc/passwd", ":", ""} {
		if valid, err := c.KeyValid(t.Context(), url, stored.PublicKeys[0].PublicKey); valid || err != nil {
			t.Errorf("%s: %v %v", url, valid, err)
		}
	}
	s.Know(i.Address, "@x:b")
	if stored, err = c.Store(t.Context(), who, i); err != nil || stored.BoundTo != "@x:b" {
		t.Errorf("%+v %v", stored, err)
	}
	for _, bad := range []string{`{}`, `{"token":"x","public_keys":[],"display_name":"x"}`, `{"token":"x","public_keys":[{"public_key":""}],"display_name":"x"}`,
		`{"token":"` + strings.Repeat("x", 256) + `","public_keys":[{"public_key":"x"}],"display_name":"x"}`} {
		s.Misbehave(says(200, bad))
		if _, err := c.Store(t.Context(), who, i); code(err) != "M_UNKNOWN" {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
