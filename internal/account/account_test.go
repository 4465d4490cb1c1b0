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
	"golang.org/x/crypto/bcrypt"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
)

// clock is a time that only the test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) advance(d time.Duration) { c.t = c.t.Add(d) }

func each(t *testing.T, fn func(t *testing.T, s *Service, c *clock)) {
	t.Helper()
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		c := &clock{time.UnixMilli(1_700_000_000_000)}
		fn(t, New(Options{DB: db, Hub: stream.New(0), ServerName: "example.org", Now: c.now,
			AccessTokenLifetime: time.Minute, RefreshTokenLifetime: time.Hour,
			Exclusive: func(id, service string) bool { return strings.HasPrefix(id, "@bridge_") && service != "bridge" }}), c)
	})
}

func code(err error) string {
	var e *matrixerr.Error
	if errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		return "other: " + err.Error()
	}
	return ""
}

func want(t *testing.T, err error, wanted string) {
	t.Helper()
	if got := code(err); got != wanted {
		t.Fatalf("error %q, want %q (%v)", got, wanted, err)
	}
}

// user makes an account that is logged in on device D.
func user(t *testing.T, s *Service, name string) *Login {
	t.Helper()
	l, err := s.CreateUser(t.Context(), NewUser{Username: name, Password: "pass of " + name, Device: &NewDevice{ID: "D"}})
	want(t, err, "")
	return l
}

func auth(t *testing.T, s *Service, token string) (Identity, error) {
	t.Helper()
	return s.Authenticate(t.Context(), token, "203.0.113.7")
}

func TestNames(t *testing.T) {
	each(t, func(t *testing.T, s *Service, _ *clock) {
		user(t, s, "taken")
		for name, wanted := range map[string]string{
			"fine": "", "UPPER": "", "q3._=-/+": "", "taken": "M_USER_IN_USE", "TAKEN": "M_USER_IN_USE",
			"": "M_INVALID_USERNAME", "a b": "M_INVALID_USERNAME", "a:b": "M_INVALID_USERNAME", "é": "M_INVALID_USERNAME",
			"\u212a": "M_INVALID_USERNAME" /* Kelvin sign: not k */, "a\x00": "M_INVALID_USERNAME", "@a": "M_INVALID_USERNAME",
			strings.Repeat("a", 242): "", strings.Repeat("a", 243): "M_INVALID_USERNAME", "bridge_x": "M_EXCLUSIVE",
		} {
			_, err := s.Available(t.Context(), name)
			if got := code(err); got != wanted {
				t.Errorf("%q: %q, want %q", name, got, wanted)
			}
		}
		l, err := s.CreateUser(t.Context(), NewUser{Username: "MiXed"})
		want(t, err, "")
		if l.UserID != "@mixed:example.org" || l.AccessToken != "" {
			t.Errorf("created %+v", l)
		}
		named, err := s.CreateUser(t.Context(), NewUser{Username: "named", DisplayName: "A Name"})
		want(t, err, "")
		guest, err := s.CreateUser(t.Context(), NewUser{Guest: true})
		want(t, err, "")
		for id, wanted := range map[string]string{l.UserID: `"mixed"`, named.UserID: `"A Name"`, guest.UserID: ""} {
			if p, err := s.Profile(t.Context(), id); err != nil || string(p[FieldDisplayName]) != wanted {
				t.Errorf("%s is called %s, %v", id, p[FieldDisplayName], err)
			}
		}
		l, err = s.CreateUser(t.Context(), NewUser{})
		want(t, err, "")
		if local, ok := s.Localpart(l.UserID); !ok || len(local) != 16 {
			t.Errorf("made-up name %q", l.UserID)
		}
		for id, wanted := range map[string]bool{"@taken:example.org": true, "@nobody:example.org": false,
			"@taken:elsewhere.org": false, "taken": false, "": false} {
			if got, err := s.Exists(t.Context(), id); got != wanted || err != nil {
				t.Errorf("Exists(%q) = %v, %v", id, got, err)
			}
		}
	})
}

