package rooms

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver"
	"knock/test/cpu"
)

func benchNode(b *testing.B) (n *node, db *sqldb.DB, room string) {
	db = sqldbtest.Open(b, sqldb.SQLite)
	n = newNode(b, db)
	return n, db, n.create("alice", `{"preset":"public_chat"}`)
}

func (n *node) fill(room string, events int) {
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := range events / 16 {
				_, err := n.s.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: "@alice:hs", Type: "m.room.message",
					Content: json.RawMessage(fmt.Sprintf(`{"body":"The quick brown fox jumps over the lazy dog %d %d","msgtype":"m.text"}`, w, i))})
				if err != nil {
					n.t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkMessagesBack pages back by 100 through 20,000 messages, with all of
// them in memory and with none.
func BenchmarkMessagesBack(b *testing.B) {
	n, db, room := benchNode(b)
	n.fill(room, 20_000)
	b.Run("warm", func(b *testing.B) { pageBack(b, func() *node { return n }, room) })
	b.Run("cold", func(b *testing.B) { pageBack(b, func() *node { return newNode(b, db) }, room) })
}

func pageBack(b *testing.B, n func() *node, room string) {
	events := 0
	defer cpu.Meter(b)()
	for b.Loop() {
		b.StopTimer()
		n := n()
		b.StartTimer()
		for from := ""; ; {
			_, data := n.raw("alice", "GET", in(room, "messages?dir=b&limit=100"+from), "")
			events += bytes.Count(data, []byte(`"event_id"`))
			end := gjson.GetBytes(data, "end").Str
			if end == "" {
				break
			}
			from = "&from=" + url.QueryEscape(end)
		}
	}
	b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkMembers lists a room of 10,000.
func BenchmarkMembers(b *testing.B) {
	n, _, room := benchNode(b)
	for i := range 10_000 {
		if _, err := n.s.Join(context.Background(), roomserver.JoinRequest{RoomIDOrAlias: room, User: fmt.Sprintf("@user%d:hs", i)}); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for b.Loop() {
		if status, data := n.raw("alice", "GET", in(room, "members"), ""); status != 200 || len(data) < 1_000_000 {
			b.Fatal(status, len(data))
		}
	}
}
