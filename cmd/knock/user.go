package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"knock/cmd/knock/node"
)

func (p *program) user() *cobra.Command {
	c := &cobra.Command{Use: "user", Short: "Make and change accounts"}
	c.AddCommand(p.userAdd(), p.userPasswd(), p.userDeactivate(),
		p.userStanding("lock", "Let nobody use an account until it is unlocked; its sessions stay", "is locked"),
		p.userStanding("unlock", "Let a locked account be used again", "is unlocked"),
		p.userStanding("renew", "Let an account be good for another account_validity.period", "is renewed"),
		p.userStanding("suspend", "Let an account read, leave rooms and redact its own messages, and not much more", "is suspended"),
		p.userStanding("unsuspend", "End a suspension", "is not suspended"),
		p.userConnections(), p.userConnect(), p.userDisconnect())
	return c
}

func (p *program) userAdd() *cobra.Command {
	var admin, stdin bool
	c := &cobra.Command{Use: "add <name>", Short: "Make an account; prints a random password unless one is given", Args: cobra.ExactArgs(1)}
	c.Flags().BoolVar(&admin, "admin", false, "may use the admin endpoints")
	passwordFlag(c, &stdin)
	c.RunE = func(c *cobra.Command, args []string) error {
		password, made, err := choosePassword(c.InOrStdin(), stdin)
		if err != nil {
			return err
		}
		user, err := p.send(c, node.Command{Do: "user add", User: args[0], Password: password, Admin: admin})
		if err != nil {
			return err
		}
		printLogin(c.OutOrStdout(), user, password, made)
		return nil
	}
	return c
}

func (p *program) userPasswd() *cobra.Command {
	var stdin bool
	c := &cobra.Command{Use: "passwd <name>", Short: "Set a new password and log out all devices", Args: cobra.ExactArgs(1)}
	passwordFlag(c, &stdin)
	c.RunE = func(c *cobra.Command, args []string) error {
		password, made, err := choosePassword(c.InOrStdin(), stdin)
		if err != nil {
			return err
		}
		user, err := p.send(c, node.Command{Do: "user passwd", User: args[0], Password: password})
		if err != nil {
			return err
		}
		printLogin(c.OutOrStdout(), user, password, made)
		return nil
	}
	return c
}

func (p *program) userDeactivate() *cobra.Command {
	var erase bool
	c := &cobra.Command{Use: "deactivate <name>", Short: "Close an account for good, on a running node: its name cannot be used again", Args: cobra.ExactArgs(1)}
	c.Flags().BoolVar(&erase, "erase", false, "also hide what the user wrote from those who join later")
	c.RunE = func(c *cobra.Command, args []string) error {
		user, err := p.send(c, node.Command{Do: "user deactivate", User: args[0], Erase: erase})
		if err == nil {
			fmt.Fprintln(c.OutOrStdout(), user+" is deactivated")
		}
		return err
	}
	return c
}

func (p *program) userStanding(do, short, done string) *cobra.Command {
	return &cobra.Command{Use: do + " <name>", Short: short, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		user, err := p.send(c, node.Command{Do: "user " + do, User: args[0]})
		if err == nil {
			fmt.Fprintln(c.OutOrStdout(), user+" "+done)
		}
		return err
	}}
}

func (p *program) userConnections() *cobra.Command {
	return &cobra.Command{Use: "connections <name>", Short: "Print who a user is at identity providers: issuer and subject", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			list, err := p.send(c, node.Command{Do: "user connections", User: args[0]})
			if err == nil && list != "" {
				fmt.Fprintln(c.OutOrStdout(), list)
			}
			return err
		}}
}

func (p *program) userConnect() *cobra.Command {
	return &cobra.Command{Use: "connect <name> <provider> <subject>", Short: "Let a person at an identity provider sign in to an account", Args: cobra.ExactArgs(3),
		RunE: func(c *cobra.Command, args []string) error {
			user, err := p.send(c, node.Command{Do: "user connect", User: args[0], Provider: args[1], Subject: args[2]})
			if err == nil {
				fmt.Fprintln(c.OutOrStdout(), user+" is connected")
			}
			return err
		}}
}

func (p *program) userDisconnect() *cobra.Command {
	return &cobra.Command{Use: "disconnect <name> <provider>", Short: "Let nobody at an identity provider sign in to an account; its sessions stay", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			user, err := p.send(c, node.Command{Do: "user disconnect", User: args[0], Provider: args[1]})
			if err == nil {
				fmt.Fprintln(c.OutOrStdout(), user+" is disconnected")
			}
			return err
		}}
}

func (p *program) token() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Registration tokens, for registration.mode token"}
	var uses int64
	var lifetime time.Duration
	create := &cobra.Command{Use: "create [token]", Short: "Make a registration token and print it", Args: cobra.MaximumNArgs(1)}
	create.Flags().Int64Var(&uses, "uses", 0, "how many accounts may be made with it (0: any number)")
	create.Flags().DurationVar(&lifetime, "lifetime", 0, "how long it is good, such as 48h (0: for ever)")
	create.RunE = func(c *cobra.Command, args []string) error {
		command := node.Command{Do: "token create", Token: strings.Join(args, ""), Lifetime: lifetime}
		if uses > 0 {
			command.Uses = &uses
		}
		token, err := p.send(c, command)
		if err == nil {
			fmt.Fprintln(c.OutOrStdout(), token)
		}
		return err
	}
	c.AddCommand(create)
	return c
}

func (p *program) search() *cobra.Command {
	c := &cobra.Command{Use: "search", Short: "The index of messages"}
	c.AddCommand(&cobra.Command{Use: "rebuild", Short: "Throw the search index away; the node makes it anew while it runs", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := p.send(c, node.Command{Do: "search rebuild"})
			if err == nil {
				fmt.Fprintln(c.OutOrStdout(), "The search index is removed and will be made anew")
			}
			return err
		}})
	return c
}

// send does a command on the running node, or on one that is opened for it.
func (p *program) send(c *cobra.Command, command node.Command) (string, error) {
	cfg, err := p.load()
	if err != nil {
		return "", err
	}
	cfg.Logging.Level = "warn"
	result, err := node.Send(c.Context(), cfg, p.options(), command)
	return result.Made, err
}

func passwordFlag(c *cobra.Command, stdin *bool) {
	c.Flags().BoolVar(stdin, "password-stdin", false, "read the password from standard input (arguments are visible to other users of the machine)")
}

// choosePassword reads the first line of r, or makes a password.
func choosePassword(r io.Reader, read bool) (password string, made bool, err error) {
	if !read {
		return strings.ToLower(rand.Text()[:20]), true, nil
	}
	line, err := bufio.NewReader(io.LimitReader(r, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", false, err
	}
	password = strings.TrimRight(line, "\r\n")
	if password == "" {
		return "", false, errors.New("no password on standard input")
	}
	return password, false, nil
}

func printLogin(w io.Writer, user, password string, made bool) {
	fmt.Fprintln(w, "user:     "+user)
	if made {
		fmt.Fprintln(w, "password: "+password)
	}
}
