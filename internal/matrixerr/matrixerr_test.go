package matrixerr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"
)

func TestFrom(t *testing.T) {
	forbidden := Forbidden("no")
	for name, c := range map[string]struct {
		err  error
		code string
		http int
	}{
		"itself":   {forbidden, "M_FORBIDDEN", 403},
		"wrapped":  {fmt.Errorf("join: %w", forbidden), "M_FORBIDDEN", 403},
		"unknown":  {io.ErrUnexpectedEOF, "M_UNKNOWN", 500},
		"deadline": {fmt.Errorf("x: %w", context.DeadlineExceeded), "M_UNKNOWN", 504},
	} {
		t.Run(name, func(t *testing.T) {
			e := From(c.err)
			if e.Code != c.code || e.HTTP != c.http {
				t.Fatalf("got %d %s, want %d %s", e.HTTP, e.Code, c.http, c.code)
			}
			if !errors.Is(e, c.err) {
				t.Fatalf("the cause is lost: %v", e)
			}
		})
	}
	if From(nil) != nil {
		t.Fatal("From(nil) is not nil")
	}
}

func TestCauseStaysInside(t *testing.T) {
	e := Internal(errors.New("pq: password is hunter2")).WithField("extra", 1)
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(b), `{"errcode":"M_UNKNOWN","error":"Internal error","extra":1}`; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}

func TestFields(t *testing.T) {
	for want, e := range map[string]*Error{
		`{"errcode":"M_UNKNOWN_TOKEN","error":"gone","soft_logout":true}`:                                                            UnknownToken("gone", true),
		`{"errcode":"M_UNKNOWN_TOKEN","error":"gone"}`:                                                                               UnknownToken("gone", false),
		`{"errcode":"M_LIMIT_EXCEEDED","error":"Too many requests; wait before you try again","retry_after_ms":1500}`:                LimitExceeded(1500 * time.Millisecond),
		`{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","error":"Your server does not support this room's version, 9","room_version":"9"}`: IncompatibleRoomVersion("9"),
	} {
		b, err := json.Marshal(e)
		if err != nil || string(b) != want {
			t.Errorf("got %s (%v), want %s", b, err, want)
		}
	}
}

func TestWithCopies(t *testing.T) {
	base := Forbidden("no")
	if base.With(io.EOF); base.Cause != nil {
		t.Fatal("With changed the original")
	}
	if !errors.Is(base.With(io.EOF), base) {
		t.Fatal("a copy is not the same error")
	}
}
