package e2ee

import (
	"context"
	"encoding/json"
	"math"
	"sync"
	"time"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

var (
	remoteOf     = sqldb.Register("e2ee.remoteOf", `SELECT user_id, stream, stale FROM e2ee_remote WHERE user_id = ANY($1::bytea[])`)
	remoteUsers  = sqldb.Register("e2ee.remoteUsers", `SELECT user_id FROM e2ee_remote WHERE user_id > $1 ORDER BY user_id LIMIT $2`)
	remoteStale  = sqldb.Register("e2ee.remoteStale", `SELECT user_id FROM e2ee_remote WHERE stale = $1 LIMIT $2`)
	remoteDelete = sqldb.Register("e2ee.remoteDelete", `DELETE FROM e2ee_remote WHERE user_id = $1`)
	remotePut    = sqldb.Register("e2ee.remotePut",
		`INSERT INTO e2ee_remote (user_id, stream, stale) VALUES ($1, $2, $3)
		ON CONFLICT (user_id) DO UPDATE SET stream = excluded.stream, stale = excluded.stale`)
)

// maxRemoteDevices is how many devices of another server's user are kept.
const maxRemoteDevices = 1000

// remoteList is how far the list of another server's user is known.
type remoteList struct {
	stream int64
	stale  bool
}

func readRemote(tx *sqldb.Tx, users []string) (map[string]remoteList, error) {
	out := map[string]remoteList{}
	_, err := sqldb.Collect(tx, remoteOf, func(r *sqldb.Rows) (_ struct{}, err error) {
		var user []byte
		var l remoteList
		err = r.Scan(&user, &l.stream, &l.stale)
		out[string(user)] = l
		return struct{}{}, err
	}, users)
	return out, err
}

// checkOrigin refuses what a server says about a user who is not its own.
func (s *Service) checkOrigin(origin, userID string) error {
	if origin == s.o.ServerName || serverOf(userID) != origin {
		return matrixerr.Forbidden("A server may speak for its own users only")
	}
	return nil
}

// ReceiveDeviceList takes the content of an m.device_list_update EDU and returns after the commit. An update that does
// not follow what is known here has the whole list fetched again.
func (s *Service) ReceiveDeviceList(ctx context.Context, origin string, content json.RawMessage) error {
	var u deviceListUpdate
	if err := json.Unmarshal(content, &u); err != nil {
		return matrixerr.BadJSON("m.device_list_update has the wrong shape").With(err)
	}
	if err := s.checkOrigin(origin, u.UserID); err != nil {
		return err
	}
	if u.DeviceID == "" || len(u.DeviceID) > maxID || len(u.Name) > maxID || u.Stream < 0 {
		return matrixerr.BadJSON("m.device_list_update has the wrong shape")
	}
	return s.do(ctx, "e2ee.deviceListUpdate", 1, func(tx *sqldb.Tx, pos int64, done *after) error {
		rooms, err := s.o.Rooms.SharedRooms(tx, u.UserID)
		if err != nil || len(rooms) == 0 {
			return err
		}
		lists, err := readRemote(tx, []string{u.UserID})
		if err != nil {
			return err
		}
		list, known := lists[u.UserID]
		if known && !list.stale {
			applied, err := u.apply(tx, list)
			if err != nil || applied == nothingNew {
				return err
			}
			if applied == gap {
				if _, err := tx.Exec(remotePut, u.UserID, list.stream, 1); err != nil {
					return err
				}
			}
			known = applied != gap
		}
		if !known || list.stale {
			s.heard(u.UserID, u.Stream, done)
		}
		return s.remoteChange(tx, pos, u.UserID, rooms, done)
	})
}

// applied says what became of an update.
type applied uint8

const (
	nothingNew applied = iota
	applies
	gap
)

// apply writes an update that follows the stored list. An older one is nothing new if it says what is stored; else its
// server has counted back, and the list must be fetched.
func (u *deviceListUpdate) apply(tx *sqldb.Tx, list remoteList) (applied, error) {
	keys, err := parseDeviceKeys(u.Keys, u.UserID, u.DeviceID)
	if isGiven(u.Keys) && !u.Deleted && err != nil {
		return gap, nil
	}
	has := isGiven(u.Keys) && !u.Deleted
	if u.Stream <= list.stream {
		was, err := readDeviceKeys(tx, u.UserID, u.DeviceID)
		if err != nil || has == (was != nil) && (!has || was.same(keys)) {
			return nothingNew, err
		}
		return gap, nil
	}
	for _, prev := range u.Prev {
		if prev > list.stream {
			return gap, nil
		}
	}
	if len(u.Prev) == 0 {
		return gap, nil
	}
	if has {
		err = tx.Insert(deviceKeysPut, []any{u.UserID, u.DeviceID, keys.encode(), u.Name})
	} else {
		_, err = tx.Exec(deviceKeysDelete, u.UserID, []string{u.DeviceID})
	}
	if err == nil {
		_, err = tx.Exec(remotePut, u.UserID, u.Stream, 0)
	}
	return applies, err
}

// ReceiveSigningKeys takes the content of an m.signing_key_update EDU and returns after the commit.
func (s *Service) ReceiveSigningKeys(ctx context.Context, origin string, content json.RawMessage) error {
	var u signingKeyUpdate
	if err := json.Unmarshal(content, &u); err != nil {
		return matrixerr.BadJSON("m.signing_key_update has the wrong shape").With(err)
	}
	if err := s.checkOrigin(origin, u.UserID); err != nil {
		return err
	}
	keys, err := parseCrossKeys(u.UserID, map[usage]json.RawMessage{master: u.Master, selfSigning: u.SelfSigning})
	if err != nil {
		return err
	}
	return s.do(ctx, "e2ee.signingKeyUpdate", 1, func(tx *sqldb.Tx, pos int64, done *after) error {
		rooms, err := s.o.Rooms.SharedRooms(tx, u.UserID)
		if err != nil || len(rooms) == 0 {
			return err
		}
		lists, err := readRemote(tx, []string{u.UserID})
		if err != nil {
			return err
		}
		if list, ok := lists[u.UserID]; !ok || list.stale {
			s.heard(u.UserID, math.MaxInt64, done)
		} else if err := putCrossKeys(tx, u.UserID, keys); err != nil {
			return err
		}
		return s.remoteChange(tx, pos, u.UserID, rooms, done)
	})
}

// Unshared drops the lists of those other servers' users who share no room with anybody here any more: their servers
// tell us nothing from now on. Call it in the transaction that ends a membership, for the user who left or, when the
// last local user left, for the members of the room.
func (s *Service) Unshared(tx *sqldb.Tx, users []string) error {
	if len(users) == 0 {
		return nil
	}
	lists, err := readRemote(tx, users)
	if err != nil {
		return err
	}
	for _, user := range keysOf(lists) {
		rooms, err := s.o.Rooms.SharedRooms(tx, user)
		if err != nil {
			return err
		}
		if len(rooms) == 0 {
			if err := forgetRemote(tx, user); err != nil {
				return err
			}
		}
	}
	return nil
}

func forgetRemote(tx *sqldb.Tx, user string) error {
	for _, stmt := range []*sqldb.Stmt{remoteDelete, deviceKeysClear, crossKeysDelete, listsDelete} {
		if _, err := tx.Exec(stmt, user); err != nil {
			return err
		}
	}
	return nil
}

// resyncs are the users whose lists are to be fetched, and those whose are being fetched.
type resyncs struct {
	mu       sync.Mutex
	waits    map[string]bool
	fetching map[string]*fetch
	queue    chan string
}

// fetch is one on its way: what was heard of the user meanwhile.
type fetch struct {
	newest int64 // stream id of an update
	again  bool  // another was asked for
}

const maxResyncs = 10_000

func newResyncs() *resyncs {
	return &resyncs{waits: map[string]bool{}, fetching: map[string]*fetch{}, queue: make(chan string, maxResyncs)}
}

// add queues users that are not waiting. When the queue is full they wait for the next reason.
func (r *resyncs) add(users ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, user := range users {
		if r.waits[user] {
			continue
		}
		select {
		case r.queue <- user:
			r.waits[user] = true
		default:
		}
	}
}

// heard notes, in the update's transaction, that it could not be applied: a list that is stored after it must be newer.
// After the commit the list is fetched.
func (s *Service) heard(user string, stream int64, done *after) {
	r := s.resyncs
	r.mu.Lock()
	if f := r.fetching[user]; f != nil {
		f.newest = max(f.newest, stream)
	}
	r.mu.Unlock()
	done.add(func() { r.add(user) })
}

// begin takes a user out of the queue. It is false while the list is being fetched: it will be once more.
func (r *resyncs) begin(user string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waits, user)
	if f := r.fetching[user]; f != nil {
		f.again = true
		return false
	}
	r.fetching[user] = &fetch{newest: -1}
	return true
}