func TestConcurrentCreationMakesOneUser(t *testing.T) {
	each(t, func(t *testing.T, s *Service, _ *clock) {
		results := make(chan error)
		for range 8 {
			go func() {
				_, err := s.createUser(context.Background(), "same", NewUser{Device: &NewDevice{}})
				results <- err
			}()
		}
		made := 0
		for range 8 {
			if err := <-results; err == nil {
				made++
			} else if code(err) != "M_USER_IN_USE" {
				t.Error(err)
			}
		}
		if made != 1 {
			t.Errorf("%d users were made", made)
		}
	})
}

func TestLogin(t *testing.T) {
	each(t, func(t *testing.T, s *Service, _ *clock) {
		ctx := t.Context()
		user(t, s, "alice")
		for _, c := range []struct{ user, password, wanted string }{
			{"alice", "pass of alice", ""}, {"@alice:example.org", "pass of alice", ""},
			{"@ALICE:example.org", "pass of alice", ""}, {"alice", "wrong", "M_FORBIDDEN"},
			{"bob", "pass of bob", "M_FORBIDDEN"}, {"@alice:elsewhere.org", "pass of alice", "M_FORBIDDEN"},
			{"", "", "M_FORBIDDEN"}, {"alice", strings.Repeat("x", 10_000), "M_FORBIDDEN"},
		} {
			_, err := s.Login(ctx, c.user, c.password, NewDevice{})
			if got := code(err); got != c.wanted {
				t.Errorf("%q, %.20q: %q, want %q", c.user, c.password, got, c.wanted)
			}
		}
		_, err := s.Login(ctx, "alice", "pass of alice", NewDevice{ID: strings.Repeat("d", 256)})
		want(t, err, "M_INVALID_PARAM")

		first, err := s.Login(ctx, "alice", "pass of alice", NewDevice{ID: "PHONE", DisplayName: strings.Repeat("é", 200)})
		want(t, err, "")
		id, err := auth(t, s, first.AccessToken)
		want(t, err, "")
		again, err := s.Login(ctx, "alice", "pass of alice", NewDevice{ID: "PHONE", DisplayName: "other"})
		want(t, err, "")
		_, err = auth(t, s, first.AccessToken)
		want(t, err, "M_UNKNOWN_TOKEN")
		id2, err := auth(t, s, again.AccessToken)
		want(t, err, "")
		if id2 != id || id.UserID != "@alice:example.org" || id.DeviceID != "PHONE" || id.Session == 0 {
			t.Errorf("identities %+v and %+v", id, id2)
		}
		if d, _ := s.Device(ctx, id.UserID, "PHONE"); d.DisplayName != strings.Repeat("é", 128) {
			t.Errorf("display name %q", d.DisplayName)
		}
		if again.RefreshToken != "" || again.ExpiresIn != 0 || !strings.HasPrefix(again.AccessToken, "knk_") {
			t.Errorf("login %+v", again)
		}
	})
}

func TestBcryptIsAcceptedAndRehashed(t *testing.T) {
	each(t, func(t *testing.T, s *Service, _ *clock) {
		ctx := t.Context()
		user(t, s, "old")
		hash, err := bcrypt.GenerateFromPassword([]byte("imported"), bcrypt.MinCost)
		want(t, err, "")
		want(t, s.db.Do(ctx, &sqldb.Op{Name: "test", Write: func(tx *sqldb.Tx, _ int64) error {
			_, err := tx.Exec(userPassword, "old", hash)
			return err
		}}), "")
		_, err = s.VerifyPassword(ctx, "old", "wrong")
		want(t, err, "M_FORBIDDEN")
		for range 2 {
			_, err = s.VerifyPassword(ctx, "old", "imported")
			want(t, err, "")
		}
		if u, _ := s.User(ctx, "@old:example.org"); !strings.HasPrefix(u.password, "$argon2id$v=19$m=19456,t=2,p=1$") {
			t.Errorf("stored hash %q", u.password)
		}
	})
}

