package e2ee_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"knock/internal/e2ee"
	"knock/internal/sqldb"
)

// messages are the contents that a sync would bring.
func (r *rig) messages(user, id string, from int64, limit int) []string {
	r.t.Helper()
	out := []string{}
	r.must(r.db.Read(r.t.Context(), func(tx *sqldb.Tx) error {
		events, _, _, err := r.ToDevice(tx, user, id, from, r.hub.Published(), limit)
		for _, e := range events {
			var event struct {
				Content json.RawMessage
				Sender  string
				Type    string
			}
			r.must(json.Unmarshal(e, &event))
			out = append(out, event.Type+string(event.Content))
		}
		return err
	}))
	return out
}

func content(n int) json.RawMessage { return json.RawMessage(fmt.Sprintf(`{"n":%d}`, n)) }

func TestToDevice(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a, b := r.user("a", "A1", "A2"), r.user("b", "B1")
		send := func(txn string, m e2ee.Messages) {
			t.Helper()
			r.must(r.SendToDevice(t.Context(), b, "B1", "m.t", txn, m))
		}
		before := r.hub.LastUser(a)
		send("1", e2ee.Messages{a: {"A1": content(1), "GONE": content(1)}, "@nobody:hs": {"*": content(1)}})
		send("1", e2ee.Messages{a: {"A1": content(1)}})
		send("2", e2ee.Messages{a: {"*": content(2), "A2": content(22)}})
		if r.hub.LastUser(a) <= before {
			t.Error("nobody was woken")
		}
		if got := r.messages(a, "A1", 0, 10); !cmp.Equal(got, []string{`m.t{"n":1}`, `m.t{"n":2}`}) {
			t.Error(got)
		}
		if got := r.messages(a, "A2", 0, 10); !cmp.Equal(got, []string{`m.t{"n":22}`}) {
			t.Error(got)
		}
		if got := r.messages(a, "A1", 0, 1); len(got) != 1 {
			t.Error(got)
		}
		r.AckToDevice(a, "A1", r.hub.Published())
		if got := r.messages(a, "A1", 0, 10); len(got) != 0 {
			t.Error("delivered twice:", got)
		}
		send("3", e2ee.Messages{a: {"A1": content(3)}})
		if got := r.messages(a, "A1", 0, 10); !cmp.Equal(got, []string{`m.t{"n":3}`}) {
			t.Error(got)
		}
		r.refused(r.SendToDevice(t.Context(), b, "B1", "m.t", "4", e2ee.Messages{a: {"A1": json.RawMessage(`{"x":"` + strings.Repeat("x", 64<<10) + `"}`)}}), "M_TOO_LARGE")
		r.refused(r.SendToDevice(t.Context(), b, "B1", "m.t", "5", e2ee.Messages{a: {"A1": json.RawMessage(`7`)}}), "M_BAD_JSON")
	})
}

func TestPages(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a, b := r.user("a", "A1"), r.user("b", "B1")
		for i := range 5 {
			r.must(r.SendToDevice(t.Context(), b, "B1", "m.t", fmt.Sprint(i), e2ee.Messages{a: {"A1": content(i)}}))
		}
		var got []string
		from, pages := int64(0), 0
		for more := true; more; pages++ {
			r.must(r.db.Read(t.Context(), func(tx *sqldb.Tx) (err error) {
				var events []json.RawMessage
				events, from, more, err = r.ToDevice(tx, a, "A1", from, r.hub.Published(), 2)
				for _, e := range events {
					got = append(got, string(e))
				}
				return err
			}))
			r.AckToDevice(a, "A1", from)
		}
		if pages != 3 || len(got) != 5 || from != r.hub.Published() {
			t.Error(pages, got, from)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		cancel()
		r.must(<-done) // deletes what was acknowledged on the way out
		fresh := openSame(r)
		if got := fresh.messages(a, "A1", 0, 10); len(got) != 0 {
			t.Error("still there:", got)
		}
	})
}

// openSame is another service on the same database, without what the first has in memory.
func openSame(r *rig) *rig {
	other := *r
	other.Service = e2ee.New(e2ee.Options{DB: r.db, Hub: r.hub, Rooms: r.rooms, Accounts: r.accounts, ServerName: here})
	return &other
}

