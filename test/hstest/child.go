package hstest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"knock/cmd/knock/demo/lab"
)

// childEnv carries a childSpec to a child process.
const childEnv = "KNOCK_TEST_NODE"

// childSpec is what a child process is to run.
type childSpec struct {
	Settings []string
	Ports    map[string]uint16 // of the wires to other nodes
}

// child is a whole process: a node that ends when its standard input does.
func child(spec string) int {
	if err := serveChild(spec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func serveChild(text string) error {
	var spec childSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	names := &lab.Names{}
	for name, port := range spec.Ports {
		names.Set(name, port)
	}
	n, err := lab.Start(context.Background(), spec.Settings, names, os.Stderr, nil)
	if err != nil {
		return err
	}
	fmt.Println("serving", "http://"+n.ClientAddress(), n.FederationAddress())
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent closes it or is gone
	return n.Stop()
}

// process is a child process of a test.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// StartProcess serves in a child process, which can be killed.
func (n *Node) StartProcess() error {
	spec, err := json.Marshal(childSpec{n.settings, n.ports()})
	if err != nil {
		return err
	}
	log, err := n.openLog()
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(spec))
	cmd.Stderr = log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{cmd, stdin}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	words := strings.Fields(line)
	if err != nil || len(words) != 3 {
		return errors.Join(fmt.Errorf("%s did not start: %q\n%s", n.Name, line, n.Log()), err, p.kill())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.process = p
	return n.serving(words[1], words[2])
}

func (n *Node) ports() map[string]uint16 {
	ports := map[string]uint16{}
	for p, w := range n.site.wires {
		if p.from == n.Name {
			ports[p.to] = w.port
		}
	}
	return ports
}

func (p *process) stop() error {
	p.stdin.Close()
	return p.cmd.Wait()
}

func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	var exit *exec.ExitError
	if err := p.cmd.Wait(); !errors.As(err, &exit) {
		return fmt.Errorf("a killed process ended with %v", err)
	}
	return nil
}

func itoa(port uint16) string { return strconv.FormatUint(uint64(port), 10) }

// PeakMemory is the largest resident memory, in bytes, of a node that runs in a child process; Linux only.
func (n *Node) PeakMemory() (int64, error) {
	n.mu.Lock()
	p := n.process
	n.mu.Unlock()
	if p == nil {
		return 0, errors.New(n.Name + " does not run in a child process")
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == "VmHWM:" {
			kib, err := strconv.ParseInt(words[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the system does not tell the peak of memory")
}
