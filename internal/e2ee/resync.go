package e2ee

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"knock/internal/sqldb"
)

// maxRemoteDevices is how many devices of another server's user are kept.
const maxRemoteDevices = 1000

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
