package pushers

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"knock/internal/sqldb"
)

var (
	selectAll = sqldb.Register("pushers.all",
		`SELECT nid, user_id, app_id, pushkey, device_id, kind, data, ts, since, unsubscribe FROM pushers`)
	upsertPusher = sqldb.Register("pushers.upsert",
		`INSERT INTO pushers (nid, user_id, app_id, pushkey, device_id, kind, data, ts, since, unsubscribe)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (user_id, app_id, pushkey) DO UPDATE SET device_id = excluded.device_id, kind = excluded.kind,
			data = excluded.data, ts = excluded.ts, unsubscribe = COALESCE(pushers.unsubscribe, excluded.unsubscribe)
		RETURNING nid, since, unsubscribe`)
	deletePusher = sqldb.Register("pushers.delete",
		`DELETE FROM pushers WHERE user_id = $1 AND app_id = $2 AND pushkey = $3 RETURNING nid`)
	deleteOthers = sqldb.Register("pushers.deleteOthers",
		`DELETE FROM pushers WHERE app_id = $1 AND pushkey = $2 AND user_id <> $3 RETURNING nid`)
	deleteDevices = sqldb.Register("pushers.deleteDevices",
		`DELETE FROM pushers WHERE user_id = $1 AND device_id = ANY($2::bytea[]) RETURNING nid`)
	deleteNumber      = sqldb.Register("pushers.deleteNumber", `DELETE FROM pushers WHERE nid = $1`)
	unsubscribeKey    = sqldb.Register("pushers.unsubscribeKey", `SELECT pushkey FROM pushers WHERE unsubscribe = $1`)
	deleteUnsubscribe = sqldb.Register("pushers.deleteUnsubscribe", `DELETE FROM pushers WHERE unsubscribe = $1 RETURNING nid`)
	countPushers      = sqldb.Register("pushers.count", `SELECT COUNT(nid) FROM pushers WHERE user_id = $1`)

	selectQueue  = sqldb.Register("pushers.queue", `SELECT pusher, pos, event, tweaks, ts FROM push_queue ORDER BY pusher, pos`)
	insertQueued = sqldb.RegisterInsert("pushers.enqueue",
		`INSERT INTO push_queue (pusher, pos, event, tweaks, ts) VALUES`, 5, `ON CONFLICT (pusher, pos) DO NOTHING`)
	deleteQueued   = sqldb.Register("pushers.dequeue", `DELETE FROM push_queue WHERE pusher = $1 AND pos = ANY($2::bigint[])`)
	deleteQueuesOf = sqldb.Register("pushers.dequeueAll", `DELETE FROM push_queue WHERE pusher = ANY($1::bigint[])`)

	deleteOrphans = sqldb.Register("pushers.orphans",
		`DELETE FROM push_queue WHERE NOT EXISTS (SELECT p.nid FROM pushers p WHERE p.nid = push_queue.pusher)`)

	selectCursor = sqldb.Register("pushers.cursor", `SELECT pos FROM push_cursor WHERE one = $1`)
	upsertCursor = sqldb.Register("pushers.moveCursor",
		`INSERT INTO push_cursor (one, pos) VALUES ($1, $2) ON CONFLICT (one) DO UPDATE SET pos = excluded.pos`)
)

// Pusher is one way to notify a user (definition in GET /pushers).
type Pusher struct {
	AppID   string `json:"app_id"`
	PushKey string `json:"pushkey"`
	Kind    string `json:"kind"`
	About

	nid    int64
	user   string
	device string
	ts     int64 // ms
	since  int64
	secret string // what the link in e-mails carries; "" for other kinds
}

// About is what of a pusher is stored as JSON.
type About struct {
	AppName    string                     `json:"app_display_name"`
	DeviceName string                     `json:"device_display_name"`
	ProfileTag string                     `json:"profile_tag,omitempty"`
	Lang       string                     `json:"lang"`
	Data       map[string]json.RawMessage `json:"data"`
}

func scanPusher(rows *sqldb.Rows) (*Pusher, error) {
	p := &Pusher{}
	var data, secret []byte
	if err := rows.Scan(&p.nid, &p.user, &p.AppID, &p.PushKey, &p.device, &p.Kind, &data, &p.ts, &p.since, &secret); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &p.About); err != nil {
		return nil, fmt.Errorf("stored pusher %d: %w", p.nid, err)
	}
	p.secret = string(secret)
	return p, nil
}

// optional is NULL for "".
func optional(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}

func scanNumber(rows *sqldb.Rows) (n int64, err error) {
	err = rows.Scan(&n)
	return n, err
}

// storedNotice is a row of push_queue.
type storedNotice struct {
	pusher int64
	notice
}

func scanNotice(rows *sqldb.Rows) (n storedNotice, err error) {
	var tweaks []byte
	err = rows.Scan(&n.pusher, &n.pos, &n.event, &tweaks, &n.ts)
	n.tweaks, n.stored = tweaks, true
	return n, err
}

func readCursor(tx *sqldb.Tx) (pos int64, err error) {
	err = tx.QueryRow(selectCursor, 1).Scan(&pos)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return pos, err
}
