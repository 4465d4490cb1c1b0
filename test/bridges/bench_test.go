package bridges

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

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
	before := len(v.txns)
	b.ResetTimer()
	report := cpu.Meter(b)
	sendAll(as, rooms, b.N)
	if backlog {
		b.ResetTimer()
		report = cpu.Meter(b)
		release()
	}
	var txns, messages int
	v.mu.Until(b, func() bool {
		txns, messages = v.count()
		return messages == b.N+1
	}, func() string { return fmt.Sprintf("%d messages came in %d transactions", messages, txns) })
	report()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "event/s")
	b.ReportMetric(float64(b.N)/float64(txns-before), "event/txn")
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

// count is the number of transactions that the service has, and of the messages in them. It is called under the lock.
func (v *service) count() (txns, messages int) {
	for _, e := range v.events {
		if e.Type == "m.room.message" {
			messages++
		}
	}
	return len(v.txns), messages
}
