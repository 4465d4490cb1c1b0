package bridges

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"knock/cmd/knock/demo/lab"
	"knock/internal/sqldb"
	"knock/test/cpu"
	"knock/test/hstest"
)

// BenchmarkTransactions sends messages of 500 bytes from 16 senders in 16 rooms of a service until the service has them all:
// as they come, and a backlog, of which the sending is not timed.
func BenchmarkTransactions(b *testing.B) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		for _, backlog := range []bool{false, true} {
			name := d.String() + map[bool]string{false: "/live", true: "/backlog"}[backlog]
			b.Run(name, func(b *testing.B) { benchTransactions(b, d, backlog) })
		}
	}
}

func benchTransactions(b *testing.B, d sqldb.Dialect, backlog bool) {
	_, v, as := start(b, hstest.New(b, d))
	rooms := make([]string, 16)
	for i := range rooms {
		rooms[i], _ = as.as("", "POST", lab.V3("createRoom"), map[string]any{})["room_id"].(string)
	}
	as.say("", rooms[0], "before")
	v.said("before")
	held := make(chan struct{})
	v.behave(func(http.ResponseWriter, string, []byte) bool {
		<-held
		return false
	})
	release := sync.OnceFunc(func() { close(held) })
	defer release()
	if !backlog {
		release()
	}
	txns, _ := v.got()
	b.ResetTimer()
	report := cpu.Meter(b)
	sendAll(as, rooms, b.N)
	if backlog {
		b.ResetTimer()
		report = cpu.Meter(b)
		release()
	}
	v.waits(func() bool { _, messages := v.got(); return messages == b.N+1 })
	report()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "event/s")
	after, _ := v.got()
	b.ReportMetric(float64(b.N)/float64(after-txns), "event/txn")
}

func sendAll(as bot, rooms []string, n int) {
	content := map[string]string{"msgtype": "m.text", "body": strings.Repeat("x", 500)}
	var all sync.WaitGroup
	for w, room := range rooms {
		all.Go(func() {
			for i := w; i < n; i += len(rooms) {
				if err := as.try("", "PUT", lab.V3("rooms", room, "send", "m.room.message", fmt.Sprint(i)), content, nil); err != nil {
					as.t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// got counts the transactions that the service has, and the messages in them.
func (v *service) got() (txns, messages int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range v.events {
		if e.Type == "m.room.message" {
			messages++
		}
	}
	return len(v.txns), messages
}

// waits waits for a transaction after which done is true.
func (v *service) waits(done func() bool) {
	v.t.Helper()
	deadline := time.After(hstest.Patience)
	for {
		v.mu.Lock()
		changed := v.changed
		v.mu.Unlock()
		if done() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			txns, messages := v.got()
			v.t.Fatalf("the service has waited in vain; it has %d messages in %d transactions", messages, txns)
		}
	}
}
