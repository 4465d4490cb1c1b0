package demo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestDemo(t *testing.T) {
	var out bytes.Buffer
	if err := Run(t.Context(), Options{Out: &out, Exit: true}); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	if n := strings.Count(out.String(), "\nok "); n != len((&demo{}).steps())-1 { // the first has no line before it
		t.Errorf("%d steps passed:\n%s", n+1, &out)
	}
}

// TestFailure sees that a failing step is told and is the error.
func TestFailure(t *testing.T) {
	var out bytes.Buffer
	t.Setenv("TMPDIR", t.TempDir()) // a failed demonstration leaves its data
	cause := errors.New("no such luck")
	err := (&demo{}).play(t.Context(), &out, step{"try", func(context.Context) error { return cause }})
	if !errors.Is(err, cause) || !strings.HasPrefix(out.String(), "FAILED") {
		t.Errorf("%v, %q", err, &out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, Options{Out: io.Discard, Exit: true}); err == nil {
		t.Error("an ended demonstration passed")
	}
}
