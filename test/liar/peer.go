// Package liar owns a server for tests that speaks the Server-Server API over TLS with keys of its own: it builds and joins
// rooms and answers about them as an honest server would, but for the lies that it is told to tell.
package liar

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"knock/roomserver/event"
	"knock/test/hstest"
)

// Object is a JSON object.
type Object = map[string]any

// Lie answers a request in place of what an honest server would: honest is that answer, nil where it would be an error. It
// may change and write it.
type Lie func(w http.ResponseWriter, r *http.Request, honest Object)

// Peer is one server.
type Peer struct {
	t      testing.TB
	Name   string
	Signer event.Signer

	client *http.Client
	server *httptest.Server

	mu    sync.Mutex
	lies  map[string]Lie
	asked map[string]int
	rooms map[string]*Room
}

// NewPeer starts a server that the nodes of a site find by its name. It ends with the test.
func NewPeer(t testing.TB, site *hstest.Site, name string) *Peer {
	t.Helper()
	p := &Peer{t: t, Name: name, lies: map[string]Lie{}, asked: map[string]int{}, rooms: map[string]*Room{}}
	p.Signer = NewSigner(name, "1")
	s := httptest.NewUnstartedServer(p)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{site.Foreign(name, func() string { return s.Listener.Addr().String() })}}
	s.EnableHTTP2 = true
	s.StartTLS()
	p.server = s
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	p.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		s.CloseClientConnections()
		s.Close()
	})
	return p
}

// NewSigner makes a key that depends on nothing but the names.
func NewSigner(server, version string) event.Signer {
	return event.Signer{Server: server, KeyID: "ed25519:" + version, Key: ed25519.NewKeyFromSeed([]byte(fmt.Sprintf("%-32.32s", version+server)))}
}

// User is the full id of one of the peer's users.
func (p *Peer) User(local string) string { return "@" + local + ":" + p.Name }

// Tell has the peer lie whenever it is asked at an endpoint, named as its path does: "send_join", "state_ids", "keys", ….
// nil makes it honest again.
func (p *Peer) Tell(endpoint string, lie Lie) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lies[endpoint] = lie
}

// Drop breaks all connections to the peer.
func (p *Peer) Drop() { p.server.CloseClientConnections() }

// Asked is how often the peer was asked at an endpoint.
func (p *Peer) Asked(endpoint string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[endpoint]
}

// ServeHTTP implements http.Handler.
func (p *Peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	endpoint, args := parsePath(r.URL.EscapedPath())
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	p.mu.Lock()
	p.asked[endpoint]++
	lie := p.lies[endpoint]
	honest := p.honest(endpoint, args, r.URL.Query(), body)
	p.mu.Unlock()
	switch {
	case lie != nil:
		lie(w, r, honest)
	case honest == nil:
		w.WriteHeader(http.StatusNotFound)
		Write(w, Object{"errcode": "M_NOT_FOUND", "error": "not here"})
	default:
		Write(w, honest)
	}
}

// Write answers with JSON.
func Write(w http.ResponseWriter, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) // whoever asked may be gone
}

// parsePath returns the name of an endpoint and what follows it in the path.
func parsePath(path string) (endpoint string, args []string) {
	parts := strings.Split(strings.TrimPrefix(path, "/_matrix/"), "/")
	if len(parts) < 3 || parts[0] != "federation" {
		return parts[0], nil // key
	}
	for _, part := range parts[3:] {
		arg, err := url.PathUnescape(part)
		if err != nil {
			arg = part
		}
		args = append(args, arg)
	}
	return parts[2], args
}

// honest is the answer of a server that does not lie.
func (p *Peer) honest(endpoint string, args []string, query url.Values, body []byte) Object {
	switch endpoint {
	case "key":
		return p.Keys(nil)
	case "version":
		return Object{"server": Object{"name": "liar", "version": "1"}}
	case "send":
		return Object{"pdus": Object{}}
	case "event":
		for _, room := range p.rooms {
			if e := room.byID[args[0]]; e != nil {
				return Object{"origin": p.Name, "origin_server_ts": 1, "pdus": raws([]*event.Event{e})}
			}
		}
		return nil
	}
	if len(args) == 0 || p.rooms[args[0]] == nil {
		return nil
	}
	return p.rooms[args[0]].honest(endpoint, args[1:], query, body)
}

