package keys

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"knock/internal/clock"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver/event"
)

var start = time.UnixMilli(1_700_000_000_000)

// remote is a server that publishes keys.
type remote struct {
	name   string
	id     string
	key    ed25519.PrivateKey
	old    map[string]any
	until  int64
	down   bool
	asked  int
	answer func() json.RawMessage // instead of the honest one
}

func newRemote(name, id string) *remote {
	_, key, _ := ed25519.GenerateKey(nil)
	return &remote{name: name, id: id, key: key, old: map[string]any{}, until: start.Add(24 * time.Hour).UnixMilli()}
}

func (s *remote) signer() event.Signer { return event.Signer{Server: s.name, KeyID: s.id, Key: s.key} }

func (s *remote) publish() json.RawMessage {
	raw, _ := json.Marshal(map[string]any{
		"server_name": s.name, "valid_until_ts": s.until, "old_verify_keys": s.old,
		"verify_keys": map[string]any{s.id: map[string]any{"key": public(s.key)}},
	})
	signed, err := event.SignJSON(raw, s.signer())
	if err != nil {
		panic(err)
	}
	return signed
}

func public(k ed25519.PrivateKey) string {
	return base64.RawStdEncoding.EncodeToString(k.Public().(ed25519.PublicKey))
}

// rotate makes a new key; the one before becomes an old one.
func (s *remote) rotate(id string, expired int64) {
	s.old[s.id] = map[string]any{"key": public(s.key), "expired_ts": expired}
	_, s.key, _ = ed25519.GenerateKey(nil)
	s.id = id
}

// world is a Fetcher.
type world struct {
	mu      sync.Mutex
	servers map[string]*remote
	notary  *remote
	queries int
}

func (w *world) ServerKeys(_ context.Context, server string) (json.RawMessage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.servers[server]
	if s == nil {
		return nil, errors.New("no such server")
	}
	s.asked++
	if s.down {
		return nil, errors.New("down")
	}
	if s.answer != nil {
		return s.answer(), nil
	}
	return s.publish(), nil
}

func (w *world) QueryKeys(_ context.Context, _ string, want map[string]map[string]int64) ([]json.RawMessage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queries++
	var out []json.RawMessage
	for name := range want {
		if s := w.servers[name]; s != nil {
			signed, err := event.SignJSON(s.publish(), w.notary.signer())
			if err != nil {
				return nil, err
			}
			out = append(out, signed)
		}
	}
	return out, nil
}

func newWorld(servers ...*remote) *world {
	w := &world{servers: map[string]*remote{}}
	for _, s := range servers {
		w.servers[s.name] = s
	}
	return w
}

func newRing(db *sqldb.DB, w *world, c *clock.Manual, notaries ...string) *Ring {
	us := newRemote("us.example", "ed25519:us")
	return New(Options{ServerName: us.name, Signer: us.signer(), DB: db, Fetch: w, Clock: c.Now, Notaries: notaries})
}

func message(t testing.TB, s *remote, version string, at time.Time) *event.Event {
	t.Helper()
	v, ok := event.GetVersion(version)
	if !ok {
		t.Fatal("no such version")
	}
	room := "!room:" + s.name
	if v.DomainlessRoomIDs {
		room = "!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	}
	b := event.Builder{
		Version: v, Type: "m.room.message", Sender: "@a:" + s.name, RoomID: room,
		Content: json.RawMessage(`{"body":"x"}`), Depth: 3, TS: at.UnixMilli(),
	}
	e, err := b.Build(s.signer())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestVerifyEvents(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		a, b, dead := newRemote("a.example", "ed25519:1"), newRemote("b.example", "ed25519:1"), newRemote("dead.example", "ed25519:1")
		dead.down = true
		w, c := newWorld(a, b, dead), clock.NewManual(start)
		r := newRing(db, w, c)
		forged := newRemote("b.example", "ed25519:1")
		var events []*event.Event
		for range 40 {
			events = append(events, message(t, a, "11", start))
		}
		events = append(events, message(t, b, "11", start), message(t, forged, "11", start), message(t, dead, "11", start))
		errs := r.VerifyEvents(context.Background(), events)
		for i, err := range errs[:41] {
			if err != nil {
				t.Fatalf("%d: %v", i, err)
			}
		}
		if !errors.Is(errs[41], event.ErrBadSignature) || !errors.Is(errs[42], ErrNoKey) {
			t.Errorf("forged: %v; dead: %v", errs[41], errs[42])
		}
		if a.asked != 1 || b.asked != 1 || dead.asked != 1 {
			t.Errorf("asked %d, %d, %d times", a.asked, b.asked, dead.asked)
		}

		// A new ring finds the keys in the database.
		a.down = true
		again := newRing(db, w, c)
		if err := again.VerifyEvents(context.Background(), events[:1])[0]; err != nil || a.asked != 1 {
			t.Errorf("after a restart: %v, asked %d times", err, a.asked)
		}
	})
}

