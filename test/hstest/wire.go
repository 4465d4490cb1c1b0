package hstest

import (
	"net"
	"sync"
	"sync/atomic"

	"knock/cmd/knock/demo/lab"
)

type pair struct{ from, to string }

// wire carries connections from one node to another. Its port stays while the node behind it comes and goes.
type wire struct {
	port   uint16
	l      net.Listener
	target func() string // where the other node listens; "" while it is down
	wg     sync.WaitGroup

	weather atomic.Pointer[Weather] // nil is fair

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]struct{}
}

func newWire(target func() string) (*wire, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port, err := lab.Port(l.Addr().String())
	if err != nil {
		return nil, err
	}
	w := &wire{port: port, l: l, target: target, conns: map[net.Conn]struct{}{}}
	w.wg.Go(w.accept)
	return w, nil
}

func (w *wire) accept() {
	for {
		c, err := w.l.Accept()
		if err != nil {
			return
		}
		w.wg.Go(func() { w.carry(c) })
	}
}

// carry copies both ways until either side or the wire ends.
func (w *wire) carry(in net.Conn) {
	defer in.Close()
	address := w.target()
	if address == "" || w.refuses() || !w.add(in) {
		return
	}
	defer w.remove(in)
	out, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer out.Close()
	if !w.add(out) {
		return
	}
	defer w.remove(out)
	var back sync.WaitGroup
	back.Go(func() {
		w.pump(in, out)
		in.Close()
	})
	w.pump(out, in)
	out.Close()
	back.Wait()
}

// add takes a connection unless the wire is cut.
func (w *wire) add(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.cut {
		w.conns[c] = struct{}{}
	}
	return !w.cut
}

func (w *wire) remove(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}

func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	for c := range w.conns {
		if cut {
			c.Close()
		}
	}
}

func (w *wire) close() {
	w.l.Close()
	w.set(true)
	w.wg.Wait()
}
