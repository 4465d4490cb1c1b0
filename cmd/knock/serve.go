package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/oklog/run"
	"github.com/spf13/cobra"

	"knock/cmd/knock/node"
	"knock/config"
)

func (p *program) serve() *cobra.Command {
	var trial bool
	c := &cobra.Command{Use: "serve", Short: "Run the node until it is interrupted", Args: cobra.NoArgs,
		Long: "Run the node until SIGINT or SIGTERM. SIGHUP re-reads log levels and certificates."}
	c.Flags().BoolVar(&trial, "trial", false, "print how to make the first user and connect a client; with --config, write the file if it is missing")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if trial {
			if err := p.writeFirstConfig(); err != nil {
				return err
			}
		}
		cfg, err := p.load()
		if err != nil {
			return err
		}
		n, err := node.New(c.Context(), cfg, p.options())
		if err != nil {
			return err
		}
		if trial {
			p.greet(c.OutOrStdout(), n, cfg)
		}
		return p.run(c.Context(), n)
	}
	return c
}

// run is the run group: the node and the signals that it heeds.
func (p *program) run(ctx context.Context, n *node.Node) error {
	var g run.Group
	ctx, cancel := context.WithCancel(ctx)
	g.Add(func() error { return n.Run(ctx) }, func(error) { cancel() })
	g.Add(func() error { return p.reloadOnHangup(ctx, n) }, func(error) { cancel() })
	return g.Run()
}

func (p *program) reloadOnHangup(ctx context.Context, n *node.Node) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			cfg, err := p.load()
			n.Reload(cfg, err)
		}
	}
}

// writeFirstConfig makes the configuration file of a local trial.
func (p *program) writeFirstConfig() error {
	if p.file == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(p.file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(p.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if os.IsExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, "# A trial node on this machine. `knock config example` prints every setting.\nserver_name: localhost\ndata_dir: .\n")
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

func (p *program) greet(w io.Writer, n *node.Node, cfg *config.Config) {
	flags := ""
	if path := p.path(); path != "" {
		flags = " --config " + path
	}
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, exe); err == nil && filepath.IsLocal(rel) {
			exe = "./" + rel
		}
	}
	fmt.Fprintf(w, "\nKnock serves %s.\n\n  first user:      %s%s user add alice --admin   (in another terminal)\n"+
		"  homeserver URL:  %s   (type it into the client)\n\n", cfg.ServerName, exe, flags, n.ClientURL())
}
