package slidingsync

import (
	"context"
	"encoding/json"
	"strings"

	"knock/internal/httpx"
)

type (
	wireV4 struct {
		wireCommon
		Pos      string                  `json:"pos"`
		Timeout  int64                   `json:"timeout"`
		Presence string                  `json:"set_presence"`
		Lists    map[string]wireV4List   `json:"lists"`
		Subs     map[string]wireV4Config `json:"room_subscriptions"`
	}
	wireV4Config struct {
		Required *struct {
			Include []wirePattern `json:"include"`
			Exclude []wirePattern `json:"exclude"`
			Lazy    bool          `json:"lazy_members"`
		} `json:"required_state"`
		Limit *int64 `json:"timeline_limit"`
	}
	wireV4List struct {
		wireV4Config
		Range   *[2]int64   `json:"range"`
		Filters *wireFilter `json:"filters"`
	}
	wirePattern struct {
		Type *string `json:"type"`
		Key  *string `json:"state_key"`
	}
)

// syncV4 is POST /v4/sync.
func (s *Sync) syncV4(ctx context.Context, r *httpx.Request) (any, error) {
	body, err := r.ObjectBytes()
	if err != nil {
		return nil, err
	}
	q, err := parseV4(body, r.Caller.UserID)
	if err != nil {
		return nil, err
	}
	q.device = r.Caller.DeviceID
	if err := q.check(); err != nil {
		return nil, err
	}
	return s.serve(ctx, r, q)
}

func parseV4(body json.RawMessage, user string) (*request, error) {
	var w wireV4
	if err := httpx.Unmarshal(body, &w); err != nil {
		return nil, err
	}
	p := &parser{}
	p.count(len(w.Lists), len(w.Subs))
	q := &request{form: v4, user: user, conn: w.Conn, presence: w.Presence, timeout: p.timeout(w.Timeout), subs: map[string]config{}}
	p.since(q, w.Pos)
	for key, l := range w.Lists {
		p.opaque(key)
		out := list{key: key, config: p.v4Config(&l.wireV4Config), all: l.Range == nil}
		if l.Filters != nil {
			out.filter = p.filter(l.Filters, l.Filters.Invited)
		}
		if l.Range != nil {
			out.ranges = [][2]int64{p.window(*l.Range)}
		}
		q.lists = append(q.lists, out)
	}
	for id, c := range w.Subs {
		q.subs[p.name(id, "A room id")] = p.v4Config(&c)
	}
	q.ext = p.extensions(&w.Extensions)
	return q, p.err
}

// opaque checks an opaque identifier (Appendices, "Opaque Identifiers").
func (p *parser) opaque(s string) {
	ok := s != "" && len(s) <= maxName
	for _, c := range []byte(s) {
		ok = ok && (c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("-._~", c) >= 0)
	}
	if !ok {
		p.fail("The name of a list must have 1 to 255 of the characters 0-9, a-z, A-Z, -, ., _ and ~")
	}
}

func (p *parser) v4Config(w *wireV4Config) config {
	c := config{limit: p.limit(w.Limit)}
	if w.Required == nil {
		p.failMissing("required_state")
		return c
	}
	c.required = required{Include: p.patterns(w.Required.Include), Exclude: p.patterns(w.Required.Exclude), Lazy: w.Required.Lazy}
	return c
}

func (p *parser) patterns(list []wirePattern) (out []pattern) {
	if len(list) > maxPatterns {
		p.fail("required_state may have at most %d entries", maxPatterns)
		return nil
	}
	for _, w := range list {
		for _, s := range []*string{w.Type, w.Key} {
			if s != nil {
				p.name(*s, "A type or state key")
			}
		}
		out = append(out, pattern(w))
	}
	return out
}