func TestRefresh(t *testing.T) {
	each(t, func(t *testing.T, s *Service, c *clock) {
		ctx := t.Context()
		user(t, s, "alice")
		l, err := s.Login(ctx, "alice", "pass of alice", NewDevice{Refresh: true})
		want(t, err, "")
		if l.ExpiresIn != time.Minute || !strings.HasPrefix(l.RefreshToken, "knr_") {
			t.Fatalf("login %+v", l)
		}
		_, err = auth(t, s, l.AccessToken)
		want(t, err, "")
		c.advance(time.Minute)
		_, err = auth(t, s, l.AccessToken)
		if e := matrixerr.From(err); e.Code != "M_UNKNOWN_TOKEN" || e.Fields["soft_logout"] != true {
			t.Errorf("expired token: %v %v", err, e.Fields)
		}
		lost, err := s.Refresh(ctx, l.RefreshToken)
		want(t, err, "")
		next, err := s.Refresh(ctx, l.RefreshToken) // the first answer did not arrive
		want(t, err, "")
		_, err = auth(t, s, lost.AccessToken)
		want(t, err, "M_UNKNOWN_TOKEN")
		id, err := auth(t, s, next.AccessToken) // ends the old refresh token
		want(t, err, "")
		if id.DeviceID != l.DeviceID {
			t.Errorf("device %q, was %q", id.DeviceID, l.DeviceID)
		}
		_, err = s.Refresh(ctx, l.RefreshToken)
		want(t, err, "M_UNKNOWN_TOKEN")
		third, err := s.Refresh(ctx, next.RefreshToken)
		want(t, err, "")
		fourth, err := s.Refresh(ctx, third.RefreshToken) // use of the refresh token counts too
		want(t, err, "")
		_, err = s.Refresh(ctx, next.RefreshToken)
		want(t, err, "M_UNKNOWN_TOKEN")
		_, err = auth(t, s, next.AccessToken)
		want(t, err, "M_UNKNOWN_TOKEN")
		c.advance(time.Hour)
		_, err = s.Refresh(ctx, fourth.RefreshToken)
		if e := matrixerr.From(err); e.Code != "M_UNKNOWN_TOKEN" || e.Fields["soft_logout"] != true {
			t.Errorf("expired refresh token: %v", err)
		}
		_, err = s.Refresh(ctx, "knr_nonsense")
		want(t, err, "M_UNKNOWN_TOKEN")
	})
}

func TestTokensEndAtOnce(t *testing.T) {
	for name, end := range map[string]func(s *Service, id Identity) error{
		"delete device": func(s *Service, id Identity) error {
			return s.DeleteDevices(context.Background(), id.UserID, "D", "unknown")
		},
		"delete all": func(s *Service, id Identity) error { return s.DeleteAllDevices(context.Background(), id.UserID, 0) },
		"password": func(s *Service, id Identity) error {
			return s.SetPassword(context.Background(), id.UserID, "another one", true, 0)
		},
		"deactivation": func(s *Service, id Identity) error { return s.Deactivate(context.Background(), id.UserID, false) },
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, s *Service, _ *clock) {
				alice, bob := user(t, s, "alice"), user(t, s, "bob")
				for range 2 { // loaded, then cached
					_, err := auth(t, s, bob.AccessToken)
					want(t, err, "")
				}
				id, err := auth(t, s, alice.AccessToken)
				want(t, err, "")
				want(t, end(s, id), "")
				_, err = auth(t, s, alice.AccessToken)
				want(t, err, "M_UNKNOWN_TOKEN")
				_, err = auth(t, s, bob.AccessToken)
				want(t, err, "")
			})
		})
	}
}

func TestPasswordChangeKeepsTheOwnSession(t *testing.T) {
	each(t, func(t *testing.T, s *Service, _ *clock) {
		ctx := t.Context()
		first := user(t, s, "alice")
		second, err := s.Login(ctx, "alice", "pass of alice", NewDevice{})
		want(t, err, "")
		id, err := auth(t, s, first.AccessToken)
		want(t, err, "")
		want(t, s.SetPassword(ctx, id.UserID, "new password", false, id.Session), "")
		_, err = auth(t, s, second.AccessToken)
		want(t, err, "")
		want(t, s.SetPassword(ctx, id.UserID, "newer password", true, id.Session), "")
		_, err = auth(t, s, second.AccessToken)
		want(t, err, "M_UNKNOWN_TOKEN")
		_, err = auth(t, s, first.AccessToken)
		want(t, err, "")
		_, err = s.Login(ctx, "alice", "new password", NewDevice{})
		want(t, err, "M_FORBIDDEN")
		_, err = s.Login(ctx, "alice", "newer password", NewDevice{})
		want(t, err, "")
		want(t, s.SetPassword(ctx, "@nobody:example.org", "x", true, 0), "M_NOT_FOUND")
		want(t, s.SetPassword(ctx, "@alice:elsewhere.org", "x", true, 0), "M_NOT_FOUND")
		want(t, s.CheckNewPassword("ünter8c"), "M_WEAK_PASSWORD")
		want(t, s.CheckNewPassword("acht ist"), "")
	})
}

