package federationapi_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"knock/internal/sqldb"
	"knock/roomserver"
)

// pair are two nodes that share rooms.
func pair(b *testing.B, rooms int) (from, to *node, ids []string) {
	w := newWorld(b, sqldb.SQLite)
	from, to = w.add("a.test"), w.add("b.test")
	for range rooms {
		room := from.create(roomserver.CreateRequest{Preset: "public_chat"})
		must(b, to.join(room, to.user("bob"), from))
		to.sees(room, from.say(room, from.user("alice"), "warm"))
		ids = append(ids, room)
	}
	return from, to, ids
}

// BenchmarkLatency is from the call of Send on one node to the published event on the other.
func BenchmarkLatency(b *testing.B) {
	from, to, ids := pair(b, 1)
	sub := to.hub.Subscribe(1024)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		from.say(ids[0], from.user("alice"), "hello over there, how is the weather")
		<-sub.C
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkThroughput sends in 8 rooms at once and waits until all is on the other node.
func BenchmarkThroughput(b *testing.B) {
	from, to, ids := pair(b, 8)
	sub := to.hub.Subscribe(1 << 20)
	const each = 250
	for b.Loop() {
		began := time.Now()
		var wg sync.WaitGroup
		for _, room := range ids {
			for sender := range 2 {
				wg.Go(func() {
					for i := range each / 2 {
						from.say(room, from.user("alice"), fmt.Sprint("message ", sender, i))
					}
				})
			}
		}
		wg.Wait()
		sent := time.Since(began)
		for range each * len(ids) {
			<-sub.C
		}
		all := float64(each * len(ids))
		b.ReportMetric(all/sent.Seconds(), "sent/s")
		b.ReportMetric(all/time.Since(began).Seconds(), "arrived/s")
	}
}
