package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"knock/test/ports"
)

var errNoPostgres = errors.New("PostgreSQL is not installed")

// cluster is a throw-away PostgreSQL server.
type cluster struct {
	dir  string
	port int
	cred *syscall.Credential // whom the server runs as; nil for ourselves
	cmd  *exec.Cmd
	done chan struct{} // closed when the server has ended
}

func (c *cluster) url() string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", c.port)
}

// binDir is the directory with initdb and postgres, the newest when there are several.
func binDir() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", errNoPostgres
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}

func startCluster() (c *cluster, err error) {
	bin, err := binDir()
	if err != nil {
		return nil, err
	}
	c = &cluster{}
	if c.dir, err = os.MkdirTemp("", "withpg-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	if err = c.dropRoot(); err != nil {
		return c, err
	}
	data := filepath.Join(c.dir, "data")
	initdb := c.as(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return c, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if c.port, err = ports.Free(); err != nil {
		return c, err
	}
	return c, c.serve(bin, data)
}

// dropRoot has the server run as another user: PostgreSQL refuses to run as root.
func (c *cluster) dropRoot() error {
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return err
		}
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	c.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(c.dir, int(uid), int(gid))
}

// as is a command of the server's user, in a process group of its own, so that Ctrl-C does not stop the server before
// the tests.
func (c *cluster) as(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred, Setpgid: true}
	return cmd
}

func (c *cluster) serve(bin, data string) error {
	log, err := os.Create(filepath.Join(c.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	c.cmd = c.as(filepath.Join(bin, "postgres"), "-D", data, "-k", c.dir, "-p", strconv.Itoa(c.port),
		"-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "full_page_writes=off",
		"-c", "synchronous_commit=off", "-c", "max_connections=500", "-c", "shared_buffers=64MB")
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		return err
	}
	c.done = make(chan struct{})
	go func() { _ = c.cmd.Wait(); close(c.done) }()
	return c.ready(log.Name())
}

// ready waits until the server answers: it creates its socket when it accepts connections.
func (c *cluster) ready(log string) error {
	for range 300 {
		select {
		case <-c.done:
			text, _ := os.ReadFile(log)
			return fmt.Errorf("postgres ended: %v\n%s", c.cmd.ProcessState, text)
		case <-time.After(100 * time.Millisecond):
		}
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.port))
		if err == nil {
			conn.Close()
			return nil
		}
	}
	return errors.New("postgres did not start within 30 s")
}

// stop ends the server and removes everything.
func (c *cluster) stop() {
	if c.done != nil {
		_ = c.cmd.Process.Signal(syscall.SIGINT) // fast shutdown
		select {
		case <-c.done:
		case <-time.After(10 * time.Second):
			_ = c.cmd.Process.Kill()
			<-c.done
		}
	}
	_ = os.RemoveAll(c.dir)
}
