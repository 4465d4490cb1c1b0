package roomserver

import (
	"knock/internal/sqldb"
	"knock/roomserver/store"
)

// roomRevs is what one transaction knows of the rooms it changes.
type roomRevs map[int64]*roomRev

type roomRev struct {
	base, now int64
	final     store.RoomRow
	dirty     bool
}

func revsOf(tx *sqldb.Tx) roomRevs {
	return tx.Scratch("roomserver.revs", func() any { return roomRevs{} }).(roomRevs)
}

func (b *batch) check(tx *sqldb.Tx) error {
	if b.create {
		return nil
	}
	revs := revsOf(tx)
	rev := revs[b.r.key.NID]
	if rev == nil {
		n, err := b.r.s.Store.LockRoom(tx, b.r.key.NID)
		if err != nil {
			return err
		}
		rev = &roomRev{base: n, now: n}
		revs[b.r.key.NID] = rev
	}
	if rev.now != b.baseRev {
		return store.ErrRevision
	}
	rev.now++
	return nil
}

func (b *batch) write(tx *sqldb.Tx, first int64) error {
	st := b.r.s.Store
	if err := b.writeRoom(tx); err != nil {
		return err
	}
	for _, set := range b.sets {
		st.InsertSet(tx, b.r.key.NID, set)
	}
	for _, fn := range b.extra {
		if err := fn(tx); err != nil {
			return err
		}
	}
	for _, t := range b.told {
		if err := st.AddTold(tx, b.r.key.NID, t.prev, t.state); err != nil {
			return err
		}
	}
	pos := first
	if b.whole != nil {
		if err := b.writeWhole(tx, pos); err != nil {
			return err
		}
		pos++
	}
	for _, d := range b.drafts {
		if d.live {
			d.stored.Pos = pos
			pos++
		}
		if err := b.writeDraft(tx, d); err != nil {
			return err
		}
	}
	return nil
}

// writeRoom writes the room's row, once a transaction for all its batches.
func (b *batch) writeRoom(tx *sqldb.Tx) error {
	st := b.r.s.Store
	if b.create {
		ok, err := st.InsertRoom(tx, b.r.key, b.final)
		if err == nil && !ok {
			err = store.ErrRevision
		}
		return err
	}
	rev := revsOf(tx)[b.r.key.NID]
	rev.final = b.final
	if rev.dirty {
		return nil
	}
	rev.dirty = true
	tx.BeforeCommit(func() error { return st.UpdateRoom(tx, rev.base, rev.final) })
	return nil
}

func (b *batch) writeDraft(tx *sqldb.Tx, d *draft) error {
	st, room, e := b.r.s.Store, b.r.key.NID, d.stored
	if d.place {
		if err := st.Place(tx, &e.Row); err != nil {
			return err
		}
		if e.RedactedBy != 0 {
			if _, err := st.Redact(tx, e, e.RedactedBy); err != nil {
				return err
			}
		}
	} else {
		st.Insert(tx, &e.Row, d.data)
	}
	if err := b.writePartial(tx, d); err != nil {
		return err
	}
	for _, prev := range d.missing {
		if err := st.AddMissing(tx, room, prev, e.NID); err != nil {
			return err
		}
	}
	if d.fills {
		if err := st.FillMissing(tx, room, e.ID); err != nil {
			return err
		}
	}
	if d.txnKey != nil {
		st.InsertTxn(tx, d.txnKey, e.NID)
	}
	if d.redacts != "" {
		st.AddRedaction(tx, room, d.redacts, e.NID)
	}
	if d.redact != nil {
		redacted, err := st.Redact(tx, d.redact, e.NID)
		if err != nil {
			return err
		}
		d.redact = redacted
	}
	if d.view != nil {
		st.LogState(tx, room, e.Pos, d.view.State)
	}
	if err := b.writeMembers(tx, d.members, d.servers, e.Pos); err != nil {
		return err
	}
	for _, write := range d.writes {
		if err := write(tx, e.Pos); err != nil {
			return err
		}
	}
	return nil
}

// writePartial writes what a draft means for a join without members.
func (b *batch) writePartial(tx *sqldb.Tx, d *draft) error {
	st, room, e := b.r.s.Store, b.r.key.NID, d.stored
	if d.opens != nil {
		d.opens.row.Room, d.opens.row.Event, d.opens.row.From = room, e.NID, e.Pos
		if err := st.AddPartialJoin(tx, d.opens.row); err != nil {
			return err
		}
	}
	if d.noted && d.ends == nil {
		if err := st.AddPartialEvent(tx, room, b.r.s.db.NextID(), e.NID); err != nil {
			return err
		}
	}
	if d.ends != nil {
		return st.EndPartialJoin(tx, room, d.ends.event, e.Pos, false)
	}
	return nil
}

func (b *batch) writeMembers(tx *sqldb.Tx, members []memberChange, servers []serverChange, pos int64) error {
	st, room := b.r.s.Store, b.r.key.NID
	rows := make([]store.MemberRow, 0, len(members))
	for _, c := range members {
		to := c.to
		if to == store.NoMembership {
			to = store.Leave
		}
		rows = append(rows, store.MemberRow{Room: room, User: c.nid, State: to, Local: b.r.s.IsLocal(c.user), Event: c.event, Pos: pos})
	}
	if err := st.PutMembers(tx, rows); err != nil {
		return err
	}
	for _, c := range servers {
		note := st.ServerLeft
		if c.joined {
			note = st.ServerJoined
		}
		if err := note(tx, room, c.nid, pos); err != nil {
			return err
		}
	}
	return nil
}