// TestConcurrentSends sends the same transactions from many goroutines: each arrives once, in a sender's order.
func TestConcurrentSends(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a, b := r.user("a", "A1"), r.user("b", "B1")
		var wg sync.WaitGroup
		for sender := range 4 {
			for range 2 {
				wg.Go(func() {
					for n := range 10 {
						if err := r.SendToDevice(t.Context(), b, fmt.Sprint("S", sender), "m.t", fmt.Sprint(n), e2ee.Messages{a: {"A1": content(100*sender + n)}}); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		wg.Wait()
		got := r.messages(a, "A1", 0, 1000)
		if len(got) != 40 {
			t.Fatal(len(got), "messages")
		}
		last := map[int]int{}
		for _, m := range got {
			var n int
			_, _ = fmt.Sscanf(m, `m.t{"n":%d}`, &n)
			if prev, ok := last[n/100]; ok && n <= prev {
				t.Error("out of order:", got)
			}
			last[n/100] = n
		}
	})
}

func TestRemoteMessages(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a, b := r.user("a", "A1", "A2"), r.user("b", "B1")
		large := json.RawMessage(`{"x":"` + strings.Repeat("x", 40<<10) + `"}`)
		r.must(r.SendToDevice(t.Context(), b, "B1", "m.t", "1", e2ee.Messages{"@u:far": {"D1": large, "D2": large}, "@v:far": {"*": content(1)}, a: {"A1": content(2)}}))
		r.must(r.SendToDevice(t.Context(), b, "B1", "m.t", "2", e2ee.Messages{"@u:far": {"D1": content(3)}}))
		r.must(r.SendToDevice(t.Context(), b, "B1", "m.t", "2", e2ee.Messages{"@u:far": {"D1": content(3)}}))
		edus := r.pending("far", 100)
		if len(edus) != 3 || len(r.outbox.woken) != 2 {
			t.Fatal(len(edus), r.outbox.woken)
		}
		if one := r.pending("far", 1); len(one) != 2 {
			t.Error("a position was cut in two:", len(one))
		}
		r.must(r.Delivered(t.Context(), "far", edus[0].Pos))
		if rest := r.pending("far", 100); len(rest) != 1 {
			t.Error(rest)
		}
		r.must(r.ForgetMessages(t.Context(), "far"))
		if rest := r.pending("far", 100); len(rest) != 0 {
			t.Error(rest)
		}

		in := json.RawMessage(`{"sender":"@u:far","type":"m.t","message_id":"x","messages":{"@a:hs":{"*":{"n":9}},"@u:far":{"D":{}}}}`)
		r.must(r.ReceiveToDevice(t.Context(), "far", in))
		r.must(r.ReceiveToDevice(t.Context(), "far", in))
		r.refused(r.ReceiveToDevice(t.Context(), "other", in), "M_FORBIDDEN")
		r.refused(r.ReceiveToDevice(t.Context(), "far", json.RawMessage(`{"sender":7}`)), "M_BAD_JSON")
		if got := r.messages(a, "A2", 0, 10); !cmp.Equal(got, []string{`m.t{"n":9}`}) {
			t.Error(got)
		}
	})
}

func TestPruneTransactions(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a := r.user("a", "A1")
		now := time.UnixMilli(1_000_000_000_000)
		s := e2ee.New(e2ee.Options{DB: r.db, Hub: r.hub, Rooms: r.rooms, Accounts: r.accounts, ServerName: here, Clock: func() time.Time { return now }})
		send := func() {
			r.must(s.SendToDevice(t.Context(), a, "A1", "m.t", "1", e2ee.Messages{a: {"A1": content(1)}}))
		}
		send()
		r.must(s.Prune(t.Context()))
		send()
		if got := r.messages(a, "A1", 0, 10); len(got) != 1 {
			t.Error(got)
		}
		now = now.Add(30 * 24 * time.Hour)
		r.must(s.Prune(t.Context()))
		send()
		if got := openSame(r).messages(a, "A1", 0, 10); len(got) != 2 {
			t.Error("the transaction was never forgotten:", got)
		}
	})
}

func TestDehydrated(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a, b := r.user("a", "A1"), r.user("b", "B1")
		k := newKey()
		put := func(id string) error {
			return r.PutDehydrated(t.Context(), a, e2ee.NewDehydrated{DeviceID: id, Data: json.RawMessage(`{"algorithm":"x","pickle":"y"}`),
				Keys: e2ee.Upload{DeviceKeys: deviceKeys(k, a, id), OneTime: oneTimes(k, a, id, 0, 2)}})
		}
		_, _, err := r.Dehydrated(t.Context(), a)
		r.refused(err, "M_NOT_FOUND")
		r.must(put("first"))
		r.must(put("second"))
		r.must(put("second"))
		r.refused(put("A1"), "M_INVALID_PARAM")
		r.refused(r.PutDehydrated(t.Context(), a, e2ee.NewDehydrated{DeviceID: "x"}), "M_MISSING_PARAM")
		id, data, err := r.Dehydrated(t.Context(), a)
		if err != nil || id != "second" || !strings.Contains(string(data), "pickle") {
			t.Error(id, data, err)
		}
		if got := r.devices(b, a); !cmp.Equal(got, []string{"second"}) {
			t.Error(got)
		}
		if got := r.claim(a, "second"); got == "" {
			t.Error("no one-time key")
		}
		for i := range 3 {
			r.must(r.SendToDevice(t.Context(), b, "B1", "m.t", fmt.Sprint(i), e2ee.Messages{a: {"*": content(i)}}))
		}
		events, next, err := r.DehydratedEvents(t.Context(), a, "second", 0)
		if err != nil || len(events) != 3 {
			t.Error(events, err)
		}
		events, _, err = r.DehydratedEvents(t.Context(), a, "second", next)
		if err != nil || len(events) != 0 {
			t.Error(events, err)
		}
		_, _, err = r.DehydratedEvents(t.Context(), a, "A1", 0)
		r.refused(err, "M_FORBIDDEN")
		id, err = r.DeleteDehydrated(t.Context(), a)
		if err != nil || id != "second" || len(r.devices(b, a)) != 0 {
			t.Error(id, err)
		}
		r.must(put("third"))
		r.must(r.accounts.DeleteDevices(t.Context(), a, "third"))
		_, _, err = r.Dehydrated(t.Context(), a)
		r.refused(err, "M_NOT_FOUND")
	})
}
