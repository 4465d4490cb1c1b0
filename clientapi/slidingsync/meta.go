package slidingsync

import (
	"slices"
	"strconv"

	"knock/clientapi/syncread"
	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// readMeta reads what a client shows of the room in a list, where it changed.
func (r *room) readMeta(tx *sqldb.Tx) error {
	changed := func(typ string) bool {
		return r.initial || slices.ContainsFunc(r.changes, func(e state.Entry) bool { return r.names[e.Tuple] == store.Tuple{Type: typ} })
	}
	members := r.initial || slices.ContainsFunc(r.changes, func(e state.Entry) bool { return r.names[e.Tuple].Type == typeMember })
	renamed := changed("m.room.name")
	name := ""
	if renamed || members {
		var err error
		if name, err = r.text(tx, "m.room.name", "name"); err != nil {
			return err
		}
	}
	if renamed {
		r.meta = r.appendText(r.meta, "name", name)
	}
	if changed("m.room.avatar") {
		url, err := r.text(tx, "m.room.avatar", "url")
		if err != nil {
			return err
		}
		r.meta = r.appendText(r.meta, "avatar", url)
	}
	if name == "" && (renamed || members) {
		if err := r.addHeroes(tx); err != nil {
			return err
		}
	}
	if members && r.e.kind() == joined {
		r.meta = strconv.AppendInt(append(r.meta, `"joined_count":`...), int64(r.is.Joined), 10)
		r.meta = append(strconv.AppendInt(append(r.meta, `,"invited_count":`...), int64(r.is.Invited), 10), ',')
	}
	return nil
}

func (r *room) text(tx *sqldb.Tx, typ, field string) (string, error) {
	tuple, err := r.tuple(tx, store.Tuple{Type: typ})
	if err != nil {
		return "", err
	}
	nid, ok := r.is.State.Set.Get(tuple)
	if !ok {
		return "", nil
	}
	e, err := r.o.Rooms.Store.Event(tx, nid)
	if err != nil {
		return "", err
	}
	return e.Event.ContentString(field), nil
}

// appendText appends a text, null when the client must forget it.
func (r *room) appendText(dst []byte, name, value string) []byte {
	if value == "" && r.initial {
		return dst
	}
	dst = append(event.AppendString(dst, name), ':')
	if value == "" {
		return append(dst, "null,"...)
	}
	return append(event.AppendString(dst, value), ',')
}

func (r *room) addHeroes(tx *sqldb.Tx) error {
	users, err := r.o.Reader.Heroes(tx, r.e.key.NID, r.is.State.Set, r.q.user)
	if err != nil {
		return err
	}
	b := append(r.meta, `"heroes":[`...)
	for _, user := range users {
		m, err := r.o.Reader.Member(tx, r.is.State, user)
		if err != nil {
			return err
		}
		b = event.AppendString(append(b, `{"user_id":`...), user)
		if m != nil {
			for _, field := range []string{"displayname", "avatar_url"} {
				if v := m.Event.ContentString(field); v != "" {
					b = append(append(b, `,"`+field+`":`...), event.AppendString(nil, v)...)
				}
			}
		}
		b = append(b, "},"...)
	}
	r.meta = append(syncread.Closed(b, ']'), ',')
	return nil
}
