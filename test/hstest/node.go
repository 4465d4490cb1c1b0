package hstest

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"knock/cmd/knock/demo/lab"
	"knock/cmd/knock/node"
)

// Node is a node of a site. It may be started, stopped or killed again and again; its data stays.
type Node struct {
	Name        string
	DatabaseURL string

	site     *Site
	dir      string
	settings []string
	around   func(http.Handler) http.Handler // nil: nothing
	names    lab.Names

	mu      sync.Mutex
	here    *lab.Node // when it runs in this process
	log     *os.File  // of here
	process *process  // when it runs in a child process
	fed     string    // where it answers other servers; "" while it is down
	clients []*lab.Client
	baseURL string
}

// Set changes settings from the next start on.
func (n *Node) Set(settings ...string) { n.settings = append(n.settings, settings...) }

// Around has every request go through fn from the next start in this process on.
func (n *Node) Around(fn func(http.Handler) http.Handler) { n.around = fn }

func (n *Node) watch(h http.Handler) http.Handler {
	if h = n.site.watch(h); n.around != nil {
		h = n.around(h)
	}
	return h
}

// Start serves in this process. The client listener keeps its port for good.
func (n *Node) Start() error {
	log, err := n.openLog()
	if err != nil {
		return err
	}
	ctx, cancel := n.site.Context()
	defer cancel()
	here, err := lab.Start(ctx, n.settings, &n.names, log, n.watch)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.here, n.log = here, log
	return n.serving("http://"+here.ClientAddress(), here.FederationAddress())
}

func (n *Node) openLog() (*os.File, error) {
	return os.OpenFile(filepath.Join(n.dir, n.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// serving takes the addresses of a started node.
func (n *Node) serving(baseURL, federation string) error {
	if n.baseURL == "" {
		port, err := lab.Port(baseURL[len("http://"):])
		if err != nil {
			return err
		}
		n.settings = append(n.settings, "listeners.client.address=localhost:"+itoa(port))
	}
	n.baseURL, n.fed = baseURL, federation
	return nil
}

// Stop ends the node as an interrupt does. It is nothing to a node that is down.
func (n *Node) Stop() error {
	n.mu.Lock()
	here, log, process := n.here, n.log, n.process
	n.here, n.log, n.process, n.fed = nil, nil, nil, ""
	n.mu.Unlock()
	switch {
	case here != nil:
		return errors.Join(here.Stop(), log.Close())
	case process != nil:
		return process.stop()
	}
	return nil
}

// Do has a node of this process do a command, as the command line has.
func (n *Node) Do(ctx context.Context, c node.Command) (node.Result, error) {
	n.mu.Lock()
	here := n.here
	n.mu.Unlock()
	if here == nil {
		return node.Result{}, errors.New(n.Name + " does not run in this process")
	}
	return here.Execute(ctx, c)
}

// Kill ends a node of a child process with SIGKILL.
func (n *Node) Kill() error {
	n.mu.Lock()
	process := n.process
	n.process, n.fed = nil, ""
	n.mu.Unlock()
	if process == nil {
		return errors.New(n.Name + " does not run in a child process")
	}
	return process.kill()
}

// Log is what the node wrote.
func (n *Node) Log() string {
	data, err := os.ReadFile(filepath.Join(n.dir, n.Name+".log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// URL is where clients reach the node.
func (n *Node) URL() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.baseURL
}

// Federation is the address where the node answers other servers, "" while it is down.
func (n *Node) Federation() string { return n.target() }

func (n *Node) target() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fed
}

// Client is nobody's yet.
func (n *Node) Client() *lab.Client {
	c := lab.NewClient(n.URL())
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clients = append(n.clients, c)
	return c
}

// Register makes a user.
func (n *Node) Register(name string) (*lab.Client, error) {
	ctx, cancel := n.site.Context()
	defer cancel()
	c := n.Client()
	return c, c.Register(ctx, name, "password of "+name)
}

// MustRegister makes a user or ends the test.
func (n *Node) MustRegister(name string) *lab.Client {
	n.site.t.Helper()
	c, err := n.Register(name)
	if err != nil {
		n.site.t.Fatal(err)
	}
	return c
}

func (n *Node) closeClients() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.clients {
		c.Close()
	}
}
