package mediaapi

import (
	"context"
	"strings"
	"time"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

// door is the way that a request for media came.
type door uint8

const (
	client door = iota
	legacy
	federation
)

func (d door) String() string { return [...]string{"client", "legacy", "federation"}[d] }

// lookup is a request for a medium.
type lookup struct {
	mxc
	door  door
	fetch bool          // it may be fetched from its server
	wait  time.Duration // for its content to be uploaded
}

const defaultWait = 20 * time.Second

func (m *Media) lookup(d door, r *httpx.Request) (lookup, error) {
	l := lookup{mxc: mxc{r.Vars["serverName"], r.Vars["mediaId"]}, door: d, fetch: true}
	if d == federation {
		l.origin = m.o.ServerName
	}
	wait, err := r.Int("timeout_ms", int(defaultWait.Milliseconds()), int(m.o.MaxWait.Milliseconds()))
	if err != nil {
		return l, err
	}
	l.wait = min(time.Duration(wait)*time.Millisecond, m.o.MaxWait)
	if d == legacy {
		l.fetch, err = flag(r, "allow_remote", true)
	}
	return l, err
}

func flag(r *httpx.Request, name string, def bool) (bool, error) {
	switch r.Query(name) {
	case "":
		return def, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, matrixerr.InvalidParam("Query parameter " + name + " must be true or false")
}

var errUnknownMedia = matrixerr.NotFound("There is no such media here")

// find returns a medium that has its content, after waiting for it or fetching it when need be.
func (m *Media) find(ctx context.Context, l lookup) (*medium, error) {
	if !l.valid() {
		return nil, errUnknownMedia
	}
	med, err := m.store.get(ctx, l.origin, l.id)
	if err != nil {
		return nil, err
	}
	switch {
	case m.frozen(l, med):
		return nil, matrixerr.NotFound("This media is served on the authenticated endpoints only")
	case l.origin == m.o.ServerName && med == nil:
		return nil, errUnknownMedia
	case l.origin == m.o.ServerName && med.hash == nil:
		return m.await(ctx, l)
	case med == nil:
		return m.remote(ctx, l)
	}
	m.used(med)
	return med, nil
}

// frozen reports whether a medium came, or would come now, after the unauthenticated endpoints were frozen.
func (m *Media) frozen(l lookup, med *medium) bool {
	if l.door != legacy || m.o.LegacyUnauthenticated {
		return false
	}
	stored := m.now()
	if med != nil && med.hash != nil {
		stored = med.created
	}
	return stored >= m.o.Freeze.UnixMilli()
}

// await waits for the content of a medium that was created without it.
func (m *Media) await(ctx context.Context, l lookup) (*medium, error) {
	come, stop := m.arrivals.watch(l.mxc)
	defer stop()
	late := time.NewTimer(l.wait)
	defer late.Stop()
	for {
		med, err := m.store.get(ctx, l.origin, l.id)
		switch {
		case err != nil:
			return nil, err
		case med == nil, med.hash == nil && med.expires <= m.now():
			return nil, errUnknownMedia
		case med.hash != nil:
			return med, nil
		}
		select {
		case <-come:
			come = nil // closed: what it tells is read once
		case <-late.C:
			return nil, matrixerr.NotYetUploaded()
		case <-ctx.Done():
			return nil, matrixerr.NotYetUploaded().With(ctx.Err())
		}
	}
}

// accessGrain is how exactly the last use of a medium is known.
const accessGrain = time.Hour

// used notes that a medium was used. Only the age of other servers' media matters.
func (m *Media) used(med *medium) {
	if now := m.now(); med.origin != m.o.ServerName && now-med.lastAccess > accessGrain.Milliseconds() {
		m.accesses.note(mxc{med.origin, med.id}, now)
	}
}

// saveAccesses writes down what used noted.
func (m *Media) saveAccesses(ctx context.Context) error {
	at := m.accesses.take()
	if len(at) == 0 {
		return nil
	}
	return m.store.touch(ctx, at)
}

// download answers GET …/download/….
func (m *Media) download(d door) httpx.Handler {
	return func(ctx context.Context, r *httpx.Request) (any, error) {
		l, err := m.lookup(d, r)
		if err != nil {
			return nil, err
		}
		med, err := m.find(ctx, l)
		if err != nil {
			return nil, err
		}
		name := med.name
		if asked := cleanName(r.Vars["fileName"]); asked != "" {
			name = asked
		}
		m.metrics.served(d, "download")
		ref := contentRef{*med.hash, med.contentType}
		return m.answer(d, r, ref, disposition(med.contentType, name)), nil
	}
}

// thumbnail answers GET …/thumbnail/….
func (m *Media) thumbnail(d door) httpx.Handler {
	return func(ctx context.Context, r *httpx.Request) (any, error) {
		want, err := wanted(r)
		if err != nil {
			return nil, err
		}
		l, err := m.lookup(d, r)
		if err != nil {
			return nil, err
		}
		med, err := m.find(ctx, l)
		if err != nil {
			return nil, err
		}
		ref, err := m.thumb(ctx, med, want)
		if err != nil {
			return nil, err
		}
		m.metrics.served(d, "thumbnail")
		_, extension, _ := strings.Cut(ref.contentType, "/")
		return m.answer(d, r, ref, disposition(ref.contentType, "thumbnail."+extension)), nil
	}
}

// wanted reads what thumbnail is asked for.
func wanted(r *httpx.Request) (want, error) {
	var w want
	var err error
	for name, v := range map[string]*int{"width": &w.width, "height": &w.height} {
		if r.Query(name) == "" {
			return w, matrixerr.MissingParam("Query parameter " + name + " is missing")
		}
		if *v, err = r.Int(name, 0, maxAsked); err != nil {
			return w, err
		}
		if *v == 0 {
			return w, matrixerr.InvalidParam("Query parameter " + name + " must be at least 1")
		}
	}
	switch method := r.Query("method"); method {
	case "", "scale":
	case "crop":
		w.crop = true
	default:
		return w, matrixerr.InvalidParam("Query parameter method must be crop or scale")
	}
	w.animated, err = flag(r, "animated", false)
	return w, err
}
