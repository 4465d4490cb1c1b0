package account

import (
	"strings"
	"testing"
	"time"
)

// confirmed begins and confirms a validation.
func confirmed(t *testing.T, s *Service, purpose, address string) Credentials {
	t.Helper()
	c := Credentials{ClientSecret: "secret"}
	sid, token, err := s.BeginValidation(t.Context(), ValidationRequest{Purpose: purpose, Address: address, ClientSecret: c.ClientSecret, Attempt: 1})
	want(t, err, "")
	_, err = s.ConfirmValidation(t.Context(), sid, token)
	want(t, err, "")
	c.SID = sid
	return c
}

func TestValidation(t *testing.T) {
	each(t, func(t *testing.T, s *Service, c *clock) {
		ctx := t.Context()
		q := ValidationRequest{Purpose: ToAdd, Address: "a@example.org", ClientSecret: "secret", Attempt: 1, NextLink: "https://app.example/"}
		for _, bad := range []string{"", "with space", "ü", strings.Repeat("x", 256)} {
			_, _, err := s.BeginValidation(ctx, ValidationRequest{Purpose: ToAdd, Address: q.Address, ClientSecret: bad})
			want(t, err, "M_INVALID_PARAM")
		}
		sid, lost, err := s.BeginValidation(ctx, q)
		want(t, err, "")
		again, token, err := s.BeginValidation(ctx, q) // the e-mail was not sent
		want(t, err, "")
		if again != sid || token == "" || token == lost {
			t.Errorf("%q %q after %q %q", again, token, sid, lost)
		}
		want(t, s.ValidationSent(ctx, sid, 1), "")
		again, none, err := s.BeginValidation(ctx, q)
		want(t, err, "")
		if again != sid || none != "" {
			t.Errorf("the same attempt again: %q %q", again, none)
		}
		other := q
		other.ClientSecret = "another"
		if id, _, _ := s.BeginValidation(ctx, other); id == sid {
			t.Error("two clients share a validation")
		}
		_, err = s.LookAtValidation(ctx, sid, lost)
		want(t, err, "M_TOKEN_INCORRECT")
		_, err = s.ConfirmValidation(ctx, "unknown", token)
		want(t, err, "M_SESSION_EXPIRED")
		v, err := s.LookAtValidation(ctx, sid, token)
		want(t, err, "")
		if v != (Validation{ToAdd, q.Address, q.NextLink}) {
			t.Errorf("%+v", v)
		}
		_, err = s.Validated(ctx, ToAdd, sid, "secret")
		want(t, err, "M_THREEPID_AUTH_FAILED") // looking is not confirming
		for range 2 {
			_, err = s.ConfirmValidation(ctx, sid, token)
			want(t, err, "")
		}
		for _, x := range []struct{ purpose, sid, secret, code string }{
			{ToAdd, sid, "secret", ""}, {ToReset, sid, "secret", "M_THREEPID_AUTH_FAILED"}, {ToAdd, sid, "another", "M_THREEPID_AUTH_FAILED"},
			{ToAdd, "x", "secret", "M_THREEPID_AUTH_FAILED"}, {ToAdd, "", "", "M_THREEPID_AUTH_FAILED"},
		} {
			_, err := s.Validated(ctx, x.purpose, x.sid, x.secret)
			want(t, err, x.code)
		}
		c.advance(ValidationLifetime)
		_, err = s.Validated(ctx, ToAdd, sid, "secret")
		want(t, err, "M_THREEPID_AUTH_FAILED")
		if id, token, _ := s.BeginValidation(ctx, q); id == sid || token == "" {
			t.Error("an old validation lives again")
		}
		c.advance(ValidationLifetime)
		want(t, s.pruneValidations(ctx), "")
		_, err = s.ConfirmValidation(ctx, sid, token)
		want(t, err, "M_SESSION_EXPIRED")
	})
}

func TestWrongTokensEndAValidation(t *testing.T) {
	each(t, func(t *testing.T, s *Service, _ *clock) {
		sid, token, err := s.BeginValidation(t.Context(), ValidationRequest{Purpose: ToAdd, Address: "a@b", ClientSecret: "s", Attempt: 1})
		want(t, err, "")
		for range maxWrongTokens {
			_, err = s.ConfirmValidation(t.Context(), sid, "wrong")
			want(t, err, "M_TOKEN_INCORRECT")
		}
		_, err = s.ConfirmValidation(t.Context(), sid, token)
		want(t, err, "M_SESSION_EXPIRED")
	})
}

