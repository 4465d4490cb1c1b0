package journeys

import (
	"context"
	"net/url"
	"slices"
	"testing"
	"time"

	"knock/cmd/knock/demo/lab"
	"knock/internal/sqldb"
	"knock/test/hstest"
)

var followedLists = sqldb.Register("journeys.followedLists", `SELECT user_id FROM e2ee_remote`)

// followed are the users of other servers whose device lists a node keeps.
func followed(ctx context.Context, n *hstest.Node) (users []string, err error) {
	db, err := sqldb.Open(ctx, sqldb.Options{URL: n.DatabaseURL})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	err = db.Read(ctx, func(tx *sqldb.Tx) error {
		users, err = sqldb.Collect(tx, followedLists, func(r *sqldb.Rows) (string, error) {
			var user []byte
			err := r.Scan(&user)
			return string(user), err
		})
		return err
	})
	return users, err
}

// TestDeviceListsAreFollowedWhileARoomIsShared has two nodes come together and part again, from either side: lists that
// nobody tells of any more are not kept, and those who come back are asked anew.
func TestDeviceListsAreFollowedWhileARoomIsShared(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		a, b := s.Start("a.test"), s.Start("b.test")
		ctx, cancel := s.Context()
		defer cancel()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		alice, bob := a.MustRegister("alice"), b.MustRegister("bob")
		name := func(device string) { // gives alice's device keys of that name
			must(alice.Call(ctx, "POST", "/_matrix/client/v3/keys/upload", map[string]any{"device_keys": map[string]any{
				"user_id": alice.UserID, "device_id": alice.DeviceID, "algorithms": []string{}, "keys": map[string]string{"ed25519:" + alice.DeviceID: device},
				"signatures": map[string]any{alice.UserID: map[string]string{"ed25519:" + alice.DeviceID: device}}}}, nil))
		}
		asked := func() (key string) { // what bob's node says of it
			var answer struct {
				Keys map[string]map[string]struct{ Keys map[string]string } `json:"device_keys"`
			}
			must(bob.Call(ctx, "POST", "/_matrix/client/v3/keys/query", map[string]any{"device_keys": map[string][]string{alice.UserID: {}}}, &answer))
			return answer.Keys[alice.UserID][alice.DeviceID].Keys["ed25519:"+alice.DeviceID]
		}
		follows := func(what string, want ...string) {
			t.Helper()
			for end := time.Now().Add(hstest.Patience); ; time.Sleep(10 * time.Millisecond) {
				got, err := followed(ctx, b)
				must(err)
				if slices.Equal(got, want) {
					return
				}
				if time.Now().After(end) {
					t.Fatalf("%s: b follows %v, not %v", what, got, want)
				}
			}
		}
		name("first")
		room, err := alice.CreateRoom(ctx, map[string]any{"preset": "public_chat"})
		must(err)
		come := func(c *lab.Client, via string) {
			_, err := c.Join(ctx, room, via)
			must(err)
		}
		come(bob, "a.test")
		if got := asked(); got != "first" {
			t.Errorf("alice's key is %q", got)
		}
		follows("together", alice.UserID)
		must(alice.Call(ctx, "PUT", "/_matrix/client/v3/devices/"+url.PathEscape(alice.DeviceID), map[string]string{"display_name": "new"}, nil))

		must(alice.Act(ctx, room, "leave", struct{}{}))
		follows("alice is gone")
		come(alice, "b.test")
		if got := asked(); got != "first" {
			t.Errorf("alice's key is %q", got)
		}
		follows("alice is back", alice.UserID)

		must(bob.Act(ctx, room, "leave", struct{}{}))
		follows("bob is gone")
		if got := asked(); got != "first" {
			t.Errorf("a stranger is asked about at once: %q", got)
		}
	})
}