func TestAdminReachesCachedTokens(t *testing.T) {
	each(t, func(t *testing.T, s *Service, _ *clock) {
		l := user(t, s, "alice")
		for _, admin := range []bool{false, true, false} {
			want(t, s.SetAdmin(t.Context(), l.UserID, admin), "")
			id, err := auth(t, s, l.AccessToken)
			if want(t, err, ""); id.Admin != admin {
				t.Errorf("admin %v, want %v", id.Admin, admin)
			}
		}
	})
}

type told []string

func (f *told) ProfileChanging(_ *sqldb.Tx, user, field string) error {
	*f = append(*f, fmt.Sprintf("%s %s changing", user, field))
	return nil
}

func (f *told) ProfileChanged(_ context.Context, user, field string, value json.RawMessage) error {
	*f = append(*f, fmt.Sprintf("%s %s %s", user, field, value))
	return nil
}

func (f *told) UserDeactivating(_ *sqldb.Tx, user string) error {
	*f = append(*f, user+" deactivating")
	return nil
}

func (f *told) UserDeactivated(_ context.Context, user string, erase bool) error {
	*f = append(*f, fmt.Sprintf("%s deactivated %v", user, erase))
	return errors.New("later")
}

func TestDeactivate(t *testing.T) {
	each(t, func(t *testing.T, s *Service, _ *clock) {
		ctx := t.Context()
		var told told
		s.OnDeactivate(&told)
		for name, erase := range map[string]bool{"kept": false, "gone": true} {
			l := user(t, s, name)
			want(t, s.SetProfileField(ctx, l.UserID, "displayname", json.RawMessage(`"N"`)), "")
			want(t, s.PutAccountData(ctx, l.UserID, "", "x.y", json.RawMessage(`{"a":1}`)), "")
			openID, _, err := s.OpenIDToken(ctx, l.UserID)
			want(t, err, "")
			want(t, s.Deactivate(ctx, l.UserID, erase), "")
			want(t, s.Deactivate(ctx, l.UserID, erase), "M_USER_DEACTIVATED")
			_, err = s.OpenIDUser(ctx, openID)
			want(t, err, "M_UNKNOWN_TOKEN")
			_, err = s.Login(ctx, name, "wrong", NewDevice{})
			want(t, err, "M_FORBIDDEN")
			_, err = s.Login(ctx, name, "pass of "+name, NewDevice{})
			want(t, err, map[bool]string{false: "M_USER_DEACTIVATED", true: "M_FORBIDDEN"}[erase])
			_, err = s.LoginTrusted(ctx, name, NewDevice{})
			want(t, err, "M_USER_DEACTIVATED")
			_, err = s.CreateUser(ctx, NewUser{Username: name})
			want(t, err, "M_USER_IN_USE")
			p, err := s.Profile(ctx, l.UserID)
			if want(t, err, ""); (len(p) == 0) != erase {
				t.Errorf("profile %s", p)
			}
			_, err = s.AccountData(ctx, l.UserID, "", "x.y")
			want(t, err, map[bool]string{false: "", true: "M_NOT_FOUND"}[erase])
			for range 2 { // at once, and after a start
				if pos, erased := s.Erased(l.UserID); erased != erase || (pos > 0) != erase {
					t.Errorf("erased %v at %d, want %v", erased, pos, erase)
				}
				want(t, s.loadErasures(ctx), "")
			}
			if u, _ := s.User(ctx, l.UserID); !u.Deactivated || u.Erased != erase {
				t.Errorf("user %+v", u)
			}
		}
		if len(told) != 4 || !strings.HasSuffix(told[0], " deactivating") {
			t.Errorf("told %q", told)
		}
	})
}

