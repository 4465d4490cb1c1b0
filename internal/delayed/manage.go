package delayed

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"time"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// newID makes an id that nobody guesses: who has it may manage the event.
func newID() string {
	var secret [24]byte
	_, _ = rand.Read(secret[:])
	return "knd_" + base64.RawURLEncoding.EncodeToString(secret[:])
}

const maxID = 64

// ScheduledBefore is the id of the event that a transaction of e's user, device, room and type scheduled, "" for none.
func (s *Service) ScheduledBefore(ctx context.Context, e *Event, txn string) (id string, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		id, err = before(tx, txnKey(e, txn))
		return err
	})
	return id, err
}

func before(tx *sqldb.Tx, key []byte) (string, error) {
	if key == nil {
		return "", nil
	}
	var id []byte
	err := tx.QueryRow(byTxn, key).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return string(id), err
}

// Schedule keeps an event until it is due and returns its id once it is committed; the same transaction schedules one
// event. Errors: ErrOff, ErrTooLong, M_LIMIT_EXCEEDED for one too many.
func (s *Service) Schedule(ctx context.Context, e Event, txn string) (id string, err error) {
	switch {
	case s.o.MaxCount == 0:
		return "", ErrOff
	case e.Delay > s.o.MaxDelay.Milliseconds():
		return "", ErrTooLong
	}
	key := txnKey(&e, txn)
	e.nid, e.ID, e.Scheduled = s.db.NextID(), newID(), s.o.Clock.Millis()
	e.due = e.Scheduled + e.Delay
	var refusal error
	err = s.db.Do(context.WithoutCancel(ctx), &sqldb.Op{Name: "delayed.schedule",
		Write: func(tx *sqldb.Tx, _ int64) (err error) {
			refusal = nil
			if id, err = before(tx, key); err != nil || id != "" {
				return err
			}
			if refusal, err = s.full(tx, e.User); refusal != nil || err != nil {
				return err
			}
			id = e.ID
			return tx.Insert(insert, e.row(key))
		},
		Committed: func(int64) {
			if id == e.ID {
				s.sooner(e.due)
			}
		}})
	if err == nil {
		err = refusal
	}
	if err != nil {
		return "", err
	}
	return id, nil
}

// full refuses one event too many.
func (s *Service) full(tx *sqldb.Tx, user string) (refusal, err error) {
	var n int64
	var next *int64
	if err := tx.QueryRow(countOf, []byte(user)).Scan(&n, &next); err != nil {
		return nil, err
	}
	if n < int64(s.o.MaxCount) || next == nil {
		return nil, nil
	}
	e := matrixerr.LimitExceeded(time.Duration(*next-s.o.Clock.Millis()) * time.Millisecond)
	e.Msg = "You have as many delayed events scheduled as this server allows; cancel one, or wait until one is sent."
	return e, nil
}

// byName finds an event by its id. With user not empty it must be that user's.
func (s *Service) byName(ctx context.Context, user, id string) (*Event, error) {
	if len(id) > maxID {
		return nil, ErrNotFound
	}
	e, err := s.find(ctx, byID, []byte(id))
	if err == nil && user != "" && e.User != user {
		return nil, ErrNotFound
	}
	return e, err
}

// Get is a user's event. Errors: ErrNotFound.
func (s *Service) Get(ctx context.Context, user, id string) (*Event, error) {
	return s.byName(ctx, user, id)
}

// attempts bounds how often an action is tried when the event changes under it.
const attempts = 4

var errBusy = errors.New("the delayed event changes all the time")

// manage does something with an event that is scheduled; act says whether it was still as it had been read. With user
// empty, whoever knows the id may. over answers for an event that is finalised.
func (s *Service) manage(ctx context.Context, user, id string, over func(*Event) error, act func(*Event) (done bool, err error)) error {
	for range attempts {
		e, err := s.byName(ctx, user, id)
		if err != nil {
			return err
		}
		if e.Finalised != 0 {
			return over(e)
		}
		if done, err := act(e); done || err != nil {
			return err
		}
	}
	return errBusy
}

