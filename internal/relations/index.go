package relations

import (
	"context"
	"errors"
	"net/http"

	"github.com/tidwall/gjson"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/store"
)

// Index writes the relations of events, as a participant of the room server.
type Index struct{ store *store.Store }

var _ roomserver.Participant = (*Index)(nil)

// NewIndex makes an Index over the events' store.
func NewIndex(st *store.Store) *Index { return &Index{st} }

// Load does nothing: nothing is kept in memory.
func (x *Index) Load(context.Context, int64) error { return nil }

// Forget does nothing: nothing is kept in memory.
func (x *Index) Forget(int64) {}

// Prepare returns what is written with an event that relates to another.
func (x *Index) Prepare(a *roomserver.Accepted) func(tx *sqldb.Tx, pos int64) error {
	return x.write(a)
}

// PrepareHistory is Prepare for events that were fetched, which are not delivered. The position is not used.
func (x *Index) PrepareHistory(a *roomserver.Accepted) func(tx *sqldb.Tx, pos int64) error {
	return x.write(a)
}

func (x *Index) write(a *roomserver.Accepted) func(tx *sqldb.Tx, pos int64) error {
	r, ok := Of(a.Event)
	if !ok {
		return nil
	}
	parent := keyOf(a.Event.V(), r.Parent)
	if parent == nil {
		return nil
	}
	nids, err := x.store.Intern(context.Background(), r.Type)
	if err != nil {
		return func(*sqldb.Tx, int64) error { return err }
	}
	mark := r.mark(a.Event.Sender(), a.Event.Type())
	return func(tx *sqldb.Tx, _ int64) error {
		tx.Append(insertRelation, parent, nids[0], mark, a.EventNID)
		if r.Type == Thread {
			tx.Append(insertThread, a.RoomNID, parent)
		}
		return nil
	}
}

var errNested = matrixerr.Unknown(http.StatusBadRequest,
	"A thread cannot start from an event that relates to another one itself; relate to the thread's root instead")

// Check refuses a new event whose relation is not allowed: an annotation that its sender made already
// (M_DUPLICATE_ANNOTATION), unless the request is that same transaction again, and a thread on an event that has a
// rel_type itself (Client-Server API, "Validation of m.thread relationships").
func (x *Index) Check(ctx context.Context, q roomserver.SendRequest) error {
	r, ok := parse([]byte(gjson.GetBytes(q.Content, `m\.relates_to`).Raw))
	if !ok || r.Type != Annotation && r.Type != Thread {
		return nil
	}
	return x.store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		room, err := x.store.RoomTx(tx, q.RoomID)
		if errors.Is(err, store.ErrNotFound) {
			return nil // sending says so
		}
		if err != nil {
			return err
		}
		if r.Type == Thread {
			return x.checkRoot(tx, room, r)
		}
		return x.checkAnnotation(tx, room, q, r)
	})
}

func (x *Index) checkRoot(tx *sqldb.Tx, room store.RoomKey, r Relation) error {
	root, err := x.store.EventByID(tx, r.Parent)
	if errors.Is(err, store.ErrNotFound) || err == nil && root.Room != room.NID {
		return nil
	}
	if err != nil {
		return err
	}
	if _, related := Of(root.Event); related {
		return errNested
	}
	return nil
}

func (x *Index) checkAnnotation(tx *sqldb.Tx, room store.RoomKey, q roomserver.SendRequest, r Relation) error {
	parent, rel := keyOf(room.Version, r.Parent), int64(0)
	var err error
	if parent != nil {
		rel, err = x.store.FindName(tx, Annotation)
	}
	if err != nil || rel == 0 {
		return err
	}
	same, err := sqldb.Collect(tx, annotations, scanNID, parent, rel, r.mark(q.Sender, q.Type), room.NID)
	if err != nil {
		return err
	}
	events, err := x.store.InOrder(tx, same)
	if err != nil {
		return err
	}
	for _, e := range events {
		if q.TxnID == "" || e.Txn != q.TxnID || e.Device != q.Device {
			return matrixerr.DuplicateAnnotation()
		}
	}
	return nil
}