func TestDevices(t *testing.T) {
	each(t, func(t *testing.T, s *Service, c *clock) {
		ctx := t.Context()
		l := user(t, s, "alice")
		other, err := s.Login(ctx, "alice", "pass of alice", NewDevice{ID: "E", DisplayName: "phone", IP: "192.0.2.1"})
		want(t, err, "")
		want(t, s.RenameDevice(ctx, l.UserID, "D", "desk"), "")
		want(t, s.RenameDevice(ctx, l.UserID, "X", "desk"), "M_NOT_FOUND")
		want(t, s.RenameDevice(ctx, l.UserID, "D", strings.Repeat("x", 257)), "M_INVALID_PARAM")
		c.advance(10 * time.Minute)
		_, err = auth(t, s, l.AccessToken)
		want(t, err, "")
		for range 2 { // before and after it is written down
			got, err := s.Devices(ctx, l.UserID)
			want(t, err, "")
			for i := range got {
				got[i].number = 0
			}
			if diff := cmp.Diff([]Device{{ID: "D", DisplayName: "desk", LastSeenIP: "203.0.113.7", LastSeenTS: c.t.UnixMilli()},
				{ID: "E", DisplayName: "phone", LastSeenIP: "192.0.2.1", LastSeenTS: c.t.UnixMilli() - 600_000}}, got,
				cmp.AllowUnexported(Device{})); diff != "" {
				t.Error(diff)
			}
			want(t, s.flushSeen(ctx), "")
		}
		_, err = s.Device(ctx, l.UserID, "X")
		want(t, err, "M_NOT_FOUND")
		for _, device := range []string{"D", "E"} {
			want(t, s.PutAccountData(ctx, l.UserID, "", "org.matrix.msc3890.local_notification_settings."+device, json.RawMessage(`{"is_silenced":true}`)), "")
		}
		before := s.o.Hub.LastUser(l.UserID)
		want(t, s.DeleteDevices(ctx, l.UserID, "E"), "")
		if s.o.Hub.LastUser(l.UserID) <= before {
			t.Error("nobody is told that the settings of a device are gone")
		}
		_, err = s.AccountData(ctx, l.UserID, "", "org.matrix.msc3890.local_notification_settings.D")
		want(t, err, "")
		_, err = s.AccountData(ctx, l.UserID, "", "org.matrix.msc3890.local_notification_settings.E")
		want(t, err, "M_NOT_FOUND")
		_, err = s.Device(ctx, l.UserID, "E")
		want(t, err, "M_NOT_FOUND")
		_, err = auth(t, s, other.AccessToken)
		want(t, err, "M_UNKNOWN_TOKEN")
		want(t, s.DeleteDevices(ctx, l.UserID), "")
	})
}

