package spaces

import (
	"context"
	"errors"
	"slices"

	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// walk goes through a tree of spaces for one user, a space's children right after it.
type walk struct {
	a      *API
	ctx    context.Context
	remote context.Context // ends when other servers took long enough
	user   string
	q      request

	stack  []step // the next one is last
	seen   map[string]bool
	hidden map[string]bool  // of which another server said that nobody here may see them
	told   map[string]entry // rooms without children as another server described them
	looked int
}

type step struct {
	room  string
	depth int
	via   []string
}

// walk returns a page of rooms and whether there are more. The root must be one that the user may see.
func (a *API) walk(ctx context.Context, user, root string, q request) ([]entry, bool, error) {
	remote, cancel := context.WithTimeout(ctx, remoteTime)
	defer cancel()
	w := &walk{a: a, ctx: ctx, remote: remote, user: user, q: q, seen: map[string]bool{}, hidden: map[string]bool{}, told: map[string]entry{}}
	via, err := w.serversOf(root)
	if err != nil {
		return nil, false, err
	}
	w.stack = []step{{room: root, via: via}}
	return w.run(root)
}

// serversOf are servers that may know the room that a walk begins with: that which its id names and that of who
// invited the user.
func (w *walk) serversOf(room string) (via []string, err error) {
	m, err := w.membership(room)
	if err != nil {
		return nil, err
	}
	if m.State == store.Invite {
		invite, err := w.a.s.Store.LoadOne(w.ctx, m.Event)
		if err != nil {
			return nil, err
		}
		via = append(via, event.ServerOf(invite.Event.Sender()))
	}
	if server := event.ServerOf(room); event.ValidServerName(server) {
		via = append(via, server)
	}
	return via, nil
}

func (w *walk) membership(room string) (store.MemberRow, error) {
	m, err := w.a.s.Membership(w.ctx, room, w.user)
	if errors.Is(err, roomserver.ErrUnknownRoom) {
		err = nil
	}
	return m, err
}

func (w *walk) run(root string) (rooms []entry, more bool, err error) {
	rooms = []entry{}
	for found := 0; len(w.stack) > 0 && w.looked < maxWalk; {
		s := w.stack[len(w.stack)-1]
		w.stack = w.stack[:len(w.stack)-1]
		if w.seen[s.room] {
			continue
		}
		w.seen[s.room] = true
		e, err := w.visit(s)
		if err != nil {
			return nil, false, err
		}
		if e == nil {
			if s.room == root {
				return nil, false, errForbidden
			}
			continue
		}
		if len(rooms) == w.q.limit {
			return rooms, true, nil
		}
		if found++; found > w.q.After {
			rooms = append(rooms, *e)
		}
	}
	return rooms, false, nil
}

// visit returns a room if the user may see it, and plans the visits of its children.
func (w *walk) visit(s step) (*entry, error) {
	w.looked++
	e, err := w.entry(s)
	if err != nil || e == nil {
		return nil, err
	}
	may, err := w.sees(e)
	if err != nil || !may {
		return nil, err
	}
	shown := e.suggested(w.q.Suggested)
	if s.depth < w.q.Depth {
		for _, c := range slices.Backward(shown.Children) {
			w.stack = append(w.stack, step{room: c.Key, depth: s.depth + 1, via: c.via()})
		}
	}
	return &shown, nil
}

// entry finds out about a room: what this server knows itself goes before what others say.
func (w *walk) entry(s step) (*entry, error) {
	e, err := w.a.local(w.ctx, s.room)
	if err != nil || e != nil {
		return e, err
	}
	if known, ok := w.told[s.room]; ok {
		return &known, nil
	}
	if w.hidden[s.room] {
		return nil, nil
	}
	answer, ok := w.a.ask(w.remote, s.room, s.via)
	if !ok {
		return nil, nil
	}
	for _, c := range answer.children {
		if c.RoomType != typeSpace { // a space is asked for its own children
			w.told[c.RoomID] = c
		}
	}
	for _, id := range answer.hidden {
		w.hidden[id] = true
	}
	return &answer.room, nil
}

// sees reports whether the user is in a room, may join it or may look into it.
func (w *walk) sees(e *entry) (bool, error) {
	m, err := w.membership(e.RoomID)
	if err != nil {
		return false, err
	}
	switch m.State {
	case store.Join, store.Invite:
		return true, nil
	case store.Ban:
		return e.WorldReadable, nil
	}
	return e.open() || e.allows(func(room string) bool { return w.a.s.Hub.IsJoined(w.user, room) }), nil
}
