package sync

import (
	"context"
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/sirupsen/logrus"

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
		room := g.create(roomserver.CreateRequest{Creator: user, Name: fmt.Sprint("Room ", i)})
		g.join(room, members...)
		for n := range 12 {
			g.say(room, members[n%9], "The quick brown fox jumps over the lazy dog")
		}
		ids = append(ids, room)
	}
	return g, user, ids
}

const benchFilter = `{"room":{"timeline":{"limit":10},"state":{"lazy_load_members":true}}}`

func (g *rig) ask(b *testing.B, user, since string) string {
	req := httptest.NewRequest("GET", "/_matrix/client/v3/sync?org.matrix.msc4222.use_state_after=true&filter="+
		"%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A10%7D%2C%22state%22%3A%7B%22lazy_load_members%22%3Atrue%7D%7D%7D&since="+since, nil)
	v, err := g.sync.sync(context.Background(), httpx.NewRequest(req, nil, httpx.Caller{UserID: user, DeviceID: "D"}))
	if err != nil {
		b.Fatal(err)
	}
	return string(v.(httpx.Raw))
}

// BenchmarkRooms is a user in 200 rooms and in 1,000: a first sync with all in memory and with nothing, one after a new
// event, and one that is woken for nothing.
func BenchmarkRooms(b *testing.B) {
	for _, n := range []int{200, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchRooms(b, n) })
	}
}

func benchRooms(b *testing.B, n int) {
	url := sqldbtest.URL(b, sqldb.SQLite)
	g, user, ids := benchRig(b, url, n)
	again := func(name, since string) {
		b.Run(name, func(b *testing.B) {
			defer cpu.Meter(b)()
			for b.Loop() {
				g.ask(b, user, since)
			}
		})
	}
	again("initial", "")
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			fresh := newRig(b, url)
			b.StartTimer()
			fresh.ask(b, user, "")
		}
	})
	since := next(g.get(user, "filter", benchFilter))
	again("idle", since)
	g.say(ids[7], user, "new")
	again("event", since)
}
