package roomserver

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// maxCompared bounds the forward extremities that are taken from another server.
const maxCompared = 100

// Comparison is how two servers see the end of a room.
type Comparison struct {
	RoomID       string
	Ours, Theirs []string // forward extremities
	Missing      []string // those of theirs that have no place in the room here
}

// Same reports whether both servers have the same forward extremities.
func (c Comparison) Same() bool {
	ours, theirs := slices.Clone(c.Ours), slices.Clone(c.Theirs)
	slices.Sort(ours)
	slices.Sort(theirs)
	return slices.Equal(ours, theirs)
}

// ExtremitiesFor answers a server that is in a room which its forward extremities
// are here (MSC4370). Errors: ErrUnknownRoom, ErrNotJoined.
func (s *Server) ExtremitiesFor(ctx context.Context, origin, roomID string) ([]string, error) {
	key, err := s.shared(ctx, origin, roomID)
	if err != nil {
		return nil, err
	}
	return s.extremities(ctx, key)
}

// Compare asks another server for its forward extremities of a room that both are
// in, and says which of them are not here.
func (s *Server) Compare(ctx context.Context, server, roomID string) (Comparison, error) {
	c := Comparison{RoomID: roomID}
	r, err := s.residentHandle(ctx, roomID)
	if err != nil || s.Remote == nil {
		return c, err
	}
	member, err := s.localMember(ctx, r.key)
	if err != nil {
		return c, err
	}
	theirs, err := s.Remote.Extremities(ctx, server, roomID, member)
	if err != nil {
		return c, err
	}
	for _, id := range theirs[:min(len(theirs), maxCompared)] {
		if event.ValidEventID(id) {
			c.Theirs = append(c.Theirs, id)
		}
	}
	if c.Ours, err = s.extremities(ctx, r.key); err != nil {
		return c, err
	}
	c.Missing, err = s.unplaced(ctx, c.Theirs)
	return c, err
}

// localMember returns one of our users who is in a room.
func (s *Server) localMember(ctx context.Context, key store.RoomKey) (user string, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		user, err = s.Store.OneLocal(tx, key.NID)
		return err
	})
	return user, err
}

// Reconcile compares a room with another server, and fetches what that server has
// and this one has not, with everything before it. What is fetched is checked and
// placed like what is sent to us, now or soon.
func (s *Server) Reconcile(ctx context.Context, server, roomID string) (Comparison, error) {
	c, err := s.Compare(ctx, server, roomID)
	if err != nil || len(c.Missing) == 0 {
		return c, err
	}
	raws := s.fetchEvents(ctx, server, c.Missing)
	if len(raws) == 0 {
		return c, fmt.Errorf("%s does not give the newest events of its room", server)
	}
	for part := range slices.Chunk(raws, 50) {
		if err := s.receiveFor(ctx, server, roomID, part); err != nil {
			return c, err
		}
	}
	return c, nil
}

// receiveFor takes events of one room that were asked for.
func (s *Server) receiveFor(ctx context.Context, server, roomID string, raws []json.RawMessage) error {
	var own []json.RawMessage
	for _, raw := range raws {
		if key, err := s.roomOf(ctx, raw); err == nil && key.ID == roomID {
			own = append(own, raw)
		}
	}
	_, err := s.Receive(ctx, server, own)
	return err
}

// FillGaps fetches history that is missing between events of a room, for up to so
// many gaps or parts of them, and returns for how many something came.
func (s *Server) FillGaps(ctx context.Context, roomID string, most int) (n int, err error) {
	for ; n < most; n++ {
		more, err := s.Backfill(ctx, roomID, -maxPos, fillLimit)
		if err != nil || !more {
			return n, err
		}
	}
	return n, nil
}

// SharedWith lists rooms that another server and we are in, at most limit of them,
// in the order of their numbers, those after the room with the number after. next is
// the number of the last.
func (s *Server) SharedWith(ctx context.Context, server string, after int64, limit int) (rooms []string, next int64, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		rooms, next, err = s.Store.SharedWith(tx, server, after, limit)
		return err
	})
	return rooms, next, err
}

// Federated lists rooms that other servers and we are in, as SharedWith does, each
// with those servers.
func (s *Server) Federated(ctx context.Context, after int64, limit int) (rooms map[string][]string, next int64, err error) {
	rooms = map[string][]string{}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		keys, err := s.Store.Federated(tx, after, limit)
		for _, key := range keys {
			if rooms[key.ID], err = s.Store.Servers(tx, key.NID); err != nil {
				return err
			}
			next = key.NID
		}
		return err
	})
	return rooms, next, err
}
