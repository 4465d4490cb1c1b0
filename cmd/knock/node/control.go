package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"knock/config"
	"knock/internal/account"
	"knock/internal/matrixerr"
)

// Command is one thing that the command line asks of a node: of the running one through a socket in the data
// directory, which only its owner can open, or of one opened for the purpose.
type Command struct {
	// Do is "user add", "user passwd", "user deactivate", "user lock", "user unlock", "user suspend", "user unsuspend", "user renew",
	// "user connections", "user connect", "user disconnect", "token create", "search rebuild" or "doctor federation".
	Do       string        `json:"do"`
	User     string        `json:"user,omitempty"`
	Password string        `json:"password,omitempty"`
	Admin    bool          `json:"admin,omitempty"`
	Erase    bool          `json:"erase,omitempty"`
	Provider string        `json:"provider,omitempty"` // its id, or its issuer
	Subject  string        `json:"subject,omitempty"`  // of a person there
	Token    string        `json:"token,omitempty"`
	Uses     *int64        `json:"uses,omitempty"`
	Lifetime time.Duration `json:"lifetime,omitempty"`
	Server   string        `json:"server,omitempty"` // of the doctor; "" is this one
	Room     string        `json:"room,omitempty"`   // that it repairs
}

// Result is what a command made, a user id or a registration token, or what it found.
type Result struct {
	Made   string  `json:"made"`
	Checks []Check `json:"checks,omitempty"`
}

// Execute does one command.
func (n *Node) Execute(ctx context.Context, c Command) (Result, error) {
	accounts := n.parts.account
	switch c.Do {
	case "user add":
		login, err := accounts.CreateUser(ctx, account.NewUser{Username: c.User, Password: c.Password, Admin: c.Admin})
		if err != nil {
			return Result{}, err
		}
		return Result{Made: login.UserID}, nil
	case "user passwd":
		user := n.userID(c.User)
		return Result{Made: user}, accounts.SetPassword(ctx, user, c.Password, true, 0)
	case "user deactivate":
		if n.opts.Offline {
			return Result{}, errors.New("start the node first: it takes the user out of rooms")
		}
		user := n.userID(c.User)
		return Result{Made: user}, accounts.Deactivate(ctx, user, c.Erase)
	case "user lock", "user unlock":
		user := n.userID(c.User)
		return Result{Made: user}, accounts.SetLocked(ctx, user, c.Do == "user lock")
	case "user renew":
		user := n.userID(c.User)
		return Result{Made: user}, accounts.Renew(ctx, user)
	case "user suspend", "user unsuspend":
		user := n.userID(c.User)
		return Result{Made: user}, accounts.SetSuspended(ctx, user, c.Do == "user suspend")
	case "user connections", "user connect", "user disconnect":
		return n.connections(ctx, c)
	case "token create":
		t := account.RegistrationToken{Token: c.Token, UsesAllowed: c.Uses}
		if c.Lifetime > 0 {
			t.Expires = time.Now().Add(c.Lifetime)
		}
		token, err := accounts.CreateRegistrationToken(ctx, t)
		return Result{Made: token}, err
	case "doctor federation":
		checks, err := n.examine(ctx, c.Server, c.Room)
		return Result{Checks: checks}, err
	case "search rebuild":
		return Result{}, n.parts.search.Rebuild(ctx)
	}
	return Result{}, matrixerr.Unrecognized(http.StatusNotFound)
}

// userID completes a localpart.
func (n *Node) userID(user string) string {
	if user != "" && user[0] == '@' {
		return user
	}
	return "@" + user + ":" + n.cfg.ServerName
}

func socketPath(cfg *config.Config) string { return filepath.Join(cfg.DataDir, "control.sock") }

// listenForCommands opens the socket. A path that is too long for one leaves the node without.
func (n *Node) listenForCommands() error {
	path := socketPath(n.cfg)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		n.log.WithError(err).Warn("no control socket: stop the node to use the user and token commands")
		return nil
	}
	n.commands = &server{name: "control", l: l}
	return os.Chmod(path, 0o600)
}

func (n *Node) serveCommand(w http.ResponseWriter, r *http.Request) {
	var c Command
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&c)
	var result Result
	if err == nil {
		result, err = n.Execute(r.Context(), c)
	}
	var body any = result
	if err != nil {
		e := matrixerr.From(err)
		w.WriteHeader(e.HTTP)
		body = e
	}
	_ = json.NewEncoder(w).Encode(body) // the command was ended
}

// Send does a command on the node that runs with cfg, or on one opened for it when none runs.
func Send(ctx context.Context, cfg *config.Config, o Options, c Command) (Result, error) {
	result, err := sendToRunning(ctx, cfg, c)
	if !isNotRunning(err) {
		return result, err
	}
	o.Offline = true
	n, err := New(ctx, cfg, o)
	if err != nil {
		return Result{}, err
	}
	result, err = n.Execute(ctx, c)
	return result, errors.Join(err, n.Close())
}

// isNotRunning says that nobody answered on the socket.
func isNotRunning(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func sendToRunning(ctx context.Context, cfg *config.Config, c Command) (result Result, err error) {
	body, err := json.Marshal(c)
	if err != nil {
		return result, err
	}
	var d net.Dialer
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", socketPath(cfg))
	}}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control/", bytes.NewReader(body))
	if err != nil {
		return result, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return result, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return result, err
	}
	if resp.StatusCode != http.StatusOK {
		var e struct{ Errcode, Error string }
		_ = json.Unmarshal(answer, &e) // an answer that is no error object is shown by its status
		return result, fmt.Errorf("%s: %s", e.Errcode, e.Error)
	}
	return result, json.Unmarshal(answer, &result)
}
