package roomserver

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// SendRequest asks for a new event of a local user.
type SendRequest struct {
	RoomID, Sender, Type string
	StateKey             *string // nil: not a state event
	Content              json.RawMessage
	Redacts              string // event id, for m.room.redaction
	TS                   int64  // origin_server_ts in ms; 0: now, unless Dated
	Dated                bool   // TS was given
	Device, TxnID        string // where TxnID is set, one device's same transaction makes one event
	Path                 string // what the transaction id is scoped to beside the device: the endpoint's path
	Sticky               *int64 // for how many milliseconds it is sticky (MSC4354); nil: it is not
	Delay                string // id of the delayed event that is sent (MSC4140); TxnID is empty then
	// Also writes in the transaction of the event; its error fails the event. It may run more than once, and does not when
	// the room says the same already. It may be nil.
	Also func(tx *sqldb.Tx, eventID string) error
}

func (q *SendRequest) origin(txnKey []byte) origin {
	return origin{note: store.Note{Device: q.Device, Txn: q.TxnID, Delay: q.Delay}, txnKey: txnKey, also: q.Also}
}

// Send builds an event on the newest state of a room, checks it, and returns its
// id once it is committed. A state event that would change nothing returns the id
// of the one that is there.
func (s *Server) Send(ctx context.Context, q SendRequest) (id string, err error) {
	err = s.retry(ctx, func() error {
		id, err = s.send(ctx, q)
		return err
	})
	return id, err
}

func (s *Server) send(ctx context.Context, q SendRequest) (string, error) {
	key := txnKey(q)
	if key != nil {
		if id, err := s.sentBefore(ctx, key); id != "" || err != nil {
			return id, err
		}
	}
	r, err := s.handle(ctx, q.RoomID)
	if err != nil {
		return "", err
	}
	if err := s.intern(ctx, q); err != nil {
		return "", err
	}
	if err := r.lock(); err != nil {
		return "", err
	}
	if sent, ok := r.txns.find(key); ok {
		r.mu.Unlock()
		return sent.id, sent.batch.wait(ctx)
	}
	p, err := r.policy(ctx)
	if err != nil || p != nil && !p.exempt(q.Type, q.StateKey) {
		r.mu.Unlock()
		if err != nil {
			return "", err
		}
		return s.sendPoliced(ctx, r.key, q, key)
	}
	b, id, err := r.sendLocked(ctx, q, key)
	r.mu.Unlock()
	if err != nil || b == nil {
		return id, err
	}
	return id, b.wait(ctx)
}

// sendLocked builds and queues the event. The batch is nil when there is
// nothing to write.
func (r *room) sendLocked(ctx context.Context, q SendRequest, key []byte) (*batch, string, error) {
	if !r.tip.resident {
		return nil, "", ErrUnknownRoom
	}
	if q.StateKey != nil {
		if id, err := r.unchanged(ctx, q); id != "" || err != nil {
			return nil, id, err
		}
	}
	b := r.begin()
	e, err := b.build(ctx, q, key)
	if err != nil {
		return nil, "", r.abandon(b, err)
	}
	b.enqueue()
	r.txns.add(key, sentTxn{id: e.EventID(), batch: b})
	return b, e.EventID(), nil
}

// abandon returns err; a batch that has moved the tip takes the handle with it.
func (r *room) abandon(b *batch, err error) error {
	if len(b.drafts) > 0 {
		r.fail()
	}
	return err
}

// unchanged returns the id of the state event that says the same already.
func (r *room) unchanged(ctx context.Context, q SendRequest) (string, error) {
	if q.Sticky != nil { // it begins to be sticky anew
		return "", nil
	}
	old, err := r.stateEvent(ctx, r.tip.state.Set, store.Tuple{Type: q.Type, Key: *q.StateKey})
	if err != nil || old == nil || old.Event.Sender() != q.Sender {
		return "", err
	}
	content, err := event.Canonical(nil, q.Content)
	if err != nil || string(content) != string(old.Event.ContentJSON()) {
		return "", nil
	}
	if _, err := r.authorise(ctx, q); err != nil {
		return "", err
	}
	return old.ID, nil
}

// build makes an event on the tip, checks it against the rules, and adds it.
func (b *batch) build(ctx context.Context, q SendRequest, key []byte) (*event.Event, error) {
	e, sel, err := b.r.buildEvent(ctx, q)
	if err != nil {
		return nil, err
	}
	flags := store.Outgoing
	if b.r.tip.rests() {
		flags |= store.Partial
	}
	_, err = b.add(ctx, e, acceptance{
		before: b.r.tip.state, flags: flags, auth: sel.nids, state: sel.state, origin: q.origin(key),
	})
	return e, err
}

