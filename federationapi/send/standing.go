package send

import (
	"context"
	"time"

	"knock/internal/sqldb"
)

// Times by which a server is judged.
const (
	partnerFor  = 30 * 24 * time.Hour // since it was heard of: it is tried again soon
	unknownFor  = 24 * time.Hour      // the same for one that was never heard of, since it fails
	heardEvery  = time.Hour           // how exactly the time of the last word is stored
	pruneEvery  = time.Hour
	earliestTry = time.Second // after a failure, however alive a server seems
)

// standing is how a server fared. Times are in milliseconds since 1970.
type standing struct {
	heard   int64 // it last answered, or asked us something; 0: never
	failing int64 // nothing reaches it since; 0: it is well
	retired bool  // it counts as gone: it is not tried, and what waits for it is dropped
}

// worthWriting tells whether what is stored differs by more than the last word of a server that is well.
func (s standing) worthWriting(stored standing) bool {
	return s.retired != stored.retired || s.failing != stored.failing || s.heard-stored.heard > heardEvery.Milliseconds()
}

// partner tells whether a server is tried again within minutes.
func (s standing) partner(now int64) bool {
	if s.heard > 0 {
		return now-s.heard < partnerFor.Milliseconds()
	}
	return s.failing == 0 || now-s.failing < unknownFor.Milliseconds()
}

// gone tells whether a server was silent for so long that it is to be retired.
func (s standing) gone(now int64, after time.Duration) bool {
	return after > 0 && s.failing > 0 && now-max(s.failing, s.heard) >= after.Milliseconds()
}

// Partner tells whether a server is configured as one, or shares a room with us and was heard of lately: the client
// leaves such servers alone for minutes at most.
func (s *Sender) Partner(server string) bool {
	if s.o.Keep(server) {
		return true
	}
	d := s.known(server)
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.standing.partner(s.o.Clock.Millis())
}

// Wake says that a server showed itself alive: what waits for it is sent at once, and one that was retired is back.
func (s *Sender) Wake(server string) {
	if d := s.known(server); d != nil {
		d.alive()
	}
}

// alive ends a pause after failures. A server that calls us but cannot be called is not tried more than once a second.
func (d *destination) alive() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.s.o.Clock()
	d.standing.heard = now.UnixMilli()
	switch {
	case d.standing.retired:
		d.revive()
	case d.failures > 0:
		d.failures, d.standing.failing = 0, 0
		if d.stopTimer() {
			d.timer = time.AfterFunc(max(d.failedAt.Add(earliestTry).Sub(now), 0), d.again)
		}
	}
}

// Reachable tells whether a server shares a room with us or did, and did not fail lately.
func (s *Sender) Reachable(server string) bool {
	d := s.known(server)
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failures == 0 && !d.standing.retired
}

// revive takes a retired server back; d.mu is held. What came since is in the log.
func (d *destination) revive() {
	d.standing.retired, d.standing.failing, d.failures = false, 0, 0
	d.fallBehind()
	d.durable.unread = true
	d.kick()
}

// fails notes a failure and retires a server that is gone; d.mu is held.
func (d *destination) fails(err error) {
	now := d.s.o.Clock()
	d.failures++
	d.apart = true
	d.failedAt, d.lastError = now, err.Error()
	if d.standing.failing == 0 {
		d.standing.failing = now.UnixMilli()
	}
	if d.standing.gone(now.UnixMilli(), d.s.o.RetireAfter) && !d.s.o.Keep(d.name) {
		d.standing.retired = true
		d.retry, d.durable.edus = nil, nil
		signal(d.s.retired)
	}
}

// isRetired ends the worker of a server that turned out to be gone.
func (d *destination) isRetired() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.standing.retired {
		d.running = false
	}
	return d.standing.retired
}

// pruneRetired drops, now and then, what waits for servers that are gone. Events stay in the log, of which such a
// server gets the newest when it comes back, and word of device lists stays as well: there is one row for each device.
func (s *Sender) pruneRetired(ctx context.Context) {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.retired:
		case <-ctx.Done():
			return
		}
		for _, d := range s.all() {
			if err := d.prune(ctx); err != nil && ctx.Err() == nil {
				s.o.Log.WithError(err).WithField("server", d.name).Warn("What waits for a server that is gone could not be dropped")
			}
		}
	}
}

func (d *destination) prune(ctx context.Context) error {
	d.mu.Lock()
	retired := d.standing.retired
	d.mu.Unlock()
	if !retired {
		return nil
	}
	err := d.s.o.Store.DB.Do(ctx, &sqldb.Op{Name: "outbound.prune", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := tx.Exec(deleteOutbox, []byte(d.name), int64(1<<62))
		return err
	}})
	if err != nil || d.s.durable == nil {
		return err
	}
	return d.s.durable.ForgetMessages(ctx, d.name)
}
