package httpx

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gorilla/mux"

	"knock/internal/matrixerr"
)

// Router serves a route table.
type Router struct {
	// parts are routers by the first segments of their rows' paths: mux tries its rows in order, and with all of them
	// in one the last would cost more than what it does.
	parts   map[string]*mux.Router
	unknown http.Handler
	hooks   Hooks
	proxies proxies
	metrics *metrics
	routes  []Route
}

// NewRouter builds the router of a route table: hot rows first, then in the order given, then the r0 aliases that
// old clients use. It panics when the table itself is wrong (a path that does not parse, a row twice), as
// regexp.MustCompile does.
func NewRouter(routes []Route, hooks Hooks) *Router {
	rt := &Router{parts: map[string]*mux.Router{}, hooks: hooks,
		proxies: hooks.TrustedProxies, metrics: newMetrics(hooks.Registerer), routes: arrange(routes)}
	rt.unknown = rt.endpoint(unrecognized(http.StatusNotFound))
	wrongMethod := rt.endpoint(unrecognized(http.StatusMethodNotAllowed))
	for i := range rt.routes {
		row := &rt.routes[i]
		start := firstSegments(row.Path)
		part := rt.parts[start]
		if part == nil {
			part = mux.NewRouter().SkipClean(true).UseEncodedPath()
			part.NotFoundHandler, part.MethodNotAllowedHandler = rt.unknown, wrongMethod
			rt.parts[start] = part
		}
		err := part.Path(row.Path).Methods(row.methods()...).Handler(rt.endpoint(row)).GetError()
		if err == nil && strings.Contains(start, "{") {
			err = errors.New("a variable among the first four segments")
		}
		if err != nil {
			panic(fmt.Sprintf("httpx: route %s %s: %v", row.Method, row.Path, err))
		}
	}
	return rt
}

// firstSegments cuts a path behind its fourth segment: /_matrix/client/v3/rooms.
func firstSegments(path string) string {
	n := 0
	for i := range len(path) {
		if path[i] == '/' {
			if n++; n == 5 {
				return path[:i]
			}
		}
	}
	return path
}

// Routes lists what is served, aliases included, in matching order.
func (rt *Router) Routes() []Route { return slices.Clone(rt.routes) }

func unrecognized(status int) *Route {
	return &Route{Path: "(unknown)", Handler: func(context.Context, *Request) (any, error) {
		return nil, matrixerr.Unrecognized(status)
	}}
}

// arrange orders the rows and adds the aliases.
func arrange(routes []Route) []Route {
	var hot, cold, old []Route
	seen := map[string]bool{}
	for _, row := range routes {
		if key := row.Method + " " + row.Path; seen[key] {
			panic("httpx: route twice: " + key)
		} else {
			seen[key] = true
		}
		if row.Hot {
			hot = append(hot, row)
		} else {
			cold = append(cold, row)
		}
	}
	for _, row := range append(slices.Clone(hot), cold...) {
		for _, api := range []string{"/_matrix/client/", "/_matrix/media/"} {
			rest, ok := strings.CutPrefix(row.Path, api+"v3/")
			if row.Path = api + "r0/" + rest; ok && !seen[row.Method+" "+row.Path] {
				old = append(old, row)
			}
		}
	}
	return slices.Concat(hot, cold, old)
}

func (row *Route) methods() []string {
	if row.Method == http.MethodGet {
		return []string{http.MethodGet, http.MethodHead}
	}
	return []string{row.Method}
}

func (row *Route) maxBody() int64 {
	if row.MaxBody == 0 {
		return DefaultMaxBody
	}
	return row.MaxBody
}

// ServeHTTP answers CORS preflights and hands everything else to the route table.
func (rt *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if isBrowserPath(r.URL.Path) {
		allowOrigins(w.Header())
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	if part := rt.parts[firstSegments(r.URL.EscapedPath())]; part != nil {
		part.ServeHTTP(w, r)
		return
	}
	rt.unknown.ServeHTTP(w, r)
}

// endpoint is the http.Handler of one row.
func (rt *Router) endpoint(row *Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		started := time.Now()
		rec := &recorder{ResponseWriter: w}
		hr.Body = newBody(w, hr.Body, row.maxBody())
		r := &Request{Request: hr, route: row, clientIP: rt.proxies.clientIP(hr)}
		err := rt.answer(rec, r)
		took := time.Since(started)
		rt.metrics.observe(row, rec.code(), took)
		rt.log(r, rec.code(), took, err)
		if err != nil && rec.cut {
			panic(http.ErrAbortHandler)
		}
	})
}

// answer runs the handler and writes what it says. The error is for the log.
func (rt *Router) answer(w *recorder, r *Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = rt.recovered(w, r, p)
		}
	}()
	v, err := rt.call(r)
	if err == nil {
		err = write(w, v)
	}
	if err != nil {
		writeError(w, err)
	}
	return err
}

func (rt *Router) recovered(w *recorder, r *Request, p any) error {
	if p == http.ErrAbortHandler {
		w.cut = true
		return http.ErrAbortHandler
	}
	if rt.hooks.Log != nil {
		rt.hooks.Log.WithField("route", r.route.Path).WithField("stack", string(debug.Stack())).Errorf("panic: %v", p)
	}
	err := matrixerr.Internal(fmt.Errorf("panic: %v", p))
	writeError(w, err)
	return err
}

// call is everything between the router and the handler, cheapest check first.
func (rt *Router) call(r *Request) (any, error) {
	var err error
	if r.Vars, err = unescape(mux.Vars(r.Request)); err != nil {
		return nil, err
	}
	if err := rt.authenticate(r); err != nil {
		return nil, err
	}
	if rt.hooks.RateLimit != nil && r.route.Limit != "" {
		if e := rt.hooks.RateLimit(r.route.Limit, r.Caller, r.clientIP); e != nil {
			return nil, e
		}
	}
	if r.route.Waits {
		return rt.poll(r)
	}
	return r.route.Handler(r.Context(), r)
}

// poll calls the handler of a long poll, which must not keep a node from stopping, nor outlive its session.
func (rt *Router) poll(r *Request) (any, error) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if rt.hooks.Closing != nil {
		defer context.AfterFunc(rt.hooks.Closing, cancel)()
	}
	if rt.hooks.Watch == nil || r.Caller.UserID == "" {
		return r.route.Handler(ctx, r)
	}
	ctx, done := rt.hooks.Watch(ctx, r.Caller)
	defer done()
	v, err := r.route.Handler(ctx, r)
	var ended *matrixerr.Error
	if errors.As(context.Cause(ctx), &ended) {
		return nil, ended
	}
	return v, err
}

func unescape(vars map[string]string) (map[string]string, error) {
	for k, v := range vars {
		s, err := url.PathUnescape(v)
		if err != nil || !utf8.ValidString(s) {
			return nil, matrixerr.InvalidParam("The path holds something that is not percent-encoded UTF-8: " + k)
		}
		vars[k] = s
	}
	return vars, nil
}
