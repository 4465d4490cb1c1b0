package hstest

import (
	"sync"
	"testing"
	"time"
)

// Board is a lock over what came to a test, such as a list of events, for those who wait until something is in it. The
// zero value is ready.
type Board struct {
	sync.Mutex
	changed chan struct{} // nil: nobody waits
}

// Changed, called under the lock, lets those who wait look again.
func (b *Board) Changed() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// Until waits until there is what check looks for. When Patience ends, so does the test, with what missing says. Both are
// called under the lock.
func (b *Board) Until(t testing.TB, check func() bool, missing func() string) {
	t.Helper()
	deadline := time.After(Patience)
	for {
		b.Lock()
		if check() {
			b.Unlock()
			return
		}
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		b.Unlock()
		select {
		case <-changed:
		case <-deadline:
			b.Lock()
			text := missing()
			b.Unlock()
			t.Fatal(text)
		}
	}
}
