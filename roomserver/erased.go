package roomserver

import (
	"database/sql"
	"errors"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/store"
)

// Events of users who asked to be erased are redacted for users and servers that came into the room after they asked
// (Client-Server API, "Account deactivation"). What is stored stays as it is: others go on seeing it.

// erased reports whether the sender of an event asked to be erased.
func (s *Server) erased(e *store.Stored) bool {
	if s.Erased == nil {
		return false
	}
	_, yes := s.Erased(e.Event.Sender())
	return yes
}

// redactedCopy returns what is shown of an event of an erased sender.
func redactedCopy(e *store.Stored) *store.Stored {
	c := *e
	c.Event, c.Erased = e.Event.Redact(), true
	return &c
}

// unlessErased returns an event of an erased sender as it is shown to a user who was not in the room when it was sent: as
// it is if they were when the sender asked.
func (s *Server) unlessErased(tx *sqldb.Tx, userID string, e *store.Stored) (*store.Stored, error) {
	pos, _ := s.Erased(e.Event.Sender())
	then, _, err := s.Store.StateAt(tx, e.Room, pos)
	if errors.Is(err, store.ErrNotFound) {
		return redactedCopy(e), nil
	}
	if err != nil {
		return nil, err
	}
	member, err := s.stateEvent(tx, then, "m.room.member", userID)
	if err != nil || member != nil && auth.Membership(member.Event) == auth.Join {
		return e, err
	}
	return redactedCopy(e), nil
}

var stayed = sqldb.Register("room_servers.stayed", `SELECT from_pos FROM room_servers
	WHERE server = $1 AND room = $2 AND from_pos <= $3 AND (to_pos IS NULL OR to_pos > $4) LIMIT 1`)

// erasedFor reports whether an event is redacted for a server because its sender is erased: unless the server was in the
// room between the event and that.
func (s *Server) erasedFor(tx *sqldb.Tx, origin string, e *store.Stored) (bool, error) {
	if !s.erased(e) {
		return false, nil
	}
	pos, _ := s.Erased(e.Event.Sender())
	server, err := s.Store.FindName(tx, origin)
	if err != nil || server == 0 {
		return true, err
	}
	var from int64
	err = tx.QueryRow(stayed, server, e.Room, pos, e.Pos).Scan(&from)
	if errors.Is(err, sql.ErrNoRows) {
		return true, nil
	}
	return false, err
}
