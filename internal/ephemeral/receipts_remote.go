package ephemeral

import (
	"context"
	"encoding/json"

	"knock/internal/matrixerr"
)

// EDU takes the content of an m.receipt EDU and returns after the commit. What is
// wrong in it is left out and does not fail the rest.
func (r *Receipts) EDU(ctx context.Context, origin string, content json.RawMessage) error {
	var rooms map[string]map[string]json.RawMessage
	if err := json.Unmarshal(content, &rooms); err != nil {
		return matrixerr.BadJSON("m.receipt has the wrong shape").With(err)
	}
	var waits []func(context.Context) error
	n := 0
	for room, types := range rooms {
		for _, receipt := range readEDU(room, types[Read]) {
			if n++; n > maxEDU {
				return matrixerr.TooLarge("There are too many receipts in one EDU")
			}
			if wait, err := r.remote(ctx, origin, receipt); err == nil && wait != nil {
				waits = append(waits, wait)
			}
		}
	}
	for _, wait := range waits {
		if err := wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// readEDU returns the well-formed receipts of a room in an EDU.
func readEDU(room string, byUser json.RawMessage) []Receipt {
	var users map[string]json.RawMessage
	if json.Unmarshal(byUser, &users) != nil {
		return nil
	}
	var out []Receipt
	for user, raw := range users {
		var c struct {
			Events []string `json:"event_ids"`
			Data   struct {
				TS     int64  `json:"ts"`
				Thread string `json:"thread_id"`
			} `json:"data"`
		}
		if json.Unmarshal(raw, &c) == nil && len(c.Events) == 1 {
			out = append(out, Receipt{room, user, Read, c.Events[0], c.Data.Thread, c.Data.TS})
		}
	}
	return out
}

// RemoteReceipt stores another server's user's receipt and returns after the
// commit. One for an event that is not here yet waits for it a minute.
func (r *Receipts) RemoteReceipt(ctx context.Context, origin string, receipt Receipt) error {
	wait, err := r.remote(ctx, origin, receipt)
	if err != nil || wait == nil {
		return err
	}
	return wait(ctx)
}

func (r *Receipts) remote(ctx context.Context, origin string, receipt Receipt) (func(context.Context) error, error) {
	if err := r.checkRemote(origin, &receipt); err != nil {
		return nil, err
	}
	place, ok, err := r.o.Events.Locate(ctx, receipt.Room, receipt.Event)
	if err != nil {
		return nil, err
	}
	if !ok {
		r.hold(receipt)
		return nil, nil
	}
	p := placed{receipt, place}
	if passed, err := r.passed(ctx, p); err != nil || passed {
		return nil, err
	}
	return r.put(p, false), nil
}

func (r *Receipts) checkRemote(origin string, receipt *Receipt) error {
	if err := checkRemote(origin, receipt.User); err != nil {
		return err
	}
	if receipt.Type != Read {
		return matrixerr.InvalidParam("Only m.read receipts are federated")
	}
	if receipt.Event == "" || receipt.Event[0] != '$' || len(receipt.Event) > maxID || len(receipt.Room) > maxID {
		return matrixerr.InvalidParam("A receipt must name a room and an event")
	}
	if err := checkThread(receipt.Thread); err != nil {
		return err
	}
	if r.o.Hub.JoinedCount(receipt.Room) == 0 {
		return matrixerr.NotFound("This server is not in the room")
	}
	if r.o.Member != nil && !r.o.Member(receipt.Room, receipt.User) {
		return matrixerr.Forbidden("The user is not in the room")
	}
	receipt.TS = min(max(receipt.TS, 0), maxTS)
	return nil
}

// hold keeps a receipt until its event is here.
func (r *Receipts) hold(receipt Receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := keyOf(&receipt)
	if _, again := r.waiting[k]; again || len(r.waiting) < maxWaiting {
		r.waiting[k] = waiting{receipt, r.o.Clock().Add(waitFor)}
	}
}

// retry looks again for the events of the receipts that wait, a few at a time.
func (r *Receipts) retry(ctx context.Context) {
	for _, receipt := range r.held(retryAtOnce) {
		place, ok, err := r.o.Events.Locate(ctx, receipt.Room, receipt.Event)
		switch {
		case err != nil:
			if ctx.Err() == nil {
				r.o.Log.WithError(err).Warn("a receipt's event could not be looked up")
			}
			return
		case ok:
			r.release(receipt)
			r.put(placed{receipt, place}, false)
		}
	}
}

// retryAtOnce bounds the look-ups of one tick.
const retryAtOnce = 50

// held returns some of the receipts that wait and drops those whose time is over.
func (r *Receipts) held(n int) []Receipt {
	now := r.o.Clock()
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Receipt
	for k, w := range r.waiting {
		switch {
		case now.After(w.until):
			delete(r.waiting, k)
		case len(out) < n:
			out = append(out, w.Receipt)
		}
	}
	return out
}

func (r *Receipts) release(receipt Receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := keyOf(&receipt); r.waiting[k].Event == receipt.Event {
		delete(r.waiting, k)
	}
}
