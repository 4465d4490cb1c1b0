package node

import (
	"context"
	"errors"

	"github.com/tidwall/gjson"

	"knock/internal/ephemeral"
	"knock/internal/pushrules"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// places finds events for receipts.
type places struct{ rooms *roomserver.Server }

func (p places) Locate(ctx context.Context, room, eventID string) (place ephemeral.Place, ok bool, err error) {
	s := p.rooms.Store
	key, err := s.Room(ctx, room)
	if errors.Is(err, store.ErrNotFound) {
		return place, false, nil
	}
	if err != nil {
		return place, false, err
	}
	err = s.DB.Read(ctx, func(tx *sqldb.Tx) error {
		e, err := s.EventByID(tx, eventID)
		if err != nil {
			return err
		}
		if ok = e.Room == key.NID && e.HasOrd; !ok {
			return nil
		}
		place, err = p.placeOf(tx, e)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return place, false, nil
	}
	return place, ok, err
}

// placeOf leaves Pos at 0 for history that was fetched: nothing was delivered before it.
func (p places) placeOf(tx *sqldb.Tx, e *store.Stored) (ephemeral.Place, error) {
	place := ephemeral.Place{RoomNID: e.Room, Ord: e.Ord, Pos: e.Pos, Thread: pushrules.Main}
	relation := relationOf(e.Event)
	if relation.kind == "m.thread" {
		place.Thread = relation.parent
	}
	for range maxHops {
		if relation.kind == "" || relation.parent == "" {
			break
		}
		place.Related = append(place.Related, relation.parent)
		parent, err := p.rooms.Store.EventByID(tx, relation.parent)
		if errors.Is(err, store.ErrNotFound) || err == nil && parent.Room != e.Room {
			break
		}
		if err != nil {
			return place, err
		}
		relation = relationOf(parent.Event)
	}
	return place, nil
}

// maxHops bounds how many relations are followed to find the threads that an event has to do with (Client-Server API,
// "Threaded read receipts").
const maxHops = 3

type relation struct{ kind, parent string }

// relationOf reads an event's m.relates_to (Client-Server API, "Forming relationships between events").
func relationOf(e *event.Event) relation {
	fields := gjson.ParseBytes(e.ContentField("m.relates_to"))
	return relation{kind: str(fields, "rel_type"), parent: str(fields, "event_id")}
}

func str(object gjson.Result, name string) string {
	if v := object.Get(name); v.Type == gjson.String {
		return v.Str
	}
	return ""
}
