package slidingsync

import (
	"bytes"
	"context"
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/tidwall/gjson"

	"knock/internal/httpx"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver"
	"knock/test/cpu"
)

// benchRig is a user in many rooms of ten.
func benchRig(b *testing.B, url string, rooms int) (g *rig, user string, ids []string) {
	b.Helper()
	logrus.SetLevel(logrus.ErrorLevel)
	g = newRig(b, url)
	user = g.user("reader")
	var members []string
	for i := range 9 {
		members = append(members, g.user(fmt.Sprint("m", i)))
	}
	for i := range rooms {
		id := g.create(roomserver.CreateRequest{Creator: user, Name: fmt.Sprint("Room ", i)})
		g.join(id, members...)
		for n := range 3 {
			g.say(id, members[n], "The quick brown fox jumps over the lazy dog")
		}
		ids = append(ids, id)
	}
	return g, user, ids
}

// clientList asks as Element X does for its list of rooms.
func clientList(last int) []byte {
	return fmt.Appendf(nil, `{"conn_id":"room-list","lists":{"all_rooms":{"ranges":[[0,%d]],"timeline_limit":1,
		"filters":{"not_room_types":["m.space"]},"required_state":[["m.room.create",""],["m.room.name",""],["m.room.avatar",""],
		["m.room.encryption",""],["m.room.member","$LAZY"],["m.room.member","$ME"],["m.room.topic",""],["m.room.canonical_alias",""],
		["m.room.power_levels",""],["m.room.join_rules",""],["m.room.history_visibility",""],["m.room.tombstone",""],
		["m.room.pinned_events",""],["org.matrix.msc3401.call.member","*"],["m.space.child","*"],["m.space.parent","*"]]}},
		"extensions":{"account_data":{"enabled":true},"receipts":{"enabled":true},"typing":{"enabled":true}}}`, last)
}

func (g *rig) bench(b *testing.B, user string, body []byte, pos string) string {
	b.Helper()
	req := httptest.NewRequest("POST", "/?timeout=0&pos="+pos, bytes.NewReader(body))
	v, err := g.sync.syncUnstable(context.Background(), httpx.NewRequest(req, nil, httpx.Caller{UserID: user, DeviceID: "D"}))
	if err != nil {
		b.Fatal(err)
	}
	return string(v.(httpx.Raw))
}

func posOf(answer string) string { return gjson.Get(answer, "pos").Str }

func BenchmarkThousandRooms(b *testing.B) {
	url := sqldbtest.URL(b, sqldb.SQLite)
	g, user, ids := benchRig(b, url, 1000)
	for _, n := range []int{20, 1000} {
		b.Run(fmt.Sprint("initial/", n), func(b *testing.B) {
			b.SetBytes(int64(len(g.bench(b, user, clientList(n-1), ""))))
			defer cpu.Meter(b)()
			for b.Loop() {
				g.bench(b, user, clientList(n-1), "")
			}
		})
		b.Run(fmt.Sprint("cold/", n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				fresh := newRig(b, url) // with nothing in memory
				b.StartTimer()
				fresh.bench(b, user, clientList(n-1), "")
			}
		})
	}
	body := clientList(999)
	first := g.bench(b, user, body, "")
	idle := posOf(g.bench(b, user, body, posOf(first)))
	b.Run("idle", func(b *testing.B) {
		defer cpu.Meter(b)()
		for b.Loop() {
			g.bench(b, user, body, idle)
		}
	})
	b.Run("event", func(b *testing.B) {
		pos := idle
		for b.Loop() {
			b.StopTimer()
			g.say(ids[b.N%1000], user, "new")
			b.StartTimer()
			pos = posOf(g.bench(b, user, body, pos))
		}
	})
}
