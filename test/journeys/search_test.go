package journeys

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

// searchCount searches and returns how many texts are found.
func searchCount(ctx context.Context, c *lab.Client, term string) (int, error) {
	var found struct {
		Categories struct {
			RoomEvents struct {
				Results []struct{} `json:"results"`
			} `json:"room_events"`
		} `json:"search_categories"`
	}
	err := c.Call(ctx, http.MethodPost, lab.V3("search"), map[string]any{"search_categories": map[string]any{
		"room_events": map[string]any{"search_term": term, "filter": map[string]any{"limit": 100}}}}, &found)
	return len(found.Categories.RoomEvents.Results), err
}

// TestSearchSurvives kills a node again and again while it indexes, turns searching off, and on again: everything that was
// said is found.
func TestSearchSurvives(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		n := s.Add("a.test", "registration.mode=open")
		must(n.StartProcess())
		c := n.MustRegister("alice")
		room, err := c.CreateRoom(ctx, map[string]any{"preset": "private_chat"})
		must(err)
		said := 0
		for range 3 {
			for range 20 {
				_, err := c.Say(ctx, room, fmt.Sprint("灯塔 lighthouse ", said))
				must(err)
				said++
			}
			must(n.Kill())
			must(n.StartProcess())
			for _, term := range []string{"灯塔", "lighthouse"} {
				if got, err := searchCount(ctx, c, term); err != nil || got != said {
					t.Fatalf("%d of %d are found by %q: %v", got, said, term, err)
				}
			}
		}
		must(n.Stop())
		n.Set("search.enabled=false")
		must(n.StartProcess())
		if _, err := searchCount(ctx, c, "灯塔"); err == nil {
			t.Error("a server that does not search answers")
		}
		must(n.Stop())
		n.Set("search.enabled=true")
		must(n.StartProcess())
		if got, err := searchCount(ctx, c, "灯塔"); err != nil || got != said {
			t.Errorf("%d of %d are found when searching is turned on again: %v", got, said, err)
		}
	})
}
