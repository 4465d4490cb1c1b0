// Package store owns every SQL statement about rooms: events, their JSON, state
// sets, memberships, aliases and transaction ids. Rows use numeric ids (nids);
// the caches here hold immutable values and are bounded.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"knock/internal/cache"
	"knock/internal/sqldb"
	"knock/roomserver/event"
)

// Options configure a Store. Zero sizes take the defaults.
type Options struct {
	DB         *sqldb.DB
	EventBytes int64 // bound of the event cache, in bytes of JSON; default 64 MiB
	Registerer prometheus.Registerer
}

// Store reads and writes everything about rooms.
type Store struct {
	DB     *sqldb.DB
	codec  *codec
	names  *names
	events *cache.Cache[int64, *Stored]
	byID   *cache.Cache[string, int64]
	sets   *cache.Cache[int64, *Ref]
	rooms  *cache.Cache[string, RoomKey]
	ids    *cache.Cache[int64, string]
}

// RoomKey is what never changes about a room that this server is or was in.
type RoomKey struct {
	NID     int64
	ID      string
	Version *event.Version
}

const (
	defaultEventBytes = 64 << 20
	eventOverhead     = 700 // bytes a cached event costs beside its JSON
)

// New returns a store on a migrated database.
func New(o Options) *Store {
	if o.EventBytes == 0 {
		o.EventBytes = defaultEventBytes
	}
	reg := o.Registerer
	return &Store{
		DB:    o.DB,
		codec: newCodec(),
		names: newNames(o.DB, reg),
		events: cache.New(cache.Options[int64, *Stored]{Name: "events", Entries: 1 << 20, Bytes: o.EventBytes, Shards: 16, Registerer: reg,
			Cost: func(_ int64, s *Stored) int64 { return int64(len(s.Event.JSON())) + eventOverhead }}),
		byID:  cache.New(cache.Options[string, int64]{Name: "event_ids", Entries: 100_000, Shards: 8, Registerer: reg}),
		sets:  cache.New(cache.Options[int64, *Ref]{Name: "state_sets", Entries: 5_000, Registerer: reg}),
		rooms: cache.New(cache.Options[string, RoomKey]{Name: "room_keys", Entries: 50_000, Registerer: reg}),
		ids:   cache.New(cache.Options[int64, string]{Name: "room_ids", Entries: 50_000, Registerer: reg}),
	}
}

// ErrNotFound is returned for a row that is not there.
var ErrNotFound = errors.New("not found")

func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

var (
	roomByID  = sqldb.Register("rooms.byID", `SELECT nid, version FROM rooms WHERE room_id = $1`)
	roomByNID = sqldb.Register("rooms.byNID", `SELECT room_id, version FROM rooms WHERE nid = $1`)
)

// Room returns the key of a room by its id, or ErrNotFound.
func (s *Store) Room(ctx context.Context, id string) (RoomKey, error) {
	if k, ok := s.rooms.Get(id); ok {
		return k, nil
	}
	var k RoomKey
	err := s.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		k, err = s.RoomTx(tx, id)
		return err
	})
	return k, err
}

// RoomTx is Room in a snapshot that is open already.
func (s *Store) RoomTx(tx *sqldb.Tx, id string) (k RoomKey, err error) {
	if k, ok := s.rooms.Get(id); ok {
		return k, nil
	}
	return s.ReadRoom(tx, id)
}

// ReadRoom is RoomTx without the cache, which may name another version of a room
// that this server never was in.
func (s *Store) ReadRoom(tx *sqldb.Tx, id string) (k RoomKey, err error) {
	var version []byte
	if err := tx.QueryRow(roomByID, []byte(id)).Scan(&k.NID, &version); err != nil {
		return k, notFound(err)
	}
	return k, s.fillRoom(&k, id, string(version))
}

// RoomByNID returns the key of a room by its number.
func (s *Store) RoomByNID(tx *sqldb.Tx, nid int64) (RoomKey, error) {
	if id, ok := s.ids.Get(nid); ok {
		if k, ok := s.rooms.Get(id); ok {
			return k, nil
		}
	}
	k := RoomKey{NID: nid}
	var id, version []byte
	if err := tx.QueryRow(roomByNID, nid).Scan(&id, &version); err != nil {
		return k, notFound(err)
	}
	return k, s.fillRoom(&k, string(id), string(version))
}

func (s *Store) fillRoom(k *RoomKey, id, version string) error {
	v, ok := event.GetVersion(version)
	if !ok {
		return fmt.Errorf("room %s has the unknown version %q", id, version)
	}
	k.ID, k.Version = id, v
	s.KeepRoom(*k)
	return nil
}

// KeepRoom puts a room's key into the cache, once its row is committed.
func (s *Store) KeepRoom(k RoomKey) {
	s.rooms.Put(k.ID, k)
	s.ids.Put(k.NID, k.ID)
}
