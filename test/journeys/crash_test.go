package journeys

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

// flood is a number of messages sent at once, some of them to a node that dies.
type flood struct {
	mu    sync.Mutex
	acked map[string]string // text → event id
}

const senders, floodSize = 8, 400

// put sends message i of a flood; repeated, it is the same request.
func (u *user) put(ctx context.Context, room, text string, i int) (body, id string, err error) {
	body = fmt.Sprintf("%s %d", text, i)
	var sent struct {
		EventID string `json:"event_id"`
	}
	err = u.Call(ctx, http.MethodPut, lab.V3("rooms", room, "send", "m.room.message", body),
		map[string]any{"msgtype": "m.text", "body": body}, &sent)
	return body, sent.EventID, err
}

// crash kills a node after so many acknowledged messages, while others are under way, and remembers what was acknowledged.
func (s *story) crash(ctx context.Context, u *user, room, text string, n *hstest.Node, after int) error {
	f := &flood{acked: map[string]string{}}
	var next atomic.Int64
	var wg sync.WaitGroup
	kill := sync.OnceValue(n.Kill)
	for range senders {
		wg.Go(func() {
			for i := next.Add(1); i <= floodSize; i = next.Add(1) {
				body, id, err := u.put(ctx, room, text, int(i))
				if err != nil {
					return
				}
				if f.add(body, id) == after {
					go kill() // while the other senders go on
				}
			}
		})
	}
	wg.Wait()
	if len(f.acked) < after {
		return fmt.Errorf("only %d messages were acknowledged", len(f.acked))
	}
	s.floods[text] = f
	return kill()
}

func (f *flood) add(body, id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acked[body] = id
	return len(f.acked)
}

// survived sends the whole flood again, with the same transaction ids, and wants each message once, those that were
// acknowledged before the crash under the same event id.
func (s *story) survived(ctx context.Context, u *user, room, text string) error {
	f, err := must("flood", s.floods, text)
	if err != nil {
		return err
	}
	all := map[string]string{}
	for i := 1; i <= floodSize; i++ {
		body, id, err := u.put(ctx, room, text, i)
		if err != nil {
			return err
		}
		if before := f.acked[body]; before != "" && before != id {
			return fmt.Errorf("%s was acknowledged as %s and is now %s", body, before, id)
		}
		all[id] = body
	}
	timeline, err := hstest.History(ctx, u.Client, room)
	if err != nil {
		return err
	}
	for _, e := range timeline {
		if body := all[e.ID]; body != "" && body == e.Text("body") {
			delete(all, e.ID)
		} else if strings.HasPrefix(e.Text("body"), text+" ") {
			return fmt.Errorf("an event too many: %s %s", e.ID, e.Content)
		}
	}
	if len(all) > 0 {
		return fmt.Errorf("%d messages are missing: %v", len(all), all)
	}
	return nil
}
