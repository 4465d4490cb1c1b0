package send

import (
	"errors"
	"slices"
	"testing"

	"knock/internal/ephemeral"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver/store"
)

// unreadable is sticky events of which those for newcomers cannot be read.
type unreadable struct{}

func (unreadable) Own(*sqldb.Tx, int64, int64, int64) ([]store.Due, error) { return nil, nil }
func (unreadable) ForNewcomer(*sqldb.Tx, int64, string, int64) ([]store.Due, error) {
	return nil, errors.New("it cannot be read")
}
func (unreadable) ForNewcomers(*sqldb.Tx) (map[string][]int64, error) { return nil, nil }

// TestStickyFailureCostsNoReceipts has somebody come in, to whom sticky events cannot be given, while a receipt is to go out.
func TestStickyFailureCostsNoReceipts(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := &rig{t: t, db: db, net: &network{}, sticky: unreadable{}}
		r.begin()
		receipt := ephemeral.Receipt{Room: r.room, User: "@alice:a.test", Type: ephemeral.Read, Event: "$read"}
		e := &r.sender.edus
		e.mu.Lock()
		e.newcomers[newcomer{"@new:c.test", r.room}] = r.sender.o.Hub.Published()
		e.receipts[receiptKey{receipt.Room, receipt.User, receipt.Thread}] = receipt
		signal(e.wake)
		e.mu.Unlock()
		r.eventually("the receipt arrives", func() bool {
			_, read := r.net.told("b.test")
			return slices.Contains(read, "@alice:a.test $read")
		})
	})
}
