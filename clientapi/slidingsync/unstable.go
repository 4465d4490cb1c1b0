package slidingsync

import (
	"context"
	"encoding/json"

	"knock/internal/httpx"
)

type (
	wireUnstable struct {
		wireCommon
		Txn   string                        `json:"txn_id"`
		Lists map[string]wireUnstableList   `json:"lists"`
		Subs  map[string]wireUnstableConfig `json:"room_subscriptions"`
	}
	wireUnstableConfig struct {
		Required [][2]string `json:"required_state"`
		Limit    *int64      `json:"timeline_limit"`
	}
	wireUnstableList struct {
		wireUnstableConfig
		Ranges  *[][2]int64 `json:"ranges"`
		Filters *wireFilter `json:"filters"`
	}
)

// syncUnstable is POST /unstable/org.matrix.simplified_msc3575/sync.
func (s *Sync) syncUnstable(ctx context.Context, r *httpx.Request) (any, error) {
	body, err := r.ObjectBytes()
	if err != nil {
		return nil, err
	}
	ms, err := r.Int("timeout", 0, int(maxTimeout.Milliseconds()))
	if err != nil {
		return nil, err
	}
	q, err := parseUnstable(body, r.Caller.UserID, r.Query("pos"), int64(ms))
	if err != nil {
		return nil, err
	}
	q.device, q.presence = r.Caller.DeviceID, r.Query("set_presence")
	if err := q.check(); err != nil {
		return nil, err
	}
	return s.serve(ctx, r, q)
}

func parseUnstable(body json.RawMessage, user, pos string, ms int64) (*request, error) {
	var w wireUnstable
	if err := httpx.Unmarshal(body, &w); err != nil {
		return nil, err
	}
	p := &parser{}
	p.count(len(w.Lists), len(w.Subs))
	q := &request{form: unstable, user: user, conn: w.Conn, txn: p.name(w.Txn, "txn_id"), timeout: p.timeout(ms), subs: map[string]config{}}
	p.since(q, pos)
	for key, l := range w.Lists {
		out := list{key: p.name(key, "The name of a list"), config: p.unstableConfig(&l.wireUnstableConfig, user), all: l.Ranges == nil}
		if l.Filters != nil {
			out.filter = p.filter(l.Filters, l.Filters.Invite)
		}
		if !out.all {
			if len(*l.Ranges) > maxRanges {
				p.fail("There may be at most %d ranges", maxRanges)
			}
			for _, r := range *l.Ranges {
				out.ranges = append(out.ranges, p.window(r))
			}
		}
		q.lists = append(q.lists, out)
	}
	for id, c := range w.Subs {
		q.subs[p.name(id, "A room id")] = p.unstableConfig(&c, user)
	}
	q.ext = p.extensions(&w.Extensions)
	return q, p.err
}

// unstableConfig reads pairs of type and state key. "*" is any, $ME the user, and
// $LAZY those members whom events show.
func (p *parser) unstableConfig(w *wireUnstableConfig, user string) config {
	c := config{limit: p.limit(w.Limit)}
	if len(w.Required) > maxPatterns {
		p.fail("required_state may have at most %d entries", maxPatterns)
		return c
	}
	for _, pair := range w.Required {
		typ, key := p.name(pair[0], "An event type"), p.name(pair[1], "A state key")
		if key == "$LAZY" {
			c.required.Lazy = true
			continue
		}
		if key == "$ME" {
			key = user
		}
		c.required.Include = append(c.required.Include, pattern{Type: unlessAny(typ), Key: unlessAny(key)})
	}
	return c
}

func unlessAny(s string) *string {
	if s == "*" {
		return nil
	}
	return &s
}
