// Package reports owns what users reported to the administrators: events, rooms and users (Client-Server API,
// "Reporting Content").
package reports

import (
	"context"
	"database/sql"
	"time"

	"knock/internal/clock"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// Kind is what a report is about; 0 is any.
type Kind int64

// The kinds of reports.
const (
	Event Kind = iota + 1
	Room
	User
)

// Report is one report.
type Report struct {
	ID       int64
	Kind     Kind
	Received int64 // ms
	Reporter string
	Room     string // of events and rooms
	Event    string // of events
	Target   string // the event's sender, or the user
	Reason   string
	Score    *int64 // older clients give one, from -100 to 0
}

const (
	maxReason = 4000 // bytes
	maxKept   = 1000 // reports of one user
)

// Service keeps reports.
type Service struct {
	db    *sqldb.DB
	clock clock.Clock
}

// New makes a Service; a nil clock is the system's.
func New(db *sqldb.DB, c clock.Clock) *Service {
	if c == nil {
		c = clock.System
	}
	return &Service{db, c}
}

var (
	insert  = sqldb.RegisterInsert("reports.insert", `INSERT INTO reports (nid, kind, received, reporter, room, event, target, reason, score) VALUES`, 9, ``)
	countOf = sqldb.Register("reports.countOf", `SELECT count(*) FROM reports WHERE reporter = $1`)

	columns = `SELECT nid, kind, received, reporter, room, event, target, reason, score FROM reports `
	matches = `WHERE ($1::bigint = 0 OR kind = $1) AND ($2::bytea IS NULL OR reporter = $2) AND ($3::bytea IS NULL OR room = $3) AND ($4::bytea IS NULL OR target = $4) `

	newest = sqldb.Register("reports.newest", columns+matches+`ORDER BY nid DESC LIMIT $5 OFFSET $6`)
	oldest = sqldb.Register("reports.oldest", columns+matches+`ORDER BY nid LIMIT $5 OFFSET $6`)
	total  = sqldb.Register("reports.total", `SELECT count(*) FROM reports `+matches)
	one    = sqldb.Register("reports.one", columns+`WHERE nid = $1`)
	remove = sqldb.Register("reports.delete", `DELETE FROM reports WHERE nid = $1`)
)

// Add keeps a report; its ID and time are set here. M_INVALID_PARAM for a reason that is too long, M_LIMIT_EXCEEDED for
// a user of whom too many reports are waiting.
func (s *Service) Add(ctx context.Context, r Report) error {
	if len(r.Reason) > maxReason {
		return matrixerr.InvalidParam("The reason may have at most 4,000 bytes; shorten it")
	}
	r.ID, r.Received = s.db.NextID(), s.clock.Millis()
	return s.db.Do(ctx, &sqldb.Op{Name: "report",
		Check: func(tx *sqldb.Tx) error {
			var n int64
			if err := tx.QueryRow(countOf, []byte(r.Reporter)).Scan(&n); err != nil {
				return err
			}
			if n >= maxKept {
				return matrixerr.LimitExceeded(time.Hour)
			}
			return nil
		},
		Write: func(tx *sqldb.Tx, _ int64) error {
			return tx.Insert(insert, []any{r.ID, int64(r.Kind), r.Received, []byte(r.Reporter), []byte(r.Room), []byte(r.Event),
				[]byte(r.Target), []byte(r.Reason), r.Score})
		}})
}

// Filter chooses reports; empty fields choose all.
type Filter struct {
	Kind                   Kind
	Reporter, Room, Target string
	OldestFirst            bool
	Limit, Offset          int
}

func (f Filter) args() []any {
	args := []any{int64(f.Kind)}
	for _, text := range []string{f.Reporter, f.Room, f.Target} {
		if text == "" {
			args = append(args, []byte(nil))
		} else {
			args = append(args, []byte(text))
		}
	}
	return args
}

// List returns a page of reports and how many there are in all.
func (s *Service) List(ctx context.Context, f Filter) (page []Report, n int64, err error) {
	q := newest
	if f.OldestFirst {
		q = oldest
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		if page, err = sqldb.Collect(tx, q, scan, append(f.args(), f.Limit, f.Offset)...); err != nil {
			return err
		}
		return tx.QueryRow(total, f.args()...).Scan(&n)
	})
	return page, n, err
}

func scan(rows *sqldb.Rows) (r Report, err error) {
	var reporter, room, event, target, reason []byte
	var score sql.NullInt64
	err = rows.Scan(&r.ID, &r.Kind, &r.Received, &reporter, &room, &event, &target, &reason, &score)
	r.Reporter, r.Room, r.Event, r.Target, r.Reason = string(reporter), string(room), string(event), string(target), string(reason)
	if score.Valid {
		r.Score = &score.Int64
	}
	return r, err
}

// ErrNotFound is returned for a report that is not there: M_NOT_FOUND.
var ErrNotFound = matrixerr.NotFound("There is no report with this id")

// Get returns one report, or ErrNotFound.
func (s *Service) Get(ctx context.Context, id int64) (r Report, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, err := sqldb.Collect(tx, one, scan, id)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return ErrNotFound
		}
		r = found[0]
		return nil
	})
	return r, err
}

// Delete removes a report that was dealt with, or returns ErrNotFound.
func (s *Service) Delete(ctx context.Context, id int64) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "report",
		Check: func(tx *sqldb.Tx) error {
			found, err := sqldb.Collect(tx, one, scan, id)
			if err == nil && len(found) == 0 {
				err = ErrNotFound
			}
			return err
		},
		Write: func(tx *sqldb.Tx, _ int64) error {
			_, err := tx.Exec(remove, id)
			return err
		}})
}
