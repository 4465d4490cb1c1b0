// Package hstest starts whole nodes for tests, on a fresh database of either engine, in this process or in a child
// process that can be killed. Nodes find each other by injected names and talk through wires that can be cut.
package hstest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"knock/cmd/knock/demo/lab"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/test/shapes"
)

// Patience is how long things that must happen may take. Nothing passes or fails by being slower than usual.
const Patience = 30 * time.Second

// Main runs the tests of a package and then looks for goroutines left behind. In a child process that a test started
// it is the node. Every package that uses New needs
//
//	func TestMain(m *testing.M) { hstest.Main(m) }
func Main(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		os.Exit(child(spec))
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// Site is the network of one test.
type Site struct {
	t       testing.TB
	dialect sqldb.Dialect
	dir     string
	lab     *lab.Lab
	nodes   map[string]*Node
	foreign map[string]func() string // servers that are no nodes: where they listen
	wires   map[pair]*wire
	book    *shapes.Book
	lost    atomic.Pointer[func(*http.Request) bool] // whose answers do not arrive

	mu         sync.Mutex
	deviations map[string]bool // from the specification, in answers
}

// New makes a network whose nodes use databases of one engine. Everything ends with the test.
func New(t testing.TB, d sqldb.Dialect) *Site {
	t.Helper()
	s := &Site{t: t, dialect: d, dir: t.TempDir(), nodes: map[string]*Node{}, foreign: map[string]func() string{}, wires: map[pair]*wire{}, deviations: map[string]bool{}}
	var err error
	if s.lab, err = lab.New(s.dir); err != nil {
		t.Fatal(err)
	}
	if s.book, err = shapes.Load(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, w := range s.wires {
			w.close()
		}
	})
	return s
}

// watch compares all answers with the specification, and loses some. What differs fails the test.
func (s *Site) watch(h http.Handler) http.Handler {
	h = s.book.Watch(h, func(text string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.deviations[text] {
			s.deviations[text] = true
			s.t.Errorf("not as the specification says: %s", text)
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		if lost := s.lost.Load(); lost != nil && (*lost)(r) {
			panic(http.ErrAbortHandler)
		}
	})
}

// Each runs fn on a network for each engine.
func Each(t *testing.T, fn func(t *testing.T, s *Site)) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		t.Run(d.String(), func(t *testing.T) { fn(t, New(t, d)) })
	}
}

// Trust makes nodes that start later believe a further certificate.
func (s *Site) Trust(cert *x509.Certificate) {
	s.t.Helper()
	file, err := os.OpenFile(filepath.Join(s.dir, "ca.crt"), os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(pem.Encode(file, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), file.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// stop ends what still runs, all at once and without waiting for each other's connections.
func (s *Site) stop() {
	for _, w := range s.wires {
		w.set(true)
	}
	var all sync.WaitGroup
	for _, n := range s.nodes {
		n.closeClients()
		all.Go(func() {
			if err := n.Stop(); err != nil {
				s.t.Errorf("stop %s: %v", n.Name, err)
			}
		})
	}
	all.Wait()
	for _, n := range s.nodes {
		if log := n.Log(); s.t.Failed() && log != "" {
			s.t.Logf("the log of %s:\n%s", n.Name, log[max(0, len(log)-8000):])
		}
	}
	clear(s.nodes)
}

// Add makes a node, which is not started yet. Further settings are as --set takes them. Its server name may be looked
// up by all others of the site.
func (s *Site) Add(name string, settings ...string) *Node {
	s.t.Helper()
	base, err := s.lab.Settings(name)
	if err != nil {
		s.t.Fatal(err)
	}
	n := &Node{Name: name, site: s, dir: s.dir, DatabaseURL: sqldbtest.URL(s.t, s.dialect)}
	s.t.Cleanup(s.stop) // before the database goes
	n.settings = append(base, "rate_limits.enabled=false", "logging.level=warn", "database.url="+n.DatabaseURL)
	n.settings = append(n.settings, settings...)
	s.nodes[name] = n
	for other := range s.nodes {
		s.connect(name, other)
		s.connect(other, name)
	}
	for other := range s.foreign {
		s.connect(name, other)
	}
	return n
}

// Foreign makes the name of a server that is no node known to all nodes, with where it listens, and returns a
// certificate for it. It reaches nodes at Federation.
func (s *Site) Foreign(name string, listens func() string) tls.Certificate {
	s.t.Helper()
	cert, err := s.lab.Certificate(name)
	if err != nil {
		s.t.Fatal(err)
	}
	s.foreign[name] = listens
	for node := range s.nodes {
		s.connect(node, name)
	}
	return cert
}

// Node is a node that was added.
func (s *Site) Node(name string) *Node { return s.nodes[name] }

// Start adds a node and starts it in this process.
func (s *Site) Start(name string, settings ...string) *Node {
	s.t.Helper()
	n := s.Add(name, settings...)
	if err := n.Start(); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *Site) connect(from, to string) {
	p := pair{from, to}
	if s.wires[p] != nil {
		return
	}
	target := s.foreign[to]
	if n := s.nodes[to]; n != nil {
		target = n.target
	}
	w, err := newWire(target)
	if err != nil {
		s.t.Fatal(err)
	}
	s.wires[p] = w
	s.nodes[from].names.Set(to, w.port)
}

// Cut parts two nodes: connections between them end and new ones fail.
func (s *Site) Cut(a, b string) { s.switchWires(a, b, true) }

// Heal ends a Cut.
func (s *Site) Heal(a, b string) { s.switchWires(a, b, false) }

func (s *Site) switchWires(a, b string, cut bool) {
	s.t.Helper()
	for _, w := range s.between(a, b) {
		w.set(cut)
	}
}

// between are the wires that join two nodes, one for the calls of each.
func (s *Site) between(a, b string) (list []*wire) {
	s.t.Helper()
	for _, p := range []pair{{a, b}, {b, a}} {
		w := s.wires[p]
		if w == nil {
			s.t.Fatalf("there is no wire from %s to %s", p.from, p.to)
		}
		list = append(list, w)
	}
	return list
}

// LoseAnswers has a node of this process do what it is asked to and the answers be lost of those requests that lost
// picks; nil is none. It counts for nodes that are up and for those that start later.
func (s *Site) LoseAnswers(lost func(r *http.Request) bool) {
	if lost == nil {
		lost = func(*http.Request) bool { return false }
	}
	s.lost.Store(&lost)
}

// Context ends with the test or when patience is over.
func (s *Site) Context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.t.Context(), Patience)
}
