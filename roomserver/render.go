package roomserver

import (
	"encoding/json"
	"strconv"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Viewer is who gets events.
type Viewer struct{ User, Device string }

// Render encodes events in the client format with what "unsigned" says to this
// viewer: age, transaction_id, delay_id, how long it stays
// sticky, prev_content, membership, redacted_because.
// withRoom includes room_id. extra, which may be nil, adds to each event's options.
func (s *Server) Render(tx *sqldb.Tx, v Viewer, events []*store.Stored, withRoom bool, extra func(*store.Stored, *event.ClientOptions)) ([]json.RawMessage, error) {
	now := s.Clock().UnixMilli()
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		o := event.ClientOptions{RoomID: withRoom, HasAge: true, Age: max(0, now-e.TS)}
		if e.Txn != "" && e.Device == v.Device && e.Event.Sender() == v.User {
			o.TransactionID = e.Txn
		}
		if e.Delay != "" && e.Event.Sender() == v.User {
			id := json.RawMessage(event.AppendString(nil, e.Delay))
			o.Extra = append(o.Extra, event.Field{Key: "delay_id", Value: id}, event.Field{Key: "org.matrix.msc4140.delay_id", Value: id})
		}
		if ms, ok := e.Event.Sticky(); ok {
			if left := min(e.TS+ms-now, ms); left > 0 {
				o.Extra = append(o.Extra, event.Field{Key: "msc4354_sticky_duration_ttl_ms", Value: strconv.AppendInt(nil, left, 10)})
			}
		}
		if err := s.unsigned(tx, v, e, &o); err != nil {
			return nil, err
		}
		if extra != nil {
			extra(e, &o)
		}
		out[i] = e.Event.AppendClient(make([]byte, 0, len(e.Event.JSON())+160), o)
	}
	return out, nil
}

func (s *Server) unsigned(tx *sqldb.Tx, v Viewer, e *store.Stored, o *event.ClientOptions) error {
	if e.RedactedBy != 0 {
		by, err := s.Store.Event(tx, e.RedactedBy)
		if err != nil {
			return err
		}
		o.RedactedBecause = by.Event.AppendClient(nil, event.ClientOptions{RoomID: o.RoomID})
	}
	if e.Flags&store.Outlier != 0 {
		return nil
	}
	before, err := s.Store.Set(tx, e.State)
	if err != nil {
		return err
	}
	if e.Tuple != 0 && !e.Erased {
		if old, ok := before.Set.Get(e.Tuple); ok {
			prev, err := s.Store.Event(tx, old)
			if err != nil {
				return err
			}
			o.PrevContent, o.PrevSender, o.ReplacesState = prev.Event.ContentJSON(), prev.Event.Sender(), prev.ID
		}
	}
	if v.User == "" { // an application service is nobody in particular
		return nil
	}
	return s.membershipAt(tx, v, e, before, o)
}

// membershipAt sets the viewer's membership at the event: after it, for their
// own member events.
func (s *Server) membershipAt(tx *sqldb.Tx, v Viewer, e *store.Stored, before *store.Ref, o *event.ClientOptions) error {
	if e.Event.IsState("m.room.member", v.User) {
		o.Membership = auth.Membership(e.Event)
		return nil
	}
	member, err := s.stateEvent(tx, before, "m.room.member", v.User)
	if err != nil {
		return err
	}
	o.Membership = auth.Leave
	if member != nil {
		o.Membership = auth.Membership(member.Event)
	}
	return nil
}
