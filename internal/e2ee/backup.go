package e2ee

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

var (
	backupLatest = sqldb.Register("e2ee.backupLatest", `SELECT version, algorithm, auth_data, etag, count, deleted FROM e2ee_backups
		WHERE user_id = $1 ORDER BY version DESC LIMIT $2`)
	backupCurrent = sqldb.Register("e2ee.backupCurrent", `SELECT version, algorithm, auth_data, etag, count, deleted FROM e2ee_backups
		WHERE user_id = $1 AND deleted = $2 ORDER BY version DESC LIMIT $3`)
	backupRow = sqldb.Register("e2ee.backupRow", `SELECT version, algorithm, auth_data, etag, count, deleted FROM e2ee_backups
		WHERE user_id = $1 AND version = $2`)
	backupInsert = sqldb.Register("e2ee.backupInsert",
		`INSERT INTO e2ee_backups (user_id, version, algorithm, auth_data, etag, count, deleted) VALUES ($1, $2, $3, $4, $5, $6, $7)`)
	backupAuth    = sqldb.Register("e2ee.backupAuth", `UPDATE e2ee_backups SET auth_data = $3 WHERE user_id = $1 AND version = $2`)
	backupCount   = sqldb.Register("e2ee.backupCount", `UPDATE e2ee_backups SET etag = $3, count = $4 WHERE user_id = $1 AND version = $2`)
	backupDeleted = sqldb.Register("e2ee.backupDeleted",
		`UPDATE e2ee_backups SET deleted = $3, auth_data = $4, count = $5 WHERE user_id = $1 AND version = $2`)
	backupKeysClear = sqldb.Register("e2ee.backupKeysClear", `DELETE FROM e2ee_backup_keys WHERE user_id = $1 AND version = $2`)
)

// maxAuthData bounds a backup's auth_data, in bytes.
const maxAuthData = 64 << 10

// Backup is a server-side key backup.
type Backup struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Count     int64           `json:"count"`
	ETag      string          `json:"etag"`
	Version   string          `json:"version"`

	version, etag int64
	deleted       bool
}

func scanBackup(r *sqldb.Rows) (b Backup, err error) {
	var algorithm []byte
	err = r.Scan(&b.version, &algorithm, &b.AuthData, &b.etag, &b.Count, &b.deleted)
	b.Algorithm, b.ETag, b.Version = string(algorithm), strconv.FormatInt(b.etag, 10), strconv.FormatInt(b.version, 10)
	return b, err
}

func errNoBackup() *matrixerr.Error {
	return matrixerr.NotFound("There is no key backup of this version")
}

// one is the first of rows; M_NOT_FOUND when there is none, or it has been deleted.
func one(rows []Backup, err error) (Backup, error) {
	switch {
	case err != nil:
		return Backup{}, err
	case len(rows) == 0 || rows[0].deleted:
		return Backup{}, errNoBackup()
	}
	return rows[0], nil
}

// readBackup finds a backup; "" is the current one.
func readBackup(tx *sqldb.Tx, userID, version string) (Backup, error) {
	if version == "" {
		return one(sqldb.Collect(tx, backupCurrent, scanBackup, userID, 0, 1))
	}
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil || n < 1 {
		return Backup{}, errNoBackup()
	}
	return one(sqldb.Collect(tx, backupRow, scanBackup, userID, n))
}

func checkBackup(algorithm string, auth json.RawMessage) error {
	switch {
	case algorithm == "" || !isGiven(auth):
		return matrixerr.MissingParam("A key backup needs algorithm and auth_data")
	case len(algorithm) > maxID || len(auth) > maxAuthData:
		return matrixerr.InvalidParam("auth_data may have at most 65536 bytes")
	case auth[0] != '{':
		return matrixerr.BadJSON("auth_data must be a JSON object")
	}
	return nil
}

// CreateBackup makes a backup, which is the current one from now on, and returns its version. Errors: M_MISSING_PARAM,
// M_BAD_JSON, M_INVALID_PARAM.
func (s *Service) CreateBackup(ctx context.Context, userID, algorithm string, auth json.RawMessage) (version string, err error) {
	if err := checkBackup(algorithm, auth); err != nil {
		return "", err
	}
	err = s.do(ctx, "e2ee.createBackup", 0, func(tx *sqldb.Tx, _ int64, _ *after) error {
		last, err := sqldb.Collect(tx, backupLatest, scanBackup, userID, 1)
		if err != nil {
			return err
		}
		n := append(last, Backup{})[0].version + 1
		version = strconv.FormatInt(n, 10)
		_, err = tx.Exec(backupInsert, userID, n, algorithm, auth, 0, 0, 0)
		return err
	})
	return version, err
}

// Backup returns a backup; version "" is the current one. Errors: M_NOT_FOUND.
func (s *Service) Backup(ctx context.Context, userID, version string) (b Backup, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		b, err = readBackup(tx, userID, version)
		return err
	})
	return b, err
}

// UpdateBackup replaces a backup's auth_data. Errors: M_NOT_FOUND, M_INVALID_PARAM (another algorithm) and those of
// CreateBackup.
func (s *Service) UpdateBackup(ctx context.Context, userID, version, algorithm string, auth json.RawMessage) error {
	if err := checkBackup(algorithm, auth); err != nil {
		return err
	}
	return s.do(ctx, "e2ee.updateBackup", 0, func(tx *sqldb.Tx, _ int64, _ *after) error {
		b, err := readBackup(tx, userID, version)
		if err != nil {
			return err
		}
		if b.Algorithm != algorithm {
			return matrixerr.InvalidParam("Algorithm does not match: a backup keeps the one it was made with")
		}
		_, err = tx.Exec(backupAuth, userID, b.version, auth)
		return err
	})
}

// DeleteBackup deletes a backup with its keys. One that was deleted before is no error. Errors: M_NOT_FOUND.
func (s *Service) DeleteBackup(ctx context.Context, userID, version string) error {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return errNoBackup()
	}
	return s.do(ctx, "e2ee.deleteBackup", 0, func(tx *sqldb.Tx, _ int64, _ *after) error {
		rows, err := sqldb.Collect(tx, backupRow, scanBackup, userID, n)
		switch {
		case err != nil:
			return err
		case len(rows) == 0:
			return errNoBackup()
		case rows[0].deleted:
			return nil
		}
		if _, err := tx.Exec(backupDeleted, userID, n, 1, "{}", 0); err != nil {
			return err
		}
		_, err = tx.Exec(backupKeysClear, userID, n)
		return err
	})
}

// errWrongVersion tells a client which backup it should write to.
func errWrongVersion(current string) error {
	return matrixerr.New(http.StatusForbidden, "M_WRONG_ROOM_KEYS_VERSION",
		"Keys can only be written to the current backup").WithField("current_version", current)
}
