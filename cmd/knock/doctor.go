package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"knock/cmd/knock/node"
)

func (p *program) doctor() *cobra.Command {
	c := &cobra.Command{Use: "doctor", Short: "Find out what is wrong, and say what to do about it"}
	var repair string
	federation := &cobra.Command{Use: "federation [server name]", Args: cobra.MaximumNArgs(1),
		Short: "Examine the way to another server, its keys, and the rooms shared with it; without a name, the way that others have to this one"}
	federation.Flags().StringVar(&repair, "repair", "", "id of a room in which to fetch, from that server, what is missing here")
	federation.RunE = func(c *cobra.Command, args []string) error {
		server := strings.Join(args, "")
		if repair != "" && server == "" {
			return errors.New("name the server from which to repair the room")
		}
		cfg, err := p.load()
		if err != nil {
			return err
		}
		cfg.Logging.Level = "error"
		result, err := node.Send(c.Context(), cfg, p.options(), node.Command{Do: "doctor federation", Server: server, Room: repair})
		if err != nil {
			return err
		}
		return printChecks(c.OutOrStdout(), result.Checks)
	}
	c.AddCommand(federation)
	return c
}

// printChecks writes findings; it fails when one of them is a failure.
func printChecks(w io.Writer, checks []node.Check) error {
	failed := 0
	for _, c := range checks {
		fmt.Fprintf(w, "%-8s %s: %s\n", c.Result, c.Name, c.Text)
		if c.Advice != "" {
			fmt.Fprintf(w, "         → %s\n", c.Advice)
		}
		if c.Result == "failed" {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("checks that failed: %d", failed)
	}
	return nil
}
