package federationapi_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"knock/federationapi/client"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/test/cpu"
)

// measured is a network whose nodes bound nobody, and whose answers nobody looks over.
func measured(b *testing.B) *world {
	w := newWorld(b, sqldb.SQLite)
	w.measured = true
	return w
}

// pair are two nodes that share rooms.
func pair(b *testing.B, rooms int) (from, to *node, ids []string) {
	w := measured(b)
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

// BenchmarkInbound takes transactions of another server with new messages of one room, as they come in from HTTP: the
// request's signature, each event's hash and signature, the auth rules, one commit.
func BenchmarkInbound(b *testing.B) {
	for _, pdus := range []int{1, 50} {
		b.Run(fmt.Sprintf("pdus=%d", pdus), func(b *testing.B) {
			from, to, ids := pair(b, 1)
			requests := from.transactions(to, ids[0], b.N, pdus)
			b.ResetTimer()
			report := cpu.Meter(b)
			for _, r := range requests {
				rec := httptest.NewRecorder()
				(*to.door.Load()).ServeHTTP(rec, r)
				if rec.Code != http.StatusOK || strings.Contains(rec.Body.String(), `"error"`) {
					b.Fatal(rec.Code, rec.Body)
				}
			}
			report()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "transactions/s")
			b.ReportMetric(float64(b.N*pdus)/b.Elapsed().Seconds(), "pdus/s")
		})
	}
}

// BenchmarkInboundOfMany takes transactions of 50 messages of eight servers at once, each in a room of its own.
func BenchmarkInboundOfMany(b *testing.B) {
	const servers, pdus = 8, 50
	w := measured(b)
	to := w.add("a.test")
	var all [][]*http.Request
	for i := range servers {
		from := w.add(fmt.Sprintf("b%d.test", i))
		room := from.create(roomserver.CreateRequest{Preset: "public_chat"})
		must(b, to.join(room, to.user("alice"), from))
		from.sees(room, to.say(room, to.user("alice"), "warm"))
		all = append(all, from.transactions(to, room, b.N, pdus))
	}
	b.ResetTimer()
	report := cpu.Meter(b)
	var wg sync.WaitGroup
	for _, requests := range all {
		wg.Go(func() {
			for _, r := range requests {
				rec := httptest.NewRecorder()
				if (*to.door.Load()).ServeHTTP(rec, r); rec.Code != http.StatusOK {
					b.Error(rec.Code, rec.Body)
				}
			}
		})
	}
	wg.Wait()
	report()
	b.ReportMetric(float64(b.N*servers*pdus)/b.Elapsed().Seconds(), "pdus/s")
}

// transactions makes n signed requests with messages of bob's in a room that the other server has not got, and stops
// the node.
func (n *node) transactions(to *node, room string, count, pdus int) []*http.Request {
	to.down.Store(true) // to nobody but who has the requests
	defer to.down.Store(false)
	after := n.hub.Published()
	for range count * pdus {
		n.say(room, n.user("alice"), "hello over there, how is the weather")
	}
	events, _, err := n.rooms.Timeline(n.t.Context(), room, after, n.hub.Published(), count*pdus)
	must(n.t, err)
	n.stop()
	requests := make([]*http.Request, 0, count)
	for i := range count {
		t := client.Transaction{Origin: n.name, TS: time.Now().UnixMilli()}
		for _, e := range events[i*pdus : (i+1)*pdus] {
			t.PDUs = append(t.PDUs, e.Event.JSON())
		}
		uri := fmt.Sprintf("/_matrix/federation/v1/send/%d", i)
		body, authorization, err := client.Sign(n.signer, http.MethodPut, uri, to.name, t)
		must(n.t, err)
		r := httptest.NewRequest(http.MethodPut, uri, bytes.NewReader(body))
		r.Header.Set("Authorization", authorization)
		requests = append(requests, r)
	}
	return requests
}

// BenchmarkOutbound sends messages of one room to servers that take everything at once: built, signed and committed,
// then sent to each over TLS.
func BenchmarkOutbound(b *testing.B) {
	for _, servers := range []int{1, 50} {
		b.Run(fmt.Sprintf("servers=%d", servers), func(b *testing.B) {
			w := measured(b)
			from := w.add("a.test")
			room := from.create(roomserver.CreateRequest{Preset: "public_chat"})
			var arrived atomic.Int64
			for i := range servers {
				to := w.add(fmt.Sprintf("b%d.test", i))
				must(b, to.join(room, to.user("bob"), from))
				to.stop()
				to.take(&arrived)
			}
			const senders, each = 8, 50
			want := int64(0)
			report := cpu.Meter(b)
			for b.Loop() {
				var wg sync.WaitGroup
				for range senders {
					wg.Go(func() {
						for range each {
							from.say(room, from.user("alice"), "hello over there, how is the weather")
						}
					})
				}
				wg.Wait()
				want += int64(senders * each * servers)
				eventually(b, "all arrived", func() bool { return arrived.Load() >= want })
			}
			report()
			b.ReportMetric(float64(want)/float64(servers)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(want)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

// take has the node, which is stopped, answer transactions without looking at them, and count their messages.
func (n *node) take(arrived *atomic.Int64) {
	var door http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		arrived.Add(int64(bytes.Count(body, []byte(`"type":"m.room.message"`))))
		_, _ = io.WriteString(w, `{"pdus":{}}`)
	})
	n.door.Store(&door)
}
