// Package clock owns the time: parts take a Clock, so that tests can set it.
package clock

import (
	"sync/atomic"
	"time"
)

// Clock tells the time.
type Clock func() time.Time

// System is the machine's clock.
func System() time.Time { return time.Now() }

// Millis is the time in milliseconds since 1970, the unit of all stored times and of the protocol.
func (c Clock) Millis() int64 { return c().UnixMilli() }

// Manual is a clock for tests. It stands still until it is moved and is safe for concurrent use.
type Manual struct{ nanos atomic.Int64 }

// NewManual starts a manual clock.
func NewManual(at time.Time) *Manual {
	m := &Manual{}
	m.nanos.Store(at.UnixNano())
	return m
}

// Now is the Clock.
func (m *Manual) Now() time.Time { return time.Unix(0, m.nanos.Load()) }

// Advance moves the clock.
func (m *Manual) Advance(d time.Duration) { m.nanos.Add(int64(d)) }
