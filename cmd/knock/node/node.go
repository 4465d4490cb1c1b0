// Package node owns the assembly of a whole node: configuration in, running listeners out. It is the only place
// where parts are put together; the knock command and the tests use it.
package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/config"
	"knock/federationapi/client"
	"knock/internal/httpx"
	"knock/internal/obs"
	"knock/internal/schema"
	"knock/internal/sqldb"
	"knock/internal/stream"
)

// Options are what does not come from the configuration.
type Options struct {
	Version string    // of the program
	LogTo   io.Writer // nil is standard error
	// Offline opens the database and the parts, but no listeners: for commands that do one thing and end.
	Offline bool
	// Lookup finds the addresses of other servers; nil is the machine's resolver.
	Lookup client.Lookup
	// Watch is put around the handlers of clients and of other servers by tests that look at answers; nil: nothing is.
	Watch func(http.Handler) http.Handler
}

// Node is everything that runs in one process.
type Node struct {
	cfg     *config.Config
	opts    Options
	logs    *obs.Logs
	log     *logrus.Entry
	metrics *prometheus.Registry

	lock  *os.File
	db    *sqldb.DB
	hub   *stream.Hub
	later later
	keys  *Keys
	// policyKey signs as a policy server; nil where this is none. It is another key than the one that signs events, so
	// that a room can take it back.
	policyKey ed25519.PrivateKey
	stop      context.CancelFunc // ends the writer of db
	parts     parts

	clients, federation, operators, commands *server // nil: off
	certs                                    []*certificate
	ready                                    atomic.Bool
	closing                                  context.Context // ends when the node begins to stop
	close                                    context.CancelFunc
	closed                                   sync.Once
}

// component is a part that works in the background.
type component struct {
	name string
	run  func(context.Context) error
}

// New takes the data directory, opens and migrates the database, builds all parts and listens. It serves nothing
// yet: call Run, or Close.
func New(ctx context.Context, cfg *config.Config, o Options) (*Node, error) {
	if o.LogTo == nil {
		o.LogTo = os.Stderr
	}
	logs, err := obs.NewLogs(o.LogTo, logOptions(cfg))
	if err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, opts: o, logs: logs, log: logs.Component("node"), metrics: obs.NewRegistry(o.Version)}
	n.closing, n.close = context.WithCancel(context.Background())
	if err := n.open(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) open(ctx context.Context) (err error) {
	if n.lock, err = lockDataDir(n.cfg.DataDir); err != nil {
		return err
	}
	if err := n.openDatabase(ctx); err != nil {
		return err
	}
	if n.keys, err = identity(ctx, n.cfg, n.db); err != nil {
		return err
	}
	if n.policyKey, err = policySigningKey(n.cfg); err != nil {
		return err
	}
	if err := n.wire(ctx); err != nil || n.opts.Offline {
		return err
	}
	return n.listen()
}

func logOptions(cfg *config.Config) obs.LogOptions {
	return obs.LogOptions{Format: cfg.Logging.Format, Level: cfg.Logging.Level, Levels: cfg.Logging.Levels}
}

func (n *Node) openDatabase(ctx context.Context) (err error) {
	n.db, err = sqldb.Open(ctx, sqldb.Options{URL: n.cfg.DatabaseURL(), Readers: n.cfg.Database.Readers,
		Log: n.logs.Component("sqldb"), Registerer: n.metrics})
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	if err := n.db.Migrate(ctx, schema.Files); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	pos, err := n.db.Position(ctx)
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	n.hub = stream.New(pos)
	n.db.OnPublish(n.hub.Advance)
	n.db.OnPublish(n.later.published)
	writer, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	n.db.Start(writer)
	return nil
}

