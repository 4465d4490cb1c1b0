package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// grace is how long accepted requests may take to finish when the node stops.
const grace = 10 * time.Second

// server is one listening address.
type server struct {
	name string
	l    net.Listener
	http *http.Server
}

// listen opens an address, so that its port is known before anything is served.
func listen(name, address string, cert *certificate) (*server, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listeners.%s: %w", name, err)
	}
	if cert != nil {
		l = tls.NewListener(l, cert.config())
	}
	return &server{name: name, l: l}, nil
}

// serve answers requests until ctx ends, then finishes what was accepted. Requests get a context of their own: it
// ends when the grace is over, not before.
func (s *server) serve(ctx context.Context, h http.Handler, entry *logrus.Entry) error {
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s.http = &http.Server{
		Handler: h, ErrorLog: log.New(debugWriter{entry}, "", 0),
		BaseContext:       func(net.Listener) context.Context { return requests },
		ReadHeaderTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
	}
	var stopping sync.WaitGroup
	stopped := make(chan struct{})
	stopping.Go(func() {
		select {
		case <-ctx.Done():
			s.stop(cancel)
		case <-stopped:
		}
	})
	err := s.http.Serve(s.l)
	close(stopped)
	stopping.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("listener %s: %w", s.name, err)
}

func (s *server) stop(cancel context.CancelFunc) {
	ctx, done := context.WithTimeout(context.Background(), grace)
	defer done()
	if s.http.Shutdown(ctx) != nil {
		cancel()
		_ = s.http.Close() // what is left had its time
	}
}

// public says whether others than this machine can reach the address.
func (s *server) public() bool {
	tcp, ok := s.l.Addr().(*net.TCPAddr)
	return ok && !tcp.IP.IsLoopback()
}

// debugWriter takes the http package's complaints about clients: scans and broken TLS.
type debugWriter struct{ log *logrus.Entry }

var _ io.Writer = debugWriter{}

func (w debugWriter) Write(p []byte) (int, error) {
	w.log.Debug(string(p[:max(len(p)-1, 0)]))
	return len(p), nil
}
