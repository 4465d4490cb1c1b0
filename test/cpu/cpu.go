// Package cpu owns the measuring of the processor time of benchmarks. On a machine that does other work too it says more
// than the clock.
package cpu

import (
	"syscall"
	"testing"
	"time"
)

// Meter starts to measure. What it returns ends that and reports, as cpu-µs/op, the time in user and in system mode that
// all goroutines took for an operation; with the timer stopped they are measured too.
func Meter(b *testing.B) (report func()) {
	began := spent(b)
	return func() {
		b.ReportMetric(float64((spent(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
	}
}

func spent(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