func TestRegistrationTokens(t *testing.T) {
	each(t, func(t *testing.T, s *Service, c *clock) {
		ctx := t.Context()
		two := int64(2)
		made, err := s.CreateRegistrationToken(ctx, RegistrationToken{})
		if want(t, err, ""); !validOpaque(made, 64) {
			t.Errorf("made %q", made)
		}
		_, err = s.CreateRegistrationToken(ctx, RegistrationToken{Token: "two", UsesAllowed: &two})
		want(t, err, "")
		_, err = s.CreateRegistrationToken(ctx, RegistrationToken{Token: "two"})
		want(t, err, "M_INVALID_PARAM")
		_, err = s.CreateRegistrationToken(ctx, RegistrationToken{Token: "with space"})
		want(t, err, "M_INVALID_PARAM")
		_, err = s.CreateRegistrationToken(ctx, RegistrationToken{Token: "short", Expires: c.t.Add(time.Hour)})
		want(t, err, "")

		release, ok, err := s.ReserveRegistrationToken(ctx, "two")
		if want(t, err, ""); !ok {
			t.Fatal("two: not reserved")
		}
		_, err = s.CreateUser(ctx, NewUser{RegistrationToken: "two"})
		want(t, err, "")
		if valid, _ := s.RegistrationTokenValid(ctx, "two"); valid {
			t.Error("two is valid with one use completed and one pending")
		}
		release()
		release()
		if valid, _ := s.RegistrationTokenValid(ctx, "two"); !valid {
			t.Error("two is not valid with one use left")
		}
		_, err = s.CreateUser(ctx, NewUser{RegistrationToken: "two"})
		want(t, err, "")
		_, err = s.CreateUser(ctx, NewUser{Username: "refused", RegistrationToken: "two"})
		want(t, err, "M_FORBIDDEN")
		if there, _ := s.Exists(ctx, "@refused:example.org"); there {
			t.Error("a refused registration made a user")
		}
		c.advance(time.Hour)
		for token, wanted := range map[string]bool{made: true, "two": false, "short": false, "never": false, "": false, "a b": false} {
			if got, err := s.RegistrationTokenValid(ctx, token); got != wanted || err != nil {
				t.Errorf("%q: valid %v, %v", token, got, err)
			}
		}
		list, err := s.RegistrationTokens(ctx)
		if want(t, err, ""); len(list) != 3 {
			t.Errorf("list %+v", list)
		}
		want(t, s.DeleteRegistrationToken(ctx, "two"), "")
		want(t, s.DeleteRegistrationToken(ctx, "two"), "M_NOT_FOUND")
	})
}

func TestProfile(t *testing.T) {
	each(t, func(t *testing.T, s *Service, _ *clock) {
		ctx := t.Context()
		id := user(t, s, "alice").UserID
		var told told
		s.OnProfileChange(&told)
		long := `"` + strings.Repeat("x", 60_000) + `"`
		for _, c := range []struct{ key, value, wanted string }{
			{"displayname", `"Alice ☃"`, ""}, {"avatar_url", `"mxc://example.org/a"`, ""}, {"m.tz", `"Europe/London"`, ""},
			{"com.example.x-y", ` { "a" : [ 1 ] } `, ""}, {"com.example.null", `null`, ""}, {"com.example.long", long, ""},
			{"com.example.more", long, "M_PROFILE_TOO_LARGE"}, {"com.example.more", `"` + strings.Repeat("x", 70_000) + `"`, "M_PROFILE_TOO_LARGE"},
			{"displayname", `null`, "M_BAD_JSON"}, {"displayname", `1`, "M_BAD_JSON"}, {"avatar_url", `{}`, "M_BAD_JSON"},
			{"displayname", `"` + strings.Repeat("é", 257) + `"`, "M_INVALID_PARAM"}, {"com.example.bad", `{`, "M_BAD_JSON"},
			{"com.example.bad", "\"\xff\"", "M_BAD_JSON"}, {"a." + strings.Repeat("a", 254), `1`, "M_KEY_TOO_LARGE"},
			{"a." + strings.Repeat("a", 253), `1`, ""}, {"", `1`, "M_INVALID_PARAM"}, {"nonamespace", `1`, "M_INVALID_PARAM"},
			{"A.b", `1`, "M_INVALID_PARAM"}, {"a.é", `1`, "M_INVALID_PARAM"}, {"avatar_url", `""`, ""},
		} {
			if got := code(s.SetProfileField(ctx, id, c.key, json.RawMessage(c.value))); got != c.wanted {
				t.Errorf("%.30s = %.30s: %q, want %q", c.key, c.value, got, c.wanted)
			}
		}
		want(t, s.DeleteProfileField(ctx, id, "com.example.long"), "")
		want(t, s.DeleteProfileField(ctx, id, "com.example.unknown"), "")
		p, err := s.Profile(ctx, id)
		want(t, err, "")
		delete(p, "a."+strings.Repeat("a", 253))
		if diff := cmp.Diff(map[string]json.RawMessage{"displayname": []byte(`"Alice ☃"`), "m.tz": []byte(`"Europe/London"`),
			"com.example.x-y": []byte(`{"a":[1]}`), "com.example.null": []byte("null")}, p); diff != "" {
			t.Error(diff)
		}
		if len(told) != 20 || told[0] != id+" displayname changing" || told[1] != id+` displayname "Alice ☃"` || told[15] != id+" avatar_url " {
			t.Errorf("told %.60q", told)
		}
		_, err = s.Profile(ctx, "@nobody:example.org")
		want(t, err, "M_NOT_FOUND")
		want(t, s.SetProfileField(ctx, "@nobody:example.org", "m.tz", json.RawMessage(`"UTC"`)), "M_NOT_FOUND")
	})
}

