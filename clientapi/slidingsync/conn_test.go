package slidingsync

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"knock/internal/sqldb"
	"knock/roomserver"
)

var countRows = sqldb.Register("sliding.testCount", `SELECT count(*) FROM sliding_connections WHERE user_id = $1`)

func (g *rig) rows(user string) (n int64) {
	g.t.Helper()
	must(g.t, g.db.Read(context.Background(), func(tx *sqldb.Tx) error { return tx.QueryRow(countRows, user).Scan(&n) }))
	return n
}

func TestGenerations(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a := g.user("a")
		ids := []string{g.create(roomserver.CreateRequest{Creator: a}), g.create(roomserver.CreateRequest{Creator: a})}
		first := g.ask(a, window(0, 0, 1))
		second := g.more(a, window(0, 1, 1), first)
		expect(t, "rows", g.rows(a), 2)
		lost := g.more(a, window(0, 1, 1), first) // the answer was lost
		expect(t, "again", part(lost, ids[0], "initial").Raw, "true")
		expect(t, "rows", g.rows(a), 2)
		code, _ := g.try(a, window(0, 1, 1), "pos", second.Get("pos").Str)
		expect(t, "the one that was lost", code, 400)
		g.restart()
		g.say(ids[0], a, "x")
		res := g.more(a, window(0, 1, 1), lost)
		expect(t, "after a restart", words(part(res, ids[0], "timeline"))+part(res, ids[0], "initial").Raw, "x")
		for i := range 5 {
			g.say(ids[1], a, fmt.Sprint(i))
			res = g.more(a, window(0, 1, 1), res)
			expect(t, "no new state for new events", strings.Split(res.Get("pos").Str, "_")[1], strings.Split(lost.Get("pos").Str, "_")[1])
		}
		g.restart()
		res = g.more(a, window(0, 1, 1), first)
		expect(t, "the older generation", part(res, ids[0], "initial").Raw+words(part(res, ids[1], "timeline")), "true4")
		g.ask(a, window(0, 1, 1))
		expect(t, "a new start", g.rows(a), 1)
	})
}

func TestConnections(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a := g.user("a")
		id := g.create(roomserver.CreateRequest{Creator: a})
		conn := func(name string) string {
			return fmt.Sprintf(`{"conn_id":%q,"txn_id":"t","lists":{"x":{"timeline_limit":1}}}`, name)
		}
		first := g.ask(a+"/D", conn("one"))
		expect(t, "txn_id", first.Get("txn_id"), "t")
		g.ask(a+"/D", conn("two"))
		expect(t, "another connection is not touched", len(g.more(a+"/D", conn("one"), first).Get("rooms").Map()), 0)
		code, _ := g.try(a+"/D", conn("two"), "pos", first.Get("pos").Str)
		expect(t, "another connection's pos", code, 400)
		for i := range 2 * maxStates {
			g.ask(a+"/D", conn(fmt.Sprint("many", i)))
		}
		expect(t, "bounded", g.rows(a), maxStates)
		must(t, g.db.Do(t.Context(), &sqldb.Op{Name: "test", Write: func(tx *sqldb.Tx, pos int64) error {
			_, err := g.sync.DevicesDeleted(tx, pos, a, []string{"D"})
			return err
		}}))
		expect(t, "device gone", g.rows(a), 0)
		g.ask(a+"/E", conn(""))
		g.sync.o.Clock = func() time.Time { return time.Now().Add(2 * expireIn) }
		must(t, g.sync.expire(t.Context()))
		expect(t, "expired", g.rows(a), 0)
		_ = id
	})
}

// TestWait has a request wait until something happens, and be superseded.
func TestWait(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a := g.user("a")
		id := g.create(roomserver.CreateRequest{Creator: a})
		pos := g.ask(a, window(0, 1, 1)).Get("pos").Str
		wait := func() (int, string) {
			req := httptest.NewRequest(http.MethodPost, "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=60000&pos="+pos, strings.NewReader(window(0, 1, 1)))
			req.Header.Set("Authorization", "Bearer "+a)
			rec := httptest.NewRecorder()
			g.router.ServeHTTP(rec, req)
			return rec.Code, rec.Body.String()
		}
		var group sync.WaitGroup
		codes := make(chan int, 2)
		for range 2 {
			group.Go(func() {
				code, _ := wait()
				codes <- code
			})
		}
		expect(t, "the older request", <-codes, 400) // only the newer one waits now
		g.say(id, a, "x")
		expect(t, "the newer request", <-codes, 200)
		group.Wait()
		_, body := wait()
		if !strings.Contains(body, `"num_live":1`) {
			t.Errorf("no event: %s", body)
		}
	})
}

// TestIdle has no database: a connection without news needs none.
func TestIdle(t *testing.T) {
	each(t, func(g *rig) {
		a, b := g.user("a"), g.user("b")
		id := g.create(roomserver.CreateRequest{Creator: a})
		g.join(id, b)
		g.keys = &fakeKeys{}
		g.restart()
		body := func(since string) string {
			return fmt.Sprintf(`{"lists":{"x":{"timeline_limit":1,"ranges":[[0,9]],"filters":{"not_room_types":["m.space"]}}},"extensions":{"typing":{"enabled":true},
				"receipts":{"enabled":true},"account_data":{"enabled":true},"e2ee":{"enabled":true},"to_device":{"enabled":true,"since":%q}}}`, since)
		}
		res := g.ask(a, body(""))
		must(g.t, g.db.Close())
		g.typing.Set(id, b, true, time.Minute)
		for range 3 {
			res = g.more(a, body(res.Get("extensions.to_device.next_batch").Str), res)
		}
	})
}

func TestPosition(t *testing.T) {
	each(t, func(g *rig) {
		a := g.user("a")
		pos, ok := g.sync.Position(g.ask(a, `{}`).Get("pos").Str)
		expect(g.t, "position", fmt.Sprint(pos, ok), fmt.Sprint(g.hub.Published(), true))
		_, ok = g.sync.Position("s1_0_0_x_y")
		expect(g.t, "another token", ok, false)
	})
}
