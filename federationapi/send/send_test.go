package send

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/tidwall/gjson"
	"go.uber.org/goleak"

	"knock/federationapi/client"
	"knock/internal/clock"
	"knock/internal/ephemeral"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network records what is sent and answers as it is told.
type network struct {
	mu   sync.Mutex
	sent []attempt
	fail func(server string, t *client.Transaction) error
	wait atomic.Int64 // nanoseconds; 0 keeps attempts close together
	// during is called while a transaction is under way; nil: nothing is.
	during func(server string, t *client.Transaction)
}

type edu = client.EDU

type attempt struct {
	server, id string
	t          *client.Transaction
	err        error
}

func (n *network) SendTransaction(_ context.Context, server, txnID string, t *client.Transaction) (map[string]string, error) {
	if n.during != nil {
		n.during(server, t)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var err error
	if n.fail != nil {
		err = n.fail(server, t)
	}
	n.sent = append(n.sent, attempt{server, txnID, t, err})
	return nil, err
}

func (n *network) Wait(string) time.Duration {
	return max(time.Duration(n.wait.Load()), time.Millisecond)
}

func (n *network) set(fail func(server string, t *client.Transaction) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail = fail
}

// attempts are those so far, without the word that we are back.
func (n *network) attempts() []attempt {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []attempt
	for _, a := range n.sent {
		if len(a.t.PDUs)+len(a.t.EDUs) > 0 {
			out = append(out, a)
		}
	}
	return out
}

// delivered are the events that arrived at a server, in order, each as often as it did.
func (n *network) delivered(server string) (ids []string) {
	for _, a := range n.attempts() {
		for _, raw := range a.t.PDUs {
			if a.server == server && a.err == nil {
				ids = append(ids, gjson.GetBytes(raw, "content.body").Str)
			}
		}
	}
	return ids
}

// rig is a room server whose events go to a network, with one room that b.test is in.
type rig struct {
	t       *testing.T
	db      *sqldb.DB
	net     *network
	rooms   *roomserver.Server
	sender  *Sender
	durable *box // nil: none
	passing *remembered
	sticky  Sticky        // nil: none
	clock   *clock.Manual // nil: the machine's
	room    string
	stop    func()
}

func newRig(t *testing.T, db *sqldb.DB) *rig {
	t.Helper()
	r := &rig{t: t, db: db, net: &network{}}
	r.begin()
	return r
}

// begin starts the rig and makes its room.
func (r *rig) begin() {
	t := r.t
	t.Helper()
	r.start()
	t.Cleanup(func() { r.stop() })
	id, err := r.rooms.Create(t.Context(), roomserver.CreateRequest{Creator: "@alice:a.test", Version: "10", Preset: "public_chat"})
	r.must(err)
	r.room = id
	r.joinFrom("b.test")
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func signer(server string) event.Signer {
	return event.Signer{Server: server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(fmt.Sprintf("%-32s", server)))}
}

func (r *rig) start() {
	pos, err := r.db.Position(r.t.Context())
	r.must(err)
	hub := stream.New(pos)
	r.db.OnPublish(hub.Advance)
	st := store.New(store.Options{DB: r.db})
	log := logrus.New()
	log.SetOutput(io.Discard)
	o := Options{ServerName: "a.test", Store: st, Hub: hub, Client: r.net, RetireAfter: 30 * 24 * time.Hour, Log: logrus.NewEntry(log)}
	if r.clock != nil {
		o.Clock = r.clock.Now
	}
	r.sender = New(o)
	if r.passing != nil {
		r.sender.Recall(r.passing)
	}
	if r.sticky != nil {
		r.sender.Stick(r.sticky)
	}
	if r.durable != nil {
		r.sender.Carry(r.durable)
	}
	r.rooms = roomserver.New(roomserver.Options{ServerName: "a.test", Signer: signer("a.test"), Store: st, Hub: hub,
		Outbound: r.sender, Participants: []roomserver.Participant{r.sender}, Log: logrus.NewEntry(log)})
	r.must(r.rooms.Start(r.t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.sender.Run(ctx) }()
	r.stop = func() {
		cancel()
		r.must(<-done)
		r.stop = func() {}
	}
}

// joinFrom has a user of another server join, as send_join does.
func (r *rig) joinFrom(server string) { r.member(server, "join") }

func (r *rig) member(server, membership string) {
	r.t.Helper()
	user := "@user:" + server
	v, template, err := r.rooms.Template(r.t.Context(), membership, r.room, user, nil)
	r.must(err)
	version, _ := event.GetVersion(v)
	b, err := event.ParseTemplate(version, template)
	r.must(err)
	b.TS = 1_700_000_000_000
	e, err := b.Build(signer(server))
	r.must(err)
	_, err = r.rooms.AcceptMembership(r.t.Context(), membership, server, r.room, e.EventID(), e.JSON(), false)
	r.must(err)
}

func (r *rig) say(text string) {
	r.t.Helper()
	_, err := r.rooms.Send(r.t.Context(), roomserver.SendRequest{RoomID: r.room, Sender: "@alice:a.test", Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"body":%q}`, text))})
	r.must(err)
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	r.t.Fatalf("it never came to this: %s", what)
}

func (r *rig) arrived(server string, want ...string) {
	r.t.Helper()
	r.eventually(server+" got "+strings.Join(want, " "), func() bool { return len(r.net.delivered(server)) >= len(want) })
	if got := r.net.delivered(server); strings.Join(got, " ") != strings.Join(want, " ") {
		r.t.Fatalf("%s got %v, want %v", server, got, want)
	}
}

var errDown = errors.New("connection refused")

func down(string, *client.Transaction) error { return errDown }

func TestTransactionIsRepeatedAsItWas(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db)
		r.net.set(down)
		r.say("1")
		r.eventually("three attempts", func() bool { return len(r.net.attempts()) >= 3 })
		r.say("2")
		r.net.set(nil)
		r.arrived("b.test", "1", "2")
		first := r.net.attempts()[0]
		for i, a := range r.net.attempts() {
			same := a.id == first.id && len(a.t.PDUs) == 1 && string(a.t.PDUs[0]) == string(first.t.PDUs[0])
			if last := i == len(r.net.attempts())-1; same == last {
				t.Errorf("attempt %d: %s with %d events", i, a.id, len(a.t.PDUs))
			}
		}
	})
}

func TestBatchesAndOrder(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db)
		r.net.set(down)
		var want []string
		for i := range 130 {
			want = append(want, fmt.Sprint(i))
			r.say(want[i])
		}
		r.net.set(nil)
		r.arrived("b.test", want...)
		for _, a := range r.net.attempts() {
			if len(a.t.PDUs) > maxPDUs {
				t.Errorf("%d events in one transaction", len(a.t.PDUs))
			}
		}
	})
}

func TestLongBacklogIsCut(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db)
		r.net.set(down)
		var all []string
		for i := range maxBacklog + 20 {
			all = append(all, fmt.Sprint(i))
			r.say(all[i])
		}
		r.stop() // forgets the transaction that was under way
		r.net.set(nil)
		r.start()
		r.arrived("b.test", all[len(all)-newestBacklog:]...)
	})
}

func TestOnlyWhileTheServerIsInTheRoom(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db)
		r.net.set(down)
		r.say("1")
		r.member("b.test", "leave")
		r.say("2")
		r.joinFrom("b.test")
		r.say("3")
		r.stop()
		r.net.set(nil)
		r.start()
		// Neither "2" nor b's own leave and join, which it made itself.
		r.arrived("b.test", "1", "3")
	})
}

// TestOwnEventsDoNotComeBack has a server leave and join through us and nothing else happen: it gets no transaction.
func TestOwnEventsDoNotComeBack(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db)
		r.say("1")
		r.arrived("b.test", "1")
		r.stop()
		r.start()
		r.member("b.test", "leave")
		r.joinFrom("b.test")
		r.say("2")
		r.arrived("b.test", "1", "2")
		if got := len(r.net.attempts()); got != 2 {
			t.Errorf("%d transactions, want 2", got)
		}
	})
}

func TestCursorsOutliveARestart(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db)
		r.joinFrom("c.test")
		r.say("1")
		r.arrived("c.test", "1")
		r.eventually("b has it", func() bool { return strings.Contains(strings.Join(r.net.delivered("b.test"), " "), "1") })
		r.stop()
		before := len(r.net.attempts())
		r.start()
		r.say("2")
		r.arrived("c.test", "1", "2")
		r.eventually("b has it", func() bool { return len(r.net.attempts()) == before+2 })
		r.stop()
		ids := map[string]bool{}
		for _, a := range r.net.attempts() {
			if ids[a.server+a.id] {
				t.Errorf("transaction id %s came twice", a.id)
			}
			ids[a.server+a.id] = true
		}
	})
}

// TestOutbox ends an invite of a user whose server is not in the room and is down, and restarts.
func TestOutbox(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db)
		r.net.set(down)
		_, err := r.rooms.SetMembership(t.Context(), roomserver.MembershipRequest{RoomID: r.room, Sender: "@alice:a.test", Target: "@eve:d.test", Membership: "ban"})
		r.must(err)
		r.say("after")
		r.stop()
		r.net.set(nil)
		r.start()
		r.eventually("d got the ban", func() bool { return len(r.net.delivered("d.test")) == 1 })
		r.eventually("the outbox is empty", func() bool {
			var names []string
			r.must(db.Read(t.Context(), func(tx *sqldb.Tx) (err error) {
				names, err = sqldb.Collect(tx, testOutbox, scanName)
				return err
			}))
			return len(names) == 0
		})
		if got := r.net.delivered("d.test"); len(got) != 1 {
			t.Errorf("d got %d events", len(got))
		}
	})
}

var testOutbox = sqldb.Register("outbound.testOutbox", `SELECT name FROM outbox`)

func TestWhatAServerCannotDigestIsLeftOut(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		for _, code := range []int{400, 401, 413, 0} {
			r := newRig(t, db)
			r.net.set(down)
			for i := range 5 {
				r.say(fmt.Sprint(i))
			}
			r.net.set(func(_ string, tr *client.Transaction) error {
				for _, raw := range tr.PDUs {
					if gjson.GetBytes(raw, "content.body").Str == "2" && code == 0 {
						return &client.Error{Kind: client.KindUnsent}
					} else if gjson.GetBytes(raw, "content.body").Str == "2" {
						return &client.Error{Kind: client.KindStatus, Code: code, Matrix: matrixerr.New(code, "M_UNKNOWN", "no")}
					}
				}
				return nil
			})
			r.arrived("b.test", "0", "1", "3", "4")
			r.stop()
		}
	})
}

// TestNothingIsLeftOutForABadSignature has a server refuse all that we sign, for a while.
func TestNothingIsLeftOutForABadSignature(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db)
		r.net.set(func(string, *client.Transaction) error {
			return &client.Error{Kind: client.KindStatus, Code: 401, Matrix: matrixerr.New(401, "M_UNAUTHORIZED", "no")}
		})
		r.say("0")
		r.say("1")
		r.eventually("some attempts", func() bool { return len(r.net.attempts()) >= 5 })
		r.net.set(nil)
		r.arrived("b.test", "0", "1")
	})
}

func TestEDUs(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db)
		edu := func(kind, path, want string) {
			t.Helper()
			r.eventually(kind+" "+want, func() bool {
				for _, a := range r.net.attempts() {
					for _, e := range a.t.EDUs {
						if e.Type == kind && gjson.GetBytes(e.Content, path).String() == want {
							return true
						}
					}
				}
				return false
			})
		}
		r.sender.Typing(r.room, "@alice:a.test", true, time.Second)
		edu("m.typing", "user_id", "@alice:a.test")
		r.sender.Receipt(ephemeral.Receipt{Room: r.room, User: "@alice:a.test", Type: ephemeral.Read, Event: "$e", TS: 7})
		edu("m.receipt", `*.m\.read.@alice:a\.test.event_ids.0`, "$e")
		r.sender.Presence(ephemeral.State{User: "@alice:a.test", Presence: "online"})
		edu("m.presence", "push.0.presence", "online")
		n := len(r.net.attempts())
		r.sender.Receipt(ephemeral.Receipt{Room: r.room, User: "@alice:a.test", Type: ephemeral.ReadPrivate, Event: "$p"})
		r.sender.Presence(ephemeral.State{User: "@alone:a.test", Presence: "online"})
		r.sender.Typing(r.room, "@alice:a.test", false, 0)
		edu("m.typing", "typing", "false")
		if got := len(r.net.attempts()); got != n+1 {
			t.Errorf("%d transactions for what concerns nobody else", got-n-1)
		}
	})
}

func TestEDUsAreGathered(t *testing.T) {
	q := newEDUQueue()
	for i := range 10 {
		user := fmt.Sprintf("@u%d:a.test", i)
		q.receipts[receiptKey{"!r", user, ""}] = receipt{Room: "!r", User: user, Type: ephemeral.Read, Event: "$1"}
		q.receipts[receiptKey{"!s", user, ""}] = receipt{Room: "!s", User: user, Type: ephemeral.Read, Event: "$2"}
		q.presence[user] = presence{User: user, Presence: "online"}
	}
	q.receipts[receiptKey{"!r", "@u0:a.test", "$t"}] = receipt{Room: "!r", User: "@u0:a.test", Type: ephemeral.Read, Event: "$3", Thread: "$t"}
	kinds := map[string]int{}
	for _, e := range q.take(0) {
		kinds[e.Type]++
	}
	if kinds["m.receipt"] != 2 || kinds["m.presence"] != 1 || !q.empty() {
		t.Errorf("%v, %d left", kinds, q.len())
	}
	for i := range 250 {
		q.typing[typingKey{"!r", fmt.Sprintf("@u%d:a.test", i)}] = true
	}
	for _, want := range []int{100, 100, 50, 0} {
		if got := len(q.take(0)); got != want {
			t.Errorf("%d EDUs, want %d", got, want)
		}
	}
}
