package keys

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver/event"
)

const (
	answerAge    = time.Hour // after which our own answer is made anew
	queryServers = 100       // servers in one question to us as a notary
	queryFetches = 20        // of which so many are fetched
	queryTimeout = 20 * time.Second
)

// Routes are the endpoints about keys (Server-Server API, Retrieving server keys). They need no authentication.
func (r *Ring) Routes() []httpx.Route {
	const section = "Server-Server: Retrieving server keys"
	return []httpx.Route{
		{Method: "GET", Path: "/_matrix/key/v2/server", Handler: r.serveOwn, Spec: section},
		{Method: "GET", Path: "/_matrix/key/v2/query/{serverName}", Handler: r.serveQuery, Spec: section},
		{Method: "POST", Path: "/_matrix/key/v2/query", Handler: r.serveQueries, Spec: section},
	}
}

func (r *Ring) serveOwn(context.Context, *httpx.Request) (any, error) {
	a, err := r.ownAnswer()
	return httpx.Raw(a), err
}

// ownAnswer is what we publish about our own keys, signed.
func (r *Ring) ownAnswer() ([]byte, error) {
	r.answerMu.Lock()
	defer r.answerMu.Unlock()
	now := r.o.Clock()
	if r.answer != nil && now.Sub(r.answered) < min(answerAge, r.o.Validity/4) && !now.Before(r.answered) {
		return r.answer, nil
	}
	current, old := map[string]any{}, map[string]any{}
	for id, k := range r.own {
		text := base64.RawStdEncoding.EncodeToString(k.key)
		if k.expired == 0 {
			current[id] = map[string]any{"key": text}
		} else {
			old[id] = map[string]any{"key": text, "expired_ts": k.expired}
		}
	}
	raw, err := json.Marshal(map[string]any{
		"server_name": r.o.ServerName, "valid_until_ts": now.Add(r.o.Validity).UnixMilli(),
		"verify_keys": current, "old_verify_keys": old,
	})
	if err != nil {
		return nil, err
	}
	if raw, err = event.SignJSON(raw, r.o.Signer); err != nil {
		return nil, err
	}
	r.answer, r.answered = raw, now
	return raw, nil
}

func (r *Ring) serveQuery(ctx context.Context, req *httpx.Request) (any, error) {
	until := r.o.Clock.Millis()
	if s := req.Query("minimum_valid_until_ts"); s != "" {
		ts, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, matrixerr.InvalidParam("minimum_valid_until_ts must be a time in milliseconds")
		}
		until = ts
	}
	return r.query(ctx, map[string]criteria{req.Vars["serverName"]: {until: until}})
}

func (r *Ring) serveQueries(ctx context.Context, req *httpx.Request) (any, error) {
	var body struct {
		Servers map[string]map[string]struct {
			Until *int64 `json:"minimum_valid_until_ts"`
		} `json:"server_keys"`
	}
	if err := req.JSON(&body); err != nil {
		return nil, err
	}
	if body.Servers == nil {
		return nil, matrixerr.BadJSON("server_keys is missing")
	}
	if len(body.Servers) > queryServers {
		return nil, matrixerr.InvalidParam("Ask for at most " + strconv.Itoa(queryServers) + " servers at once")
	}
	now := r.o.Clock.Millis()
	want := map[string]criteria{}
	for name, keys := range body.Servers {
		c := criteria{}
		for id, k := range keys {
			c.ids = append(c.ids, id)
			if k.Until != nil {
				c.until = max(c.until, *k.Until)
			} else {
				c.until = max(c.until, now)
			}
		}
		if len(keys) == 0 {
			c.until = now
		}
		want[name] = c
	}
	return r.query(ctx, want)
}

// criteria are what a question to us as a notary asks of one server's answer.
type criteria struct {
	ids   []string // keys that it should hold
	until int64    // until when it should be valid (ms)
}

// met tells whether the answer that we have will do.
func (c criteria) met(s *server) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until == 0 || s.until < c.until {
		return false
	}
	for _, id := range c.ids {
		if _, ok := s.keys[id]; !ok {
			return false
		}
	}
	return true
}

// query answers as a notary: with the newest answer of each server, fetched if what we have does not meet the
// criteria, signed by us as well. Servers of which there is none are left out.
func (r *Ring) query(ctx context.Context, want map[string]criteria) (any, error) {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(want)), func(n string) bool {
		return n == r.o.ServerName || !event.ValidServerName(n)
	})
	if err := r.load(ctx, names); err != nil {
		return nil, err
	}
	r.fetchForOthers(ctx, slices.DeleteFunc(slices.Clone(names), func(n string) bool { return want[n].met(r.server(n)) }))
	list := []json.RawMessage{}
	if _, ok := want[r.o.ServerName]; ok {
		own, err := r.ownAnswer()
		if err != nil {
			return nil, err
		}
		list = append(list, own)
	}
	answers, err := r.answers(ctx, names)
	if err != nil {
		return nil, err
	}
	for _, raw := range answers {
		signed, err := event.SignJSON(raw, r.o.Signer)
		if err != nil {
			return nil, err
		}
		list = append(list, signed)
	}
	return map[string]any{"server_keys": list}, nil
}

// fetchForOthers spends only a few slots and little time on the questions of strangers.
func (r *Ring) fetchForOthers(ctx context.Context, names []string) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, name := range names[:min(len(names), queryFetches)] {
		wg.Go(func() {
			select {
			case r.notary <- struct{}{}:
				r.fetch(ctx, name)
				<-r.notary
			case <-ctx.Done():
			}
		})
	}
	wg.Wait()
}