// buildEvent makes an event on the tip and checks it against the rules.
func (r *room) buildEvent(ctx context.Context, q SendRequest) (*event.Event, *selection, error) {
	builder, sel, err := r.builder(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	e, err := r.s.finish(builder)
	if err != nil {
		return nil, nil, err
	}
	return e, sel, auth.Check(e, sel.state)
}

// CanBuild reports why nobody could send an event: it is too large, or not valid. What the room allows is not looked at.
func (s *Server) CanBuild(ctx context.Context, q SendRequest) error {
	key, err := s.Store.Room(ctx, q.RoomID)
	if errors.Is(err, store.ErrNotFound) {
		return ErrUnknownRoom
	}
	if err != nil {
		return err
	}
	b := &event.Builder{Version: key.Version, Type: q.Type, Sender: q.Sender, RoomID: key.ID, StateKey: q.StateKey, Content: q.Content,
		Redacts: q.Redacts, TS: q.TS, Depth: 1, Sticky: q.Sticky}
	_, err = s.finish(b)
	return err
}

// finish builds an event, with the errors of this package.
func (s *Server) finish(b *event.Builder) (*event.Event, error) {
	e, err := b.Build(s.Signer)
	if errors.Is(err, event.ErrTooLarge) {
		return nil, ErrTooLarge
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return e, nil
}

// builder returns what an event on the tip is built from.
func (r *room) builder(ctx context.Context, q SendRequest) (*event.Builder, *selection, error) {
	sel, err := r.authorise(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	prevs, depth := r.prevs()
	b := &event.Builder{
		Version: r.key.Version, Type: q.Type, Sender: q.Sender, RoomID: r.key.ID, StateKey: q.StateKey, Content: q.Content,
		PrevEvents: prevs, AuthEvents: sel.ids, Depth: depth, Redacts: q.Redacts, TS: q.TS, Sticky: q.Sticky,
	}
	if q.TS == 0 && !q.Dated {
		b.TS = r.s.Clock().UnixMilli()
	}
	if r.key.Version.References {
		b.Hashes, err = r.hashes(ctx, sel.nids)
	}
	return b, sel, err
}

// authorise selects the auth events of a new event. Those of a message depend
// on its sender alone, so they are kept until the state changes.
func (r *room) authorise(ctx context.Context, q SendRequest) (*selection, error) {
	if q.StateKey == nil {
		if sel := r.auths[q.Sender]; sel != nil {
			return sel, nil
		}
	}
	sel, err := r.selectAuth(ctx, r.tip.state.Set, auth.NeededFor(r.key.Version, q.Type, q.StateKey, q.Sender, q.Content))
	if err == nil && q.StateKey == nil {
		r.auths[q.Sender] = sel
	}
	return sel, err
}

// maxPrevs is the most prev events that an event may name.
const maxPrevs = 20

// prevs returns the newest forward extremities and the depth of what follows.
func (r *room) prevs() (ids []string, depth int64) {
	from := max(0, len(r.tip.extremities)-maxPrevs)
	for _, x := range r.tip.extremities {
		depth = max(depth, x.depth)
	}
	for _, x := range r.tip.extremities[from:] {
		ids = append(ids, x.id)
	}
	return ids, min(depth+1, maxDepth)
}

// hashes returns the reference hashes that room versions 1 and 2 quote: those
// of the given auth events and of the forward extremities.
func (r *room) hashes(ctx context.Context, nids []int64) (map[string][32]byte, error) {
	nids = slices.Clone(nids)
	for _, x := range r.tip.extremities {
		nids = append(nids, x.nid)
	}
	out := make(map[string][32]byte, len(nids))
	for _, nid := range nids {
		e, err := r.event(ctx, nid)
		if err != nil {
			return nil, err
		}
		out[e.ID] = e.Event.Hash()
	}
	return out, nil
}

// maxDepth is the largest integer of canonical JSON.
const maxDepth = 1<<53 - 1

// intern gives numbers to the strings of an event before the room is locked.
func (s *Server) intern(ctx context.Context, q SendRequest) error {
	if _, err := s.Store.Intern(ctx, q.Type, q.Sender); err != nil || q.StateKey == nil {
		return err
	}
	_, err := s.Store.InternTuples(ctx, []store.Tuple{{Type: q.Type, Key: *q.StateKey}})
	return err
}

// txnKey is a hash of what a transaction id is scoped to, nil without one.
func txnKey(q SendRequest) []byte {
	if q.TxnID == "" {
		return nil
	}
	h := sha256.New()
	for _, part := range []string{q.Sender, q.Device, q.Path, q.RoomID, q.Type, q.Redacts, q.TxnID} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return h.Sum(nil)[:16]
}

// Sent returns the event that the same request made before, "" where there is none or it has no transaction id.
func (s *Server) Sent(ctx context.Context, q SendRequest) (id string, err error) {
	if key := txnKey(q); key != nil {
		id, err = s.sentBefore(ctx, key)
	}
	return id, err
}

func (s *Server) sentBefore(ctx context.Context, key []byte) (id string, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		nid, err := s.Store.Txn(tx, key)
		if err != nil {
			return err
		}
		e, err := s.Store.Event(tx, nid)
		if err == nil {
			id = e.ID
		}
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	return id, err
}

// sentTxn is a transaction that is queued or was committed lately.
type sentTxn struct {
	id    string
	batch *batch
}

// txnWindow remembers a room's newest transactions, so that a repeat finds the
// first one even before it is committed.
type txnWindow struct {
	byKey map[string]sentTxn
	order []string
}

const txnsKept = 256

func (w *txnWindow) find(key []byte) (sentTxn, bool) {
	sent, ok := w.byKey[string(key)]
	return sent, ok && key != nil
}

func (w *txnWindow) add(key []byte, sent sentTxn) {
	if key == nil {
		return
	}
	if w.byKey == nil {
		w.byKey = map[string]sentTxn{}
	}
	if len(w.order) == txnsKept {
		delete(w.byKey, w.order[0])
		w.order = w.order[1:]
	}
	w.byKey[string(key)] = sent
	w.order = append(w.order, string(key))
}
