package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"knock/cmd/knock/node"
	"knock/config"
	"knock/federationapi/client"
)

// Node is a running node of this process.
type Node struct {
	*node.Node
	Config *config.Config
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// Start opens a node and serves. watch is node.Options.Watch.
func Start(ctx context.Context, settings []string, lookup client.Lookup, log io.Writer, watch func(http.Handler) http.Handler) (*Node, error) {
	cfg, err := Configure(settings)
	if err != nil {
		return nil, err
	}
	inner, err := node.New(ctx, cfg, node.Options{Version: "lab", LogTo: log, Lookup: lookup, Watch: watch})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.ServerName, err)
	}
	n := &Node{Node: inner, Config: cfg, done: make(chan struct{})}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n.cancel = cancel
	go n.run(background)
	return n, nil
}

func (n *Node) run(ctx context.Context) {
	defer close(n.done)
	n.err = n.Run(ctx)
}

// Stop ends the node as an interrupt does and returns what it ended with.
func (n *Node) Stop() error {
	n.cancel()
	<-n.done
	return n.err
}

// Done is closed when the node ended.
func (n *Node) Done() <-chan struct{} { return n.done }

// FederationPort is where it answers other servers.
func (n *Node) FederationPort() (uint16, error) { return Port(n.FederationAddress()) }

// Port is the number at the end of an address.
func Port(address string) (uint16, error) {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	return uint16(port), err
}

// Poll asks fn again and again until it has nothing to complain about, and returns its last complaint when ctx ends.
func Poll(ctx context.Context, fn func() error) error {
	for {
		err := fn()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}
