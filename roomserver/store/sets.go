package store

import (
	"fmt"
	"math/bits"

	"knock/internal/sqldb"
	"knock/roomserver/state"
)

// Ref is a state set with its place in the database: a row that changes its
// parent's entries. The chain of parents is as long as the number of one bits
// in the height, as in a Fenwick tree, so n changes of a room cost O(n log n)
// bytes and any set is read in O(log n) rows. Refs are immutable.
type Ref struct {
	NID    int64
	Height int64
	Set    *state.Set
	parent *Ref
}

// EmptyState is the state before a room's first event.
func EmptyState() *Ref { return &Ref{} }

// Extend returns the set that follows r, under a new number, and what Insert
// must write for it.
func (r *Ref) Extend(nid int64, set *state.Set) *Ref {
	height := r.Height + 1
	parent := r
	for keep := height - lowbit(height); parent != nil && parent.Height > keep; {
		parent = parent.parent
	}
	return &Ref{NID: nid, Height: height, Set: set, parent: parent}
}

func lowbit(n int64) int64 { return int64(1) << bits.TrailingZeros64(uint64(n)) }

// delta is what the row of r holds.
func (r *Ref) delta() []state.Entry {
	if r.parent == nil {
		return r.Set.Entries()
	}
	return state.Changes(r.parent.Set, r.Set)
}

// maxChain bounds a walk up the parents; heights stay far below 2^62.
const maxChain = 64

var (
	selectSet = sqldb.Register("state_sets.select", `SELECT parent, height, delta FROM state_sets WHERE nid = $1`)
	insertSet = sqldb.RegisterInsert("state_sets.insert", `INSERT INTO state_sets (nid, room, parent, height, delta) VALUES`, 5, ``)

	stateAt        = sqldb.Register("room_states.at", `SELECT pos, state FROM room_states WHERE room = $1 AND pos <= $2 ORDER BY pos DESC LIMIT 1`)
	insertStateLog = sqldb.RegisterInsert("room_states.insert", `INSERT INTO room_states (room, pos, state) VALUES`, 3, `ON CONFLICT (room, pos) DO UPDATE SET state = excluded.state`)
)

// InsertSet writes the row of a set that Extend made.
func (s *Store) InsertSet(tx *sqldb.Tx, room int64, r *Ref) {
	var parent int64
	if r.parent != nil {
		parent = r.parent.NID
	}
	tx.Append(insertSet, r.NID, room, parent, r.Height, state.AppendDelta(nil, r.delta()))
}

// KeepSet puts a committed set into the cache.
func (s *Store) KeepSet(r *Ref) { s.sets.Put(r.NID, r) }

// Set returns a state set by its number; 0 is the empty set.
func (s *Store) Set(tx *sqldb.Tx, nid int64) (*Ref, error) {
	type link struct {
		nid, height int64
		delta       []state.Entry
	}
	var base *Ref
	var chain []link
	for at := nid; at != 0; {
		if r, ok := s.sets.Get(at); ok {
			base = r
			break
		}
		if len(chain) == maxChain {
			return nil, fmt.Errorf("state set %d has an endless chain of parents", nid)
		}
		l := link{nid: at}
		var data []byte
		if err := tx.QueryRow(selectSet, at).Scan(&at, &l.height, &data); err != nil {
			return nil, fmt.Errorf("state set %d: %w", l.nid, notFound(err))
		}
		var err error
		if l.delta, err = state.DecodeDelta(data); err != nil {
			return nil, fmt.Errorf("state set %d: %w", l.nid, err)
		}
		chain = append(chain, l)
	}
	for i := len(chain) - 1; i >= 0; i-- {
		l := chain[i]
		var set *state.Set
		if base != nil {
			set = base.Set
		}
		base = &Ref{NID: l.nid, Height: l.height, Set: set.Apply(l.delta), parent: base}
		s.sets.Put(l.nid, base)
	}
	if base == nil {
		return EmptyState(), nil
	}
	return base, nil
}

// LogState records that a room's current state became r at pos.
func (s *Store) LogState(tx *sqldb.Tx, room, pos int64, r *Ref) {
	tx.Append(insertStateLog, room, pos, r.NID)
}

// StateAt returns the state that was current at pos and since when.
func (s *Store) StateAt(tx *sqldb.Tx, room, pos int64) (r *Ref, since int64, err error) {
	var nid int64
	if err := tx.QueryRow(stateAt, room, pos).Scan(&since, &nid); err != nil {
		return nil, 0, notFound(err)
	}
	r, err = s.Set(tx, nid)
	return r, since, err
}