func TestEmails(t *testing.T) {
	each(t, func(t *testing.T, s *Service, _ *clock) {
		ctx := t.Context()
		alice, bob := user(t, s, "alice").UserID, user(t, s, "bob").UserID
		mine := confirmed(t, s, ToAdd, "x@example.org")
		second := confirmed(t, s, ToRegister, "x@example.org")
		want(t, s.AddEmail(ctx, alice, mine.SID, mine.ClientSecret), "")
		want(t, s.AddEmail(ctx, bob, mine.SID, mine.ClientSecret), "M_THREEPID_AUTH_FAILED") // used up
		theirs := confirmed(t, s, ToAdd, "x@example.org")
		want(t, s.AddEmail(ctx, bob, theirs.SID, theirs.ClientSecret), "M_THREEPID_IN_USE")
		want(t, s.AddEmail(ctx, alice, theirs.SID, theirs.ClientSecret), "") // has it already
		_, err := s.CreateUser(ctx, NewUser{Username: "carol", Email: &second})
		want(t, err, "M_THREEPID_IN_USE")
		third := confirmed(t, s, ToRegister, "carol@example.org")
		_, err = s.CreateUser(ctx, NewUser{Username: "carol", Email: &third})
		want(t, err, "")
		_, err = s.CreateUser(ctx, NewUser{Username: "dave", Email: &third})
		want(t, err, "M_THREEPID_AUTH_FAILED")
		if found, err := s.Exists(ctx, "@dave:example.org"); found || err != nil {
			t.Error("an account without its address was made")
		}
		list, err := s.Threepids(ctx, alice)
		want(t, err, "")
		if len(list) != 1 || list[0] != (Threepid{MediumEmail, "x@example.org", 1_700_000_000_000, 1_700_000_000_000}) {
			t.Errorf("%+v", list)
		}
		for address, owner := range map[string]string{"x@example.org": alice, "carol@example.org": "@carol:example.org", "y@example.org": ""} {
			if got, err := s.UserByThreepid(ctx, MediumEmail, address); got != owner || err != nil {
				t.Errorf("%s belongs to %q, %v", address, got, err)
			}
		}
		want(t, s.DeleteThreepid(ctx, bob, MediumEmail, "x@example.org"), "")
		if list, _ := s.Threepids(ctx, alice); len(list) != 1 {
			t.Error("somebody else removed an address")
		}
		want(t, s.DeleteThreepid(ctx, alice, MediumEmail, "x@example.org"), "")
		if list, _ := s.Threepids(ctx, alice); len(list) != 0 {
			t.Errorf("%+v", list)
		}
		want(t, s.Deactivate(ctx, "@carol:example.org", false), "")
		if got, _ := s.UserByThreepid(ctx, MediumEmail, "carol@example.org"); got != "" {
			t.Error("a closed account has an address")
		}
	})
}

func TestResetPassword(t *testing.T) {
	each(t, func(t *testing.T, s *Service, c *clock) {
		ctx := t.Context()
		l := user(t, s, "alice")
		nobody := confirmed(t, s, ToReset, "alice@example.org")
		want(t, s.ResetPassword(ctx, nobody.SID, nobody.ClientSecret, "new password", true), "M_THREEPID_AUTH_FAILED")
		add := confirmed(t, s, ToAdd, "alice@example.org")
		want(t, s.AddEmail(ctx, l.UserID, add.SID, add.ClientSecret), "")
		c.advance(2 * time.Hour)
		wrong := confirmed(t, s, ToAdd, "alice@example.org")
		want(t, s.ResetPassword(ctx, wrong.SID, wrong.ClientSecret, "new password", true), "M_THREEPID_AUTH_FAILED")
		reset := confirmed(t, s, ToReset, "alice@example.org")
		want(t, s.SetLocked(ctx, l.UserID, true), "")
		want(t, s.ResetPassword(ctx, reset.SID, reset.ClientSecret, "new password", true), "M_USER_LOCKED")
		want(t, s.SetLocked(ctx, l.UserID, false), "")
		want(t, s.ResetPassword(ctx, reset.SID, reset.ClientSecret, "new password", true), "")
		want(t, s.ResetPassword(ctx, reset.SID, reset.ClientSecret, "another password", true), "M_THREEPID_AUTH_FAILED")
		_, err := s.Login(ctx, "alice", "new password", NewDevice{})
		want(t, err, "")
		_, err = auth(t, s, l.AccessToken)
		want(t, err, "M_UNKNOWN_TOKEN")
	})
}
