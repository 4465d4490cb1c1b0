package federationapi

import (
	"context"
	"sync"
	"time"

	"knock/internal/matrixerr"
)

// maxWaiting bounds the transactions of one origin that wait for the one that is worked on.
const maxWaiting = 4

// slots let in one transaction of each origin at a time: its events build on each other.
type slots struct {
	mu      sync.Mutex
	origins map[string]*slot
}

type slot struct {
	turn  chan struct{} // holds the one permit while nobody is in
	users int           // in and waiting
}

func newSlots() *slots { return &slots{origins: map[string]*slot{}} }

// enter waits for the origin's turn; call leave after. It refuses with 429 M_LIMIT_EXCEEDED when too many wait.
func (s *slots) enter(ctx context.Context, origin string) (leave func(), err error) {
	s.mu.Lock()
	o := s.origins[origin]
	if o == nil {
		o = &slot{turn: make(chan struct{}, 1)}
		o.turn <- struct{}{}
		s.origins[origin] = o
	}
	if o.users > maxWaiting {
		s.mu.Unlock()
		return nil, matrixerr.LimitExceeded(time.Second)
	}
	o.users++
	s.mu.Unlock()
	select {
	case <-o.turn:
		return func() { o.turn <- struct{}{}; s.drop(origin, o) }, nil
	case <-ctx.Done():
		s.drop(origin, o)
		return nil, ctx.Err()
	}
}

func (s *slots) drop(origin string, o *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.users--; o.users == 0 {
		delete(s.origins, origin)
	}
}
