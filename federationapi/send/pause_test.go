package send

import (
	"testing"
	"time"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

// TestWhatComesInAPause sends an event that came while the server was left alone because it did not take EDUs, which
// are not sent again.
func TestWhatComesInAPause(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db)
		r.say("before")
		r.arrived("b.test", "before")
		d := r.sender.destination("b.test")
		r.eventually("the worker ends", func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			if !d.running {
				d.failures, d.timer = 1, time.AfterFunc(time.Hour, func() {})
			}
			return !d.running
		})
		r.say("in the pause")
		r.eventually("the event waits", func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			return len(d.live) == 1
		})
		d.again()
		r.arrived("b.test", "before", "in the pause")
	})
}