func TestAccountData(t *testing.T) {
	each(t, func(t *testing.T, s *Service, _ *clock) {
		ctx := t.Context()
		id, other := user(t, s, "alice").UserID, user(t, s, "bob").UserID
		const room = "!r:example.org"
		want(t, s.PutAccountData(ctx, id, "", "x.a", json.RawMessage(`{ "v": 1 }`)), "")
		want(t, s.PutAccountData(ctx, id, room, "x.a", json.RawMessage(`{"v":2}`)), "")
		want(t, s.PutAccountData(ctx, id, "", "x.b", json.RawMessage(`{"v":3}`)), "")
		want(t, s.PutAccountData(ctx, other, "", "x.a", json.RawMessage(`{"v":4}`)), "")
		want(t, s.PutAccountData(ctx, id, "", "x.a", json.RawMessage(`{"v":5}`)), "")
		want(t, s.PutAccountData(ctx, id, "", strings.Repeat("x", 256), json.RawMessage(`{}`)), "M_INVALID_PARAM")
		want(t, s.PutAccountData(ctx, id, "", "", json.RawMessage(`{}`)), "M_INVALID_PARAM")
		want(t, s.PutAccountData(ctx, "@nobody:example.org", "", "x", json.RawMessage(`{}`)), "M_NOT_FOUND")
		got, err := s.AccountData(ctx, id, "", "x.a")
		if want(t, err, ""); string(got) != `{"v":5}` {
			t.Errorf("content %s", got)
		}
		_, err = s.AccountData(ctx, id, room, "x.b")
		want(t, err, "M_NOT_FOUND")

		since := func(from, to int64) (out []string) {
			t.Helper()
			want(t, s.db.Read(ctx, func(tx *sqldb.Tx) error {
				all, err := s.AccountDataSince(tx, id, from, to)
				for _, d := range all {
					out = append(out, d.Room+" "+d.Type+" "+string(d.Content))
				}
				return err
			}), "")
			return out
		}
		head := func() int64 { return s.o.Hub.LastUser(id) }
		all := []string{room + ` x.a {"v":2}`, ` x.b {"v":3}`, ` x.a {"v":5}`}
		if diff := cmp.Diff(all, since(0, head())); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(all[:2], since(0, head()-1)); diff != "" {
			t.Error(diff)
		}
		before := head()
		want(t, s.DeleteAccountData(ctx, id, "", "x.b"), "")
		want(t, s.DeleteAccountData(ctx, id, "", "x.never"), "")
		if diff := cmp.Diff([]string{" x.b {}"}, since(before, head())); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{all[0], all[2]}, since(0, head())); diff != "" {
			t.Error(diff)
		}
		_, err = s.AccountData(ctx, id, "", "x.b")
		want(t, err, "M_NOT_FOUND")
	})
}