// Keys is what the peer publishes about its keys, signed after change.
func (p *Peer) Keys(change func(Object)) Object {
	public, ok := p.Signer.Key.Public().(ed25519.PublicKey)
	if !ok {
		panic("no ed25519 key")
	}
	o := Object{"server_name": p.Name, "valid_until_ts": time.Now().Add(24 * time.Hour).UnixMilli(), "old_verify_keys": Object{},
		"verify_keys": Object{p.Signer.KeyID: Object{"key": base64.RawStdEncoding.EncodeToString(public)}}}
	if change != nil {
		change(o)
	}
	return SignObject(o, p.Signer)
}

// SignObject returns an object with a signature.
func SignObject(o Object, s event.Signer) Object {
	data, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	signed, err := event.SignJSON(data, s)
	if err != nil {
		panic(err)
	}
	var out Object
	decoder := json.NewDecoder(bytes.NewReader(signed))
	decoder.UseNumber()
	if err := decoder.Decode(&out); err != nil {
		panic(err)
	}
	return out
}

// Request is one request of the peer, which may be forged.
type Request struct {
	Method, Path string
	Body         []byte // nil: none
	Signed       []byte // what the signature is made over in place of the body, unless nil
	Origin       string // "": the peer
	Destination  string // "": the node
	Signer       *event.Signer
}

// Call makes a request to a node and returns the status and the answer; status 0 when the connection broke.
func (p *Peer) Call(ctx context.Context, to *hstest.Node, q Request) (int, []byte) {
	p.t.Helper()
	var body io.Reader
	if q.Body != nil {
		body = bytes.NewReader(q.Body)
	}
	r, err := http.NewRequestWithContext(ctx, q.Method, "https://"+to.Federation()+q.Path, body)
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Authorization", p.authorization(to, q, r.URL.RequestURI()))
	resp, err := p.client.Do(r)
	if err != nil {
		return 0, []byte(err.Error())
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, []byte(err.Error())
	}
	return resp.StatusCode, answer
}

func (p *Peer) authorization(to *hstest.Node, q Request, uri string) string {
	origin, destination, signer, content := q.Origin, q.Destination, p.Signer, q.Signed
	if origin == "" {
		origin = p.Name
	}
	if destination == "" {
		destination = to.Name
	}
	if q.Signer != nil {
		signer = *q.Signer
	}
	if content == nil {
		content = q.Body
	}
	signed := "{"
	if content != nil {
		if canonical, err := event.Canonical(nil, content); err == nil { // as it is where it has no canonical form
			content = canonical
		}
		signed += fmt.Sprintf(`"content":%s,`, content)
	}
	signed += fmt.Sprintf(`"destination":%s,"method":%q,"origin":%s,"uri":%s}`, event.AppendString(nil, destination), q.Method,
		event.AppendString(nil, origin), event.AppendString(nil, uri))
	sig := base64.RawStdEncoding.EncodeToString(ed25519.Sign(signer.Key, []byte(signed)))
	return fmt.Sprintf(`X-Matrix origin="%s",destination="%s",key="%s",sig="%s"`, origin, destination, signer.KeyID, sig)
}

// JSON makes a request with an object as its body, nil for none.
func (p *Peer) JSON(ctx context.Context, to *hstest.Node, method, path string, body any) (int, []byte) {
	p.t.Helper()
	q := Request{Method: method, Path: path}
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			p.t.Fatal(err)
		}
		q.Body = data
	}
	return p.Call(ctx, to, q)
}

// Escape joins segments of a path; those at odd positions are escaped.
func Escape(segments ...string) string {
	for i := 1; i < len(segments); i += 2 {
		segments[i] = url.PathEscape(segments[i])
	}
	return strings.Join(segments, "")
}
