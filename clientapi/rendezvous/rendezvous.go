// Package rendezvous owns the places where two devices meet that have no other way to talk yet, such as for a login by
// QR code: one leaves a text, the other replaces it, in turn (MSC4108 in its form of 2024, and MSC4388). What they say
// is encrypted by them. The places are in memory, few, small and short-lived.
package rendezvous

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

// Options are what an API needs.
type Options struct {
	BaseURL string           // under which clients reach this server; without it the older form is not served
	Now     func() time.Time // nil: time.Now
}

// API serves the meeting places.
type API struct {
	o        Options
	sessions *sessions
}

// New makes an API.
func New(o Options) *API {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &API{o, newSessions(o.Now)}
}

// Features are the names under which GET /versions tells of this.
func (a *API) Features() []string {
	if a.o.BaseURL == "" {
		return []string{"io.element.msc4388"}
	}
	return []string{"io.element.msc4388", "org.matrix.msc4108"}
}

const (
	older = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous"
	newer = "/_matrix/client/unstable/io.element.msc4388/rendezvous"
	limit = "rendezvous"
)

// Routes is the route table. Nobody needs an account: a device that wants to log in has none.
func (a *API) Routes() []httpx.Route {
	row := func(method, path string, h httpx.Handler, spec string) httpx.Route {
		return httpx.Route{Method: method, Path: path, Handler: h, Limit: limit, MaxBody: 4 * maxData, Spec: spec}
	}
	rows := []httpx.Route{
		row(http.MethodGet, newer, a.discover, "MSC4388"),
		row(http.MethodPost, newer, a.create, "MSC4388"),
		row(http.MethodGet, newer+"/{id}", a.get, "MSC4388"),
		row(http.MethodPut, newer+"/{id}", a.put, "MSC4388"),
		row(http.MethodDelete, newer+"/{id}", a.end, "MSC4388"),
	}
	if a.o.BaseURL != "" {
		rows = append(rows,
			row(http.MethodPost, older, a.createOld, "MSC4108"),
			row(http.MethodGet, older+"/{id}", a.getOld, "MSC4108"),
			row(http.MethodPut, older+"/{id}", a.putOld, "MSC4108"),
			row(http.MethodDelete, older+"/{id}", a.endOld, "MSC4108"))
	}
	return rows
}

func errEnded() error { return matrixerr.NotFound("This rendezvous has ended; begin again") }

func (a *API) discover(context.Context, *httpx.Request) (any, error) {
	return map[string]bool{"create_available": true}, nil
}

// note is the body of requests and answers.
type note struct {
	ID        string  `json:"id,omitempty"`
	Data      *string `json:"data,omitempty"`
	Tag       string  `json:"sequence_token,omitempty"`
	ExpiresIn *int64  `json:"expires_in_ms,omitempty"`
}

func read(r *httpx.Request) (n note, err error) {
	if err := r.JSON(&n); err != nil {
		return n, err
	}
	switch {
	case n.Data == nil:
		return n, matrixerr.MissingParam("data is missing")
	case len(*n.Data) > maxData:
		return n, matrixerr.TooLarge(fmt.Sprintf("data may have at most %d bytes", maxData))
	}
	return n, nil
}

func (a *API) left(s session) *int64 {
	ms := s.ends.Sub(a.o.Now()).Milliseconds()
	return &ms
}

// answer keeps what strangers wrote from being cached.
func answer(body any) *httpx.Response {
	return &httpx.Response{Header: http.Header{"Cache-Control": {"no-store"}}, Body: body}
}

func (a *API) create(_ context.Context, r *httpx.Request) (any, error) {
	n, err := read(r)
	if err != nil {
		return nil, err
	}
	s := a.sessions.create(*n.Data, "")
	return answer(note{ID: s.id, Tag: s.tag(), ExpiresIn: a.left(s)}), nil
}

func (a *API) get(_ context.Context, r *httpx.Request) (any, error) {
	// Nobody is to be led to what a stranger left here.
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode == "navigate" {
		return nil, matrixerr.Forbidden("This is for apps, not for browsers")
	}
	s, ok := a.sessions.get(r.Vars["id"])
	if !ok {
		return nil, errEnded()
	}
	return answer(note{Data: &s.data, Tag: s.tag(), ExpiresIn: a.left(s)}), nil
}

