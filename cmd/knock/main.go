// Command knock is a Matrix homeserver: one process that serves clients, other servers and files.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"knock/cmd/knock/node"
	"knock/config"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "knock: "+strings.ReplaceAll(err.Error(), "\n", "\nknock: "))
		stop()
		os.Exit(1)
	}
}

// program is what all commands share.
type program struct {
	file string
	set  []string
}

// defaultFile is the configuration that is read when it exists and no other is named.
const defaultFile = "knock.yaml"

func newRoot() *cobra.Command {
	p := &program{}
	root := &cobra.Command{Use: "knock", Short: "Knock is a Matrix homeserver", SilenceErrors: true, SilenceUsage: true}
	flags := root.PersistentFlags()
	flags.StringVarP(&p.file, "config", "c", "", "configuration file (default: $KNOCK_CONFIG, else "+defaultFile+" if it exists)")
	flags.StringArrayVar(&p.set, "set", nil, "override a setting, such as --set registration.mode=open (repeatable)")
	root.AddCommand(p.serve(), p.demo(), p.config(), p.keys(), p.user(), p.token(), p.search(), p.doctor(), versionCommand())
	return root
}

// load reads the configuration as the flags, the environment and the file say.
func (p *program) load() (*config.Config, error) {
	return config.Load(config.Source{File: p.path(), Env: os.Environ(), Set: p.set})
}

func (p *program) path() string {
	if p.file != "" {
		return p.file
	}
	if file := os.Getenv("KNOCK_CONFIG"); file != "" {
		return file
	}
	if _, err := os.Stat(defaultFile); err == nil {
		return defaultFile
	}
	return ""
}

func (p *program) options() node.Options { return node.Options{Version: version()} }

// version is the module's version, or the commit that was built.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(len(s.Value), 12)]
		}
	}
	return "devel"
}

func versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), "knock "+version()) }}
}