func TestKeyValidity(t *testing.T) {
	day := 24 * time.Hour
	tests := []struct {
		name    string
		version string
		retired bool          // the key is an old one, expired at start
		until   time.Duration // valid_until_ts, from start
		at      time.Duration // origin_server_ts, from start
		now     time.Duration
		err     error
	}{
		{"in use", "11", false, day, 0, 0, nil},
		{"long before", "11", false, day, -1000 * day, 0, nil},
		{"after it ran out", "11", false, day, 2 * day, 3 * day, ErrInvalidKey},
		{"after it ran out, old room version", "4", false, day, 2 * day, 3 * day, nil},
		{"signed before it ran out, seen after", "11", false, day, day / 2, 3 * day, nil},
		{"not more than a week ahead", "11", false, 1000 * day, 8 * day, 0, ErrInvalidKey},
		{"within the week", "11", false, 1000 * day, 6 * day, 0, nil},
		{"before it was retired", "11", true, day, -1, 0, nil},
		{"when it was retired", "11", true, day, 0, 0, ErrInvalidKey},
		{"retired, old room version", "4", true, day, day, 0, nil},
	}
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				s := newRemote(fmt.Sprintf("s%d.example", i), "ed25519:1")
				s.until = start.Add(tt.until).UnixMilli()
				e := message(t, s, tt.version, start.Add(tt.at))
				if tt.retired {
					s.rotate("ed25519:2", start.UnixMilli())
				}
				c := clock.NewManual(start)
				w := newWorld(s)
				r := newRing(db, w, c)
				r.VerifyEvents(context.Background(), []*event.Event{message(t, s, "11", start)}) // learns the keys at start
				c.Advance(tt.now)
				s.down = true
				if err := r.VerifyEvents(context.Background(), []*event.Event{e})[0]; !errors.Is(err, tt.err) {
					t.Errorf("got %v, want %v", err, tt.err)
				}
			})
		}
	})
}