// Cancel sees to it that an event is never sent. Errors: ErrNotFound, ErrSent.
func (s *Service) Cancel(ctx context.Context, user, id string) error {
	over := func(e *Event) error {
		if e.EventID != "" {
			return ErrSent
		}
		return nil
	}
	return s.manage(ctx, user, id, over, func(e *Event) (bool, error) {
		done, err := s.finalise(ctx, e, "", nil)
		if done && err == nil {
			s.metrics.ended.WithLabelValues("cancelled").Inc()
		}
		return done, err
	})
}

// Restart lets an event's delay begin again. Errors: ErrNotFound, ErrSent, ErrCancelled.
func (s *Service) Restart(ctx context.Context, user, id string) error {
	return s.manage(ctx, user, id, (*Event).fate, func(e *Event) (done bool, err error) {
		// Each start is told from the one before, whatever the clock says.
		begin := max(s.o.Clock.Millis(), e.Scheduled+1)
		err = s.db.Do(context.WithoutCancel(ctx), &sqldb.Op{Name: "delayed.restart",
			Write: func(tx *sqldb.Tx, _ int64) error {
				n, err := tx.Exec(setStart, e.nid, begin, begin+e.Delay)
				done = n > 0
				return err
			},
			Committed: func(int64) {
				if done {
					s.sooner(begin + e.Delay)
				}
			}})
		return done, err
	})
}

// Send sends an event at once. Errors: ErrNotFound, ErrCancelled, and those of sending, after which it stays scheduled.
func (s *Service) Send(ctx context.Context, user, id string) error {
	over := func(e *Event) error {
		if e.EventID == "" {
			return ErrCancelled
		}
		return nil
	}
	return s.manage(ctx, user, id, over, func(e *Event) (bool, error) {
		err := s.send(ctx, e)
		if errors.Is(err, errMoved) {
			return false, nil
		}
		return true, err
	})
}

// Scheduled are a user's events that are not finalised, those first that are due first.
func (s *Service) Scheduled(ctx context.Context, user string) (list []*Event, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		list, err = sqldb.Collect(tx, scheduled, scanRow, []byte(user))
		return err
	})
	return list, err
}

// Place is where a page of finalised events ends.
type Place struct{ Finalised, Number int64 }

// Place is that of an event.
func (e *Event) Place() Place { return Place{e.Finalised, e.nid} }

// Finalised are up to limit of a user's events that are no longer scheduled, after a place, the first finalised first.
func (s *Service) Finalised(ctx context.Context, user string, after Place, limit int) (list []*Event, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		list, err = sqldb.Collect(tx, finalised, scanRow, []byte(user), after.Finalised, after.Number, limit)
		return err
	})
	return list, err
}

// UserDeactivating deletes what a user scheduled, in the transaction that ends the account.
func (s *Service) UserDeactivating(tx *sqldb.Tx, userID string) error {
	_, err := tx.Exec(deleteAll, []byte(userID))
	return err
}

// How long and how many finalised events of a user are kept, and how often the others are deleted.
const (
	kept       = 7 * 24 * time.Hour
	keptCount  = 1000
	pruneEvery = time.Hour
	pruneBatch = 10_000
)

func scanBytes(r *sqldb.Rows) (b []byte, err error) {
	err = r.Scan(&b)
	return b, err
}

// prune deletes finalised events that nobody asks for any more.
func (s *Service) prune(ctx context.Context) error {
	var owners [][]byte
	err := s.db.Do(ctx, &sqldb.Op{Name: "delayed.prune", Write: func(tx *sqldb.Tx, _ int64) error {
		if _, err := tx.Exec(deleteOld, s.o.Clock().Add(-kept).UnixMilli()); err != nil {
			return err
		}
		var err error
		owners, err = sqldb.Collect(tx, richest, scanBytes, keptCount)
		return err
	}})
	for _, owner := range owners {
		if err != nil {
			break
		}
		err = s.db.Do(ctx, &sqldb.Op{Name: "delayed.prune", Write: func(tx *sqldb.Tx, _ int64) error {
			_, err := tx.Exec(deleteTop, owner, pruneBatch, keptCount)
			return err
		}})
	}
	return err
}
