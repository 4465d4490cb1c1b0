package keys

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"knock/roomserver/event"
)

const (
	directTimeout = 15 * time.Second
	notaryTimeout = 30 * time.Second
	notaryBatch   = 100 // servers in one question
	manyServers   = 16  // from so many on, notaries are asked first
)

// need says what a key is wanted for.
type need struct {
	at  int64 // the latest time (ms) at which it must have been valid
	any bool  // valid at any time will do (rooms before version 5)
	now bool  // it must be in use now (requests)
}

// metBy tells whether a key serves. What is said to have been signed later than now is judged as of now: fetching
// again would not bring a better key.
func (n need) metBy(k verifyKey, now int64) bool {
	switch {
	case n.now:
		return k.expired == 0 && now <= k.validUntil
	case n.any:
		return true
	}
	return k.validAt(min(n.at, now))
}

// until is what to ask a notary for.
func (n need) until(now int64) int64 {
	switch {
	case n.now:
		return now
	case n.any:
		return 0
	}
	return max(min(n.at, now), 0)
}

// needs are wanted keys: server → key id.
type needs map[string]map[string]need

// add joins a need with what is already wanted of the key.
func (ns needs) add(server, id string, n need) {
	if ns[server] == nil {
		ns[server] = map[string]need{}
	}
	if old, ok := ns[server][id]; ok {
		n = need{at: max(n.at, old.at), any: n.any && old.any, now: n.now || old.now}
	}
	ns[server][id] = n
}

// missing are the servers of which a wanted key is not known or does not serve.
func (r *Ring) missing(ns needs) []string {
	now := r.o.Clock.Millis()
	var out []string
	for server, ids := range ns {
		if server == r.o.ServerName {
			continue
		}
		for id, n := range ids {
			if k, ok := r.key(server, id); !ok || !n.metBy(k, now) {
				out = append(out, server)
				break
			}
		}
	}
	slices.Sort(out)
	return out
}

// ensure gets the wanted keys from memory, the database, the servers and the notaries, as far as they can be had.
func (r *Ring) ensure(ctx context.Context, ns needs) error {
	servers := r.missing(ns)
	if len(servers) == 0 {
		return nil
	}
	if err := r.load(ctx, servers); err != nil {
		return err
	}
	if servers = r.missing(ns); len(servers) == 0 {
		return nil
	}
	if len(servers) >= manyServers {
		r.askNotaries(ctx, ns, servers)
		servers = r.missing(ns)
	}
	r.fetchAll(ctx, servers)
	if servers = r.missing(ns); len(servers) > 0 {
		r.askNotaries(ctx, ns, servers)
	}
	return ctx.Err()
}

// fetchAll asks servers for their own keys, side by side.
func (r *Ring) fetchAll(ctx context.Context, servers []string) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, cap(r.fetches))
	for _, name := range servers {
		slots <- struct{}{}
		wg.Go(func() {
			r.fetch(ctx, name)
			<-slots
		})
	}
	wg.Wait()
}