func TestRotation(t *testing.T) {
	s := newRemote("a.example", "ed25519:1")
	c := clock.NewManual(start)
	r := newRing(sqldbtest.Open(t, sqldb.SQLite), newWorld(s), c)
	ctx := context.Background()
	before := message(t, s, "11", start)
	if err := r.VerifyEvents(ctx, []*event.Event{before})[0]; err != nil {
		t.Fatal(err)
	}
	c.Advance(time.Hour)
	s.rotate("ed25519:2", c.Now().UnixMilli())
	after := message(t, s, "11", c.Now())
	for i, err := range r.VerifyEvents(ctx, []*event.Event{before, after}) {
		if err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	if s.asked != 2 {
		t.Errorf("asked %d times", s.asked)
	}
}

// Signatures by keys that do not exist must not make us ask without end.
func TestUnknownKeysAreCheap(t *testing.T) {
	s := newRemote("a.example", "ed25519:1")
	c := clock.NewManual(start)
	r := newRing(sqldbtest.Open(t, sqldb.SQLite), newWorld(s), c)
	for i := range 1000 {
		fake := newRemote("a.example", fmt.Sprintf("ed25519:x%d", i))
		fake.key = s.key
		if err := r.VerifyEvents(context.Background(), []*event.Event{message(t, fake, "11", start)})[0]; !errors.Is(err, ErrNoKey) {
			t.Fatal(err)
		}
		c.Advance(time.Second)
	}
	if s.asked > 14 {
		t.Errorf("asked %d times in 1,000 s", s.asked)
	}
}

// A server that publishes other keys each time must not fill the database.
func TestKeysOfOneServerAreBounded(t *testing.T) {
	s := newRemote("a.example", "ed25519:0")
	c := clock.NewManual(start)
	db := sqldbtest.Open(t, sqldb.SQLite)
	r := newRing(db, newWorld(s), c)
	for i := range 400 {
		s.old = map[string]any{}
		s.rotate(fmt.Sprintf("ed25519:%d", i+1), start.UnixMilli())
		s.until = c.Now().Add(time.Hour).UnixMilli()
		if err := r.VerifyEvents(context.Background(), []*event.Event{message(t, s, "11", c.Now())})[0]; err != nil {
			t.Fatal(err)
		}
		c.Advance(time.Minute)
	}
	fresh := newRing(db, newWorld(), c)
	if err := fresh.load(context.Background(), []string{"a.example"}); err != nil {
		t.Fatal(err)
	}
	if n, m := len(r.server("a.example").keys), len(fresh.server("a.example").keys); n > 2*maxKeys || m != n {
		t.Errorf("%d keys in memory, %d stored", n, m)
	}
}

func TestNotary(t *testing.T) {
	dead, notary := newRemote("dead.example", "ed25519:1"), newRemote("notary.example", "ed25519:n")
	dead.down = true
	w := newWorld(dead, notary)
	w.notary = notary
	c := clock.NewManual(start)
	r := newRing(sqldbtest.Open(t, sqldb.SQLite), w, c, "notary.example")
	e := message(t, dead, "11", start)
	if err := r.VerifyEvents(context.Background(), []*event.Event{e})[0]; err != nil || w.queries != 1 {
		t.Fatalf("%v, %d queries", err, w.queries)
	}

	// Answers that somebody else signed in the notary's place count for nothing.
	w.notary = newRemote("notary.example", "ed25519:n")
	other := newRemote("other.example", "ed25519:1")
	other.down = true
	w.servers["other.example"] = other
	for range 10 {
		if err := r.VerifyEvents(context.Background(), []*event.Event{message(t, other, "11", start)})[0]; !errors.Is(err, ErrNoKey) {
			t.Fatal(err)
		}
	}
	if w.queries != 2 {
		t.Errorf("%d queries", w.queries)
	}
}

func TestBadAnswers(t *testing.T) {
	s := newRemote("a.example", "ed25519:1")
	other := newRemote("b.example", "ed25519:1")
	thief := newRemote("a.example", "ed25519:2")
	edit := func(from, to string) json.RawMessage {
		var m map[string]any
		_ = json.Unmarshal(s.publish(), &m)
		m[from] = to
		raw, _ := json.Marshal(m)
		return raw
	}
	unsigned := func() json.RawMessage {
		raw, _ := json.Marshal(map[string]any{
			"server_name": s.name, "valid_until_ts": s.until,
			"verify_keys": map[string]any{s.id: map[string]any{"key": public(s.key)}},
		})
		signed, _ := event.SignJSON(raw, thief.signer())
		return signed
	}
	for name, raw := range map[string]json.RawMessage{
		"another server":   other.publish(),
		"changed after":    edit("more", "x"),
		"foreign key":      unsigned(),
		"not JSON":         json.RawMessage(`{`),
		"an array":         json.RawMessage(`[]`),
		"no keys":          json.RawMessage(`{"server_name":"a.example","valid_until_ts":1}`),
		"negative time":    json.RawMessage(`{"server_name":"a.example","valid_until_ts":-1}`),
		"keys not objects": json.RawMessage(`{"server_name":"a.example","valid_until_ts":1,"verify_keys":[]}`),
	} {
		if _, err := parseAnswer(raw, "a.example"); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := parseAnswer(s.publish(), "a.example"); err != nil {
		t.Error(err)
	}
}

func TestSingleFlight(t *testing.T) {
	s := newRemote("a.example", "ed25519:1")
	r := newRing(sqldbtest.Open(t, sqldb.SQLite), newWorld(s), clock.NewManual(start))
	e := message(t, s, "11", start)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := r.VerifyEvents(context.Background(), []*event.Event{e})[0]; err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s.asked != 1 {
		t.Errorf("asked %d times", s.asked)
	}
}

func TestVerifyJSON(t *testing.T) {
	s := newRemote("a.example", "ed25519:1")
	r := newRing(sqldbtest.Open(t, sqldb.SQLite), newWorld(s), clock.NewManual(start))
	signed, err := event.SignJSON([]byte(`{"a":1}`), s.signer())
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := r.VerifyJSON(ctx, "a.example", signed, start); err != nil {
		t.Error(err)
	}
	if err := r.VerifyJSON(ctx, "a.example", signed, start.Add(48*time.Hour)); !errors.Is(err, ErrInvalidKey) {
		t.Error(err)
	}
	if err := r.VerifyJSON(ctx, "b.example", signed, start); !errors.Is(err, ErrUnsigned) {
		t.Error(err)
	}
}

func BenchmarkVerifyEvents(b *testing.B) {
	s := newRemote("a.example", "ed25519:1")
	r := newRing(sqldbtest.Open(b, sqldb.SQLite), newWorld(s), clock.NewManual(start))
	events := make([]*event.Event, 1000)
	for i := range events {
		events[i] = message(b, s, "11", start)
	}
	for b.Loop() {
		for _, err := range r.VerifyEvents(context.Background(), events) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(events)), "µs/event")
}
