package federationapi_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"knock/federationapi"
	"knock/federationapi/client"
	"knock/federationapi/keys"
	"knock/federationapi/send"
	"knock/internal/account"
	"knock/internal/ephemeral"
	"knock/internal/httpx"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
	"knock/test/shapes"
)

// world is a network of servers: names that resolve, certificates that are trusted.
type world struct {
	t     testing.TB
	d     sqldb.Dialect
	names client.Names
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	pool  *x509.CertPool

	measured bool // in a benchmark
}

func newWorld(t testing.TB, d sqldb.Dialect) *world {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(raw)
	must(t, err)
	w := &world{t: t, d: d, cert: cert, key: key, pool: x509.NewCertPool(),
		names: client.Names{Addrs: map[string][]netip.Addr{}, Services: map[string][]*net.SRV{}}}
	w.pool.AddCert(cert)
	return w
}

// eachWorld runs a test in a network of SQLite nodes and in one of PostgreSQL nodes.
func eachWorld(t *testing.T, fn func(t *testing.T, w *world)) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		t.Run(d.String(), func(t *testing.T) { fn(t, newWorld(t, d)) })
	}
}

func (w *world) issue(name string) tls.Certificate {
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name}}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, w.cert, &w.key.PublicKey, w.key)
	must(w.t, err)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: w.key}
}

// node is a server without a client door.
type node struct {
	w      *world
	t      testing.TB
	name   string
	url    string
	signer event.Signer
	port   int

	down  atomic.Bool  // connections break
	asked atomic.Int64 // requests answered
	door  atomic.Pointer[http.Handler]

	policy atomic.Pointer[http.HandlerFunc] // answers /_matrix/policy

	db       *sqldb.DB
	hub      *stream.Hub
	rooms    *roomserver.Server
	keys     *keys.Ring
	client   *client.Client
	sender   *send.Sender
	accounts *account.Service
	typing   *ephemeral.Typing
	stop     func()
}

// add starts a server of the network.
func (w *world) add(name string) *node {
	w.t.Helper()
	n := &node{w: w, t: w.t, name: name, url: sqldbtest.URL(w.t, w.d)}
	n.signer = event.Signer{Server: name, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(fmt.Sprintf("%-32.32s", name)))}
	s := httptest.NewUnstartedServer(n)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{w.issue(name)}}
	s.EnableHTTP2 = true
	s.StartTLS()
	w.t.Cleanup(s.Close)
	n.port = s.Listener.Addr().(*net.TCPAddr).Port
	w.names.Addrs[name] = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	w.names.Services["_matrix-fed._tcp."+name] = []*net.SRV{{Target: name + ".", Port: uint16(n.port)}}
	n.start()
	w.t.Cleanup(func() { n.stop() })
	return n
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if n.down.Load() {
		panic(http.ErrAbortHandler)
	}
	if policy := n.policy.Load(); policy != nil && strings.HasPrefix(r.URL.Path, "/_matrix/policy/") {
		(*policy)(w, r)
		return
	}
	(*n.door.Load()).ServeHTTP(w, r)
	n.asked.Add(1)
}

