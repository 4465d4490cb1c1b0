package main

import (
	"github.com/spf13/cobra"

	"knock/cmd/knock/demo"
)

func (p *program) demo() *cobra.Command {
	o := demo.Options{}
	c := &cobra.Command{Use: "demo", Short: "Run two nodes on this machine that share a room, and show each step", Args: cobra.NoArgs,
		Long: "Run two nodes on this machine, platform.localhost and merchant.localhost, with TLS between them and data in a\n" +
			"temporary directory. They share a room, messages and files; one goes away and catches up. Then both keep running."}
	c.Flags().BoolVar(&o.Exit, "exit", false, "end after the last step")
	c.RunE = func(c *cobra.Command, _ []string) error {
		o.Out = c.OutOrStdout()
		return demo.Run(c.Context(), o)
	}
	return c
}
