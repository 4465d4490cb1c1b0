package roomserver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// LocalAlias returns the row of an alias of this server, or ErrUnknownAlias.
func (s *Server) LocalAlias(ctx context.Context, alias string) (a store.Alias, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		a, err = s.Store.Alias(tx, alias)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		err = ErrUnknownAlias
	}
	return a, err
}

// aliasesChanged tells who wants to know after a commit.
func (s *Server) aliasesChanged(int64) {
	if s.AliasesChanged != nil {
		s.AliasesChanged()
	}
}

// ResolveAlias returns the room of an alias and servers that may be in it.
func (s *Server) ResolveAlias(ctx context.Context, alias string) (roomID string, servers []string, err error) {
	if !s.IsLocal(alias) {
		if s.Remote == nil {
			return "", nil, ErrUnknownAlias
		}
		return s.remoteAlias(ctx, alias)
	}
	a, err := s.LocalAlias(ctx, alias)
	if errors.Is(err, ErrUnknownAlias) && s.UnknownAlias != nil && s.UnknownAlias(ctx, alias) {
		a, err = s.LocalAlias(ctx, alias)
	}
	if err != nil {
		return "", nil, err
	}
	servers = []string{s.ServerName}
	if others, err := s.JoinedServers(ctx, a.RoomID); err == nil {
		servers = append(servers, others...)
	}
	return a.RoomID, servers, nil
}

// maxAliasServers bounds the servers that another server's alias brings along.
const maxAliasServers = 200

// remoteAlias asks an alias's server where it points.
func (s *Server) remoteAlias(ctx context.Context, alias string) (roomID string, servers []string, err error) {
	roomID, servers, err = s.Remote.Alias(ctx, serverOf(alias), alias)
	if err != nil {
		return "", nil, err
	}
	if !event.ValidRoomID(roomID) {
		return "", nil, fmt.Errorf("%w: %s names no room for its alias", ErrBadAnswer, serverOf(alias))
	}
	servers = slices.DeleteFunc(servers, func(name string) bool { return !event.ValidServerName(name) })
	return roomID, servers[:min(len(servers), maxAliasServers)], nil
}

// AddAlias points a new alias of this server to a room.
func (s *Server) AddAlias(ctx context.Context, a store.Alias) error {
	if _, err := s.LocalAlias(ctx, a.Alias); err == nil {
		return ErrAliasTaken
	}
	return s.db.Do(ctx, &sqldb.Op{Name: "alias", Committed: s.aliasesChanged, Write: func(tx *sqldb.Tx, _ int64) error { return s.insertAlias(tx, a) }})
}

// RemoveAlias deletes an alias of this server.
func (s *Server) RemoveAlias(ctx context.Context, alias string) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "alias", Committed: s.aliasesChanged, Write: func(tx *sqldb.Tx, _ int64) error { return s.Store.DeleteAlias(tx, alias) }})
}

// Aliases returns the aliases of this server that point to a room.
func (s *Server) Aliases(ctx context.Context, roomID string) (aliases []store.Alias, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		aliases, err = s.Store.AliasesOf(tx, roomID)
		return err
	})
	return aliases, err
}

// Publish puts a room into the public directory or takes it out.
func (s *Server) Publish(ctx context.Context, roomID string, public bool) error {
	key, err := s.Room(ctx, roomID)
	if err != nil {
		return err
	}
	return s.db.Do(ctx, &sqldb.Op{Name: "publish", Write: func(tx *sqldb.Tx, _ int64) error { return s.Store.Publish(tx, key.NID, public) }})
}

// IsPublished reports whether a room is in the public directory.
func (s *Server) IsPublished(ctx context.Context, roomID string) (public bool, err error) {
	key, err := s.Room(ctx, roomID)
	if err != nil {
		return false, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		public, err = s.Store.IsPublished(tx, key.NID)
		return err
	})
	return public, err
}

// Visibility is how a room stands in the public directory, as clients read it:
// "public" or "private".
func (s *Server) Visibility(ctx context.Context, roomID string) (string, error) {
	public, err := s.IsPublished(ctx, roomID)
	if public {
		return "public", err
	}
	return "private", err
}

// MoveAliases makes the local aliases of one room point to another.
func (s *Server) MoveAliases(ctx context.Context, from, to string) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "alias", Committed: s.aliasesChanged, Write: func(tx *sqldb.Tx, _ int64) error {
		aliases, err := s.Store.AliasesOf(tx, from)
		if err != nil {
			return err
		}
		for _, a := range aliases {
			if err := s.Store.DeleteAlias(tx, a.Alias); err != nil {
				return err
			}
			a.RoomID = to
			if _, err := s.Store.InsertAlias(tx, a); err != nil {
				return err
			}
		}
		return nil
	}})
}