// missed reports whether an update newer than the list was heard since begin.
func (r *resyncs) missed(user string, stream int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.fetching[user]
	return f != nil && f.newest > stream
}

func (r *resyncs) end(user string) {
	r.mu.Lock()
	again := r.fetching[user].again
	delete(r.fetching, user)
	r.mu.Unlock()
	if again {
		r.add(user)
	}
}

// work fetches lists until ctx ends.
func (s *Service) work(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case user := <-s.resyncs.queue:
			if err := s.resync(ctx, user); err != nil && ctx.Err() == nil && s.o.Log != nil {
				s.o.Log.WithError(err).Debug("e2ee: a device list could not be fetched; it is tried again later")
			}
		}
	}
}

// resync fetches the list of another server's user, if a room is shared with them and it is not known.
func (s *Service) resync(ctx context.Context, userID string) error {
	if s.o.Remote == nil || !s.resyncs.begin(userID) {
		return nil
	}
	defer s.resyncs.end(userID)
	if needed, err := s.needsFetch(ctx, userID); err != nil || !needed {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	raw, err := s.o.Remote.UserDevices(ctx, serverOf(userID), userID)
	if err != nil {
		return err
	}
	var got Devices
	if err := json.Unmarshal(raw, &got); err != nil {
		return err
	}
	return s.storeRemote(ctx, userID, &got)
}

func (s *Service) needsFetch(ctx context.Context, userID string) (needed bool, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		lists, err := readRemote(tx, []string{userID})
		if list, ok := lists[userID]; err != nil || ok && !list.stale {
			return err
		}
		rooms, err := s.o.Rooms.SharedRooms(tx, userID)
		needed = len(rooms) > 0
		return err
	})
	return needed, err
}

