package e2ee

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	"knock/internal/sqldb"
)

var (
	messagesOf = sqldb.Register("e2ee.messagesOf",
		`SELECT pos, data FROM e2ee_to_device WHERE user_id = $1 AND device_id = $2 AND pos > $3 AND pos <= $4 ORDER BY pos LIMIT $5`)
	messagesLast = sqldb.Register("e2ee.messagesLast",
		`SELECT pos FROM e2ee_to_device WHERE user_id = $1 AND device_id = $2 ORDER BY pos DESC LIMIT $3`)
	messagesAcked = sqldb.Register("e2ee.messagesAcked",
		`DELETE FROM e2ee_to_device WHERE user_id = $1 AND device_id = $2 AND pos <= $3`)
	messagesGone = sqldb.Register("e2ee.messagesGone",
		`DELETE FROM e2ee_to_device WHERE user_id = $1 AND device_id = ANY($2::bytea[])`)
)

// mailbox is what is known of the messages that wait for a device.
type mailbox struct {
	last  int64 // position of the newest, 0 when there is none
	known bool  // last is complete: the database was asked, or a message arrived since the start
	acked int64 // up to here the device has them
}

// mailboxes are the devices that were seen since the start: a sync of a device without messages costs no SQL.
type mailboxes struct {
	mu    sync.Mutex
	boxes map[deviceKey]*mailbox
	acks  map[deviceKey]int64 // to be deleted from the database
}

func newMailboxes() *mailboxes {
	return &mailboxes{boxes: map[deviceKey]*mailbox{}, acks: map[deviceKey]int64{}}
}

func (b *mailboxes) box(d deviceKey) *mailbox {
	m := b.boxes[d]
	if m == nil {
		m = &mailbox{}
		b.boxes[d] = m
	}
	return m
}

func (b *mailboxes) arrived(d deviceKey, pos int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.box(d)
	m.last, m.known = max(m.last, pos), true
}

// loaded notes the newest message that the database has; newer ones may have arrived since.
func (b *mailboxes) loaded(d deviceKey, last int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.box(d)
	m.last, m.known = max(m.last, last), true
}

func (b *mailboxes) get(d deviceKey) mailbox {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m := b.boxes[d]; m != nil {
		return *m
	}
	return mailbox{}
}

// ack notes that a device has its messages up to a position.
func (b *mailboxes) ack(d deviceKey, upto int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.box(d)
	if m.known && m.last <= m.acked || upto <= m.acked {
		return
	}
	m.acked = upto
	b.acks[d] = upto
}

func (b *mailboxes) takeAcks(most int) map[deviceKey]int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[deviceKey]int64{}
	for d, upto := range b.acks {
		if len(out) == most {
			break
		}
		out[d] = upto
		delete(b.acks, d)
	}
	return out
}

// putBack returns acknowledgements that could not be written.
func (b *mailboxes) putBack(acks map[deviceKey]int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for d, upto := range acks {
		b.acks[d] = max(b.acks[d], upto)
	}
}

func (b *mailboxes) drop(user string, devices []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range devices {
		delete(b.boxes, deviceKey{user, id})
		delete(b.acks, deviceKey{user, id})
	}
}

// ToDevice returns the messages for a device with from < position ≤ to that it has not acknowledged, in order, at most
// limit of them. When there are more, the next answer begins after next; else next is to. A device without messages
// costs no SQL.
func (s *Service) ToDevice(tx *sqldb.Tx, userID, deviceID string, from, to int64, limit int) (events []json.RawMessage, next int64, more bool, err error) {
	d := deviceKey{userID, deviceID}
	m := s.boxes.get(d)
	if !m.known {
		last, err := sqldb.Collect(tx, messagesLast, scanNumber, userID, deviceID, 1)
		if err != nil {
			return nil, from, false, err
		}
		s.boxes.loaded(d, append(last, 0)[0])
		m = s.boxes.get(d)
	}
	after := max(from, m.acked)
	if m.last <= after {
		return nil, to, false, nil
	}
	return readMessages(tx, d, after, to, limit)
}

func readMessages(tx *sqldb.Tx, d deviceKey, from, to int64, limit int) (events []json.RawMessage, next int64, more bool, err error) {
	var positions []int64
	events, err = sqldb.Collect(tx, messagesOf, func(r *sqldb.Rows) (data json.RawMessage, err error) {
		var pos int64
		err = r.Scan(&pos, &data)
		positions = append(positions, pos)
		return data, err
	}, d.user, d.device, from, to, limit+1)
	if err != nil || len(events) <= limit {
		return events, to, false, err
	}
	return slices.Clip(events[:limit]), positions[limit-1], true, nil
}

// AckToDevice notes that a device has all messages up to a position: those that the sync token it came back with
// stands for. They are deleted soon, and never delivered again.
func (s *Service) AckToDevice(userID, deviceID string, upto int64) {
	s.boxes.ack(deviceKey{userID, deviceID}, upto)
}

// ackPortion is how many devices' messages are deleted in one operation.
const ackPortion = 100

// flushAcks deletes what was acknowledged.
func (s *Service) flushAcks(ctx context.Context) error {
	for {
		acks := s.boxes.takeAcks(ackPortion)
		if len(acks) == 0 {
			return nil
		}
		err := s.db.Do(ctx, &sqldb.Op{Name: "e2ee.acks", Write: func(tx *sqldb.Tx, _ int64) error {
			for d, upto := range acks {
				if _, err := tx.Exec(messagesAcked, d.user, d.device, upto); err != nil {
					return err
				}
			}
			return nil
		}})
		if err != nil {
			s.boxes.putBack(acks)
			return err
		}
	}
}
