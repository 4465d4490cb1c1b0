package send

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"

	"knock/federationapi/client"
	"knock/internal/e2ee"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

// box is a Durable in memory.
type box struct {
	mu   sync.Mutex
	edus []e2ee.EDU
	told []int64
	read func() // called after each look for one server; nil: nothing is
}

func (b *box) put(pos int64, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range n {
		b.edus = append(b.edus, e2ee.EDU{Type: "m.direct_to_device", Content: json.RawMessage(fmt.Sprintf(`"%d/%d"`, pos, i)), Pos: pos})
	}
}

func (b *box) PendingServers(*sqldb.Tx) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.edus) == 0 {
		return nil, nil
	}
	return []string{"b.test"}, nil
}

func (b *box) PendingEDUs(_ *sqldb.Tx, server string, limit int) ([]e2ee.EDU, error) {
	if b.read != nil {
		defer b.read()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if server != "b.test" {
		return nil, nil
	}
	n := min(limit, len(b.edus))
	for n > 0 && n < len(b.edus) && b.edus[n].Pos == b.edus[n-1].Pos {
		n++
	}
	return slices.Clone(b.edus[:n]), nil
}

func (b *box) Delivered(_ context.Context, _ string, upTo int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = append(b.told, upTo)
	b.edus = slices.DeleteFunc(b.edus, func(e e2ee.EDU) bool { return e.Pos <= upTo })
	return nil
}

func (b *box) ForgetMessages(context.Context, string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.edus = nil
	return nil
}

func (b *box) left() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.edus)
}

// durable are the EDUs that arrived at b.test, in order, and whether an event came before the last of them.
func (n *network) durable() (edus []string, eventFirst bool) {
	event := false
	for _, a := range n.attempts() {
		if a.server != "b.test" || a.err != nil {
			continue
		}
		for _, e := range a.t.EDUs {
			if e.Type == "m.direct_to_device" {
				edus, eventFirst = append(edus, string(e.Content)), event
			}
		}
		event = event || len(a.t.PDUs) > 0
	}
	return edus, eventFirst
}

func eachDurable(t *testing.T, fn func(r *rig, b *box)) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := &rig{t: t, db: db, net: &network{}, durable: &box{}}
		r.begin()
		fn(r, r.durable)
	})
}

// TestDurableFirstAfterAnOutage has messages to devices go before the events that waited as long, over a restart too.
func TestDurableFirstAfterAnOutage(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			eachDurable(t, func(r *rig, b *box) {
				r.net.set(down)
				var want []string
				for i := range 60 {
					want = append(want, fmt.Sprint(i))
					r.say(want[i])
				}
				b.put(7, 1)
				b.put(9, 250) // one position in three transactions
				b.put(12, 2)
				r.sender.Notify([]string{"b.test"})
				r.eventually("what was under way failed", func() bool {
					all := r.net.attempts()
					return len(all) > 0 && len(all[len(all)-1].t.EDUs) > 0
				})
				if restart {
					r.stop()
				}
				r.net.set(nil)
				if restart {
					r.start()
				}
				r.arrived("b.test", want...)
				got, eventFirst := r.net.durable()
				if eventFirst || len(got) != 253 || got[0] != `"7/0"` || got[1] != `"9/0"` || got[250] != `"9/249"` || got[252] != `"12/1"` {
					r.t.Errorf("%d EDUs, an event first: %v", len(got), eventFirst)
				}
				r.eventually("nothing is left", func() bool { return b.left() == 0 })
				for _, a := range r.net.attempts() {
					if len(a.t.EDUs) > maxEDUs {
						r.t.Errorf("%d EDUs in one transaction", len(a.t.EDUs))
					}
				}
				if !slices.Equal(b.told, []int64{9, 12}) {
					r.t.Errorf("told %v", b.told)
				}
			})
		})
	}
}

// TestDurableWhileLooking has a message come just when it was looked whether there is any.
func TestDurableWhileLooking(t *testing.T) {
	eachDurable(t, func(r *rig, b *box) {
		r.say("1")
		r.arrived("b.test", "1")
		r.eventually("nothing is under way", func() bool { _, state := r.sender.destination("b.test").measure(); return state == "idle" })
		b.read = sync.OnceFunc(func() {
			b.put(3, 1)
			r.sender.Notify([]string{"b.test"})
		})
		r.sender.Notify([]string{"b.test"})
		r.eventually("the message is sent", func() bool {
			got, _ := r.net.durable()
			return len(got) == 1 && b.left() == 0
		})
	})
}

// TestDurableAfterAFailure keeps the transaction of events that failed as it was.
func TestDurableAfterAFailure(t *testing.T) {
	eachDurable(t, func(r *rig, b *box) {
		r.net.set(down)
		r.say("1")
		r.eventually("an attempt", func() bool { return len(r.net.attempts()) > 0 })
		b.put(3, 1)
		r.sender.Notify([]string{"b.test"})
		r.net.set(nil)
		r.arrived("b.test", "1")
		all := r.net.attempts()
		if got, eventFirst := r.net.durable(); len(got) != 1 || eventFirst || all[0].id != all[len(all)-1].id {
			r.t.Errorf("%v, an event first: %v", got, eventFirst)
		}
	})
}

// TestDurableThatAServerCannotDigest leaves out the one EDU that a server refuses.
func TestDurableThatAServerCannotDigest(t *testing.T) {
	eachDurable(t, func(r *rig, b *box) {
		r.net.set(func(_ string, tr *client.Transaction) error {
			if slices.ContainsFunc(tr.EDUs, func(e client.EDU) bool { return string(e.Content) == `"4/5"` }) {
				return &client.Error{Kind: client.KindStatus, Code: 413, Matrix: matrixerr.TooLarge("no")}
			}
			return nil
		})
		b.put(4, 12)
		r.sender.Notify([]string{"b.test"})
		r.eventually("nothing is left", func() bool { return b.left() == 0 })
		if got, _ := r.net.durable(); len(got) != 11 || slices.Contains(got, `"4/5"`) {
			r.t.Errorf("%v", got)
		}
	})
}