func TestTags(t *testing.T) {
	each(t, func(t *testing.T, s *Service, _ *clock) {
		ctx := t.Context()
		id := user(t, s, "alice").UserID
		const room = "!r:example.org"
		done := make(chan error)
		for i := range 10 { // none of them may get lost
			go func() {
				done <- s.SetTag(ctx, id, room, fmt.Sprintf("u.%d", i), json.RawMessage(`{"order":0.5}`))
			}()
		}
		for range 10 {
			want(t, <-done, "")
		}
		want(t, s.DeleteTag(ctx, id, room, "u.3"), "")
		want(t, s.DeleteTag(ctx, id, room, "u.never"), "")
		want(t, s.DeleteTag(ctx, id, "!other:example.org", "u.never"), "")
		want(t, s.SetTag(ctx, id, room, strings.Repeat("x", 256), json.RawMessage(`{}`)), "M_INVALID_PARAM")
		want(t, s.SetTag(ctx, id, room, "u.large", json.RawMessage(`{"x":"`+strings.Repeat("x", 1<<16)+`"}`)), "M_TOO_LARGE")
		tags, err := s.Tags(ctx, id, room)
		if want(t, err, ""); len(tags) != 9 || string(tags["u.1"]) != `{"order":0.5}` {
			t.Errorf("tags %s", tags)
		}
		tags, err = s.Tags(ctx, id, "!other:example.org")
		if want(t, err, ""); tags == nil || len(tags) != 0 {
			t.Errorf("tags of another room %s", tags)
		}
		want(t, s.CopyTags(ctx, id, "!other:example.org", room), "")
		want(t, s.CopyTags(ctx, id, room, "!new:example.org"), "")
		want(t, s.SetTag(ctx, id, "!tagged:example.org", "u.mine", json.RawMessage(`{}`)), "")
		want(t, s.CopyTags(ctx, id, room, "!tagged:example.org"), "")
		for to, wanted := range map[string]int{room: 9, "!new:example.org": 9, "!tagged:example.org": 1} {
			if tags, err := s.Tags(ctx, id, to); err != nil || len(tags) != wanted {
				t.Errorf("%s has the tags %s, %v", to, tags, err)
			}
		}
	})
}

func TestIgnoredUsers(t *testing.T) {
	each(t, func(t *testing.T, s *Service, _ *clock) {
		ctx := t.Context()
		id := user(t, s, "alice").UserID
		for content, wanted := range map[string]int{`{"ignored_users":{"@a:b":{},"@c:d":{},"@alice:example.org":{}}}`: 2,
			`{}`: 0, `{"ignored_users":[]}`: 0, `{"ignored_users":{"@e:f":{}}}`: 1} {
			want(t, s.PutAccountData(ctx, id, "", typeIgnored, json.RawMessage(content)), "")
			for range 2 {
				set, err := s.IgnoredUsers(ctx, id)
				if want(t, err, ""); len(set) != wanted {
					t.Errorf("%s: %v", content, set)
				}
			}
		}
		set, err := s.IgnoredUsers(ctx, "@remote:elsewhere.org")
		if want(t, err, ""); set != nil {
			t.Error(set)
		}
	})
}

func TestOpenID(t *testing.T) {
	each(t, func(t *testing.T, s *Service, c *clock) {
		ctx := t.Context()
		l := user(t, s, "alice")
		token, lifetime, err := s.OpenIDToken(ctx, l.UserID)
		want(t, err, "")
		who, err := s.OpenIDUser(ctx, token)
		if want(t, err, ""); who != l.UserID {
			t.Errorf("user %q", who)
		}
		_, err = auth(t, s, token)
		want(t, err, "M_UNKNOWN_TOKEN")
		_, err = s.OpenIDUser(ctx, l.AccessToken)
		want(t, err, "M_UNKNOWN_TOKEN")
		c.advance(lifetime)
		_, err = s.OpenIDUser(ctx, token)
		want(t, err, "M_UNKNOWN_TOKEN")
		want(t, s.pruneOpenID(ctx), "")
	})
}

func TestRunWritesDownAtTheEnd(t *testing.T) {
	each(t, func(t *testing.T, s *Service, c *clock) {
		l := user(t, s, "alice")
		c.advance(time.Hour)
		_, err := auth(t, s, l.AccessToken)
		want(t, err, "")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		want(t, s.Run(ctx), "")
		if d, _ := s.Device(t.Context(), l.UserID, "D"); d.LastSeenTS != c.t.UnixMilli() || len(s.seen.m) != 0 {
			t.Errorf("device %+v", d)
		}
	})
}

func TestStatementsPrepare(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) { want(t, db.PrepareAll(t.Context()), "") })
}

func BenchmarkAuthenticateCached(b *testing.B) {
	db := sqldbtest.Open(b, sqldb.SQLite)
	s := New(Options{DB: db, Hub: stream.New(0), ServerName: "example.org"})
	l, err := s.CreateUser(b.Context(), NewUser{Username: "alice", Device: &NewDevice{}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Authenticate(b.Context(), l.AccessToken, "203.0.113.7"); err != nil {
			b.Fatal(err)
		}
	}
}
