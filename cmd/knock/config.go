package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"knock/config"
)

func (p *program) config() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check the configuration, or print an example"}
	c.AddCommand(
		&cobra.Command{Use: "check", Short: "Name every mistake in the configuration", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				cfg, err := p.load()
				if err != nil {
					return err
				}
				from := p.path()
				if from == "" {
					from = "the defaults (no file)"
				}
				fmt.Fprintf(c.OutOrStdout(), "%s: good, for server_name %s\n", from, cfg.ServerName)
				return nil
			}},
		&cobra.Command{Use: "example", Short: "Print a configuration file with every setting and its default", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				_, err := c.OutOrStdout().Write(config.Example())
				return err
			}},
	)
	return c
}
