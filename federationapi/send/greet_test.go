package send

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"knock/federationapi/client"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

// TestGreetings calls the servers that share rooms after a start, a few at a time, and those for which something new
// comes at once.
func TestGreetings(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db)
		names := []string{"b.test"}
		for i := range 3 * maxGreetings {
			names = append(names, fmt.Sprintf("s%d.test", i))
			r.joinFrom(names[i+1])
		}
		r.eventually("all is sent", func() bool {
			return r.sender.horizon() == r.sender.o.Hub.Published() && !slices.ContainsFunc(names, func(name string) bool {
				_, state := r.sender.destination(name).measure()
				return state != "idle"
			})
		})
		r.stop()

		var mu sync.Mutex
		called, under, most := map[string]int{}, 0, 0
		told := map[string]bool{} // who got the event
		hold := make(chan struct{})
		r.net.during = func(server string, tr *client.Transaction) {
			mu.Lock()
			called[server]++
			told[server] = told[server] || len(tr.PDUs) > 0
			if len(tr.PDUs) == 0 {
				under++
				most = max(most, under)
			}
			mu.Unlock()
			<-hold
			mu.Lock()
			if len(tr.PDUs) == 0 {
				under--
			}
			mu.Unlock()
		}
		r.start()
		count := func() (n int) {
			mu.Lock()
			defer mu.Unlock()
			return len(called)
		}
		r.eventually("the first are called", func() bool { return count() == maxGreetings })
		r.say("new")
		r.eventually("all others get the event at once", func() bool { return count() == len(names) })
		close(hold)
		r.eventually("all get the event", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return !slices.ContainsFunc(names, func(name string) bool { return !told[name] })
		})
		if most > maxGreetings {
			t.Errorf("%d were called at once", most)
		}
		for name, n := range called {
			if n > 2 {
				t.Errorf("%s was called %d times", name, n)
			}
		}
	})
}