func (a *API) put(_ context.Context, r *httpx.Request) (any, error) {
	n, err := read(r)
	if err != nil {
		return nil, err
	}
	s, found, fresh := a.sessions.put(r.Vars["id"], n.Tag, *n.Data, "")
	switch {
	case !found:
		return nil, errEnded()
	case !fresh:
		return nil, matrixerr.New(http.StatusConflict, "IO_ELEMENT_MSC4388_CONCURRENT_WRITE", "The other side wrote first; read that")
	}
	return answer(note{Tag: s.tag()}), nil
}

func (a *API) end(_ context.Context, r *httpx.Request) (any, error) {
	if !a.sessions.end(r.Vars["id"]) {
		return nil, errEnded()
	}
	return answer(nil), nil
}

// The form of 2024: plain text, versions as ETags.

// headers go with each answer: apps want them on all.
func headers(s session) http.Header {
	return http.Header{
		"Etag":                    {`"` + s.tag() + `"`},
		"Expires":                 {s.ends.UTC().Format(http.TimeFormat)},
		"Last-Modified":           {s.changed.UTC().Format(http.TimeFormat)},
		"Cache-Control":           {"no-store"},
		"Pragma":                  {"no-cache"},
		"X-Content-Type-Options":  {"nosniff"},
		"Content-Security-Policy": {"sandbox; default-src 'none'; frame-ancestors 'none'"},
	}
}

// plain is an answer that is not JSON.
func plain(status int, s session, body string) *httpx.Response {
	h := headers(s)
	return &httpx.Response{Status: status, Header: h, Body: httpx.Stream(func(w http.ResponseWriter) error {
		if body != "" {
			w.Header().Set("Content-Type", s.kind)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body)) // the device is gone
		return nil
	})}
}

func readOld(r *httpx.Request) (data, kind string, err error) {
	kind = r.Header.Get("Content-Type")
	if base, _, _ := strings.Cut(kind, ";"); !strings.EqualFold(strings.TrimSpace(base), "text/plain") {
		return "", "", matrixerr.InvalidParam("The content type must be text/plain")
	}
	body, err := r.Bytes()
	if err == nil && len(body) > maxData {
		err = matrixerr.TooLarge(fmt.Sprintf("A text may have at most %d bytes", maxData))
	}
	return string(body), "text/plain", err
}

func (a *API) createOld(_ context.Context, r *httpx.Request) (any, error) {
	data, kind, err := readOld(r)
	if err != nil {
		return nil, err
	}
	s := a.sessions.create(data, kind)
	return &httpx.Response{Status: http.StatusCreated, Header: headers(s), Body: map[string]string{"url": a.o.BaseURL + older + "/" + s.id}}, nil
}

func (a *API) getOld(_ context.Context, r *httpx.Request) (any, error) {
	s, ok := a.sessions.get(r.Vars["id"])
	if !ok || s.kind == "" {
		return nil, errEnded()
	}
	if unquote(r.Header.Get("If-None-Match")) == s.tag() {
		return plain(http.StatusNotModified, s, ""), nil
	}
	return plain(http.StatusOK, s, s.data), nil
}

// unquote takes tags as we gave them, and weakened by a proxy that compresses.
func unquote(tag string) string { return strings.Trim(strings.TrimPrefix(tag, "W/"), `"`) }

func (a *API) putOld(_ context.Context, r *httpx.Request) (any, error) {
	data, kind, err := readOld(r)
	if err != nil {
		return nil, err
	}
	tag := r.Header.Get("If-Match")
	if tag == "" {
		return nil, matrixerr.MissingParam("The header If-Match is missing")
	}
	s, found, fresh := a.sessions.put(r.Vars["id"], unquote(tag), data, kind)
	switch {
	case !found:
		return nil, errEnded()
	case !fresh:
		return &httpx.Response{Status: http.StatusPreconditionFailed, Header: headers(s), Body: matrixerr.New(http.StatusPreconditionFailed,
			"M_UNKNOWN", "The other side wrote first; read that").WithField("org.matrix.msc4108.errcode", "M_CONCURRENT_WRITE")}, nil
	}
	return plain(http.StatusAccepted, s, ""), nil
}

func (a *API) endOld(_ context.Context, r *httpx.Request) (any, error) {
	if !a.sessions.end(r.Vars["id"]) {
		return nil, errEnded()
	}
	return &httpx.Response{Status: http.StatusNoContent, Body: httpx.Stream(func(w http.ResponseWriter) error {
		w.WriteHeader(http.StatusNoContent)
		return nil
	})}, nil
}
