package hstest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"knock/cmd/knock/demo/lab"
)

// Witness is a user and the node that they use.
type Witness struct {
	*lab.Client
	Node *Node
}

// History is everything from the room's beginning, oldest first.
func History(ctx context.Context, c *lab.Client, room string) (timeline []lab.Event, err error) {
	from := ""
	for range 100 {
		query := url.Values{"dir": {"b"}, "limit": {"20"}}
		if from != "" {
			query.Set("from", from)
		}
		var page struct {
			Chunk []lab.Event
			End   string
		}
		if err := c.Call(ctx, http.MethodGet, lab.V3("rooms", room, "messages")+"?"+query.Encode(), nil, &page); err != nil {
			return nil, err
		}
		timeline = append(timeline, page.Chunk...)
		if from = page.End; from == "" {
			slices.Reverse(timeline)
			return timeline, nil
		}
	}
	return nil, errors.New("the history has no end")
}

// Same complains unless two users' nodes have the same state, forward extremities and messages of a room.
func Same(ctx context.Context, room string, a, b Witness) error {
	for what, look := range map[string]func(context.Context, Witness, string) ([]string, error){
		"state": stateIDs, "forward extremities": extremities, "messages": messageIDs} {
		one, err := look(ctx, a, room)
		if err != nil {
			return err
		}
		other, err := look(ctx, b, room)
		if err != nil {
			return err
		}
		if !slices.Equal(one, other) {
			return fmt.Errorf("the %s differ: %v and %v", what, one, other)
		}
	}
	return nil
}

func stateIDs(ctx context.Context, u Witness, room string) (ids []string, err error) {
	state, err := u.State(ctx, room)
	for _, e := range state {
		ids = append(ids, e.ID)
	}
	slices.Sort(ids)
	return ids, err
}

func extremities(ctx context.Context, u Witness, room string) ([]string, error) {
	return u.Node.Extremities(ctx, room)
}

func messageIDs(ctx context.Context, u Witness, room string) (ids []string, err error) {
	timeline, err := History(ctx, u.Client, room)
	for _, e := range timeline {
		if e.Type == "m.room.message" {
			ids = append(ids, e.ID)
		}
	}
	slices.Sort(ids)
	return ids, err
}
