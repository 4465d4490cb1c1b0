package e2ee

import (
	"context"
	"encoding/json"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

var (
	dehydratedRow = sqldb.Register("e2ee.dehydratedRow", `SELECT device_id, data FROM e2ee_dehydrated WHERE user_id = $1`)
	dehydratedPut = sqldb.Register("e2ee.dehydratedPut",
		`INSERT INTO e2ee_dehydrated (user_id, device_id, data) VALUES ($1, $2, $3)`)
)

// maxDehydrated bounds the data of a dehydrated device, in bytes.
const maxDehydrated = 256 << 10

// dehydratedPage is how many messages one answer has.
const dehydratedPage = 100

// NewDehydrated is a dehydrated device to be stored (MSC3814).
type NewDehydrated struct {
	DeviceID string
	Data     json.RawMessage
	Name     string
	Keys     Upload
}

func errNoDehydrated() error { return matrixerr.NotFound("There is no dehydrated device") }

// PutDehydrated stores a dehydrated device with its keys, in place of the one before. Errors: M_BAD_JSON,
// M_INVALID_PARAM, M_MISSING_PARAM.
func (s *Service) PutDehydrated(ctx context.Context, userID string, n NewDehydrated) error {
	u, err := s.checkDehydrated(userID, n)
	if err != nil {
		return err
	}
	nid := s.db.NextID()
	return s.do(ctx, "e2ee.dehydrate", 1+max(1, len(u.oneTime)), func(tx *sqldb.Tx, pos int64, done *after) error {
		was, _, err := readDehydrated(tx, userID)
		if err != nil {
			return err
		}
		names, err := s.o.Accounts.DeviceNames(tx, []string{userID})
		if err != nil {
			return err
		}
		if _, taken := names[userID][n.DeviceID]; taken && was != n.DeviceID {
			return matrixerr.InvalidParam("You have another device with this id")
		}
		if was != "" {
			removed, err := s.o.Accounts.RemoveDevices(tx, pos, userID, []string{was})
			if err != nil {
				return err
			}
			done.add(removed)
		}
		if err := s.o.Accounts.AddDevice(tx, nid, userID, n.DeviceID, n.Name); err != nil {
			return err
		}
		if _, err := tx.Exec(dehydratedPut, userID, n.DeviceID, n.Data); err != nil {
			return err
		}
		return u.write(tx, pos+1, done)
	})
}

func (s *Service) checkDehydrated(userID string, n NewDehydrated) (*uploading, error) {
	switch {
	case n.DeviceID == "" || !isGiven(n.Data) || !isGiven(n.Keys.DeviceKeys):
		return nil, matrixerr.MissingParam("A dehydrated device needs device_id, device_data and device_keys")
	case len(n.DeviceID) > maxID || len(n.Name) > maxID:
		return nil, matrixerr.InvalidParam("device_id and initial_device_display_name may have at most 255 bytes")
	case len(n.Data) > maxDehydrated:
		return nil, matrixerr.InvalidParam("device_data may have at most 256 KiB")
	}
	var data struct {
		Algorithm string `json:"algorithm"`
	}
	if json.Unmarshal(n.Data, &data) != nil || data.Algorithm == "" {
		return nil, matrixerr.BadJSON("device_data must be an object with an algorithm")
	}
	return s.newUpload(userID, n.DeviceID, n.Keys)
}

func readDehydrated(tx *sqldb.Tx, userID string) (deviceID string, data json.RawMessage, err error) {
	rows, err := sqldb.Collect(tx, dehydratedRow, func(r *sqldb.Rows) (row [2][]byte, err error) {
		return row, r.Scan(&row[0], &row[1])
	}, userID)
	if err != nil || len(rows) == 0 {
		return "", nil, err
	}
	return string(rows[0][0]), rows[0][1], nil
}

// Dehydrated returns a user's dehydrated device. Errors: M_NOT_FOUND.
func (s *Service) Dehydrated(ctx context.Context, userID string) (deviceID string, data json.RawMessage, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		deviceID, data, err = readDehydrated(tx, userID)
		return err
	})
	if err == nil && deviceID == "" {
		err = errNoDehydrated()
	}
	return deviceID, data, err
}

// DeleteDehydrated removes a user's dehydrated device and returns its id. Errors: M_NOT_FOUND.
func (s *Service) DeleteDehydrated(ctx context.Context, userID string) (deviceID string, err error) {
	err = s.do(ctx, "e2ee.deleteDehydrated", 1, func(tx *sqldb.Tx, pos int64, done *after) error {
		deviceID, _, err = readDehydrated(tx, userID)
		if err != nil {
			return err
		}
		if deviceID == "" {
			return errNoDehydrated()
		}
		removed, err := s.o.Accounts.RemoveDevices(tx, pos, userID, []string{deviceID})
		done.add(removed)
		return err
	})
	return deviceID, err
}

// DehydratedEvents returns the messages of a dehydrated device after a position, and the one to go on from. Nothing is
// deleted. Errors: M_FORBIDDEN (not the dehydrated device).
func (s *Service) DehydratedEvents(ctx context.Context, userID, deviceID string, from int64) (events []json.RawMessage, next int64, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		id, _, err := readDehydrated(tx, userID)
		if err != nil {
			return err
		}
		if id == "" || id != deviceID {
			return matrixerr.Forbidden("This is not your dehydrated device")
		}
		to := s.o.Hub.Published()
		events, next, _, err = readMessages(tx, deviceKey{userID, deviceID}, from, to, dehydratedPage)
		return err
	})
	if events == nil {
		events = []json.RawMessage{}
	}
	return events, max(next, from), err
}
