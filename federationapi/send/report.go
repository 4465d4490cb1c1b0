package send

import (
	"cmp"
	"context"
	"slices"

	"knock/internal/sqldb"
)

// Report is how a destination fares. Times are in milliseconds since 1970; 0 is never, or not now.
type Report struct {
	Server       string
	State        string // "idle", "sending", "behind" (the log is read), "down" or "retired"
	LastSuccess  int64  // when it last took a transaction, since the start
	LastHeard    int64  // when it last answered or asked us something, to the hour for what was before the start
	LastFailure  int64  // since the start
	LastError    string
	FailingSince int64
	RetryAt      int64
	Failures     int // since the last success
	// Waiting is how many events, all in all, it has not taken; Oldest is when the first of them was sent. Only
	// Destination counts them.
	Waiting int64
	Oldest  int64
	// WaitingEDUs tells whether messages to its devices, or word of device lists, wait.
	WaitingEDUs bool
}

// Destinations reports on up to limit servers whose names come after after, in their order.
func (s *Sender) Destinations(after string, limit int) []Report {
	all := slices.DeleteFunc(s.all(), func(d *destination) bool { return d.name <= after })
	slices.SortFunc(all, func(a, b *destination) int { return cmp.Compare(a.name, b.name) })
	list := make([]Report, 0, min(len(all), limit))
	for _, d := range all[:min(len(all), limit)] {
		list = append(list, d.report())
	}
	return list
}

// Destination reports on a server and counts what waits for it; ok is false for one that we have nothing to do with.
func (s *Sender) Destination(ctx context.Context, server string) (r Report, ok bool, err error) {
	d := s.known(server)
	if d == nil {
		return Report{}, false, nil
	}
	if err := d.read(ctx); err != nil {
		return Report{}, false, err
	}
	r = d.report()
	return r, true, d.count(ctx, &r)
}

// Retry ends a server's pause, or its retirement, and has what waits sent now; false for one that we have nothing to do
// with.
func (s *Sender) Retry(server string) bool {
	d := s.known(server)
	if d != nil {
		d.retryNow()
	}
	return d != nil
}

func (d *destination) retryNow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.standing.retired {
		d.revive()
		return
	}
	d.failures = 0
	d.hello = true
	d.stopTimer()
	d.kick()
}

func (d *destination) report() Report {
	_, state := d.measure()
	d.mu.Lock()
	defer d.mu.Unlock()
	r := Report{Server: d.name, State: state, LastSuccess: d.succeeded, LastHeard: d.standing.heard, LastError: d.lastError,
		FailingSince: d.standing.failing, Failures: d.failures, WaitingEDUs: len(d.durable.edus) > 0}
	if !d.failedAt.IsZero() {
		r.LastFailure = d.failedAt.UnixMilli()
	}
	if d.timer != nil {
		r.RetryAt = d.retryAt.UnixMilli()
	}
	return r
}

// count adds what waits for the server.
func (d *destination) count(ctx context.Context, r *Report) error {
	d.mu.Lock()
	cursor := d.cursor
	if !d.behind && len(d.live) == 0 && d.retry == nil && !d.running {
		cursor = max(cursor, d.latest)
	}
	d.mu.Unlock()
	s := d.s
	return s.o.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		if s.durable != nil {
			edus, err := s.durable.PendingEDUs(tx, d.name, 1)
			if err != nil {
				return err
			}
			r.WaitingEDUs = len(edus) > 0
		}
		server, err := s.o.Store.FindName(tx, d.name)
		if err != nil || server == 0 {
			return err
		}
		services, err := s.o.Store.ServiceOf(tx, server, cursor)
		if err != nil {
			return err
		}
		for _, v := range services {
			from, to := max(cursor, v.From), int64(1<<62)
			if v.To > 0 {
				to = v.To
			}
			n, oldest, err := s.o.Store.Waiting(tx, v.Room, from, to)
			if err != nil {
				return err
			}
			r.Waiting += n
			if n > 0 && (r.Oldest == 0 || oldest < r.Oldest) {
				r.Oldest = oldest
			}
		}
		return nil
	})
}
