// Command withpg runs a command with a PostgreSQL server for tests:
//
//	go run ./test/withpg -- go test ./...
//
// When KNOCK_TEST_POSTGRES is set the command just runs. Otherwise withpg makes a throw-away cluster on a free loopback
// port, without fsync, sets the variable, and removes the cluster afterwards. Without PostgreSQL on the machine the
// command runs all the same and withpg says what was left out. The exit code is the command's.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

const env = "KNOCK_TEST_POSTGRES"

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: withpg -- COMMAND [ARGUMENT…]")
		os.Exit(2)
	}
	os.Exit(run(args))
}

func run(args []string) int {
	if os.Getenv(env) != "" {
		return command(args)
	}
	c, err := startCluster()
	if errors.Is(err, errNoPostgres) {
		code := command(args)
		fmt.Fprintln(os.Stderr, "\nwithpg: PostgreSQL tests were NOT run: initdb was not found in PATH or /usr/lib/postgresql/*/bin.\n"+
			"        Install it (Debian, Ubuntu: apt install postgresql; Fedora: dnf install postgresql-server;\n"+
			"        Alpine: apk add postgresql; macOS: brew install postgresql) or set "+env+".")
		return code
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "withpg:", err)
		return 1
	}
	defer c.stop()
	os.Setenv(env, c.url())
	return command(args)
}

// command runs the command and returns its exit code. Interrupts reach the command, which shares our terminal; withpg
// itself stays to clean up.
func command(args []string) int {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "withpg:", err)
		return 127
	}
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				if s == syscall.SIGTERM { // an interrupt from the terminal has reached it already
					_ = cmd.Process.Signal(s)
				}
			case <-done:
				return
			}
		}
	}()
	err := cmd.Wait()
	close(done)
	var exit *exec.ExitError
	if errors.As(err, &exit) && !exit.Exited() {
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
	}
	return cmd.ProcessState.ExitCode()
}
