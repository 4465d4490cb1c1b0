// Package demo owns the demonstration: two companies' nodes on this machine, one room, and proof that it is the same
// room on both, before, during and after one of them is away.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"knock/cmd/knock/demo/lab"
)

// Options configure the demonstration.
type Options struct {
	Out io.Writer
	// Exit ends after the last step; otherwise both nodes serve until the context ends.
	Exit bool
}

// stepTime is how long one step may take before it has failed.
const stepTime = 20 * time.Second

// demo is what its steps share.
type demo struct {
	dir, room string
	lab       *lab.Lab
	names     lab.Names
	platform  site
	merchant  site
}

// site is one company: its node and a user on it.
type site struct {
	name     string
	settings []string
	log      *os.File
	node     *lab.Node // nil while it is down
	user     *lab.Client
}

type step struct {
	what string
	do   func(context.Context) error
}

// Run plays all steps. Its error is that of the first step that failed; the nodes' logs are kept then.
func Run(ctx context.Context, o Options) (err error) {
	dir, err := os.MkdirTemp("", "knock-demo-")
	if err != nil {
		return err
	}
	d := &demo{dir: dir, platform: site{name: "platform.localhost"}, merchant: site{name: "merchant.localhost"}}
	defer func() { err = d.end(err) }()
	started := time.Now()
	for _, s := range d.steps() {
		if err := d.play(ctx, o.Out, s); err != nil {
			return err
		}
	}
	fmt.Fprintf(o.Out, "\nAll steps passed in %.1f s.\n", time.Since(started).Seconds())
	if o.Exit {
		return nil
	}
	d.greet(o.Out)
	return d.wait(ctx)
}

func (d *demo) play(ctx context.Context, out io.Writer, s step) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	begun := time.Now()
	err := s.do(ctx)
	verdict := "ok    "
	if err != nil {
		verdict = "FAILED"
	}
	fmt.Fprintf(out, "%s %6d ms  %s\n", verdict, time.Since(begun).Milliseconds(), s.what)
	if err != nil {
		return fmt.Errorf("%s: %w", s.what, err)
	}
	return nil
}

// end stops the nodes and removes what they stored, unless a step failed: then it is left to look at.
func (d *demo) end(err error) error {
	failed := err != nil
	for _, s := range []*site{&d.platform, &d.merchant} {
		err = errors.Join(err, s.stop())
		if s.user != nil {
			s.user.Close()
		}
		if s.log != nil {
			err = errors.Join(err, s.log.Close())
		}
	}
	if failed {
		return fmt.Errorf("%w\nthe nodes' logs and data are left in %s", err, d.dir)
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}

// wait serves until ctx ends or a node does.
func (d *demo) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-d.platform.node.Done():
	case <-d.merchant.node.Done():
	}
	return errors.New("a node ended by itself")
}

func (d *demo) greet(out io.Writer) {
	fmt.Fprintf(out, "\nBoth nodes keep running; Ctrl-C ends them and removes their data. Open a client on each and go on talking:\n\n")
	for _, s := range []site{d.platform, d.merchant} {
		fmt.Fprintf(out, "  %-22s homeserver URL %s   user %s   password %s\n", s.name, s.user.BaseURL, s.user.UserID, s.user.Password)
	}
	fmt.Fprintf(out, "\n  logs: %s\n", filepath.Join(d.dir, "*.log"))
}

// start serves, on the same ports as before when it is not the first time.
func (s *site) start(ctx context.Context, names *lab.Names) (err error) {
	if s.node, err = lab.Start(ctx, s.settings, names, s.log, nil); err != nil {
		return err
	}
	port, err := s.node.FederationPort()
	if err != nil {
		return err
	}
	names.Set(s.name, port)
	clients, err := lab.Port(s.node.ClientAddress())
	s.settings = append(s.settings, fmt.Sprintf("listeners.client.address=localhost:%d", clients),
		fmt.Sprintf("listeners.federation.address=127.0.0.1:%d", port))
	return err
}

func (s *site) stop() error {
	if s.node == nil {
		return nil
	}
	n := s.node
	s.node = nil
	return n.Stop()
}
