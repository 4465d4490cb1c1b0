package roomserver

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"knock/internal/sqldb"
	"knock/roomserver/event"
)

// Bounds of forward extremities. Each costs a state in every resolution, and an
// event can follow maxPrevs of them at once, so whoever makes forks without end
// would make the room dearer with each.
const (
	tidyAbove      = 10          // more are brought together by events that say nothing
	maxExtremities = 100         // more are dropped, where another one carries the same state
	tidyPause      = time.Minute // between two turns of a room
	tidyTurn       = 8           // such events in one turn
	maxUntidy      = 1_000       // rooms that wait for a turn, and those that had one lately
	tidyTick       = 10 * time.Second
)

// untidy are rooms with many forward extremities, and when each may have its next
// turn.
type untidy struct {
	mu    sync.Mutex
	rooms map[string]turn
	wake  chan struct{}

	dummies prometheus.Counter
	dropped prometheus.Counter
}

type turn struct {
	after time.Time // not before
	due   bool
}

func (u *untidy) init(reg prometheus.Registerer) {
	u.rooms, u.wake = map[string]turn{}, make(chan struct{}, 1)
	u.dummies = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "knock_rooms_dummy_events_total", Help: "Events that were sent for nothing but to bring forward extremities together.",
	})
	u.dropped = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "knock_rooms_extremities_dropped_total", Help: "Forward extremities that were given up because their room had too many.",
	})
	if reg != nil {
		reg.MustRegister(u.dummies, u.dropped)
	}
}

// note has a room looked at. It does not block.
func (u *untidy) note(room string) {
	u.mu.Lock()
	t, known := u.rooms[room]
	if known || len(u.rooms) < maxUntidy {
		t.due = true
		u.rooms[room] = t
	}
	u.mu.Unlock()
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// next takes the rooms whose turn it is, and forgets those that had one long ago.
func (u *untidy) next(now time.Time) (rooms []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for room, t := range u.rooms {
		switch {
		case now.Before(t.after):
		case t.due:
			rooms = append(rooms, room)
			u.rooms[room] = turn{after: now.Add(tidyPause)}
		default:
			delete(u.rooms, room)
		}
	}
	return rooms
}

// runTidy brings the forward extremities of rooms together until ctx ends.
func (s *Server) runTidy(ctx context.Context) {
	tick := time.NewTicker(tidyTick)
	defer tick.Stop()
	for {
		for _, room := range s.untidy.next(s.Clock()) {
			if err := s.tidy(ctx, room); err != nil && ctx.Err() == nil {
				s.Log.WithError(err).WithField("room", room).Info("The ends of a room's history could not be brought together")
			}
		}
		select {
		case <-s.untidy.wake:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// tidy sends events that say nothing to a room with many forward extremities, as
// far as somebody here may send them.
func (s *Server) tidy(ctx context.Context, room string) error {
	key, err := s.Room(ctx, room)
	if err != nil {
		return err
	}
	for range tidyTurn {
		ends, err := s.extremities(ctx, key)
		if err != nil || len(ends) <= tidyAbove {
			return err
		}
		user, err := s.mayTidy(ctx, room)
		if err != nil || user == "" {
			return err
		}
		if _, err := s.Send(ctx, SendRequest{RoomID: room, Sender: user, Type: event.DummyType, Content: json.RawMessage("{}")}); err != nil {
			return fmt.Errorf("as %s: %w", user, err)
		}
		s.untidy.dummies.Inc()
	}
	s.untidy.note(room)
	return nil
}

// mayTidy returns a local member who may send an event that says nothing, "" when
// there is none.
func (s *Server) mayTidy(ctx context.Context, room string) (user string, err error) {
	v, err := s.Current(ctx, room)
	if err != nil {
		return "", err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		powers, err := s.Powers(tx, v)
		if err != nil {
			return err
		}
		need := powers.EventLevel(event.DummyType, false)
		for _, local := range s.Hub.JoinedUsers(room) {
			if powers.UserLevel(local) >= need && (user == "" || local < user) {
				user = local
			}
		}
		return nil
	})
	return user, err
}

// capExtremities drops the oldest forward extremities beyond the bound whose
// state another one carries: the room's state stays as it is.
func (r *room) capExtremities() {
	over := len(r.tip.extremities) - maxExtremities
	if over <= 0 {
		return
	}
	carriers := make(map[int64]int, len(r.tip.extremities))
	for _, x := range r.tip.extremities {
		carriers[x.after.NID]++
	}
	before := len(r.tip.extremities)
	r.tip.extremities = slices.DeleteFunc(r.tip.extremities, func(x extremity) bool {
		if over == 0 || carriers[x.after.NID] == 1 {
			return false
		}
		carriers[x.after.NID]--
		over--
		return true
	})
	r.s.untidy.dropped.Add(float64(before - len(r.tip.extremities)))
}
