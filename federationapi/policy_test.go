package federationapi_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidwall/gjson"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// judge makes a node a policy server that signs all events but those with "spam" in them. It returns the content of
// m.room.policy and how often it was asked.
func (n *node) judge(prefix string) (content string, asked *atomic.Int64) {
	seed := ed25519.NewKeyFromSeed([]byte(fmt.Sprintf("%-32.32s", "policy of "+n.name)))
	signer := event.Signer{Server: n.name, KeyID: "ed25519:policy_server", Key: seed}
	asked = &atomic.Int64{}
	sign := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if r.URL.Path != prefix+"/sign" || err != nil || !strings.HasPrefix(r.Header.Get("Authorization"), "X-Matrix ") {
			w.WriteHeader(404)
			_, _ = io.WriteString(w, `{"errcode":"M_UNRECOGNIZED","error":"?"}`)
			return
		}
		asked.Add(1)
		if strings.Contains(string(body), "spam") {
			w.WriteHeader(400)
			_, _ = io.WriteString(w, `{"errcode":"M_FORBIDDEN","error":"This looks like spam"}`)
			return
		}
		key, err := n.rooms.Room(context.Background(), gjson.GetBytes(body, "room_id").Str)
		if err != nil {
			w.WriteHeader(404)
			return
		}
		e, err := event.Parse(key.Version, body)
		if err == nil {
			e, err = e.Sign(signer)
		}
		if err != nil {
			w.WriteHeader(500)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{n.name: map[string]string{
			signer.KeyID: gjson.GetBytes(e.JSON(), `signatures.`+gjson.Escape(n.name)+`.ed25519:policy_server`).Str}})
	})
	n.policy.Store(&sign)
	public := base64.RawURLEncoding.EncodeToString(seed.Public().(ed25519.PublicKey))
	return fmt.Sprintf(`{"via":%q,"public_keys":{"ed25519":%q}}`, n.name, public), asked
}

func (n *node) trySay(room, user, text, txn string) (string, error) {
	return n.rooms.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: user, Type: "m.room.message", TxnID: txn, Device: "D",
		Content: json.RawMessage(fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, text))})
}

func (n *node) flags(id string) (flags store.Flags, ok bool) {
	must(n.t, n.db.Read(context.Background(), func(tx *sqldb.Tx) error {
		e, err := n.rooms.Store.EventByID(tx, id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err == nil {
			flags, ok = e.Flags, true
		}
		return err
	}))
	return flags, ok
}

func refusedWith(err error, code, text string) bool {
	var m *matrixerr.Error
	return errors.As(roomserver.MatrixError(err), &m) && m.Code == code && strings.Contains(m.Msg, text)
}

func TestPolicyServer(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b, p := w.add("a.test"), w.add("b.test"), w.add("p.test")
		content, asked := p.judge("/_matrix/policy/v1")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		must(t, b.join(room, b.user("bob"), a))
		a.setState(room, a.user("alice"), "m.room.policy", content)
		a.say(room, a.user("alice"), "spam is free while the policy server is not in the room")
		if asked.Load() != 0 {
			t.Error("a server that is not in the room was asked")
		}
		must(t, p.join(room, p.user("police"), a))
		a.knows(room, p.user("police"), "join")
		b.knows(room, p.user("police"), "join")
		eventually(t, "b knows the policy", func() bool { return b.state(room, "m.room.policy", "via") == "p.test" })

		b.sees(room, a.say(room, a.user("alice"), "hello"))
		before := asked.Load()
		a.sees(room, b.say(room, b.user("bob"), "hello yourself"))
		if got := asked.Load() - before; got != 1 {
			t.Errorf("one signed event was asked about %d times", got)
		}
		if _, err := a.trySay(room, a.user("alice"), "spam", "t1"); !refusedWith(err, "M_FORBIDDEN", "This looks like spam") {
			t.Errorf("spam: %v", err)
		}
		// The same transaction at once makes one event.
		var all sync.WaitGroup
		ids := make([]string, 4)
		for i := range ids {
			all.Go(func() { ids[i], _ = a.trySay(room, a.user("alice"), "once", "t2") })
		}
		all.Wait()
		again, err := a.trySay(room, a.user("alice"), "once", "t2")
		for _, id := range ids {
			if err != nil || id != again {
				t.Errorf("one transaction made %v and %s (%v)", ids, again, err)
			}
		}
		a.sees(room, again)
		b.sees(room, again)
		// Invites are signed before the other server sees them.
		must(t, a.membership(room, a.user("alice"), b.user("bella"), "invite"))
		must(t, b.join(room, b.user("bella"), a))
		a.knows(room, b.user("bella"), "join")
		if got, err := b.rooms.CurrentState(t.Context(), room, "m.room.member", b.user("bella")); err != nil || len(got.Event.SignatureKeyIDs("p.test")) != 1 {
			t.Errorf("a join without the policy server's signature: %v", err)
		}

		// Without the signature: what is good is asked for, what is not is soft-failed.
		good := b.forge(room, b.user("bob"), "m.room.message", `{"body":"forgot to ask"}`, b.signer)
		bad := b.forge(room, b.user("bob"), "m.room.message", `{"body":"spam"}`, b.signer)
		if status, answer := b.transact(a, "x1", []string{string(good.JSON()), string(bad.JSON())}, nil); status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
		a.sees(room, good.EventID())
		eventually(t, "spam is placed", func() bool { _, ok := a.flags(bad.EventID()); return ok })
		if flags, _ := a.flags(bad.EventID()); flags&store.SoftFailed == 0 {
			t.Errorf("spam has flags %b", flags)
		}

		// A policy server that is away stops the room until it is replaced, which needs no signature.
		p.down.Store(true)
		if _, err := a.trySay(room, a.user("alice"), "anybody?", ""); !errors.Is(err, roomserver.ErrNoPolicy) {
			t.Errorf("without an answer: %v", err)
		}
		a.setState(room, a.user("alice"), "m.room.policy", `{}`)
		b.sees(room, a.say(room, a.user("alice"), "free at last"))
	})
}

// TestUnstablePolicyServer: the forms of MSC4284 before it was merged.
func TestUnstablePolicyServer(t *testing.T) {
	w := newWorld(t, sqldb.SQLite)
	a, p := w.add("a.test"), w.add("p.test")
	content, asked := p.judge("/_matrix/policy/unstable/org.matrix.msc4284")
	room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
	must(t, p.join(room, p.user("police"), a))
	key := gjson.Get(content, "public_keys.ed25519").Str
	a.setState(room, a.user("alice"), "org.matrix.msc4284.policy", fmt.Sprintf(`{"via":"p.test","public_key":%q}`, key))
	a.say(room, a.user("alice"), "hello")
	if _, err := a.trySay(room, a.user("alice"), "spam", ""); !refusedWith(err, "M_FORBIDDEN", "spam") || asked.Load() != 2 {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
	// The stable state counts first; a server that knows only the old endpoint is asked there.
	a.setState(room, a.user("alice"), "m.room.policy", content)
	a.say(room, a.user("alice"), "hello again")
	if asked.Load() != 3 {
		t.Errorf("asked %d times", asked.Load())
	}
}
