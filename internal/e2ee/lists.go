package e2ee

import (
	"slices"
	"sort"
	"sync"

	"knock/internal/sqldb"
)

var (
	listChange = sqldb.Register("e2ee.listChange",
		`INSERT INTO e2ee_lists (user_id, pos, stream) VALUES ($1, $2, $3)
		ON CONFLICT (user_id) DO UPDATE SET pos = excluded.pos, stream = e2ee_lists.stream + excluded.stream RETURNING stream`)
	listsSince = sqldb.Register("e2ee.listsSince",
		`SELECT user_id FROM e2ee_lists WHERE pos > $1 AND pos <= $2`)
	listStream  = sqldb.Register("e2ee.listStream", `SELECT stream FROM e2ee_lists WHERE user_id = $1`)
	listsDelete = sqldb.Register("e2ee.listsDelete", `DELETE FROM e2ee_lists WHERE user_id = $1`)
)

// crossSigning stands among device ids for a user's cross-signing keys.
const crossSigning = ""

// localChange records that devices of a local user (or the cross-signing keys) changed: one row whoever watches, and
// one for each server that shares a room and each device. After the commit it wakes who shares a room.
func (s *Service) localChange(tx *sqldb.Tx, pos int64, userID string, devices []string, done *after) error {
	var stream int64
	if err := tx.QueryRow(listChange, userID, pos, len(devices)).Scan(&stream); err != nil {
		return err
	}
	rooms := s.o.Hub.JoinedRooms(userID)
	var servers []string
	if len(rooms) > 0 && s.o.Remote != nil {
		var err error
		if servers, err = s.o.Rooms.Servers(tx, userID); err != nil {
			return err
		}
		if err := s.queueLists(tx, pos, stream, userID, devices, servers); err != nil {
			return err
		}
	}
	done.add(func() {
		s.recent.add(change{pos: pos, user: userID})
		s.o.Hub.TouchUser(userID, pos)
		for _, room := range s.o.Hub.JoinedRooms(userID) {
			s.o.Hub.TouchRoom(room, pos)
		}
		s.wake(servers)
	})
	return nil
}

// remoteChange records that another server's user changed, for the local users in the rooms shared with them.
func (s *Service) remoteChange(tx *sqldb.Tx, pos int64, userID string, rooms []string, done *after) error {
	var stream int64
	if err := tx.QueryRow(listChange, userID, pos, 0).Scan(&stream); err != nil {
		return err
	}
	done.add(func() {
		s.recent.add(change{pos: pos, user: userID})
		for _, room := range rooms {
			s.o.Hub.TouchRoom(room, pos)
		}
	})
	return nil
}

func (s *Service) wake(servers []string) {
	if len(servers) > 0 && s.o.Outbox != nil {
		s.o.Outbox.Wake(servers)
	}
}

// change is a changed device list. only names the one user whom it concerns, "" for everybody who shares a room.
type change struct {
	pos        int64
	user, only string
}

// recent are the newest changes, so that most syncs need not ask the database.
type recent struct {
	mu    sync.RWMutex
	floor int64 // all changes after it are in list
	list  []change
}

const maxRecent = 8192

func newRecent(floor int64) *recent { return &recent{floor: floor} }

func (r *recent) add(c change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.list) == maxRecent {
		half := maxRecent / 2
		r.floor = r.list[half-1].pos
		r.list = append(r.list[:0], r.list[half:]...)
	}
	r.list = append(r.list, c)
}

// since returns the users of changes that concern a user, from < pos ≤ to; ok is false when older ones are needed.
func (r *recent) since(userID string, from, to int64) (users []string, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if from < r.floor {
		return nil, false
	}
	i := sort.Search(len(r.list), func(i int) bool { return r.list[i].pos > from })
	for ; i < len(r.list) && r.list[i].pos <= to; i++ {
		if c := r.list[i]; c.only == "" || c.only == userID {
			users = append(users, c.user)
		}
	}
	return users, true
}

// Moves are the changes of membership between two positions that device lists depend on, for one user.
type Moves struct {
	Joined []string // rooms that the user has joined
	Left   []string // rooms that the user has left, and does not share with anybody any more
	// In and Out are others who joined, and who left, a room that the user is in.
	In, Out []string
}

// DeviceLists returns the users whose keys a local user must fetch again, and those with whom no room is shared any
// more, for from < position ≤ to (Client-Server API, "Extensions to /sync"). Who (re)joined counts as changed.
func (s *Service) DeviceLists(tx *sqldb.Tx, userID string, from, to int64, m Moves) (changed, left []string, err error) {
	news, err := s.changedLists(tx, userID, from, to)
	if err != nil {
		return nil, nil, err
	}
	joined, err := s.membersOf(tx, m.Joined)
	if err != nil {
		return nil, nil, err
	}
	parted, err := s.membersOf(tx, m.Left)
	if err != nil {
		return nil, nil, err
	}
	return s.divide(tx, userID, setOf(news, m.In, joined), setOf(m.Out, parted))
}

func (s *Service) membersOf(tx *sqldb.Tx, rooms []string) (all []string, err error) {
	for _, room := range rooms {
		members, err := s.o.Rooms.Members(tx, room)
		if err != nil {
			return nil, err
		}
		all = append(all, members...)
	}
	return all, nil
}

func setOf(lists ...[]string) map[string]bool {
	out := map[string]bool{}
	for _, list := range lists {
		for _, v := range list {
			out[v] = true
		}
	}
	return out
}

// divide keeps of the news those who share a room, and of the gone those who do not.
func (s *Service) divide(tx *sqldb.Tx, userID string, news, gone map[string]bool) (changed, left []string, err error) {
	if len(news) == 0 && len(gone) == 0 {
		return nil, nil, nil
	}
	sharing, err := s.sharing(tx, userID, keysOf(setOf(keysOf(news), keysOf(gone))))
	if err != nil {
		return nil, nil, err
	}
	for other := range news {
		if sharing[other] || other == userID {
			changed = append(changed, other)
		}
	}
	for other := range gone {
		if !sharing[other] && other != userID {
			left = append(left, other)
		}
	}
	slices.Sort(changed)
	slices.Sort(left)
	return changed, left, nil
}

// sharing says who shares a room with a local user: of local users the hub knows.
func (s *Service) sharing(tx *sqldb.Tx, userID string, others []string) (map[string]bool, error) {
	out := make(map[string]bool, len(others))
	var remote []string
	for _, other := range others {
		if s.local(other) {
			out[other] = s.o.Hub.ShareRoom(userID, other)
		} else {
			remote = append(remote, other)
		}
	}
	if len(remote) == 0 {
		return out, nil
	}
	found, err := s.o.Rooms.Sharing(tx, userID, remote)
	for _, other := range found {
		out[other] = true
	}
	return out, err
}

// changedLists returns users whose lists or cross-signing keys changed, and those whom the user signed on another
// device.
func (s *Service) changedLists(tx *sqldb.Tx, userID string, from, to int64) ([]string, error) {
	if users, ok := s.recent.since(userID, from, to); ok {
		return users, nil
	}
	users, err := sqldb.Collect(tx, listsSince, scanText, from, to)
	if err != nil {
		return nil, err
	}
	signedOnes, err := sqldb.Collect(tx, signaturesSince, scanText, userID, from, to)
	return append(users, signedOnes...), err
}
