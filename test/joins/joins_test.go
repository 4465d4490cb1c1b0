// Package joins tests joins over federation between whole nodes: of large rooms, with nodes that die in the middle.
package joins

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

// TestLargeRoom joins a room of many members between two child processes: 300, or KNOCK_JOIN_MEMBERS to measure. The room
// may be used before all its members are known, or is not.
func TestLargeRoom(t *testing.T) {
	members := 300
	if n, err := strconv.Atoi(os.Getenv("KNOCK_JOIN_MEMBERS")); err == nil {
		members = n
	}
	for _, partial := range []bool{true, false} {
		t.Run(fmt.Sprint("partial_joins=", partial), func(t *testing.T) { joinLarge(t, members, partial) })
	}
}

func joinLarge(t *testing.T, members int, partial bool) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		a, b := s.Start("a.test"), s.Add("b.test", fmt.Sprint("federation.partial_joins=", partial))
		room := populated(t, a, members)
		must(t, a.StartProcess())
		must(t, b.StartProcess())
		bob := b.MustRegister("bob")
		began := time.Now()
		_, err := bob.Join(t.Context(), room, "a.test")
		must(t, err)
		usable := time.Since(began)
		if n := <-joinedMembers(t.Context(), bob, room); n != members+1 {
			t.Errorf("%d members are in the room, want %d", n, members+1)
		}
		took := time.Since(began)
		serving, err := a.PeakMemory()
		must(t, err)
		joining, err := b.PeakMemory()
		must(t, err)
		expectMembers(t, bob, room, members+1)
		t.Logf("%d members: usable after %s, complete after %s, peak memory %d MiB where the room was, %d MiB where it came to", members, usable.Round(time.Millisecond), took.Round(time.Millisecond), serving>>20, joining>>20)
	})
}

// TestKilledInAJoin kills the node that joins, at any moment, again and again: a join that did not come to its end leaves nothing
// that keeps the next one from it, and one that did is whole.
func TestKilledInAJoin(t *testing.T) {
	const members = 600
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		a, b := s.Start("a.test"), s.Add("b.test")
		room := populated(t, a, members)
		must(t, a.StartProcess())
		must(t, b.StartProcess())
		bob := b.MustRegister("bob")
		for delay := 10 * time.Millisecond; delay < 200*time.Millisecond; delay += delay / 2 {
			result := make(chan error, 1)
			go func() {
				_, err := bob.Join(t.Context(), room, "a.test")
				result <- err
			}()
			time.Sleep(delay)
			must(t, b.Kill())
			answered := <-result == nil
			must(t, b.StartProcess())
			bob.BaseURL = b.URL()
			if answered { // what was answered is there
				expectMembers(t, bob, room, members+1)
				break
			}
		}
		joinAtLast(t, bob, room)
		expectMembers(t, bob, room, members+1)
		_, err := bob.Say(t.Context(), room, "hello")
		must(t, err)
	})
}

// joinAtLast joins as people do: again when told to try later. The other node looks for the keys of one that was down, as
// its own was each time it was killed, only after a pause.
func joinAtLast(t *testing.T, c *lab.Client, room string) {
	t.Helper()
	_, err := c.Join(t.Context(), room, "a.test")
	var e *lab.Error
	for i := 0; i < 120 && errors.As(err, &e) && e.Status == http.StatusBadGateway; i++ {
		time.Sleep(500 * time.Millisecond)
		_, err = c.Join(t.Context(), room, "a.test")
	}
	must(t, err)
}

// populated makes a public room of members of one node, and stops the node.
func populated(t *testing.T, n *hstest.Node, members int) string {
	t.Helper()
	room, err := n.MustRegister("alice").CreateRoom(t.Context(), map[string]any{"preset": "public_chat"})
	must(t, err)
	must(t, n.Stop())
	users := make([]string, members-1)
	for i := range users {
		users[i] = fmt.Sprintf("@member%d:%s", i, n.Name)
	}
	must(t, n.Populate(t.Context(), room, users))
	return room
}

func expectMembers(t *testing.T, c *lab.Client, room string, want int) {
	t.Helper()
	state, err := c.State(t.Context(), room)
	must(t, err)
	joined := 0
	for _, e := range state {
		if e.Type == "m.room.member" && gjson.GetBytes(e.Content, "membership").Str == "join" {
			joined++
		}
	}
	if joined != want {
		t.Errorf("%d members are in the room where it came to, want %d", joined, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
