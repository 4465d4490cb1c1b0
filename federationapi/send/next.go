package send

import (
	"context"
	"encoding/json"

	"knock/federationapi/client"
	"knock/roomserver/event"
)

// next makes the next transaction; nil ends the worker, for there is nothing to send. Only the worker calls it.
func (d *destination) next(ctx context.Context) (*outgoing, error) {
	if err := d.read(ctx); err != nil {
		return nil, err
	}
	if d.isRetired() {
		return nil, nil
	}
	for {
		if out, err := d.fromDurable(ctx); out != nil || err != nil {
			return out, err
		}
		if out, err := d.fromExtra(ctx); out != nil || err != nil {
			return out, err
		}
		out, more := d.fromMemory()
		if out != nil || !more {
			return out, nil
		}
		if d.hasExtra() {
			continue
		}
		if recalled, err := d.recall(ctx); recalled || err != nil {
			if err != nil {
				return nil, err
			}
			continue
		}
		if out, err := d.fromLog(ctx); out != nil || err != nil {
			return out, err
		}
	}
}

// fromMemory makes a transaction of what waits here. more says that the log must be read first, or that something came
// meanwhile that goes first. When there is nothing the worker counts as ended, under the same lock, so that whatever
// comes after starts a new one.
func (d *destination) fromMemory() (out *outgoing, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.durable.waits():
		return nil, true
	case d.retry != nil:
		return d.retry, false
	case len(d.extra) > 0:
		return nil, true
	case d.behind, d.missed > 0 && len(d.live) == 0:
		return nil, true
	case len(d.live) == 0 && d.edus.empty() && !d.hello:
		d.running = false
		d.failures, d.standing.failing = 0, 0 // what failed is not worth another attempt
		return nil, false
	}
	n := min(len(d.live), d.limit)
	events := make([]*event.Event, n)
	for i, p := range d.live[:n] {
		events[i] = p.event
	}
	out = d.transaction(events)
	if n > 0 {
		out.upTo = d.live[n-1].pos
		d.live = d.live[n:]
	}
	return out, false
}

// transaction builds one with the events and some of the EDUs; d.mu is held.
func (d *destination) transaction(events []*event.Event) *outgoing {
	out := d.empty()
	for _, e := range events {
		out.t.PDUs = append(out.t.PDUs, e.JSON())
	}
	if d.limit > 1 || len(events) == 0 {
		out.t.EDUs = d.edus.take(d.s.o.Clock.Millis())
	}
	return out
}

// empty makes a transaction with nothing in it; d.mu is held.
func (d *destination) empty() *outgoing {
	d.hello = false
	return &outgoing{id: d.s.txnID(), t: &client.Transaction{Origin: d.s.o.ServerName, TS: d.s.o.Clock.Millis(), PDUs: []json.RawMessage{}}}
}

// fromLog makes a transaction of the oldest events in the log. nil means that the next look may find more: the log is
// exhausted and memory has the rest, these were not for the server, or something waits that goes first.
func (d *destination) fromLog(ctx context.Context) (*outgoing, error) {
	d.mu.Lock()
	first := d.durable.waits()
	d.mu.Unlock()
	if first {
		return nil, nil
	}
	if err := d.list(ctx); err != nil {
		return nil, err
	}
	d.mu.Lock()
	n := min(len(d.backlog), d.limit)
	due, last := d.backlog[:n], n == len(d.backlog)
	if n == 0 {
		d.caughtUp()
		d.mu.Unlock()
		return nil, nil
	}
	d.mu.Unlock()
	events, err := d.s.events(ctx, d.name, due)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	hello := d.hello
	out := d.transaction(events)
	out.listed, out.upTo = n, due[n-1].Pos
	if last {
		out.upTo = d.until
	}
	if len(out.t.PDUs)+len(out.t.EDUs) == 0 && !hello {
		d.passed(out)
		return nil, nil
	}
	return out, nil
}

// caughtUp ends the reading of the log, unless something came meanwhile; d.mu is held.
func (d *destination) caughtUp() {
	d.cursor = max(d.cursor, d.until)
	d.backlog = nil
	if d.latest <= d.until {
		d.behind = false
	}
	d.until = 0
}

// list reads what the log has for the server, unless a list is under way.
func (d *destination) list(ctx context.Context) error {
	horizon := d.s.horizon()
	d.mu.Lock()
	to := max(horizon, d.latest)
	from, listed := d.cursor, d.until > 0
	d.mu.Unlock()
	if listed {
		return nil
	}
	due, until, err := d.s.backlog(ctx, d.name, from, to)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.backlog, d.until, d.latest = due, until, max(d.latest, to)
	return nil
}
