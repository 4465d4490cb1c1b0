package e2ee_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"knock/internal/account"
	"knock/internal/e2ee"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/test/cpu"
)

// benchEach runs fn on databases with full durability.
func benchEach(b *testing.B, fn func(b *testing.B, r *rig)) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		b.Run(d.String(), func(b *testing.B) {
			fn(b, openRig(b, strings.TrimSuffix(sqldbtest.URL(b, d), "?sync=off")))
		})
	}
}

// parallel runs fn b.N times on many goroutines.
func parallel(b *testing.B, workers int, fn func(worker int, n int64) error) {
	var n atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	defer cpu.Meter(b)()
	for w := range workers {
		wg.Go(func() {
			for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
				if err := fn(w, i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
}

// manyDevices makes devices, all of one user for each hundred.
func (r *rig) manyDevices(n int) (names [][2]string) {
	r.t.Helper()
	for i := range n {
		local := fmt.Sprint("u", i/100)
		if i%100 == 0 {
			r.user(local)
		}
		id := fmt.Sprintf("DEVICE%04d", i)
		_, err := r.accounts.LoginTrusted(r.t.Context(), local, account.NewDevice{ID: id})
		r.must(err)
		names = append(names, [2]string{"@" + local + ":" + here, id})
	}
	return names
}

// BenchmarkUpload uploads identity keys and a hundred one-time keys for a device.
func BenchmarkUpload(b *testing.B) {
	benchEach(b, func(b *testing.B, r *rig) {
		devices := r.manyDevices(min(b.N, 2000))
		k := newKey()
		keys := oneTimes(k, "@u0:hs", "DEVICE0000", 0, 100)
		parallel(b, 16, func(_ int, n int64) error {
			d := devices[int(n)%len(devices)]
			_, err := r.UploadKeys(context.Background(), d[0], d[1], e2ee.Upload{DeviceKeys: deviceKeys(k, d[0], d[1]), OneTime: keys})
			return err
		})
	})
}

// BenchmarkClaim claims a key of each of ten devices, as a client does that begins to talk in a room. No key is left at the
// end: each is given out once.
func BenchmarkClaim(b *testing.B) {
	benchEach(b, func(b *testing.B, r *rig) {
		devices := r.manyDevices(10 * (1 + b.N/100))
		k := newKey()
		for _, d := range devices {
			_, err := r.UploadKeys(b.Context(), d[0], d[1], e2ee.Upload{OneTime: oneTimes(k, d[0], d[1], 0, 100)})
			r.must(err)
		}
		parallel(b, 16, func(_ int, n int64) error {
			want := e2ee.Claims{}
			for i := range 10 {
				d := devices[(int(n)*10+i)%len(devices)]
				if want[d[0]] == nil {
					want[d[0]] = map[string]string{}
				}
				want[d[0]][d[1]] = "signed_curve25519"
			}
			keys, _, err := r.Claim(context.Background(), want, 0)
			given := 0
			for _, of := range keys {
				given += len(of)
			}
			if err == nil && given != 10 {
				err = fmt.Errorf("claimed 10 keys, got %d", given)
			}
			return err
		})
	})
}

// BenchmarkQuery reads the keys of a hundred devices of one user.
func BenchmarkQuery(b *testing.B) {
	benchEach(b, func(b *testing.B, r *rig) {
		for _, d := range r.manyDevices(100) {
			r.upload(d[0], d[1])
		}
		parallel(b, 16, func(int, int64) error {
			_, err := r.Query(context.Background(), "@u0:hs", map[string][]string{"@u0:hs": nil}, 0)
			return err
		})
	})
}

// BenchmarkToDevice sends a message of 800 bytes to a device, which receives it, on 64 goroutines.
func BenchmarkToDevice(b *testing.B) {
	benchEach(b, func(b *testing.B, r *rig) {
		devices := r.manyDevices(6400)
		content := json.RawMessage(`{"ciphertext":"` + strings.Repeat("x", 780) + `"}`)
		var mu sync.Mutex
		var took []time.Duration
		parallel(b, 64, func(w int, n int64) error {
			d := devices[w*100]
			began := time.Now()
			pos := r.hub.LastUser(d[0])
			err := r.SendToDevice(context.Background(), "@u0:hs", "S", "m.x", fmt.Sprint(n), e2ee.Messages{d[0]: {d[1]: content}})
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			r.hub.Wait(ctx, d[0], pos, 0)
			err = r.db.Read(ctx, func(tx *sqldb.Tx) error {
				to := r.hub.Published()
				_, next, _, err := r.ToDevice(tx, d[0], d[1], pos, to, 100)
				r.AckToDevice(d[0], d[1], next)
				return err
			})
			mu.Lock()
			took = append(took, time.Since(began))
			mu.Unlock()
			return err
		})
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
	})
}

// BenchmarkIdle is what a sync without news costs.
func BenchmarkIdle(b *testing.B) {
	r := newRig(b, sqldb.SQLite)
	a := r.user("a", "A1")
	r.upload(a, "A1")
	r.messages(a, "A1", 0, 1)
	pos := r.hub.Published()
	for b.Loop() {
		if _, _, err := r.KeyCounts(b.Context(), a, "A1"); err != nil {
			b.Fatal(err)
		}
		if _, _, _, err := r.ToDevice(nil, a, "A1", pos, pos, 100); err != nil {
			b.Fatal(err)
		}
		if _, _, err := r.DeviceLists(nil, a, pos, pos, e2ee.Moves{}); err != nil {
			b.Fatal(err)
		}
	}
}
