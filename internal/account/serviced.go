package account

import (
	"context"
	"database/sql"
	"errors"
	"sync"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// What application services do with the users that are theirs: they act on devices without logging in.

// knownDevices remembers the numbers of devices, since services name one with each request.
type knownDevices struct {
	epoch epoch
	mu    sync.Mutex
	m     generations[[2]string, *session]
}

func newKnownDevices() *knownDevices {
	return &knownDevices{m: newGenerations[[2]string, *session](20_000)}
}

func (k *knownDevices) get(key [2]string) (*session, uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, aged, _ := k.m.get(key)
	if aged {
		k.m.put(key, s)
	}
	return s, k.epoch.Load()
}

func (k *knownDevices) put(key [2]string, s *session, at uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.epoch.Load() == at {
		k.m.put(key, s)
	}
}

// drop forgets all: devices go seldom.
func (k *knownDevices) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.epoch.Add(1)
	k.m = newGenerations[[2]string, *session](20_000)
}

// UseDevice is who acts as a local user whom the caller has authenticated, on a device, which is noted as seen, or on
// none ("" for deviceID). What was used lately costs no SQL. Errors: M_NOT_FOUND (user), M_USER_DEACTIVATED,
// 400 M_UNKNOWN_DEVICE.
func (s *Service) UseDevice(ctx context.Context, userID, deviceID, ip string) (Identity, error) {
	key := [2]string{userID, deviceID}
	sess, at := s.numbers.get(key)
	if sess == nil {
		local, err := s.ours(userID)
		if err != nil {
			return Identity{}, err
		}
		var d Device
		err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
			var u User
			if err := activeUser(tx, local, &u); err != nil || deviceID == "" {
				return err
			}
			return scanDevice(tx.QueryRow(deviceRow, local, deviceID), &d)
		})
		if errors.Is(err, sql.ErrNoRows) || len(deviceID) > maxDeviceID {
			return Identity{}, matrixerr.New(400, "M_UNKNOWN_DEVICE", "The user has no device with this id; make it with PUT /devices/{deviceId}")
		}
		if err != nil {
			return Identity{}, err
		}
		sess = &session{Identity: Identity{UserID: userID, DeviceID: deviceID, Session: d.number}}
		s.numbers.put(key, sess, at)
	}
	if deviceID != "" {
		s.seen.note(sess, ip, s.now())
	}
	id := sess.Identity
	id.Standing = s.standings.of(userID)
	return id, nil
}

// EnsureDevice makes a device that nobody is logged in with, or sets the name of the one that is there when name is not
// nil. made says which. Errors: M_INVALID_PARAM, M_NOT_FOUND (user), M_USER_DEACTIVATED.
func (s *Service) EnsureDevice(ctx context.Context, userID, deviceID string, name *string) (made bool, err error) {
	local, err := s.ours(userID)
	if err != nil {
		return false, err
	}
	d := NewDevice{ID: deviceID}
	if name != nil {
		d.DisplayName = *name
	}
	if err := checkDevice(&d); err != nil {
		return false, err
	}
	nid := s.db.NextID()
	var verdict error
	err = s.db.Do(ctx, &sqldb.Op{Name: "account.ensureDevice", Write: func(tx *sqldb.Tx, _ int64) error {
		made = false
		var u User
		if verdict = activeUser(tx, local, &u); verdict != nil {
			return onlyUnknown(verdict)
		}
		var old Device
		err := scanDevice(tx.QueryRow(deviceRow, local, deviceID), &old)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		made = true
		return s.AddDevice(tx, nid, userID, deviceID, d.DisplayName)
	}})
	if err == nil {
		err = verdict
	}
	if err != nil || made || name == nil {
		return made, err
	}
	return false, s.RenameDevice(ctx, userID, deviceID, *name)
}
