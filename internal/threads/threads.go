// Package threads owns which threads a user follows (MSC4306), and what changed of that (MSC4308).
package threads

import (
	"context"
	"database/sql"
	"errors"
	"net/http"

	"knock/internal/matrixerr"
	"knock/internal/relations"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/store"
)

// Subscriptions are the threads that users follow.
type Subscriptions struct {
	rooms *roomserver.Server
	store *store.Store
}

// New makes Subscriptions.
func New(rooms *roomserver.Server) *Subscriptions {
	return &Subscriptions{rooms: rooms, store: rooms.Store}
}

// State says whether and how a user follows a thread.
type State int64

// The states.
const (
	Unfollowed State = iota // not any more
	Automatic               // the client chose it
	Manual                  // the user chose it
)

// change is what is now true of a thread.
type change struct {
	room, root string
	state      State
	pos        int64
}

var (
	one = sqldb.Register("thread_subscriptions.one", `SELECT state, left_pos FROM thread_subscriptions WHERE user_nid = $1 AND root = $2`)
	put = sqldb.Register("thread_subscriptions.put", `INSERT INTO thread_subscriptions (user_nid, root, state, left_pos, pos) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_nid, root) DO UPDATE SET state = excluded.state, left_pos = excluded.left_pos, pos = excluded.pos`)
	changed = sqldb.Register("thread_subscriptions.changed", `SELECT root, state, pos FROM thread_subscriptions
		WHERE user_nid = $1 AND pos > $2 AND pos <= $3 AND state >= $4 ORDER BY pos DESC LIMIT $5`)
)

var (
	errNotInThread = matrixerr.New(http.StatusBadRequest, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD",
		"The event for which the subscription was made is not in the thread")
	errConflict = matrixerr.New(http.StatusConflict, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION",
		"You unsubscribed from the thread after that event; subscribe by hand to follow it again")
	errNoThread = matrixerr.NotFound("The thread was not found, or you may not see it.")
)

// root returns the first event of a thread that a user may see, M_NOT_FOUND for others.
func (s *Subscriptions) root(ctx context.Context, user, room, id string) (*store.Stored, error) {
	e, err := s.rooms.EventFor(ctx, room, id, user)
	if errors.Is(err, roomserver.ErrUnknownEvent) || errors.Is(err, roomserver.ErrUnknownRoom) {
		return nil, errNoThread.With(err)
	}
	return e, err
}

// Get returns how a user follows a thread. Errors: M_NOT_FOUND, also if they do not.
func (s *Subscriptions) Get(ctx context.Context, user, room, root string) (state State, err error) {
	e, err := s.root(ctx, user, room, root)
	if err != nil {
		return 0, err
	}
	err = s.store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		nid, err := s.store.FindName(tx, user)
		if err == nil {
			state, _, err = read(tx, nid, e.NID)
		}
		return err
	})
	if err == nil && state == Unfollowed {
		err = matrixerr.NotFound("You have not subscribed to the thread")
	}
	return state, err
}

func read(tx *sqldb.Tx, user, root int64) (state State, left int64, err error) {
	err = tx.QueryRow(one, user, root).Scan(&state, &left)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return state, left, err
}

// Follow makes a user follow a thread. cause is the event because of which their client chose so, "" if it was the
// user; a choice of theirs is not undone by one of the client. Errors: M_NOT_FOUND, M_NOT_IN_THREAD and, for causes before
// the user unsubscribed, M_CONFLICTING_UNSUBSCRIPTION (both with the prefix of MSC4306).
func (s *Subscriptions) Follow(ctx context.Context, user, room, root, cause string) error {
	e, err := s.root(ctx, user, room, root)
	if err != nil {
		return err
	}
	chosen, since := Manual, int64(0)
	if cause != "" {
		reply, err := s.root(ctx, user, room, cause)
		if err != nil {
			return err
		}
		if r, ok := relations.Of(reply.Event); !ok || r.Type != relations.Thread || r.Parent != root {
			return errNotInThread
		}
		chosen, since = Automatic, reply.Pos
	}
	return s.change(ctx, user, e.NID, func(state State, left, _ int64) (State, int64, error) {
		if chosen == Automatic && state == Unfollowed && left > 0 && since <= left {
			return state, left, errConflict
		}
		return max(state, chosen), left, nil
	})
}

// Unfollow makes a user follow a thread no more; if they did not it does nothing. Errors: M_NOT_FOUND.
func (s *Subscriptions) Unfollow(ctx context.Context, user, room, root string) error {
	e, err := s.root(ctx, user, room, root)
	if err != nil {
		return err
	}
	return s.change(ctx, user, e.NID, func(state State, left, pos int64) (State, int64, error) {
		if state != Unfollowed {
			left = pos
		}
		return Unfollowed, left, nil
	})
}

// change replaces what is known of a user and a thread by what edit makes of it.
func (s *Subscriptions) change(ctx context.Context, user string, root int64, edit func(state State, left, pos int64) (State, int64, error)) error {
	nids, err := s.store.Intern(ctx, user)
	if err != nil {
		return err
	}
	var verdict error
	changed := false
	err = s.store.DB.Do(ctx, &sqldb.Op{Name: "threads.change", Positions: 1,
		Write: func(tx *sqldb.Tx, pos int64) error {
			changed = false
			state, left, err := read(tx, nids[0], root)
			if err != nil {
				return err
			}
			now, nowLeft, refused := edit(state, left, pos)
			if verdict = refused; refused != nil || now == state {
				return nil
			}
			changed = true
			_, err = tx.Exec(put, nids[0], root, int64(now), nowLeft, pos)
			return err
		},
		Committed: func(pos int64) {
			if changed {
				s.rooms.Hub.TouchUser(user, pos)
			}
		}})
	if err == nil {
		err = verdict
	}
	return err
}

// changes returns what is true of the threads of which something changed with from < position ≤ to, the newest first and
// at most limit. From 0, threads that are not followed any more are left out. lowest is the position of the last one if
// there are more, else 0.
func (s *Subscriptions) changes(tx *sqldb.Tx, user string, from, to int64, limit int) (list []change, lowest int64, err error) {
	nid, err := s.store.FindName(tx, user)
	if err != nil || nid == 0 {
		return nil, 0, err
	}
	least := Unfollowed
	if from == 0 {
		least = Automatic
	}
	rows, err := sqldb.Collect(tx, changed, func(rows *sqldb.Rows) (r row, err error) {
		err = rows.Scan(&r.root, &r.state, &r.pos)
		return r, err
	}, nid, from, to, int64(least), limit+1)
	if err != nil {
		return nil, 0, err
	}
	if len(rows) > limit {
		rows = rows[:limit]
		lowest = rows[limit-1].pos
	}
	list, err = s.named(tx, rows)
	return list, lowest, err
}

type row struct {
	root, pos int64
	state     State
}

// named gives rows the ids of their events; threads of which the first event was purged are left out.
func (s *Subscriptions) named(tx *sqldb.Tx, rows []row) ([]change, error) {
	nids := make([]int64, len(rows))
	for i, r := range rows {
		nids[i] = r.root
	}
	events, err := s.store.Load(tx, nids)
	if err != nil {
		return nil, err
	}
	var list []change
	for _, r := range rows {
		if e := events[r.root]; e != nil {
			list = append(list, change{room: e.Event.Room(), root: e.ID, state: r.state, pos: r.pos})
		}
	}
	return list, nil
}
