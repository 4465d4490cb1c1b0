package account

import (
	"context"
	"encoding/json"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
)

func TestWhoIgnoresWhom(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := New(Options{DB: db, Hub: stream.New(0), ServerName: "example.org"})
		ctx := context.Background()
		if _, err := s.CreateUser(ctx, NewUser{Username: "alice", Password: "a long password"}); err != nil {
			t.Fatal(err)
		}
		alice, spam := "@alice:"+s.ServerName(), "@spam:elsewhere"
		put := func(content string) {
			t.Helper()
			if err := s.PutAccountData(ctx, alice, "", "m.ignored_user_list", json.RawMessage(content)); err != nil {
				t.Fatal(err)
			}
		}
		put(`{"ignored_users":{"@spam:elsewhere":{},"` + alice + `":{}}}`)
		if !s.AnyoneIgnores(spam) || !s.Ignores(alice, spam) || s.AnyoneIgnores(alice) {
			t.Fatal("alice ignores the spammer, and cannot ignore herself")
		}
		again := New(Options{DB: db, Hub: stream.New(0), ServerName: "example.org"})
		if err := again.Load(ctx); err != nil || !again.Ignores(alice, spam) {
			t.Fatalf("after a start nobody ignores the spammer: %v", err)
		}
		put(`{"ignored_users":{}}`)
		if s.AnyoneIgnores(spam) {
			t.Fatal("alice stopped ignoring the spammer")
		}
	})
}
