package client

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// dead is a connection that can go silent without ending, as when the way to the other side is gone.
type dead struct {
	net.Conn
	silent *atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (d *dead) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	if d.silent.Load() {
		<-d.closed
		return 0, io.ErrClosedPipe
	}
	return n, err
}

func (d *dead) Write(p []byte) (int, error) {
	if d.silent.Load() {
		return len(p), nil
	}
	return d.Conn.Write(p)
}

func (d *dead) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.Conn.Close()
}

// TestSilentConnections has a connection that carries nothing any more be given up, however long an answer may take, and
// the next call make a new one.
func TestSilentConnections(t *testing.T) {
	r := newRig(t)
	r.o.Silence, r.o.Timeout = 50*time.Millisecond, time.Hour
	r.host("a.example", "8.8.8.1")
	r.route(t, "8.8.8.1:8448", hostOf, "a.example")
	var silent *atomic.Bool // of the newest connection
	r.dialer.dial = func(ctx context.Context, d *net.Dialer, addr netip.AddrPort) (net.Conn, error) {
		conn, err := r.net.dial(ctx, d, addr)
		if err != nil {
			return nil, err
		}
		silent = &atomic.Bool{}
		return &dead{Conn: conn, silent: silent, closed: make(chan struct{})}, nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ask := func() error {
		_, _, err := r.Version(ctx, "a.example")
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	silent.Store(true)
	if err := ask(); err != nil && kindOf(err) != KindBroken {
		t.Fatalf("over the silent connection: %v", err)
	}
	r.Alive("a.example")
	if err := ask(); err != nil {
		t.Errorf("over a new connection: %v", err)
	}
}
