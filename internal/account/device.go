package account

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"sync"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// Device is a client that is logged in.
type Device struct {
	ID          string `json:"device_id"`
	DisplayName string `json:"display_name,omitempty"`
	LastSeenIP  string `json:"last_seen_ip,omitempty"`
	LastSeenTS  int64  `json:"last_seen_ts,omitempty"` // milliseconds, up to some minutes old

	number int64
}

type scanner interface{ Scan(dest ...any) error }

func scanDevice(r scanner, d *Device) error {
	var id, name, ip []byte
	err := r.Scan(&d.number, &id, &name, &d.LastSeenTS, &ip)
	d.ID, d.DisplayName, d.LastSeenIP = string(id), string(name), string(ip)
	return err
}

func errNoDevice() error { return matrixerr.NotFound("You have no device with this id") }

// ours is the localpart of a user id, or an error for users of other servers.
func (s *Service) ours(userID string) (string, error) {
	local, ok := s.Localpart(userID)
	if !ok {
		return "", matrixerr.NotFound("This user does not live on this server")
	}
	return local, nil
}

// Devices lists a user's devices, oldest first.
func (s *Service) Devices(ctx context.Context, userID string) ([]Device, error) {
	local, err := s.ours(userID)
	if err != nil {
		return nil, err
	}
	var out []Device
	err = s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		out, err = sqldb.Collect(tx, deviceList, func(r *sqldb.Rows) (d Device, err error) {
			return d, scanDevice(r, &d)
		}, local)
		return err
	})
	for i := range out {
		s.seen.fill(&out[i])
	}
	return out, err
}

// Device is one of a user's devices; M_NOT_FOUND when there is none of this id.
func (s *Service) Device(ctx context.Context, userID, deviceID string) (Device, error) {
	var d Device
	local, err := s.ours(userID)
	if err != nil {
		return d, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error { return scanDevice(tx.QueryRow(deviceRow, local, deviceID), &d) })
	if errors.Is(err, sql.ErrNoRows) {
		return d, errNoDevice()
	}
	s.seen.fill(&d)
	return d, err
}

// RenameDevice sets a device's display name; "" removes it. Errors: M_NOT_FOUND, M_INVALID_PARAM.
func (s *Service) RenameDevice(ctx context.Context, userID, deviceID, name string) error {
	local, err := s.ours(userID)
	if err != nil {
		return err
	}
	if len(name) > maxDeviceName {
		return matrixerr.InvalidParam("A device's display name may have at most 256 bytes")
	}
	var renamed int64
	var after afterwards
	err = s.db.Do(ctx, &sqldb.Op{Name: "account.rename", Positions: 1, Committed: after.run,
		Write: func(tx *sqldb.Tx, pos int64) (err error) {
			after.fn = nil
			renamed, err = tx.Exec(deviceRename, local, deviceID, optional(name))
			if err == nil && renamed > 0 && s.devices != nil {
				after.fn, err = s.devices.DeviceRenamed(tx, pos, userID, deviceID)
			}
			return err
		}})
	if err == nil && renamed == 0 {
		return errNoDevice()
	}
	return err
}

// removal ends devices: which ones is found inside the transaction.
type removal struct {
	s       *Service
	pos     int64
	user    string
	ended   []int64 // devices
	dropped [][]byte
	cleared bool   // settings of the devices were removed
	profile string // the user whose profile changed; "": nobody's
	after   afterwards
}

// begin forgets an earlier attempt of the same operation.
func (r *removal) begin(pos int64) { *r = removal{s: r.s, pos: pos} }

func (r *removal) write(tx *sqldb.Tx, local string, devices []int64) (err error) {
	if len(devices) == 0 {
		return nil
	}
	r.user, r.ended = r.s.userID(local), devices
	if r.dropped, err = sqldb.Collect(tx, tokensOf, scanBytes, devices); err != nil {
		return err
	}
	if _, err := tx.Exec(sessionsDelete, devices); err != nil {
		return err
	}
	deleted, err := sqldb.Collect(tx, deviceDelete, scanBytes, devices)
	if err != nil || len(deleted) == 0 {
		return err
	}
	ids := make([]string, len(deleted))
	for i, id := range deleted {
		ids[i] = string(id)
	}
	if err := r.clearSettings(tx, local, ids); err != nil || r.s.devices == nil {
		return err
	}
	r.after.fn, err = r.s.devices.DevicesDeleted(tx, r.pos, r.s.userID(local), ids)
	return err
}

// settingTypes begin the types of account data that say how a device notifies; its id follows (MSC3890).
var settingTypes = []string{"m.local_notification_settings.", "org.matrix.msc3890.local_notification_settings."}

