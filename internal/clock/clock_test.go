package clock

import (
	"testing"
	"time"
)

func TestManual(t *testing.T) {
	m := NewManual(time.UnixMilli(1000))
	c := Clock(m.Now)
	m.Advance(time.Second)
	if got := c.Millis(); got != 2000 {
		t.Fatalf("%d ms", got)
	}
}
