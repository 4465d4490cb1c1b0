package slidingsync

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"
	"unsafe"

	"knock/clientapi/syncread"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

var (
	selectState  = sqldb.Register("sliding.state", `SELECT used, data FROM sliding_connections WHERE gen = $1 AND user_id = $2 AND device_id = $3 AND conn_id = $4`)
	insertState  = sqldb.Register("sliding.insert", `INSERT INTO sliding_connections (gen, user_id, device_id, conn_id, used, data) VALUES ($1, $2, $3, $4, $5, $6)`)
	deleteStates = sqldb.Register("sliding.supersede",
		`DELETE FROM sliding_connections WHERE user_id = $1 AND device_id = $2 AND conn_id = $3 AND gen <> $4`)
	pruneStates = sqldb.Register("sliding.bound",
		`DELETE FROM sliding_connections WHERE user_id = $1 AND device_id = $2 AND gen < (
			SELECT min(s.gen) FROM (SELECT gen FROM sliding_connections WHERE user_id = $1 AND device_id = $2 ORDER BY gen DESC LIMIT $3::bigint) s)`)
	touchState   = sqldb.Register("sliding.touch", `UPDATE sliding_connections SET used = $2 WHERE gen = $1`)
	expireStates = sqldb.Register("sliding.expire", `DELETE FROM sliding_connections WHERE used < $1`)
	deleteDevice = sqldb.Register("sliding.deleteDevice", `DELETE FROM sliding_connections WHERE user_id = $1 AND device_id = ANY($2::bytea[])`)
)

const (
	maxStates  = 32 // of a device: two for each connection
	touchEvery = 24 * time.Hour
	expireIn   = 30 * 24 * time.Hour
)

type connKey struct{ user, device, conn string }

// connection is what is in memory of a connection. turn is held by the one
// request that it serves at a time.
type connection struct {
	turn  chan struct{}
	given *syncread.Given[token]

	mu     sync.Mutex
	cancel context.CancelCauseFunc // ends the newest request

	// Guarded by turn.
	confirmed, offered *connState // by the token that the client came with; of the newest answer
	used               int64      // when it was noted in the database that it is used
	keys               [2]string  // key counts that were told: with confirmed, and in the newest answer
	answered           token      // the newest answer's
}

// cost is asked while the turn is held.
func (c *connection) cost() int64 {
	n := int64(10_000) // with what was given
	for _, st := range []*connState{c.confirmed, c.offered} {
		if st != nil {
			n += int64(len(st.rooms)) * int64(unsafe.Sizeof(record{}))
		}
	}
	return n
}

var errSuperseded = errors.New("superseded")

// enter takes the connection of a request and finds what the client was told. A
// newer request of a connection ends the one before: own is cancelled then.
func (s *Sync) enter(ctx context.Context, q *request) (own context.Context, release func(), err error) {
	key := connKey{q.user, q.device, q.conn}
	c, ok := s.conns.Get(key)
	if !ok {
		c = &connection{turn: make(chan struct{}, 1), given: &syncread.Given[token]{}}
		s.conns.Put(key, c)
	}
	own, cancel := context.WithCancelCause(ctx)
	c.mu.Lock()
	if c.cancel != nil {
		c.cancel(errSuperseded)
	}
	c.cancel = cancel
	c.mu.Unlock()
	select {
	case c.turn <- struct{}{}:
	case <-own.Done():
		cancel(nil)
		return nil, nil, superseded(own, own.Err())
	}
	release = func() {
		<-c.turn
		cancel(nil)
	}
	if err := s.resume(own, c, q); err != nil {
		release()
		return nil, nil, err
	}
	return own, release, nil
}

func superseded(own context.Context, err error) error {
	if errors.Is(context.Cause(own), errSuperseded) {
		return matrixerr.Unknown(400, "A newer request of this connection took the place of this one")
	}
	return err
}

