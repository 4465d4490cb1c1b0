package interop

import (
	"context"
	"embed"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"knock/cmd/knock/demo/lab"
)

//go:embed synapse/*.yaml
var templates embed.FS

// synapse is a Synapse with its data in a directory of the test. It can be stopped and started again.
type synapse struct {
	t      *testing.T
	python string
	dir    string
	gate   *gate
	url    string // for clients
	cmd    *exec.Cmd
	ended  chan error // gets how it ended
}

// startSynapse runs one until the test ends.
func startSynapse(t *testing.T, c certificates) *synapse {
	t.Helper()
	s := &synapse{t: t, python: python(t), dir: t.TempDir(), gate: newGate(t)}
	clients := freeAddress(t)
	s.url = "http://" + clients
	settings := map[string]string{"Name": s.gate.name, "Dir": s.dir, "Clients": port(t, clients), "Servers": port(t, s.gate.target),
		"CA": c.ca, "Cert": c.cert, "Key": c.key}
	s.configure(settings)
	s.run("--generate-keys")
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("the end of Synapse's log:\n%s", s.log())
		}
	})
	s.start()
	return s
}

// configure fills in the settings.
func (s *synapse) configure(settings map[string]string) {
	s.t.Helper()
	all, err := template.ParseFS(templates, "synapse/*.yaml")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, one := range all.Templates() {
		f, err := os.Create(s.file(one.Name()))
		if err == nil {
			err = errors.Join(one.Execute(f, settings), f.Close())
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func port(t *testing.T, address string) string {
	t.Helper()
	_, p, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (s *synapse) file(name string) string { return filepath.Join(s.dir, name) }

func (s *synapse) command(args ...string) *exec.Cmd {
	cmd := exec.Command(s.python, append([]string{"-m", "synapse.app.homeserver", "-c", s.file("homeserver.yaml")}, args...)...)
	cmd.Dir = s.dir
	return cmd
}

func (s *synapse) run(args ...string) {
	s.t.Helper()
	if out, err := s.command(args...).CombinedOutput(); err != nil {
		s.t.Fatalf("synapse %v: %v\n%s", args, err, out)
	}
}

// start returns when Synapse answers.
func (s *synapse) start() {
	s.t.Helper()
	out, err := os.OpenFile(s.file("output"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	s.cmd = s.command()
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s.ended = make(chan error, 1)
	go func() {
		s.ended <- s.cmd.Wait()
		cancel()
	}()
	c := lab.NewClient(s.url)
	defer c.Close()
	if err := lab.Poll(ctx, func() error { return c.Call(ctx, http.MethodGet, "/_matrix/client/versions", nil, nil) }); err != nil {
		s.t.Fatalf("Synapse does not answer: %v\n%s", err, s.log())
	}
}

// stop ends it as an interrupt does.
func (s *synapse) stop() {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-s.ended:
	case <-time.After(time.Minute):
		s.t.Error("Synapse does not end")
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
	s.cmd = nil
}

// log is what tells of mistakes, and the end of the rest.
func (s *synapse) log() string {
	var b strings.Builder
	for _, name := range []string{"output", "homeserver.log"} {
		data, _ := os.ReadFile(s.file(name)) // a file that is not there has nothing to tell
		b.Write(data[max(0, len(data)-16000):])
	}
	return b.String()
}

func (s *synapse) side() server { return server{"synapse", s.gate, s.url, s.restart} }

// restart stops it while something happens.
func (s *synapse) restart(during func()) {
	s.t.Helper()
	s.stop()
	during()
	s.start()
}
