package delayed

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// Bounds of what is sent at once.
const (
	maxSends  = 64               // at the same time
	maxTaken  = 10_000           // waiting in lanes
	look      = 256              // taken at once
	sendTime  = 30 * time.Second // for one attempt
	lookAgain = 5 * time.Second  // after the database failed, or when too many wait
	maxTries  = 10
)

// pause is how long a lane waits after an attempt failed for a reason that may pass.
func pause(tries int) time.Duration { return min(time.Second<<min(tries-1, 10), time.Minute) }

// Run sends what is due, until ctx ends. What fell due while nobody ran goes at once, in the order in which it was due.
// One timer waits for the next event: when none is scheduled, nothing is asked of the database.
func (s *Service) Run(ctx context.Context) error {
	defer s.going.Wait()
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for next := int64(0); ; {
		timer.Reset(s.until(next))
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			next = min(next, s.takeSoon())
		case <-prune.C:
			s.warn("Old delayed events could not be deleted", s.prune(ctx))
		case <-timer.C:
			s.takeSoon() // what is committed by now is seen
			next = s.dispatch(ctx)
		}
	}
}

func (s *Service) warn(what string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		s.o.Log.WithError(err).Warn(what)
	}
}

// until is how long it is until a time; a day at most, since the clock may be set meanwhile.
func (s *Service) until(at int64) time.Duration {
	const most = 24 * time.Hour
	left := at - s.o.Clock.Millis()
	if left > most.Milliseconds() {
		return most
	}
	return max(0, time.Duration(left)*time.Millisecond)
}

// sooner notes that an event is due then.
func (s *Service) sooner(due int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if due >= s.soon {
		return
	}
	s.soon = due
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Service) takeSoon() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	soon := s.soon
	s.soon = never
	return soon
}

// due is an event that is or will be due.
type due struct {
	nid, at int64
	room    string
}

// dispatch puts what is due into the lanes of its rooms and returns when to look again.
func (s *Service) dispatch(ctx context.Context) int64 {
	now := s.o.Clock.Millis()
	s.mu.Lock()
	waiting := len(s.taken)
	s.mu.Unlock()
	again := now + lookAgain.Milliseconds()
	if waiting >= maxTaken {
		return again
	}
	var list []due
	err := s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		list, err = sqldb.Collect(tx, nextDue, func(r *sqldb.Rows) (d due, err error) {
			var room []byte
			err = r.Scan(&d.nid, &room, &d.at)
			d.room = string(room)
			return d, err
		}, waiting+look)
		return err
	})
	if err != nil {
		s.warn("It could not be read which delayed events are due; this is tried again", err)
		return again
	}
	for _, d := range list {
		if d.at > now {
			return d.at
		}
		s.take(ctx, d)
	}
	if len(list) == waiting+look {
		return now
	}
	return never
}

// take puts an event at the end of its room's lane: events of one room go one after another.
func (s *Service) take(ctx context.Context, d due) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.taken[d.nid]; ok {
		return
	}
	s.taken[d.nid] = struct{}{}
	lane, open := s.lanes[d.room]
	s.lanes[d.room] = append(lane, d.nid)
	if !open {
		s.going.Go(func() { s.lane(ctx, d.room) })
	}
}

// lane sends the events of a room until none is left.
func (s *Service) lane(ctx context.Context, room string) {
	for {
		nid, ok := s.head(room)
		if !ok {
			return
		}
		again := s.deliver(ctx, nid)
		s.mu.Lock()
		delete(s.taken, nid)
		s.lanes[room] = s.lanes[room][1:]
		s.mu.Unlock()
		if again != 0 {
			s.sooner(again)
		}
	}
}

func (s *Service) head(room string) (nid int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lane := s.lanes[room]
	if len(lane) == 0 {
		delete(s.lanes, room)
		return 0, false
	}
	return lane[0], true
}

// deliver sees an event through. It returns when the event is due again, if it was restarted, else 0.
func (s *Service) deliver(ctx context.Context, nid int64) (again int64) {
	for tries := 1; ctx.Err() == nil; tries++ {
		again, err := s.try(ctx, nid, tries >= maxTries)
		if err == nil {
			return again
		}
		s.warn("A delayed event could not be sent; this is tried again", err)
		select {
		case <-time.After(s.pause(tries)):
		case <-ctx.Done():
		}
	}
	return 0
}

// try sends an event that is still due, and returns when it is due instead, if it is not. Refusals finalise it, as
// does every error with last; others are returned.
func (s *Service) try(ctx context.Context, nid int64, last bool) (again int64, err error) {
	s.slots <- struct{}{}
	defer func() { <-s.slots }()
	for range attempts {
		e, err := s.find(ctx, byNID, nid)
		switch {
		case errors.Is(err, ErrNotFound):
			return 0, nil
		case err != nil:
			return 0, err
		case e.Finalised != 0:
			return 0, nil
		case e.due > s.o.Clock.Millis():
			return e.due, nil
		}
		err = s.send(ctx, e)
		refusal := matrixerr.From(err)
		switch {
		case err == nil:
			return 0, nil
		case errors.Is(err, errMoved):
			continue
		case refusal.HTTP >= http.StatusInternalServerError && !last:
			return 0, err
		}
		return 0, s.refuse(ctx, e, refusal)
	}
	return 0, errBusy
}

// refuse finalises an event that cannot be sent.
func (s *Service) refuse(ctx context.Context, e *Event, why *matrixerr.Error) error {
	text, err := json.Marshal(why)
	if err != nil {
		return err
	}
	done, err := s.finalise(ctx, e, "", text)
	if done && err == nil {
		s.metrics.ended.WithLabelValues("refused").Inc()
		s.o.Log.WithError(why).WithField("room", e.Room).WithField("user", e.User).Info("A delayed event was refused")
	}
	return err
}

// send sends an event that is still as it was read, else errMoved.
func (s *Service) send(ctx context.Context, e *Event) error {
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	var written atomic.Bool
	id, err := s.o.Send(ctx, e, func(tx *sqldb.Tx, eventID string) error {
		done, err := s.end(tx, e, eventID, nil)
		if err == nil && !done {
			err = errMoved
		}
		if err == nil {
			tx.AfterCommit(func(int64) { written.Store(true) })
		}
		return err
	})
	if err != nil {
		return err
	}
	if !written.Load() {
		if _, err := s.finalise(ctx, e, id, nil); err != nil {
			return err
		}
	}
	s.metrics.ended.WithLabelValues("sent").Inc()
	return nil
}