// resume sets what the client has been told.
func (s *Sync) resume(ctx context.Context, c *connection, q *request) (err error) {
	q.own, q.given = c, c.given
	if q.ignored, err = s.o.Accounts.IgnoredUsers(ctx, q.user); err != nil {
		return err
	}
	if q.initial {
		c.confirmed, c.offered, c.answered, c.keys = nil, nil, token{}, [2]string{}
		q.kept, q.state = &connState{}, &connState{}
		q.since = token{boot: s.boot, epoch: s.o.DB.Epoch()}
		q.given.Begin(token{})
		return nil
	}
	if q.since.epoch != s.o.DB.Epoch() || q.since.pos > s.o.Hub.Published() {
		return errUnknownPos()
	}
	if err := s.confirm(ctx, c, q); err != nil {
		return err
	}
	if q.since == c.answered {
		c.keys[0] = c.keys[1]
	}
	q.kept, q.state = c.confirmed, c.confirmed
	q.given.Begin(q.since)
	if q.since.boot != s.boot {
		q.since.boot, q.since.eph, q.stale = s.boot, 0, true
	}
	return nil
}

// confirm finds the state of the token's generation.
func (s *Sync) confirm(ctx context.Context, c *connection, q *request) error {
	switch gen := q.since.gen; {
	case c.confirmed != nil && c.confirmed.gen == gen:
	case c.offered != nil && c.offered.gen == gen:
		c.confirmed, c.offered = c.offered, nil
	default:
		state, used, err := s.load(ctx, q)
		if err != nil {
			return err
		}
		c.confirmed, c.offered, c.used = state, nil, used
	}
	if now := s.o.Clock.Millis(); now-c.used > touchEvery.Milliseconds() {
		c.used = now
		gen := c.confirmed.gen
		s.o.DB.Enqueue(&sqldb.Op{Name: "sliding.touch", Write: func(tx *sqldb.Tx, _ int64) error {
			_, err := tx.Exec(touchState, gen, now)
			return err
		}})
	}
	return nil
}

func (s *Sync) load(ctx context.Context, q *request) (state *connState, used int64, err error) {
	var data []byte
	err = s.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.QueryRow(selectState, q.since.gen, q.user, q.device, q.conn).Scan(&used, &data)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, 0, errUnknownPos()
	}
	if err != nil {
		return nil, 0, err
	}
	if state, err = decodeState(data); err != nil {
		return nil, 0, errUnknownPos()
	}
	state.gen = q.since.gen
	return state, used, nil
}

// adopt counts an answer that may be sent: if it is not, the next one need not
// look at the same again.
func (q *request) adopt(a *answer) {
	q.state = a.draft.apply()
	q.since, q.stale = a.at, false
}

// finish makes an answer the connection's newest: its state is committed before
// it is sent.
func (s *Sync) finish(ctx context.Context, q *request, a *answer) (any, error) {
	c := q.own
	next := q.state
	if next != q.kept || q.initial {
		if err := s.save(ctx, q, next); err != nil {
			return nil, err
		}
	}
	a.at.gen = next.gen
	c.answered, c.keys[1] = a.at, a.keyText
	q.given.Offer(a.at, a.given)
	return httpx.Raw(a.encode()), nil
}

func (s *Sync) save(ctx context.Context, q *request, state *connState) error {
	c := q.own
	state.gen = s.o.DB.NextID()
	data, now := state.encode(), s.o.Clock.Millis()
	err := s.o.DB.Do(ctx, &sqldb.Op{Name: "sliding.save", Write: func(tx *sqldb.Tx, _ int64) error {
		if _, err := tx.Exec(deleteStates, q.user, q.device, q.conn, q.kept.gen); err != nil {
			return err
		}
		if _, err := tx.Exec(insertState, state.gen, q.user, q.device, q.conn, now, data); err != nil {
			return err
		}
		if !q.initial {
			return nil
		}
		_, err := tx.Exec(pruneStates, q.user, q.device, maxStates)
		return err
	}})
	if err != nil {
		return err
	}
	c.offered, c.used = state, now
	s.conns.Put(connKey{q.user, q.device, q.conn}, c) // what it costs has changed
	return nil
}