// clearSettings removes the account data about devices that are gone.
func (r *removal) clearSettings(tx *sqldb.Tx, local string, ids []string) error {
	var types []string
	for _, id := range ids {
		for _, prefix := range settingTypes {
			types = append(types, prefix+id)
		}
	}
	n, err := tx.Exec(dataClear, local, types, []byte{}, r.pos)
	r.cleared = n > 0
	return err
}

func (r *removal) committed(int64) {
	if r.profile != "" {
		r.s.readers.tell(r.s.o.Hub, r.profile, r.pos)
	}
	if r.cleared {
		r.s.o.Hub.TouchUser(r.user, r.pos)
	}
	r.s.tokens.drop(r.dropped)
	r.s.numbers.drop()
	r.s.watches.endSessions(r.user, r.ended)
	r.after.run(0)
}

// removeDevices deletes the devices that find names, with their tokens.
func (s *Service) removeDevices(ctx context.Context, local string, find func(tx *sqldb.Tx) ([]int64, error)) error {
	r := removal{s: s}
	return s.db.Do(ctx, &sqldb.Op{Name: "account.removeDevices", Positions: 1, Committed: r.committed,
		Write: func(tx *sqldb.Tx, pos int64) error {
			r.begin(pos)
			devices, err := find(tx)
			if err != nil {
				return err
			}
			return r.write(tx, local, devices)
		}})
}

// DeleteDevices removes devices by id with all their tokens. Ids that do not exist are no error.
func (s *Service) DeleteDevices(ctx context.Context, userID string, ids ...string) error {
	local, err := s.ours(userID)
	if err != nil {
		return err
	}
	return s.removeDevices(ctx, local, func(tx *sqldb.Tx) ([]int64, error) {
		return sqldb.Collect(tx, deviceByIDs, scanInt, local, ids)
	})
}

// DeleteAllDevices removes all of a user's devices but the one of session keep (0: none is kept), and tokens with which new
// ones could log in.
func (s *Service) DeleteAllDevices(ctx context.Context, userID string, keep int64) error {
	local, err := s.ours(userID)
	if err != nil {
		return err
	}
	return s.removeDevices(ctx, local, func(tx *sqldb.Tx) ([]int64, error) {
		if _, err := tx.Exec(loginTokenDelete, local); err != nil {
			return nil, err
		}
		return otherDevices(tx, local, keep)
	})
}

func otherDevices(tx *sqldb.Tx, local string, keep int64) ([]int64, error) {
	all, err := sqldb.Collect(tx, deviceNumbers, scanInt, local)
	return slices.DeleteFunc(all, func(n int64) bool { return n == keep }), err
}

// seenEvery is how old "last seen" may grow in the database.
const seenEvery = 3 * 60 * 1000

// lastSeen collects when and from where devices were seen, for a write now and then.
type lastSeen struct {
	mu sync.Mutex
	m  map[int64]sighting
}

type sighting struct {
	ts int64
	ip string
}

func newLastSeen() *lastSeen { return &lastSeen{m: map[int64]sighting{}} }

// note is on the way of every request: mostly it is one atomic load.
func (l *lastSeen) note(sess *session, ip string, now int64) {
	last := sess.seen.Load()
	if now-last < seenEvery || !sess.seen.CompareAndSwap(last, now) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m[sess.Session] = sighting{now, ip}
}

// fill puts a sighting that is not written yet into a device that was read.
func (l *lastSeen) fill(d *Device) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.m[d.number]; ok && at.ts > d.LastSeenTS {
		d.LastSeenTS, d.LastSeenIP = at.ts, at.ip
	}
}

func (l *lastSeen) take() map[int64]sighting {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.m
	l.m = map[int64]sighting{}
	return m
}

// flushSeen writes the sightings in portions, so that it holds up nobody else's writes.
func (s *Service) flushSeen(ctx context.Context) error {
	const portion = 200
	seen := s.seen.take()
	devices := make([]int64, 0, len(seen))
	for nid := range seen {
		devices = append(devices, nid)
	}
	for part := range slices.Chunk(devices, portion) {
		err := s.db.Do(ctx, &sqldb.Op{Name: "account.seen", Write: func(tx *sqldb.Tx, _ int64) error {
			for _, nid := range part {
				if _, err := tx.Exec(deviceSeen, nid, seen[nid].ts, optional(seen[nid].ip)); err != nil {
					return err
				}
			}
			return nil
		}})
		if err != nil {
			return err
		}
	}
	return nil
}
