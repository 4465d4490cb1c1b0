package spaces

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"knock/internal/matrixerr"
)

// remoteAnswer is what another server said about a room; ok is false when none said anything of use.
type remoteAnswer struct {
	ok       bool
	room     entry
	children []entry
	hidden   []string
	at       time.Time
	size     int64
}

// How long answers are kept, and that there was none.
const (
	keepAnswer  = 5 * time.Minute
	keepSilence = time.Minute
	askServers  = 3
)

// ask asks other servers about a room, one after the other, unless the answer is still known.
func (a *API) ask(ctx context.Context, room string, via []string) (remoteAnswer, bool) {
	if a.o.Remote == nil {
		return remoteAnswer{}, false
	}
	now := a.o.Clock()
	if known, ok := a.cache.Get(room); ok && known.fresh(now) {
		return known, known.ok
	}
	via = slices.DeleteFunc(slices.Clone(via), func(server string) bool { return server == a.s.ServerName })
	refused := false
	for _, server := range via[:min(len(via), askServers)] {
		raw, err := a.o.Remote.Hierarchy(ctx, server, room, false)
		if err == nil {
			if answer, ok := parseAnswer(raw, room); ok {
				answer.at = now
				a.cache.Put(room, answer)
				return answer, true
			}
		}
		if ctx.Err() != nil {
			return remoteAnswer{}, false
		}
		var said *matrixerr.Error
		refused = refused || errors.As(err, &said) && said.HTTP < 500
		a.o.Log.WithError(err).WithField("room", room).WithField("server", server).Debug("A space could not be read from another server")
	}
	if !refused { // a refusal ends when somebody here joins, a silence lasts
		a.cache.Put(room, remoteAnswer{at: now, size: int64(len(room))})
	}
	return remoteAnswer{}, false
}

func (r remoteAnswer) fresh(now time.Time) bool {
	keep := keepAnswer
	if !r.ok {
		keep = keepSilence
	}
	return now.Sub(r.at) < keep
}

// parseAnswer reads an answer of another server and leaves out what is not valid.
func parseAnswer(raw json.RawMessage, room string) (remoteAnswer, bool) {
	var body struct {
		Room     entry    `json:"room"`
		Children []entry  `json:"children"`
		Hidden   []string `json:"inaccessible_children"`
	}
	if json.Unmarshal(raw, &body) != nil || body.Room.RoomID != room {
		return remoteAnswer{}, false
	}
	r := remoteAnswer{ok: true, room: body.Room, children: body.Children[:min(len(body.Children), maxChildren)],
		hidden: body.Hidden[:min(len(body.Hidden), maxChildren)], size: int64(len(raw))}
	r.room.clean()
	for i := range r.children {
		r.children[i].clean()
	}
	return r, true
}

// clean leaves nothing in an entry from elsewhere that ours would not have.
func (e *entry) clean() {
	e.Allowed = e.Allowed[:min(len(e.Allowed), maxAllowed)]
	if e.RoomType != typeSpace {
		e.Children = nil
	}
	e.Children = append([]child{}, e.Children...)
	e.sortChildren()
}
