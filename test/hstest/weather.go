package hstest

import (
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// Weather is how bad a wire is. The chances, from 0 to 1, are those of each new connection or of each piece of data, of
// which a request or an answer is one or a few.
type Weather struct {
	Refuse  float64       // a connection is not made
	Lose    float64       // a piece does not arrive, and its connection ends: of an answer, when all is done that was asked for
	Silence float64       // nothing arrives any more, and the connection ends only a while later
	Delay   time.Duration // each piece is late by up to so much
}

// silent is for how long a connection may be silent before it ends.
const silent = time.Second

// Weather sets how bad the wires between two nodes are, both ways.
func (s *Site) Weather(a, b string, w Weather) {
	s.t.Helper()
	for _, wire := range s.between(a, b) {
		wire.weather.Store(&w)
	}
}

func (w *wire) refuses() bool {
	now := w.weather.Load()
	return now != nil && rand.Float64() < now.Refuse
}

// pump copies until either side, or the weather, ends it.
func (w *wire) pump(to, from net.Conn) {
	piece := make([]byte, 32<<10)
	for {
		n, err := from.Read(piece)
		if n > 0 && !w.passes(from) {
			return
		}
		if _, werr := to.Write(piece[:n]); err != nil || werr != nil {
			return
		}
	}
}

// passes lets a piece of data through, perhaps late, unless the weather ends its connection.
func (w *wire) passes(from net.Conn) bool {
	now := w.weather.Load()
	if now == nil {
		return true
	}
	if now.Delay > 0 {
		time.Sleep(rand.N(now.Delay))
	}
	switch chance := rand.Float64(); {
	case chance < now.Lose:
		return false
	case chance < now.Lose+now.Silence:
		_ = from.SetReadDeadline(time.Now().Add(rand.N(silent))) // a connection that is closed is silent too
		_, _ = io.Copy(io.Discard, from)
		return false
	}
	return true
}
