package store

import "knock/internal/sqldb"

// Redemption is an invite to an address that one of our users has, which is still to be turned into one of the user.
type Redemption struct {
	NID                       int64
	Room, User, Token, Sender string
	Signed                    []byte // the identity server's word, JSON
	Added, Tries              int64
}

var (
	insertRedemption = sqldb.RegisterInsert("redemptions.insert", `INSERT INTO redemptions (nid, room, user_id, token, sender, signed, added, due, tries) VALUES`, 9,
		`ON CONFLICT (room, user_id, token) DO UPDATE SET due = excluded.due`)
	dueRedemptions   = sqldb.Register("redemptions.due", `SELECT nid, room, user_id, token, sender, signed, added, tries FROM redemptions WHERE due <= $1 ORDER BY due LIMIT $2`)
	nextRedemption   = sqldb.Register("redemptions.next", `SELECT coalesce(min(due), $1) FROM redemptions`)
	countRedemptions = sqldb.Register("redemptions.count", `SELECT count(*) FROM redemptions`)
	delayRedemption  = sqldb.Register("redemptions.delay", `UPDATE redemptions SET due = $2, tries = tries + 1 WHERE nid = $1`)
	deleteRedemption = sqldb.Register("redemptions.delete", `DELETE FROM redemptions WHERE nid = $1`)
)

// AddRedemptions queues invites, to be tried at once. One that is queued already is tried at once again.
func (s *Store) AddRedemptions(tx *sqldb.Tx, list []Redemption) error {
	values := make([][]any, len(list))
	for i, r := range list {
		values[i] = []any{r.NID, []byte(r.Room), []byte(r.User), []byte(r.Token), []byte(r.Sender), r.Signed, r.Added, r.Added, int64(0)}
	}
	return tx.Insert(insertRedemption, values...)
}

// DueRedemptions returns up to limit invites whose turn it is, and when the next one's is: until when none is.
func (s *Store) DueRedemptions(tx *sqldb.Tx, now, until int64, limit int) (list []Redemption, next int64, err error) {
	list, err = sqldb.Collect(tx, dueRedemptions, func(rows *sqldb.Rows) (r Redemption, err error) {
		var room, user, token, sender []byte
		err = rows.Scan(&r.NID, &room, &user, &token, &sender, &r.Signed, &r.Added, &r.Tries)
		r.Room, r.User, r.Token, r.Sender = string(room), string(user), string(token), string(sender)
		return r, err
	}, now, limit)
	if err != nil {
		return nil, 0, err
	}
	return list, next, tx.QueryRow(nextRedemption, until).Scan(&next)
}

// CountRedemptions returns how many invites are queued.
func (s *Store) CountRedemptions(tx *sqldb.Tx) (n int64, err error) {
	err = tx.QueryRow(countRedemptions).Scan(&n)
	return n, err
}

// DelayRedemption has an invite tried again at a time.
func (s *Store) DelayRedemption(tx *sqldb.Tx, nid, due int64) error {
	_, err := tx.Exec(delayRedemption, nid, due)
	return err
}

// EndRedemption takes an invite off the queue.
func (s *Store) EndRedemption(tx *sqldb.Tx, nid int64) error {
	_, err := tx.Exec(deleteRedemption, nid)
	return err
}