// fetched is the list of another server's user, checked.
type fetched struct {
	devices map[string]device
	cross   map[usage]crossKey
}

func checkFetched(userID string, got *Devices) fetched {
	f := fetched{map[string]device{}, map[usage]crossKey{}}
	for _, d := range got.Devices {
		keys, err := parseDeviceKeys(d.Keys, userID, d.ID)
		if err != nil || len(d.ID) > maxID || len(f.devices) == maxRemoteDevices {
			continue
		}
		if len(d.Name) > maxID {
			d.Name = ""
		}
		f.devices[d.ID] = device{keys.encode(), d.Name}
	}
	for use, raw := range map[usage]json.RawMessage{master: got.Master, selfSigning: got.SelfSigning} {
		if k, err := parseCrossKey(raw, userID, use); err == nil {
			f.cross[use] = k
		}
	}
	return f
}

// storeRemote replaces what is stored of a user. Who shares a room hears of it if it is something else.
func (s *Service) storeRemote(ctx context.Context, userID string, got *Devices) error {
	f := checkFetched(userID, got)
	return s.do(ctx, "e2ee.storeRemote", 1, func(tx *sqldb.Tx, pos int64, done *after) error {
		rooms, err := s.o.Rooms.SharedRooms(tx, userID)
		if err != nil || len(rooms) == 0 {
			return err
		}
		lists, err := readRemote(tx, []string{userID})
		if err != nil {
			return err
		}
		before, err := s.readUsers(tx, []string{userID})
		if err != nil {
			return err
		}
		missed := s.resyncs.missed(userID, got.Stream)
		if missed {
			done.add(func() { s.resyncs.add(userID) })
		}
		if err := f.write(tx, userID); err != nil {
			return err
		}
		if _, err := tx.Exec(remotePut, userID, got.Stream, boolean(missed)); err != nil {
			return err
		}
		if _, ok := lists[userID]; ok && !f.differs(before, userID) {
			return nil
		}
		return s.remoteChange(tx, pos, userID, rooms, done)
	})
}

func (f fetched) write(tx *sqldb.Tx, userID string) error {
	if _, err := tx.Exec(deviceKeysClear, userID); err != nil {
		return err
	}
	var rows [][]any
	for id, d := range f.devices {
		rows = append(rows, []any{userID, id, d.keys, d.name})
	}
	if err := tx.Insert(deviceKeysPut, rows...); err != nil {
		return err
	}
	if _, err := tx.Exec(crossKeysDelete, userID); err != nil {
		return err
	}
	return putCrossKeys(tx, userID, f.cross)
}

func (f fetched) differs(before *knownUsers, userID string) bool {
	was, cross := before.devices[userID], before.cross[userID]
	if len(was) != len(f.devices) || len(cross) != len(f.cross) {
		return true
	}
	for id, d := range f.devices {
		if w, ok := was[id]; !ok || w.name != d.name || !sameJSON(w.keys, d.keys) {
			return true
		}
	}
	for use, k := range f.cross {
		if !sameJSON(cross[use], k.encode()) {
			return true
		}
	}
	return false
}
