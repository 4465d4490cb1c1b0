package notices

import (
	"context"
	"database/sql"
	"errors"

	"knock/internal/sqldb"
)

// noticeStore is all SQL about notices.
type noticeStore struct{ db *sqldb.DB }

var (
	roomSelect   = sqldb.Register("notices.room", `SELECT room_id FROM notice_rooms WHERE user_id = $1`)
	roomInsert   = sqldb.Register("notices.insertRoom", `INSERT INTO notice_rooms (user_id, room_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`)
	roomUpdate   = sqldb.Register("notices.updateRoom", `UPDATE notice_rooms SET room_id = $3 WHERE user_id = $1 AND room_id = $2`)
	senderSelect = sqldb.Register("notices.sender", `SELECT COUNT(*) FROM notice_senders WHERE user_id = $1`)
	senderInsert = sqldb.Register("notices.insertSender", `INSERT INTO notice_senders (user_id) VALUES ($1) ON CONFLICT DO NOTHING`)

	jobColumns = `SELECT id, content, users, passed, sent, failed, created, ended FROM notice_jobs `

	jobInsert = sqldb.Register("notices.insertJob", `INSERT INTO notice_jobs (id, content, users, passed, sent, failed, created, ended)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`)
	jobSelect  = sqldb.Register("notices.job", jobColumns+`WHERE id = $1`)
	jobsNewest = sqldb.Register("notices.jobs", jobColumns+`ORDER BY created DESC, id LIMIT $1`)
	jobNext    = sqldb.Register("notices.nextJob", jobColumns+`WHERE ended = $1 ORDER BY created, id LIMIT 1`)
	jobPass    = sqldb.Register("notices.passJob", `UPDATE notice_jobs SET passed = $2, sent = sent + $3, failed = failed + $4, ended = $5 WHERE id = $1`)
	jobDelete  = sqldb.Register("notices.deleteJob", `DELETE FROM notice_jobs WHERE id = $1`)
)

// errRoomThere fails the making of a second room for a user.
var errRoomThere = errors.New("the user has a room for notices already")

// room is a user's room, "" when there is none.
func (s noticeStore) room(ctx context.Context, user string) (room string, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error { return tx.QueryRow(roomSelect, user).Scan(&room) })
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return room, err
}

// setRoom gives a user a room in place of an old one, "" for none.
func (s noticeStore) setRoom(tx *sqldb.Tx, user, old, room string) (err error) {
	var n int64
	if old == "" {
		n, err = tx.Exec(roomInsert, user, room)
	} else {
		n, err = tx.Exec(roomUpdate, user, old, room)
	}
	if err == nil && n == 0 {
		err = errRoomThere
	}
	return err
}

func (s noticeStore) isSender(ctx context.Context, user string) (is bool, err error) {
	var n int64
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error { return tx.QueryRow(senderSelect, user).Scan(&n) })
	return n > 0, err
}

func (s noticeStore) insertSender(ctx context.Context, user string) error {
	_, err := s.write(ctx, senderInsert, user)
	return err
}

// write runs one statement as an operation of its own and returns how many rows it changed.
func (s noticeStore) write(ctx context.Context, stmt *sqldb.Stmt, args ...any) (n int64, err error) {
	err = s.db.Do(ctx, &sqldb.Op{Name: "notices", Write: func(tx *sqldb.Tx, _ int64) (err error) {
		n, err = tx.Exec(stmt, args...)
		return err
	}})
	return n, err
}

func scanJob(r *sqldb.Rows) (j Job, err error) {
	err = r.Scan(&j.ID, &j.content, &j.users, &j.passed, &j.Sent, &j.Failed, &j.Created, &j.Ended)
	return j, err
}

func (s noticeStore) jobs(ctx context.Context, stmt *sqldb.Stmt, args ...any) (list []Job, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		list, err = sqldb.Collect(tx, stmt, scanJob, args...)
		return err
	})
	return list, err
}
