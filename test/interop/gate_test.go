package interop

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"knock/test/ports"
)

// gate is where a server answers other servers: server names here are addresses with a port, so nothing has to be
// looked up. It can be shut.
type gate struct {
	name   string // the server's name
	target string // its listener
	l      net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	shut  bool
	conns map[net.Conn]struct{}
}

func newGate(t *testing.T) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{name: l.Addr().String(), target: freeAddress(t), l: l, conns: map[net.Conn]struct{}{}}
	g.wg.Go(g.accept)
	t.Cleanup(func() {
		l.Close()
		g.set(true)
		g.wg.Wait()
	})
	return g
}

// freeAddress is on loopback, and nobody listens there.
func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := ports.Free()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

func (g *gate) accept() {
	for {
		c, err := g.l.Accept()
		if err != nil {
			return
		}
		g.wg.Go(func() { g.carry(c) })
	}
}

// carry copies both ways until either side ends or the gate shuts.
func (g *gate) carry(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", g.target)
	if err != nil {
		return
	}
	defer out.Close()
	if !g.add(in, out) {
		return
	}
	defer g.remove(in, out)
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(in, out) // however it ends, it ended
		in.Close()
	})
	_, _ = io.Copy(out, in)
	out.Close()
	back.Wait()
}

func (g *gate) add(conns ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range conns {
		if !g.shut {
			g.conns[c] = struct{}{}
		}
	}
	return !g.shut
}

func (g *gate) remove(conns ...net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range conns {
		delete(g.conns, c)
	}
}

// set shuts or opens the gate; connections through a shut gate end.
func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	for c := range g.conns {
		if shut {
			c.Close()
		}
	}
}
