// Package joins tests joins over federation between whole nodes: of large rooms, with nodes that die in the middle.
package joins

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

// TestLargeRoom joins a room of many members between two child processes: 300, or KNOCK_JOIN_MEMBERS to measure.
func TestLargeRoom(t *testing.T) {
	members := 300
	if n, err := strconv.Atoi(os.Getenv("KNOCK_JOIN_MEMBERS")); err == nil {
		members = n
	}
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		a, b := s.Start("a.test"), s.Add("b.test")
		alice := a.MustRegister("alice")
		room, err := alice.CreateRoom(t.Context(), map[string]any{"preset": "public_chat"})
		must(t, err)
		must(t, a.Stop())
		users := make([]string, members-1)
		for i := range users {
			users[i] = fmt.Sprintf("@member%d:a.test", i)
		}
		must(t, a.Populate(t.Context(), room, users))
		must(t, a.StartProcess())
		must(t, b.StartProcess())
		bob := b.MustRegister("bob")
		began := time.Now()
		_, err = bob.Join(t.Context(), room, "a.test")
		must(t, err)
		took := time.Since(began)
		serving, err := a.PeakMemory()
		must(t, err)
		joining, err := b.PeakMemory()
		must(t, err)
		state, err := bob.State(t.Context(), room)
		must(t, err)
		joined := 0
		for _, e := range state {
			if e.Type == "m.room.member" && gjson.GetBytes(e.Content, "membership").Str == "join" {
				joined++
			}
		}
		if joined != members+1 {
			t.Errorf("%d members are in the room where it came to, want %d", joined, members+1)
		}
		t.Logf("%d members: %s, peak memory %d MiB where the room was, %d MiB where it came to", members, took.Round(time.Millisecond), serving>>20, joining>>20)
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
