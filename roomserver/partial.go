package roomserver

import (
	"context"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// A room may be joined through a server that leaves most members out of its answer (server-server API, send_join,
// omit_members). The room is used at once, and its members are fetched meanwhile (complete.go). decisions/0010 says what
// that means for events and for readers.

// incomplete is what a room's tip knows of a join without members that is not complete.
type incomplete struct {
	event int64 // the join
	named map[string]bool
	row   store.PartialJoin // to be written with the join; later without its positions
}

func newIncomplete(row store.PartialJoin) *incomplete {
	p := &incomplete{event: row.Event, named: make(map[string]bool, len(row.Servers)), row: row}
	for _, server := range row.Servers {
		p.named[server] = true
	}
	return p
}

// findPartial reads how the room's newest join without members ended, if there was one.
func (t *tip) findPartial(tx *sqldb.Tx, st *store.Store, room int64) error {
	list, err := st.PartialJoinsOf(tx, room)
	if err != nil || len(list) == 0 {
		return err
	}
	last := list[len(list)-1]
	t.torn = !last.Whole
	if last.To == 0 {
		t.partial = newIncomplete(last)
	}
	return nil
}

// in reports whether a server is in the room. While members are missing, those that were named are: nobody knows which
// of their users was the last.
func (t *tip) in(server string) bool {
	return t.servers[server] > 0 || t.partial != nil && t.partial.named[server]
}

// others lists the other servers in the room.
func (t *tip) others(self string) []string {
	var out []string
	for server := range t.servers {
		if server != self {
			out = append(out, server)
		}
	}
	if t.partial != nil {
		for server := range t.partial.named {
			if server != self && t.servers[server] == 0 {
				out = append(out, server)
			}
		}
	}
	return out
}

// rests reports whether the state at the forward extremities lacks members.
func (t *tip) rests() bool {
	return t.partial != nil && slices.ContainsFunc(t.extremities, func(x extremity) bool { return x.flags&store.Partial != 0 })
}

// vouched adds the members whom an event cites to a state that lacks members. Nobody here can say whether they still are
// what they were when it was cited: that is found out when the room is complete.
func (r *room) vouched(ctx context.Context, set *state.Set, cited []int64) (*state.Set, error) {
	for _, nid := range cited {
		e, err := r.event(ctx, nid)
		if err != nil {
			return nil, err
		}
		if e.Event.Type() != "m.room.member" || e.Tuple == 0 || e.Flags&store.Rejected != 0 {
			continue
		}
		if _, known := set.Get(e.Tuple); !known {
			set = set.With(e.Tuple, e.NID)
		}
	}
	return set, nil
}

// vouchBefore is vouched for the state before an event, which the batch keeps.
func (b *batch) vouchBefore(ctx context.Context, ref *store.Ref, cited []int64) (*store.Ref, error) {
	set, err := b.r.vouched(ctx, ref.Set, cited)
	if err != nil || set == ref.Set {
		return ref, err
	}
	return b.extend(ref, set), nil
}

// toldState is the state after an event that is not here, as another server told it.
type toldState struct {
	prev  string
	state int64
}

func (b *batch) noteTold(prev string, ref *store.Ref) {
	if b.r.tip.partial != nil {
		b.told = append(b.told, toldState{prev, ref.NID})
	}
}

// abandonPartial ends a join without members because nobody of ours is in the room any more: its servers owe us
// nothing. What came meanwhile stays marked.
func (b *batch) abandonPartial(ctx context.Context, d *draft) error {
	r := b.r
	p := r.tip.partial
	r.tip.partial = nil
	d.ends = p
	for server := range p.named {
		if server == r.s.ServerName || r.tip.servers[server] > 0 {
			continue
		}
		nids, err := r.s.Store.Intern(ctx, server)
		if err != nil {
			return err
		}
		d.servers = append(d.servers, serverChange{nid: nids[0], joined: false})
	}
	return nil
}

// openPartial adds a join whose answer left members out.
func (b *batch) openPartial(ctx context.Context, a *joinAnswer, acc acceptance) error {
	r := b.r
	p := newIncomplete(store.PartialJoin{Through: a.from, Servers: a.servers})
	var newcomers []string
	for server := range p.named {
		if server != r.s.ServerName && r.tip.servers[server] == 0 {
			newcomers = append(newcomers, server)
		}
	}
	nids, err := r.s.Store.Intern(ctx, newcomers...)
	if err != nil {
		return err
	}
	r.tip.partial, r.tip.torn = p, true
	d, err := b.add(ctx, a.join, acc)
	if err != nil {
		return err
	}
	d.opens = p
	p.event = d.stored.NID
	for _, nid := range nids {
		d.servers = append(d.servers, serverChange{nid: nid, joined: true})
	}
	return nil
}

// mend notes that the room's members are all known, though a stay before was over before they were.
func (b *batch) mend() {
	r := b.r
	if r.tip.torn {
		r.tip.partial, r.tip.torn = nil, false
		b.extra = append(b.extra, func(tx *sqldb.Tx) error { return r.s.Store.MendPartialJoins(tx, r.key.NID) })
	}
}

// MembersMissing reports whether not all members of a room were known here at a position.
func (s *Server) MembersMissing(roomID string, at int64) bool {
	s.partials.mu.RLock()
	defer s.partials.mu.RUnlock()
	for _, j := range s.partials.byRoom[roomID] {
		if j.row.From <= at && (j.row.To == 0 || j.row.To > at) {
			return true
		}
	}
	return false
}

// MembersCame returns the last position with from < position ≤ to at which members that had been missing became known,
// where they were missing at from.
func (s *Server) MembersCame(roomID string, from, to int64) (pos int64, came bool) {
	s.partials.mu.RLock()
	defer s.partials.mu.RUnlock()
	for _, j := range s.partials.byRoom[roomID] {
		if j.row.Whole && j.row.From <= from && j.row.To > from && j.row.To <= to {
			pos, came = j.row.To, true
		}
	}
	return pos, came
}

// AwaitMembers waits until all members of a room are known here, or nobody of this server is in it.
func (s *Server) AwaitMembers(ctx context.Context, roomID string) error {
	j := s.partials.underWay(roomID)
	if j == nil {
		return nil
	}
	select {
	case <-j.over.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// setOmitted takes that the answer lacks members, and which servers it says are in the room.
func (a *joinAnswer) setOmitted(servers []string) error {
	a.omitted = true
	for _, server := range servers {
		if len(a.servers) == maxNamedServers {
			break
		}
		if server != "" && event.ValidServerName(server) && !slices.Contains(a.servers, server) {
			a.servers = append(a.servers, server)
		}
	}
	return nil
}

// maxNamedServers bounds the servers that an answer names as in the room.
const maxNamedServers = 20_000

// vouch adds the members whom the join cites, such as an invite, to a state without members.
func (a *joinAnswer) vouch() {
	for _, id := range a.join.AuthRefs() {
		e := a.byID[id]
		if e == nil || !a.good[id] || e.Type() != "m.room.member" {
			continue
		}
		key, isState := e.Key()
		place := auth.Tuple{Type: e.Type(), Key: key}
		if isState && a.at != nil && a.at[place] == "" {
			a.at[place] = id
			a.state = append(a.state, e)
		}
	}
}