// start builds the node on its database, as after a restart.
func (n *node) start() {
	t := n.t
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	if testing.Verbose() {
		quiet.SetOutput(writerFunc(func(p []byte) (int, error) { fmt.Print(n.name, " ", string(p)); return len(p), nil }))
		quiet.SetLevel(logrus.DebugLevel)
	}
	log := logrus.NewEntry(quiet)

	db, err := sqldb.Open(ctx, sqldb.Options{URL: n.url})
	must(t, err)
	must(t, db.Migrate(ctx, schemaFiles))
	pos, err := db.Position(ctx)
	must(t, err)
	n.db, n.hub = db, stream.New(pos)
	db.OnPublish(n.hub.Advance)
	db.Start(ctx)
	n.client = client.New(client.Options{ServerName: n.name, Signer: n.signer, RootCAs: n.w.pool, Lookup: n.w.names,
		AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Log: log,
		Partners: func(server string) bool { return n.sender.Partner(server) }})
	n.keys = keys.New(keys.Options{ServerName: n.name, Signer: n.signer, DB: db, Fetch: n.client, Log: log})
	st := store.New(store.Options{DB: db})
	n.sender = send.New(send.Options{ServerName: n.name, Store: st, Hub: n.hub, Client: n.client, Log: log})
	n.rooms = roomserver.New(roomserver.Options{ServerName: n.name, Signer: n.signer, Store: st, Hub: n.hub,
		Remote: federationapi.NewRemote(n.client), Verifier: n.keys, Outbound: n.sender, Participants: []roomserver.Participant{n.sender}, Log: log})
	n.accounts = account.New(account.Options{DB: db, Hub: n.hub, ServerName: n.name})
	n.typing = ephemeral.NewTyping(ephemeral.TypingOptions{Hub: n.hub, Outbox: n.sender, Member: func(room, user string) bool { return n.is(room, user) == "join" }})
	var limits federationapi.Limits
	watched := func(h http.Handler) http.Handler { return shapes.Watched(t, h) }
	if n.w.measured {
		limits.PerSecond, watched = -1, func(h http.Handler) http.Handler { return h }
	}
	api := federationapi.New(federationapi.Options{Limits: limits, ServerName: n.name, Version: "test", Rooms: n.rooms, Verifier: n.keys, Accounts: n.accounts, Typing: n.typing, Log: log,
		Alive: func(server string) { n.client.Alive(server); n.sender.Wake(server) }})
	must(t, n.rooms.Start(ctx))
	door := watched(httpx.NewRouter(append(api.Routes(), n.keys.Routes()...), httpx.Hooks{AuthenticateServer: api.AuthenticateServer, Log: log}))
	n.door.Store(&door)

	var run sync.WaitGroup
	for _, fn := range []func(context.Context) error{n.rooms.Run, n.sender.Run} {
		run.Go(func() {
			if err := fn(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	n.stop = func() {
		cancel()
		run.Wait()
		n.client.Close()
		if err := db.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		n.stop = func() {}
	}
}

func (n *node) restart() {
	n.t.Helper()
	n.stop()
	n.start()
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for what other goroutines bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("it never came to this: %s", what)
}

// user is the full id of a user of the node.
func (n *node) user(local string) string { return "@" + local + ":" + n.name }

func (n *node) create(q roomserver.CreateRequest) string {
	n.t.Helper()
	if q.Creator == "" {
		q.Creator = n.user("alice")
	}
	id, err := n.rooms.Create(context.Background(), q)
	must(n.t, err)
	return id
}

func (n *node) join(room, user string, via ...*node) error {
	names := make([]string, len(via))
	for i, v := range via {
		names[i] = v.name
	}
	_, err := n.rooms.Join(context.Background(), roomserver.JoinRequest{RoomIDOrAlias: room, User: user, Via: names})
	return err
}

func (n *node) say(room, user, text string) string {
	n.t.Helper()
	id, err := n.rooms.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: user, Type: "m.room.message",
		Content: json.RawMessage(fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, text))})
	must(n.t, err)
	return id
}

func (n *node) setState(room, user, typ, content string) string {
	n.t.Helper()
	key := ""
	id, err := n.rooms.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: user, Type: typ, StateKey: &key, Content: json.RawMessage(content)})
	must(n.t, err)
	return id
}

func (n *node) membership(room, sender, target, membership string) error {
	_, err := n.rooms.SetMembership(context.Background(), roomserver.MembershipRequest{RoomID: room, Sender: sender, Target: target, Membership: membership})
	return err
}

// has tells whether an event was delivered to a room here.
func (n *node) has(room, eventID string) bool {
	var found bool
	must(n.t, n.db.Read(context.Background(), func(tx *sqldb.Tx) error {
		e, err := n.rooms.Store.EventByID(tx, eventID)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		found = err == nil && e.Flags&(store.Outlier|store.Rejected|store.SoftFailed) == 0
		return err
	}))
	return found
}

func (n *node) sees(room, eventID string) {
	n.t.Helper()
	eventually(n.t, n.name+" has "+eventID, func() bool { return n.has(room, eventID) })
}

// is tells a user's membership as the node knows it.
func (n *node) is(room, user string) string {
	m, err := n.rooms.Membership(context.Background(), room, user)
	if errors.Is(err, roomserver.ErrUnknownRoom) {
		return ""
	}
	must(n.t, err)
	return m.State.String()
}

func (n *node) knows(room, user, membership string) {
	n.t.Helper()
	eventually(n.t, n.name+" knows "+user+" as "+membership, func() bool { return n.is(room, user) == membership })
}

// state is one field of a state event's content.
func (n *node) state(room, typ, field string) string {
	e, err := n.rooms.CurrentState(context.Background(), room, typ, "")
	must(n.t, err)
	if e == nil {
		return ""
	}
	return e.Event.ContentString(field)
}

// call makes a signed request from one node to another and returns status and answer.
func (n *node) call(to *node, method, path string, content string) (int, string) {
	n.t.Helper()
	return n.callAs(n.signer, to, method, path, content)
}

func (n *node) callAs(signer event.Signer, to *node, method, path, content string) (int, string) {
	n.t.Helper()
	signed := "{"
	if content != "" { // as it is where it has no canonical form
		canonical, err := event.Canonical(nil, []byte(content))
		if err != nil {
			canonical = []byte(content)
		}
		signed += fmt.Sprintf(`"content":%s,`, canonical)
	}
	signed += fmt.Sprintf(`"destination":%s,"method":%q,"origin":%s,"uri":%s}`, quoted(to.name), method, quoted(n.name), event.AppendString(nil, path))
	sig := base64.RawStdEncoding.EncodeToString(ed25519.Sign(signer.Key, []byte(signed)))
	req := httptest.NewRequest(method, path, strings.NewReader(content))
	req.Header.Set("Authorization", fmt.Sprintf(`X-Matrix origin="%s",destination="%s",key="%s",sig="%s"`, n.name, to.name, signer.KeyID, sig))
	rec := httptest.NewRecorder()
	(*to.door.Load()).ServeHTTP(rec, req)
	return rec.Code, rec.Body.String()
}
