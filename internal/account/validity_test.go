package account

import (
	"context"
	"errors"
	"testing"
	"time"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
)

func TestValidity(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		c := &clock{time.UnixMilli(1_700_000_000_000)}
		o := Options{DB: db, Hub: stream.New(0), ServerName: "example.org", Now: c.now,
			Exclusive: func(id, service string) bool { return id == "@bot:example.org" && service != "bridge" }}
		before := New(o)
		user(t, before, "old")
		day := 24 * time.Hour
		o.Validity = Validity{Period: 30 * day, Remind: 7 * day}
		s := New(o)
		alice := user(t, s, "alice")
		boss, err := s.CreateUser(ctx, NewUser{Username: "boss", Admin: true, Device: &NewDevice{}})
		want(t, err, "")
		_, err = s.CreateUser(ctx, NewUser{Username: "bot", Service: "bridge"})
		want(t, err, "")
		c.advance(10 * day)
		want(t, s.limitOld(ctx), "")
		ends := map[string]time.Duration{"@alice:example.org": 20 * day, "@old:example.org": 30 * day, "@boss:example.org": 0, "@bot:example.org": 0}
		for id, left := range ends {
			u, err := s.User(ctx, id)
			want(t, err, "")
			if left != 0 && u.Expires != c.now().Add(left).UnixMilli() || left == 0 && u.Expires != 0 {
				t.Errorf("%s ends at %d", id, u.Expires)
			}
		}

		var told []Reminder
		var down error
		s.OnExpiry(func(_ context.Context, r Reminder) error {
			told = append(told, r)
			return down
		})
		add := confirmed(t, s, ToAdd, "alice@example.com")
		want(t, s.AddEmail(ctx, alice.UserID, add.SID, add.ClientSecret), "")
		want(t, s.RemindUsers(ctx), "")
		if len(told) != 0 {
			t.Errorf("told too early: %+v", told)
		}
		c.advance(13 * day)
		down = errors.New("down")
		if s.RemindUsers(ctx) == nil {
			t.Error("a failure was forgotten")
		}
		down = nil
		want(t, s.RemindUsers(ctx), "")
		want(t, s.RemindUsers(ctx), "")
		if len(told) != 2 || told[1].UserID != alice.UserID || told[1].Addresses[0] != "alice@example.com" || !told[1].Expires.Equal(c.now().Add(7*day)) {
			t.Fatalf("%+v", told)
		}
		if _, err := s.Renewable(ctx, told[0].Token); code(err) != "M_NOT_FOUND" {
			t.Error("the link of an e-mail that failed is good")
		}

		c.advance(7 * day)
		expired := func(token string, is bool) {
			t.Helper()
			id, err := auth(t, s, token)
			want(t, err, "")
			if id.Expired != is || id.Caller().Expired != is {
				t.Errorf("expired: %+v", id)
			}
		}
		expired(alice.AccessToken, true)
		expired(boss.AccessToken, false)
		_, err = s.Login(ctx, "alice", "pass of alice", NewDevice{})
		want(t, err, "ORG_MATRIX_EXPIRED_ACCOUNT")
		user, err := s.Renewable(ctx, told[1].Token)
		want(t, err, "")
		if user != alice.UserID {
			t.Error(user)
		}
		want(t, s.RenewByToken(ctx, told[1].Token), "")
		want(t, s.RenewByToken(ctx, told[1].Token), "M_NOT_FOUND")
		expired(alice.AccessToken, false)
		want(t, before.Renew(ctx, alice.UserID), "M_INVALID_PARAM")
		c.advance(30 * day)
		expired(alice.AccessToken, true)
		if id, err := auth(t, before, alice.AccessToken); err != nil || id.Expired {
			t.Error("accounts end although that is off")
		}
	})
}
