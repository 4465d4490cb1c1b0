package roomserver

import (
	"context"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/internal/sqldb"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// resetTypes are the types of state whose way back to an older event is told:
// who may do what, and who is here.
var resetTypes = []string{"m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.server_acl", "m.room.history_visibility", "m.room.encryption"}

// maxResetsTold bounds what is logged of one reset.
const maxResetsTold = 20

func (s *Server) initResets(reg prometheus.Registerer) {
	s.resets = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "knock_rooms_state_resets_total", Help: "Resolutions after which a room's state had lost a place or gone back to an older event.",
	})
	if reg != nil {
		reg.MustRegister(s.resets)
	}
}

// tellReset logs when an event's arrival took state back: when a place of the
// state is empty that was not, or an older event is at one that matters. That
// is how the rules resolve some forks, and a surprise for who is in the room.
func (b *batch) tellReset(ctx context.Context, d *draft, old, next *store.Ref) error {
	r := b.r
	if b.enters || r.tip.partial != nil || len(r.tip.extremities) < 2 && d.stored.State == old.NID {
		return nil // the state is another server's word, lacks members, or nothing was resolved
	}
	var back []state.Entry
	for _, c := range state.Changes(old.Set, next.Set) {
		was, _ := old.Set.Get(c.Tuple)
		if c.Event == 0 || was != 0 && c.Event < was && c.Event != d.stored.NID {
			back = append(back, c)
		}
	}
	if len(back) == 0 {
		return nil
	}
	lines, err := b.resetLines(ctx, old, back)
	if err != nil || len(lines) == 0 {
		return err
	}
	r.s.resets.Inc()
	forks := make([]string, 0, len(r.tip.extremities))
	for _, x := range r.tip.extremities {
		forks = append(forks, x.id)
	}
	r.s.Log.WithFields(logrus.Fields{
		"room": r.key.ID, "event": d.stored.ID, "origin": b.sender, "forks": forks[max(0, len(forks)-maxPrevs):], "state": lines,
	}).Warn("A fork took back state of a room")
	return nil
}

// resetLines describes the changes that matter, a line each.
func (b *batch) resetLines(ctx context.Context, old *store.Ref, back []state.Entry) (lines []string, err error) {
	r := b.r
	nids := make([]int64, len(back))
	for i, c := range back {
		nids[i] = c.Tuple
	}
	var tuples map[int64]store.Tuple
	err = r.s.db.Read(ctx, func(tx *sqldb.Tx) error {
		tuples, err = r.s.Store.Tuples(tx, nids)
		return err
	})
	for _, c := range back {
		t := tuples[c.Tuple]
		if c.Event != 0 && !slices.Contains(resetTypes, t.Type) && (t.Type != "m.room.member" || !r.s.IsLocal(t.Key)) || len(lines) == maxResetsTold {
			continue
		}
		was, _ := old.Set.Get(c.Tuple)
		line := t.Type + " " + t.Key + ": " + r.idOf(ctx, was) + " → "
		if c.Event != 0 {
			line += r.idOf(ctx, c.Event)
		} else {
			line += "nothing"
		}
		lines = append(lines, line)
	}
	return lines, err
}

// idOf is an event's id for logs.
func (r *room) idOf(ctx context.Context, nid int64) string {
	e, err := r.event(ctx, nid)
	if err != nil {
		return "?"
	}
	return e.ID
}
