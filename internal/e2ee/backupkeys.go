package e2ee

import (
	"context"
	"encoding/json"
	"strconv"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

var (
	backupKeyPut = sqldb.RegisterInsert("e2ee.backupKeyPut", `INSERT INTO e2ee_backup_keys
		(user_id, version, room_id, session_id, first_index, forwarded, verified, data) VALUES`, 8,
		`ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE SET first_index = excluded.first_index,
		forwarded = excluded.forwarded, verified = excluded.verified, data = excluded.data`)
	backupKeyMeta = sqldb.Register("e2ee.backupKeyMeta", `SELECT room_id, session_id, first_index, forwarded, verified
		FROM e2ee_backup_keys WHERE user_id = $1 AND version = $2 AND room_id = ANY($3::bytea[]) AND session_id = ANY($4::bytea[])`)
	backupKeyRow = sqldb.Register("e2ee.backupKeyRow", `SELECT room_id, session_id, first_index, forwarded, verified, data
		FROM e2ee_backup_keys WHERE user_id = $1 AND version = $2 AND room_id = $3 AND session_id = $4`)
	backupKeyPage = sqldb.Register("e2ee.backupKeyPage", `SELECT room_id, session_id, first_index, forwarded, verified, data
		FROM e2ee_backup_keys WHERE user_id = $1 AND version = $2 AND (room_id > $3 OR room_id = $3 AND session_id > $4)
		ORDER BY room_id, session_id LIMIT $5`)
	backupRoomPage = sqldb.Register("e2ee.backupRoomPage", `SELECT room_id, session_id, first_index, forwarded, verified, data
		FROM e2ee_backup_keys WHERE user_id = $1 AND version = $2 AND room_id = $3 AND session_id > $4 ORDER BY session_id LIMIT $5`)
	backupKeyDelete = sqldb.Register("e2ee.backupKeyDelete",
		`DELETE FROM e2ee_backup_keys WHERE user_id = $1 AND version = $2 AND room_id = $3 AND session_id = $4`)
	backupRoomDelete = sqldb.Register("e2ee.backupRoomDelete",
		`DELETE FROM e2ee_backup_keys WHERE user_id = $1 AND version = $2 AND room_id = $3`)
)

// Bounds of backed-up keys.
const (
	maxBackupKeys  = 10_000 // in one request
	maxSessionData = 64 << 10
	backupPage     = 500 // keys read in one snapshot
)

// BackupKey is a room key in a backup; nobody here can read its data.
type BackupKey struct {
	FirstIndex int64           `json:"first_message_index"`
	Forwarded  int64           `json:"forwarded_count"`
	Verified   bool            `json:"is_verified"`
	Data       json.RawMessage `json:"session_data"`
}

// UnmarshalJSON asks for all members.
func (k *BackupKey) UnmarshalJSON(raw []byte) error {
	var in struct {
		FirstIndex *int64          `json:"first_message_index"`
		Forwarded  *int64          `json:"forwarded_count"`
		Verified   *bool           `json:"is_verified"`
		Data       json.RawMessage `json:"session_data"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return matrixerr.BadJSON("A backed-up key has the wrong shape").With(err)
	}
	switch {
	case in.FirstIndex == nil || in.Forwarded == nil || in.Verified == nil || !isGiven(in.Data):
		return matrixerr.MissingParam("A backed-up key needs first_message_index, forwarded_count, is_verified and session_data")
	case *in.FirstIndex < 0 || *in.Forwarded < 0 || in.Data[0] != '{':
		return matrixerr.BadJSON("A backed-up key has the wrong shape")
	case len(in.Data) > maxSessionData:
		return matrixerr.TooLarge("session_data may have at most 65536 bytes")
	}
	*k = BackupKey{*in.FirstIndex, *in.Forwarded, *in.Verified, in.Data}
	return nil
}

// better reports whether a key replaces a stored one (Client-Server API, "Server-side key backups").
func (k BackupKey) better(was BackupKey) bool {
	switch {
	case k.Verified != was.Verified:
		return k.Verified
	case k.FirstIndex != was.FirstIndex:
		return k.FirstIndex < was.FirstIndex
	}
	return k.Forwarded < was.Forwarded
}

// BackupKeys are keys: room id → session id → key.
type BackupKeys map[string]map[string]BackupKey

// Stored says what a backup holds after a change.
type Stored struct {
	ETag  string `json:"etag"`
	Count int64  `json:"count"`
}

type sessionKey struct{ room, session string }

// PutBackupKeys stores keys in the current backup, unless a better one is there. Errors: M_NOT_FOUND,
// M_WRONG_ROOM_KEYS_VERSION, M_INVALID_PARAM.
func (s *Service) PutBackupKeys(ctx context.Context, userID, version string, keys BackupKeys) (Stored, error) {
	sessions := map[string]bool{}
	for room, bySession := range keys {
		for session := range bySession {
			if len(room) > maxID || len(session) > maxID {
				return Stored{}, matrixerr.InvalidParam("Room and session ids may have at most 255 bytes")
			}
			sessions[session] = true
		}
	}
	if len(sessions) > maxBackupKeys {
		return Stored{}, matrixerr.InvalidParam("At most 10000 keys can be stored at once")
	}
	return s.changeBackup(ctx, userID, version, true, func(tx *sqldb.Tx, b Backup) (added, touched int64, err error) {
		was, err := storedMeta(tx, userID, b.version, keysOf(keys), keysOf(sessions))
		if err != nil {
			return 0, 0, err
		}
		var rows [][]any
		for room, bySession := range keys {
			for session, k := range bySession {
				old, ok := was[sessionKey{room, session}]
				if ok && !k.better(old) {
					continue
				}
				if !ok {
					added++
				}
				rows = append(rows, []any{userID, b.version, room, session, k.FirstIndex, k.Forwarded, k.Verified, k.Data})
			}
		}
		return added, int64(len(rows)), tx.Insert(backupKeyPut, rows...)
	})
}

func storedMeta(tx *sqldb.Tx, userID string, version int64, rooms, sessions []string) (map[sessionKey]BackupKey, error) {
	out := map[sessionKey]BackupKey{}
	_, err := sqldb.Collect(tx, backupKeyMeta, func(r *sqldb.Rows) (_ struct{}, err error) {
		var room, session []byte
		var k BackupKey
		err = r.Scan(&room, &session, &k.FirstIndex, &k.Forwarded, &k.Verified)
		out[sessionKey{string(room), string(session)}] = k
		return struct{}{}, err
	}, userID, version, rooms, sessions)
	return out, err
}

// changeBackup changes the keys of a backup, by default the current one only, and counts them.
func (s *Service) changeBackup(ctx context.Context, userID, version string, currentOnly bool,
	change func(tx *sqldb.Tx, b Backup) (added, touched int64, err error)) (out Stored, err error) {
	err = s.do(ctx, "e2ee.backupKeys", 0, func(tx *sqldb.Tx, _ int64, _ *after) error {
		want := version
		if currentOnly {
			want = ""
		}
		b, err := readBackup(tx, userID, want)
		if err != nil {
			return err
		}
		if b.Version != version {
			return errWrongVersion(b.Version)
		}
		added, touched, err := change(tx, b)
		if err != nil {
			return err
		}
		if touched > 0 {
			b.etag, b.Count = b.etag+1, b.Count+added
			if _, err := tx.Exec(backupCount, userID, b.version, b.etag, b.Count); err != nil {
				return err
			}
		}
		out = Stored{strconv.FormatInt(b.etag, 10), b.Count}
		return nil
	})
	return out, err
}

// DeleteBackupKeys deletes a key, a room's keys when session is "", or all when room is "" too. Errors: M_NOT_FOUND (no
// such backup).
func (s *Service) DeleteBackupKeys(ctx context.Context, userID, version, room, session string) (Stored, error) {
	return s.changeBackup(ctx, userID, version, false, func(tx *sqldb.Tx, b Backup) (int64, int64, error) {
		var n int64
		var err error
		switch {
		case room == "":
			n, err = tx.Exec(backupKeysClear, userID, b.version)
		case session == "":
			n, err = tx.Exec(backupRoomDelete, userID, b.version, room)
		default:
			n, err = tx.Exec(backupKeyDelete, userID, b.version, room, session)
		}
		return -n, n, err
	})
}

// BackedUp is a key with its place.
type BackedUp struct {
	Room, Session string
	BackupKey
}

func scanBackedUp(r *sqldb.Rows) (k BackedUp, err error) {
	var room, session []byte
	err = r.Scan(&room, &session, &k.FirstIndex, &k.Forwarded, &k.Verified, &k.Data)
	k.Room, k.Session = string(room), string(session)
	return k, err
}

// BackupKey returns one key. Errors: M_NOT_FOUND.
func (s *Service) BackupKey(ctx context.Context, userID, version, room, session string) (k BackupKey, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		b, err := readBackup(tx, userID, version)
		if err != nil {
			return err
		}
		rows, err := sqldb.Collect(tx, backupKeyRow, scanBackedUp, userID, b.version, room, session)
		if err == nil && len(rows) == 0 {
			err = matrixerr.NotFound("This key is not in the backup")
		}
		if err == nil {
			k = rows[0].BackupKey
		}
		return err
	})
	return k, err
}

// EachBackupKey calls fn with the keys of a backup, of one room unless room is "", ordered by room. It reads them in
// portions, each in a snapshot of its own, so fn may take its time. Errors: M_NOT_FOUND (no such backup), before the
// first call of fn.
func (s *Service) EachBackupKey(ctx context.Context, userID, version, room string, fn func(BackedUp) error) error {
	at := BackedUp{Room: room}
	for {
		var page []BackedUp
		err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
			b, err := readBackup(tx, userID, version)
			if err != nil {
				return err
			}
			stmt := backupKeyPage
			if room != "" {
				stmt = backupRoomPage
			}
			page, err = sqldb.Collect(tx, stmt, scanBackedUp, userID, b.version, at.Room, at.Session, backupPage)
			return err
		})
		if err != nil {
			return err
		}
		for _, k := range page {
			if err := fn(k); err != nil {
				return err
			}
		}
		if len(page) < backupPage {
			return nil
		}
		at = page[len(page)-1]
	}
}
