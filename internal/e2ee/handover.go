package e2ee

import (
	"slices"

	"knock/internal/sqldb"
)

var (
	messagesOfUsers = sqldb.Register("e2ee.messagesOfUsers",
		`SELECT user_id, device_id, pos, data FROM e2ee_to_device WHERE user_id = ANY($1::bytea[]) AND pos <= $2 ORDER BY pos LIMIT $3`)
	usersWaiting    = sqldb.Register("e2ee.usersWaiting", `SELECT DISTINCT user_id FROM e2ee_to_device WHERE pos <= $1`)
	devicesWithKeys = sqldb.Register("e2ee.devicesWithKeys", `SELECT DISTINCT user_id, device_id FROM e2ee_batches WHERE total > $1`)
	listsPart       = sqldb.Register("e2ee.listsPart",
		`SELECT user_id, pos FROM e2ee_lists WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3`)
)

// Device names a device of a local user.
type Device struct{ User, ID string }

// Waiting is a message that waits for a device. Event is as /sync shows it.
type Waiting struct {
	Device
	Pos   int64
	Event []byte
}

// OnKeyCounts has fn called after the one-time or fallback keys of a local device became more or fewer. Call it before
// Run; fn must not block.
func (s *Service) OnKeyCounts(fn func(Device)) { s.counts.dropped = fn }

// MessagesFor returns the messages that wait for the devices of some local users, with a position up to to, oldest
// first, at most limit. They are for somebody who takes them out of Knock's hands in place of a /sync: HandOver, in the
// transaction in which they are stored elsewhere.
func (s *Service) MessagesFor(tx *sqldb.Tx, users []string, to int64, limit int) ([]Waiting, error) {
	return sqldb.Collect(tx, messagesOfUsers, func(r *sqldb.Rows) (w Waiting, err error) {
		var user, device []byte
		err = r.Scan(&user, &device, &w.Pos, &w.Event)
		w.Device = Device{string(user), string(device)}
		return w, err
	}, users, to, limit)
}

// HandOver deletes messages that somebody else keeps from now on. committed is to be called after the commit.
func (s *Service) HandOver(tx *sqldb.Tx, list []Waiting) (committed func(), err error) {
	last := map[Device]int64{}
	for _, w := range list {
		last[w.Device] = max(last[w.Device], w.Pos)
	}
	for d, pos := range last {
		if _, err := tx.Exec(messagesAcked, d.User, d.ID, pos); err != nil {
			return nil, err
		}
	}
	return func() {
		for d, pos := range last {
			s.boxes.ack(deviceKey{d.User, d.ID}, pos)
		}
	}, nil
}

// UsersWaiting returns the local users with messages for their devices. It reads all that wait.
func (s *Service) UsersWaiting(tx *sqldb.Tx, to int64) ([]string, error) {
	return sqldb.Collect(tx, usersWaiting, scanText, to)
}

// DevicesWithKeys returns the local devices that have uploaded one-time keys. It reads all uploads.
func (s *Service) DevicesWithKeys(tx *sqldb.Tx) ([]Device, error) {
	return sqldb.Collect(tx, devicesWithKeys, func(r *sqldb.Rows) (Device, error) {
		var user, device []byte
		err := r.Scan(&user, &device)
		return Device{string(user), string(device)}, err
	}, 0)
}

// ListChanges returns the users, of this server and of others, whose device list or cross-signing keys changed last in
// from < position ≤ until, at most limit (more than 100) of them; until is to when there are no more.
func (s *Service) ListChanges(tx *sqldb.Tx, from, to int64, limit int) (users []string, until int64, err error) {
	if users, ok := s.recent.since("", from, to); ok && len(users) <= limit {
		slices.Sort(users)
		return slices.Compact(users), to, nil
	}
	var positions []int64
	users, err = sqldb.Collect(tx, listsPart, func(r *sqldb.Rows) (string, error) {
		var user []byte
		var pos int64
		err := r.Scan(&user, &pos)
		positions = append(positions, pos)
		return string(user), err
	}, from, to, limit)
	if err != nil || len(users) < limit {
		return users, to, err
	}
	// A join announces up to a hundred users at one position: those of the last one are left for the next time.
	last := positions[limit-1]
	n, _ := slices.BinarySearch(positions, last)
	return users[:n], last - 1, nil
}
