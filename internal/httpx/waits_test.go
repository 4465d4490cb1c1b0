package httpx

import (
	"context"
	"testing"
)

func TestLongPollsEndWhenTheNodeStops(t *testing.T) {
	closing, stop := context.WithCancel(context.Background())
	entered := make(chan struct{})
	rt := NewRouter([]Route{{Method: "GET", Path: "/wait", Waits: true, Handler: func(ctx context.Context, _ *Request) (any, error) {
		close(entered)
		<-ctx.Done()
		return nil, nil
	}}}, Hooks{Closing: closing})
	go func() { <-entered; stop() }()
	if w := do(rt, "GET", "/wait", ""); w.Code != 200 {
		t.Fatal(w.Code)
	}
}
