package relations

import (
	"encoding/json"

	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Options are what a Reader needs.
type Options struct {
	Rooms *roomserver.Server
	// Ignored returns whom a user ignores; nil: nobody.
	Ignored func(tx *sqldb.Tx, userID string) (map[string]struct{}, error)
}

// Reader reads relations as one user may see them.
type Reader struct {
	rooms   *roomserver.Server
	store   *store.Store
	ignored func(tx *sqldb.Tx, userID string) (map[string]struct{}, error)
}

// NewReader makes a Reader.
func NewReader(o Options) *Reader {
	if o.Ignored == nil {
		o.Ignored = func(*sqldb.Tx, string) (map[string]struct{}, error) { return nil, nil }
	}
	return &Reader{rooms: o.Rooms, store: o.Rooms.Store, ignored: o.Ignored}
}

// Extra is Bundle in the form that roomserver.Render takes.
func (r *Reader) Extra(tx *sqldb.Tx, v roomserver.Viewer, events []*store.Stored) (func(*store.Stored, *event.ClientOptions), error) {
	bundles, err := r.Bundle(tx, v, events)
	if err != nil {
		return nil, err
	}
	return func(e *store.Stored, o *event.ClientOptions) { o.Relations = bundles[e.NID] }, nil
}

// Render encodes events in the client format with their room and their bundled aggregations.
func (r *Reader) Render(tx *sqldb.Tx, v roomserver.Viewer, events []*store.Stored) ([]json.RawMessage, error) {
	extra, err := r.Extra(tx, v, events)
	if err != nil {
		return nil, err
	}
	return r.rooms.Render(tx, v, events, true, extra)
}

// viewer is a user with their number and the numbers of those whom they ignore.
type viewer struct {
	roomserver.Viewer
	nid     int64
	ignored []int64
	ignores map[int64]bool
}

func (r *Reader) viewer(tx *sqldb.Tx, v roomserver.Viewer) (*viewer, error) {
	nid, err := r.store.FindName(tx, v.User)
	if err != nil {
		return nil, err
	}
	w := &viewer{Viewer: v, nid: nid, ignored: []int64{}, ignores: map[int64]bool{}}
	users, err := r.ignored(tx, v.User)
	if err != nil {
		return nil, err
	}
	for user := range users {
		nid, err := r.store.FindName(tx, user)
		if err != nil {
			return nil, err
		}
		if nid != 0 && user != v.User {
			w.ignored = append(w.ignored, nid)
			w.ignores[nid] = true
		}
	}
	return w, nil
}