// listen opens the addresses of the configuration.
func (n *Node) listen() (err error) {
	l := n.cfg.Listeners
	cert, err := n.certificate(l.Client.TLSCert, l.Client.TLSKey)
	if err != nil {
		return err
	}
	if n.clients, err = listen("client", l.Client.Address, cert); err != nil {
		return err
	}
	if l.Federation.Address != "" && n.cfg.Federation.Enabled {
		if cert, err = n.certificate(l.Federation.TLSCert, l.Federation.TLSKey); err == nil && cert == nil {
			cert, err = selfMade(n.cfg.DataDir, n.cfg.ServerName)
		}
		if err != nil {
			return err
		}
		if n.federation, err = listen("federation", l.Federation.Address, cert); err != nil {
			return err
		}
	}
	if l.Metrics.Address != "" {
		if n.operators, err = listen("metrics", l.Metrics.Address, nil); err != nil {
			return err
		}
	}
	return n.listenForCommands()
}

func (n *Node) certificate(certFile, keyFile string) (*certificate, error) {
	if certFile == "" {
		return nil, nil
	}
	c, err := newCertificate(certFile, keyFile)
	if err == nil {
		n.certs = append(n.certs, c)
	}
	return c, err
}

// ClientAddress is the address of the client listener, its port filled in.
func (n *Node) ClientAddress() string { return n.clients.address() }

// FederationAddress is the address of the federation listener; "" when it is off.
func (n *Node) FederationAddress() string { return n.federation.address() }

// OperatorsAddress is the address of metrics and health; "" when it is off.
func (n *Node) OperatorsAddress() string { return n.operators.address() }

func (s *server) address() string {
	if s == nil {
		return ""
	}
	return s.l.Addr().String()
}

// DB is the node's database, for tests that look inside.
func (n *Node) DB() *sqldb.DB { return n.db }

// Routes are all rows that the client listener serves.
func (n *Node) Routes() []httpx.Route { return n.clientRoutes() }

// ClientURL is where a client on this machine reaches the node.
func (n *Node) ClientURL() string {
	if n.cfg.PublicBaseURL != "" {
		return n.cfg.PublicBaseURL
	}
	scheme := "http"
	if n.cfg.Listeners.Client.TLSCert != "" {
		scheme = "https"
	}
	host, _, _ := net.SplitHostPort(n.cfg.Listeners.Client.Address)
	if _, port, err := net.SplitHostPort(n.ClientAddress()); err == nil {
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "localhost"
		}
		return scheme + "://" + net.JoinHostPort(host, port)
	}
	return scheme + "://" + n.ClientAddress()
}

// Reload takes the log levels of cfg and reads the certificates again. What is wrong, loadErr too, is logged and left
// as it was.
func (n *Node) Reload(cfg *config.Config, loadErr error) {
	errs := append(reloadAll(n.certs), loadErr)
	if loadErr == nil {
		errs = append(errs, n.logs.SetLevels(logOptions(cfg)))
	}
	if err := errors.Join(errs...); err != nil {
		n.log.WithError(err).Error("not everything could be re-read; what could not stays as it was")
		return
	}
	n.log.Info("log levels and certificates re-read")
}

// checks are what /_knock/ready asks for.
func (n *Node) checks() []obs.Check {
	return []obs.Check{
		{Name: "database", Run: func(ctx context.Context) error {
			_, err := n.db.Position(ctx)
			return err
		}},
		{Name: "serving", Run: func(context.Context) error {
			if !n.ready.Load() {
				return errors.New("starting or stopping")
			}
			return nil
		}},
	}
}

func (n *Node) operatorsHandler() http.Handler { return obs.Handler(n.metrics, n.checks()...) }

// Close gives everything back. Run does it too.
func (n *Node) Close() (err error) {
	n.closed.Do(func() {
		n.close()
		for _, s := range []*server{n.clients, n.federation, n.operators, n.commands} {
			if s != nil {
				_ = s.l.Close() // closed already when it was served
			}
		}
		if n.parts.remote != nil {
			n.parts.remote.Close()
		}
		if n.db != nil {
			err = n.db.Close()
		}
		if n.stop != nil {
			n.stop()
		}
		if n.lock != nil {
			err = errors.Join(err, n.lock.Close())
		}
	})
	return err
}
