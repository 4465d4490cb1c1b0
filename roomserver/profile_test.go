package roomserver

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver/auth"
)

// names is a Profiles whose users all have one name.
type names struct {
	mu   sync.Mutex
	name string
}

func (n *names) MemberProfile(context.Context, string) (string, string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.name, "", nil
}

func (n *names) Exists(context.Context, string) bool { return true }

func (n *names) set(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.name = name
}

// TestFollowUpsOutliveTheNode has a profile change and an account closed, the node die before any room hears of it, and
// another one take it up.
func TestFollowUpsOutliveTheNode(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		const bob, carol = "@bob:a.example", "@carol:a.example"
		first := newTestServer(t, db)
		profiles := &names{name: "Old"}
		first.Profiles = profiles
		var rooms []string
		for range 3 {
			room := createRoom(t, first, CreateRequest{Preset: "public_chat"})
			setMembership(t, first, room, bob, bob, "join")
			setMembership(t, first, room, carol, carol, "join")
			rooms = append(rooms, room)
		}
		err := db.Do(ctx, &sqldb.Op{Name: "test", Write: func(tx *sqldb.Tx, _ int64) error {
			for _, field := range []string{"displayname", "org.example.note"} {
				if err := first.ProfileChanging(tx, bob, field); err != nil {
					return err
				}
			}
			return first.UserDeactivating(tx, carol)
		}})
		if err != nil {
			t.Fatal(err)
		}
		profiles.set("New") // and the first node is gone

		second := newTestServer(t, db)
		second.Profiles = profiles
		runServer(t, second)
		for _, room := range rooms {
			awaitMember(t, second, room, bob, auth.Join, "New")
			awaitMember(t, second, room, carol, auth.Leave, "")
		}
		waitFor(t, "nothing is left to do", func() bool { return followUpsLeft(t, second) == 0 })
	})
}

// TestFollowUpsOfARunningNode deletes what is done, also when the user changes again and again.
func TestFollowUpsOfARunningNode(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		const bob = "@bob:a.example"
		s := newTestServer(t, db)
		profiles := &names{name: "0"}
		s.Profiles = profiles
		room := createRoom(t, s, CreateRequest{Preset: "public_chat"})
		setMembership(t, s, room, bob, bob, "join")
		runServer(t, s)
		for _, name := range []string{"1", "2", "3", "4", "5"} {
			profiles.set(name)
			err := db.Do(t.Context(), &sqldb.Op{Name: "test", Write: func(tx *sqldb.Tx, _ int64) error {
				return s.ProfileChanging(tx, bob, "displayname")
			}})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.ProfileChanged(t.Context(), bob, "displayname", json.RawMessage(`"`+name+`"`)); err != nil {
				t.Fatal(err)
			}
		}
		awaitMember(t, s, room, bob, auth.Join, "5")
		waitFor(t, "nothing is left to do", func() bool { return followUpsLeft(t, s) == 0 })
	})
}

// TestFollowUpIsNotStruckOffForAnother has a user change again while rooms hear of the first change, and the node die then.
func TestFollowUpIsNotStruckOffForAnother(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		const bob = "@bob:a.example"
		s := newTestServer(t, db)
		change := func() {
			err := db.Do(t.Context(), &sqldb.Op{Name: "test", Write: func(tx *sqldb.Tx, _ int64) error {
				return s.ProfileChanging(tx, bob, "displayname")
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
		change()
		first, err := s.writtenDown(t.Context(), bob)
		if err != nil || first != followProfile {
			t.Fatalf("written down: %d, %v", first, err)
		}
		change()
		if err := s.strikeOff(t.Context(), bob, first); err != nil {
			t.Fatal(err)
		}
		second, err := s.writtenDown(t.Context(), bob)
		if err != nil || second&followProfile == 0 || followUpsLeft(t, s) != 1 {
			t.Fatalf("the second change is gone: %d, %v", second, err)
		}
		if err := s.strikeOff(t.Context(), bob, second); err != nil || followUpsLeft(t, s) != 0 {
			t.Fatalf("it is not struck off: %v", err)
		}
	})
}

// runServer has the server work until the test ends.
func runServer(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func awaitMember(t *testing.T, s *Server, room, user, membership, name string) {
	t.Helper()
	waitFor(t, user+" is "+membership+" as "+name, func() bool {
		e, err := s.CurrentState(t.Context(), room, "m.room.member", user)
		if err != nil {
			t.Fatal(err)
		}
		return auth.Membership(e.Event) == membership && e.Event.ContentString("displayname") == name
	})
}

func followUpsLeft(t *testing.T, s *Server) (n int) {
	t.Helper()
	err := s.db.Read(t.Context(), func(tx *sqldb.Tx) error {
		list, err := sqldb.Collect(tx, allFollowUps, func(*sqldb.Rows) (struct{}, error) { return struct{}{}, nil })
		n = len(list)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("it never came to this: %s", what)
}