// fetch asks a server for its own keys: once for all who want them at a time, and not again before its pause is over.
func (r *Ring) fetch(ctx context.Context, name string) {
	done := r.flight.DoChan(name, func() (any, error) {
		s := r.server(name)
		s.mu.Lock()
		wait := !s.direct.over(r.o.Clock())
		s.mu.Unlock()
		if wait {
			return nil, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), directTimeout)
		defer cancel()
		select {
		case r.fetches <- struct{}{}:
			r.fetchNow(ctx, name, s)
			<-r.fetches
		case <-ctx.Done():
		}
		return nil, nil
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (r *Ring) fetchNow(ctx context.Context, name string, s *server) {
	raw, err := r.o.Fetch.ServerKeys(ctx, name)
	var a *answer
	if err == nil {
		a, err = parseAnswer(raw, name)
	}
	if err != nil {
		r.count("direct", err)
		r.o.Log.WithError(err).WithField("server", name).Debug("Keys of a server could not be fetched")
		s.rest(&s.direct, r.o.Clock(), false, pauseFailing)
		return
	}
	r.count("direct", nil)
	c, fruitful := s.merge(a, r.o.Clock.Millis(), false)
	s.rest(&s.direct, r.o.Clock(), fruitful, pauseReachable)
	r.store(ctx, a, c)
}

func (s *server) rest(p *pause, now time.Time, fruitful bool, limit time.Duration) {
	s.mu.Lock()
	p.next(now, fruitful, limit)
	s.mu.Unlock()
}

func (r *Ring) count(source string, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	r.metrics.WithLabelValues(source, outcome).Inc()
}

// askNotaries asks each notary in turn for what is still missing.
func (r *Ring) askNotaries(ctx context.Context, ns needs, servers []string) {
	var ask []string
	now := r.o.Clock()
	for _, name := range servers {
		s := r.server(name)
		s.mu.Lock()
		if s.asked.over(now) {
			ask = append(ask, name)
		}
		s.mu.Unlock()
	}
	for _, notary := range r.o.Notaries {
		for batch := range slices.Chunk(ask, notaryBatch) {
			if batch = r.stillMissing(ns, batch); len(batch) > 0 && notary != r.o.ServerName {
				r.askNotary(ctx, notary, ns, batch)
			}
		}
	}
	if len(r.o.Notaries) == 0 {
		return
	}
	left := r.stillMissing(ns, ask)
	for _, name := range ask {
		s := r.server(name)
		s.rest(&s.asked, now, !slices.Contains(left, name), pauseFailing)
	}
}

func (r *Ring) stillMissing(ns needs, servers []string) []string {
	part := needs{}
	for _, name := range servers {
		part[name] = ns[name]
	}
	return r.missing(part)
}

// askNotary asks one notary. Its answers count only with its signature and the server's own.
func (r *Ring) askNotary(ctx context.Context, notary string, ns needs, servers []string) {
	ctx, cancel := context.WithTimeout(ctx, notaryTimeout)
	defer cancel()
	query := map[string]map[string]int64{}
	for _, name := range servers {
		query[name] = map[string]int64{}
		for id, n := range ns[name] {
			query[name][id] = n.until(r.o.Clock.Millis())
		}
	}
	answers, err := r.o.Fetch.QueryKeys(ctx, notary, query)
	r.count("notary", err)
	if err != nil {
		r.o.Log.WithError(err).WithField("notary", notary).Debug("A notary did not answer")
		return
	}
	for _, raw := range answers[:min(len(answers), 4*len(servers))] {
		if err := r.takeFromNotary(ctx, notary, raw, query); err != nil {
			r.o.Log.WithError(err).WithField("notary", notary).Debug("A notary's answer was left aside")
		}
	}
}

func (r *Ring) takeFromNotary(ctx context.Context, notary string, raw json.RawMessage, asked map[string]map[string]int64) error {
	a, err := parseAnswer(raw, "")
	if err != nil {
		return err
	}
	if _, ok := asked[a.ServerName]; !ok {
		return errors.New("nobody asked for that server")
	}
	if err := r.verifyNotary(ctx, notary, a.raw); err != nil {
		return err
	}
	c, _ := r.server(a.ServerName).merge(a, r.o.Clock.Millis(), true)
	r.store(ctx, a, c)
	return nil
}

// verifyNotary checks the notary's signature with keys that the notary itself published.
func (r *Ring) verifyNotary(ctx context.Context, notary string, raw []byte) error {
	ids := event.SignatureKeyIDs(raw, notary)
	ns := needs{}
	for _, id := range ids[:min(len(ids), maxSignatures)] {
		ns.add(notary, id, need{now: true})
	}
	servers := r.missing(ns)
	if err := r.load(ctx, servers); err != nil {
		return err
	}
	r.fetchAll(ctx, r.missing(ns))
	return r.check(slices.Collect(maps.Keys(ns[notary])), notary, need{now: true}, r.o.Clock.Millis(), func(id string, k verifyKey) error {
		return event.VerifyJSON(raw, notary, id, k.key)
	})
}
