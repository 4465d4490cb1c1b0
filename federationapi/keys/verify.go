package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"knock/roomserver/event"
)

// maxSignatures bounds how many signatures of one server over one thing are looked at.
const maxSignatures = 8

// VerifyEvents checks the signatures that each event must have and returns an error or nil for each: ErrUnsigned,
// ErrNoKey (the keys could not be had), ErrInvalidKey, event.ErrBadSignature. The keys of all events are fetched in one
// pass, the signatures checked side by side.
func (r *Ring) VerifyEvents(ctx context.Context, events []*event.Event) []error {
	ns := needs{}
	for _, e := range events {
		for _, server := range e.SignatureServers() {
			for _, id := range eventKeys(e, server) {
				ns.add(server, id, needOf(e))
			}
		}
	}
	errs := make([]error, len(events))
	if err := r.ensure(ctx, ns); err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	r.pool(len(events), func(i int) { errs[i] = r.verifyEvent(events[i]) })
	return errs
}

// needOf says what validity an event asks of the keys that signed it.
func needOf(e *event.Event) need {
	return need{at: e.TS(), any: !e.V().EnforceKeyValidity}
}

func limited(ids []string) []string { return ids[:min(len(ids), maxSignatures)] }

// policyKey is in m.room.policy and nowhere else: looking for it among a server's published keys would fetch them for
// each event.
const policyKey = "ed25519:policy_server"

// eventKeys are the keys with which a server claims to have signed an event.
func eventKeys(e *event.Event, server string) []string {
	return limited(slices.DeleteFunc(e.SignatureKeyIDs(server), func(id string) bool { return id == policyKey }))
}

func (r *Ring) verifyEvent(e *event.Event) error {
	for _, server := range e.SignatureServers() {
		err := r.check(eventKeys(e, server), server, needOf(e), e.TS(), func(id string, k verifyKey) error {
			return e.VerifySignature(server, id, k.key)
		})
		if err != nil {
			return fmt.Errorf("event %s: signature of %s: %w", e.EventID(), server, err)
		}
	}
	return nil
}

// check looks for one signature among ids that verifies with a key that was valid at ts. Otherwise it returns the
// gravest reason: a wrong signature, an invalid key, no key.
func (r *Ring) check(ids []string, server string, n need, ts int64, verify func(id string, k verifyKey) error) error {
	if len(ids) == 0 {
		return ErrUnsigned
	}
	result := ErrNoKey
	for _, id := range ids {
		k, ok := r.key(server, id)
		if !ok {
			continue
		}
		if !n.any && !k.validAt(ts) || n.now && k.expired != 0 {
			if errors.Is(result, ErrNoKey) {
				result = ErrInvalidKey
			}
			continue
		}
		err := verify(id, k)
		if err == nil {
			return nil
		}
		result = err
	}
	return result
}

// poolChunk is how many signatures a worker checks before it gives its slot to another call's worker.
const poolChunk = 16

// pool runs do for 0 to n-1 on at most as many goroutines as there are processors, all calls together.
func (r *Ring) pool(n int, do func(i int)) {
	var next atomic.Int64
	work := func() {
		for {
			start := int(next.Add(poolChunk)) - poolChunk
			if start >= n {
				return
			}
			r.workers <- struct{}{}
			for i := start; i < min(start+poolChunk, n); i++ {
				do(i)
			}
			<-r.workers
		}
	}
	var wg sync.WaitGroup
	for range min(cap(r.workers), (n+poolChunk-1)/poolChunk) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}

// VerifyJSON checks that server signed raw, a JSON object, with a key that was valid at the given time.
func (r *Ring) VerifyJSON(ctx context.Context, server string, raw []byte, at time.Time) error {
	ids := limited(event.SignatureKeyIDs(raw, server))
	ns, n := needs{}, need{at: at.UnixMilli()}
	for _, id := range ids {
		ns.add(server, id, n)
	}
	if err := r.ensure(ctx, ns); err != nil {
		return err
	}
	return r.check(ids, server, n, n.at, func(id string, k verifyKey) error {
		return event.VerifyJSON(raw, server, id, k.key)
	})
}
