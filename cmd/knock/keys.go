package main

import (
	"encoding/base64"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"knock/cmd/knock/node"
)

func (p *program) keys() *cobra.Command {
	c := &cobra.Command{Use: "keys", Short: "Show or rotate the key that signs for this server"}
	c.AddCommand(
		&cobra.Command{Use: "show", Short: "Print the ids and public halves of the signing keys", Args: cobra.NoArgs, RunE: p.showKeys},
		&cobra.Command{Use: "rotate", Short: "Make a new signing key and keep the public half of the old one", Args: cobra.NoArgs, RunE: p.rotateKeys},
	)
	return c
}

func (p *program) showKeys(c *cobra.Command, _ []string) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	k, err := node.LoadKeys(cfg.KeyFile())
	if err != nil {
		return err
	}
	b64 := base64.RawStdEncoding
	fmt.Fprintf(c.OutOrStdout(), "%s %s\n", k.ID, b64.EncodeToString(k.Public()))
	for _, o := range k.Old {
		fmt.Fprintf(c.OutOrStdout(), "%s %s expired %s\n", o.ID, b64.EncodeToString(o.Public), o.Expired.UTC().Format(time.RFC3339))
	}
	return nil
}

func (p *program) rotateKeys(c *cobra.Command, _ []string) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	k, err := node.LoadKeys(cfg.KeyFile())
	if err != nil {
		return err
	}
	next, err := k.Rotate(time.Now())
	if err != nil {
		return err
	}
	if err := next.Save(cfg.KeyFile()); err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "%s replaces %s in %s; a running node takes it at its next start\n", next.ID, k.ID, cfg.KeyFile())
	return nil
}
