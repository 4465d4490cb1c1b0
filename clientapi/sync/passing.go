package sync

import (
	"encoding/json"
	"maps"
	"slices"

	"knock/clientapi/syncread"
	"knock/internal/ephemeral"
	"knock/internal/sqldb"
)

// readEphemeral finds what passes in the rooms that the user is in.
func (a *answer) readEphemeral(tx *sqldb.Tx) (err error) {
	fresh := a.newlyJoined()
	if a.receipts, err = a.o.Receipts.ReceiptsSince(tx, a.q.user, a.before, a.from, a.at.pos); err != nil {
		return err
	}
	a.typing = a.o.Typing.Since(a.before, a.q.since.eph, a.at.eph)
	if a.q.stale {
		a.typing = a.allTyping(a.before)
	}
	if len(fresh) > 0 {
		receipts, err := a.o.Receipts.ReceiptsSince(tx, a.q.user, fresh, 0, a.at.pos)
		if err != nil {
			return err
		}
		a.receipts = merged(a.receipts, receipts)
		a.typing = merged(a.typing, a.o.Typing.Since(fresh, 0, a.at.eph))
	}
	for id := range a.receipts {
		if a.wantsEphemeral(id, typeReceipt) {
			a.room(id)
		}
	}
	for id := range a.typing {
		if a.wantsEphemeral(id, typeTyping) {
			a.room(id)
		}
	}
	return nil
}

func (a *answer) wantsEphemeral(id, typ string) bool {
	f := &a.q.filter.ephemeral
	return a.wants(id) && f.rooms.has(id) && f.hasType(typ)
}

// allTyping tells who types in every room: a client that was told by another
// start of this node may believe of anybody that they still do.
func (a *answer) allTyping(rooms []string) map[string][]string {
	out := make(map[string][]string, len(rooms))
	for _, id := range rooms {
		out[id] = []string{}
	}
	return merged(out, a.o.Typing.Since(rooms, 0, a.at.eph))
}

// merged adds the entries of b to a.
func merged[V any](a, b map[string]V) map[string]V {
	if len(a) == 0 {
		return b
	}
	maps.Copy(a, b)
	return a
}

// ephemeral returns the room's m.typing and m.receipt events, without what
// ignored users do.
func (r *room) ephemeral() (events []json.RawMessage) {
	a := r.a
	if users, ok := a.typing[r.id]; ok && a.wantsEphemeral(r.id, typeTyping) {
		users = slices.DeleteFunc(slices.Clone(users), a.ignores)
		events = append(events, syncread.Typing(users))
	}
	if receipts := a.receipts[r.id]; len(receipts) > 0 && a.wantsEphemeral(r.id, typeReceipt) {
		receipts = slices.DeleteFunc(receipts, func(rc ephemeral.Receipt) bool { return a.ignores(rc.User) })
		contents, err := ephemeral.Contents(receipts)
		if err != nil {
			return events // strings and numbers can be encoded: it cannot be
		}
		for _, c := range contents {
			events = append(events, syncread.Typed(typeReceipt, c))
		}
	}
	return events
}

func (a *answer) ignores(user string) bool {
	_, ignored := a.q.ignored[user]
	return ignored
}
