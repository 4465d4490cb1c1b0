package cache

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestEvictsLeastRecentlyUsed(t *testing.T) {
	c := New(Options[string, int]{Entries: 2})
	c.Put("a", 1)
	c.Put("b", 2)
	c.Get("a")
	c.Put("c", 3)
	if _, ok := c.Get("b"); ok {
		t.Error("b was used longest ago and is still there")
	}
	if v, ok := c.Get("a"); !ok || v != 1 {
		t.Error("a is gone")
	}
	c.Delete("a")
	if _, ok := c.Get("a"); ok || c.Len() != 1 {
		t.Error("a was deleted")
	}
}

func TestBytes(t *testing.T) {
	c := New(Options[int, string]{Entries: 100, Bytes: 10, Cost: func(_ int, s string) int64 { return int64(len(s)) }})
	c.Put(1, "12345")
	c.Put(2, "12345")
	c.Put(1, "1234567") // replaces: 12 bytes, so 2 goes
	if _, ok := c.Get(2); ok || c.Len() != 1 {
		t.Error("over its bytes")
	}
	c.Put(3, strings.Repeat("x", 11))
	if c.Len() != 0 {
		t.Error("a value larger than the cache is kept")
	}
}

func TestDeleteFunc(t *testing.T) {
	c := New(Options[int, int]{Entries: 100, Shards: 4})
	for i := range 50 {
		c.Put(i, i)
	}
	c.DeleteFunc(func(k, _ int) bool { return k%2 == 0 })
	if c.Len() != 25 {
		t.Errorf("%d left", c.Len())
	}
}

func TestSharedMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	a := New(Options[int, int]{Name: "a", Registerer: reg})
	b := New(Options[int, int]{Name: "b", Registerer: reg})
	a.Get(1)
	b.Put(1, 1)
	b.Get(1)
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || len(families[0].Metric) != 4 {
		t.Fatal(families, err)
	}
}

func TestConcurrent(t *testing.T) {
	c := New(Options[string, int]{Entries: 64, Shards: 4})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				k := fmt.Sprint((g * i) % 200)
				c.Put(k, i)
				c.Get(k)
			}
		})
	}
	wg.Wait()
	if c.Len() > 64 {
		t.Errorf("%d entries", c.Len())
	}
}
