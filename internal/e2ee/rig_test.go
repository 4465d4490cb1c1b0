package e2ee_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"knock/internal/account"
	"knock/internal/e2ee"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver/event"
)

const here = "hs"

// rooms is who is joined where, users of this server in the hub too.
type rooms struct {
	hub *stream.Hub
	mu  sync.Mutex
	in  map[string]map[string]bool
}

func (r *rooms) set(user, room string, joined bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.in[room] == nil {
		r.in[room] = map[string]bool{}
	}
	delete(r.in[room], user)
	if joined {
		r.in[room][user] = true
	}
	if server(user) == here {
		r.hub.SetJoined(user, room, joined)
	}
}

func server(user string) string { return user[strings.Index(user, ":")+1:] }

func (r *rooms) of(user string) (out []string) {
	for room, members := range r.in {
		if members[user] {
			out = append(out, room)
		}
	}
	return out
}

func (r *rooms) Servers(_ *sqldb.Tx, user string) (out []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, room := range r.of(user) {
		for member := range r.in[room] {
			if s := server(member); s != here && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out, nil
}

func (r *rooms) SharedRooms(_ *sqldb.Tx, user string) (out []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, room := range r.of(user) {
		for member := range r.in[room] {
			if server(member) == here {
				out = append(out, room)
				break
			}
		}
	}
	return out, nil
}

func (r *rooms) Members(_ *sqldb.Tx, room string) (out []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for member := range r.in[room] {
		out = append(out, member)
	}
	return out, nil
}

func (r *rooms) Sharing(_ *sqldb.Tx, user string, others []string) (out []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, other := range others {
		if slices.ContainsFunc(r.of(user), func(room string) bool { return r.in[room][other] }) {
			out = append(out, other)
		}
	}
	return out, nil
}

// remote is another server: what it answers, and how often it was asked.
type remote struct {
	mu      sync.Mutex
	devices map[string]*e2ee.Devices
	down    bool
	asked   int
	fetched int
	during  func() // runs while a list is being fetched
}

func (r *remote) QueryDeviceKeys(_ context.Context, _ string, want map[string][]string) (json.RawMessage, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.down {
		return nil, errors.New("no answer")
	}
	a := e2ee.Answer{DeviceKeys: map[string]map[string]json.RawMessage{}, Master: map[string]json.RawMessage{}}
	for user := range want {
		d := r.devices[user]
		if d == nil {
			continue
		}
		a.DeviceKeys[user] = map[string]json.RawMessage{}
		for _, info := range d.Devices {
			a.DeviceKeys[user][info.ID] = info.Keys
		}
		if d.Master != nil {
			a.Master[user] = d.Master
		}
	}
	return json.Marshal(a)
}

func (r *remote) ClaimKeys(_ context.Context, _ string, want map[string]map[string]string) (json.RawMessage, error) {
	if r.down {
		return nil, errors.New("no answer")
	}
	out := e2ee.Claimed{}
	for user, devices := range want {
		out[user] = map[string]map[string]json.RawMessage{}
		for device, algorithm := range devices {
			out[user][device] = map[string]json.RawMessage{algorithm + ":1": json.RawMessage(`{"key":"far"}`)}
		}
	}
	out["@stranger:far"] = map[string]map[string]json.RawMessage{"D": {"signed_curve25519:1": json.RawMessage(`{"key":"x"}`)}}
	return json.Marshal(map[string]any{"one_time_keys": out})
}

func (r *remote) UserDevices(_ context.Context, _, user string) (json.RawMessage, error) {
	r.mu.Lock()
	r.fetched++
	during, down, d := r.during, r.down, r.devices[user]
	r.during = nil
	raw, _ := json.Marshal(d)
	r.mu.Unlock()
	if during != nil {
		during()
	}
	if down || d == nil {
		return nil, errors.New("no answer")
	}
	return raw, nil
}

type outbox struct {
	mu    sync.Mutex
	woken []string
}

func (o *outbox) Wake(servers []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.woken = append(o.woken, servers...)
}

// rig is a service with its surroundings.
type rig struct {
	t        testing.TB
	db       *sqldb.DB
	hub      *stream.Hub
	rooms    *rooms
	remote   *remote
	outbox   *outbox
	accounts *account.Service
	*e2ee.Service
}

func newRig(t testing.TB, d sqldb.Dialect) *rig { return openRig(t, sqldbtest.URL(t, d)) }

func openRig(t testing.TB, url string) *rig {
	db := sqldbtest.OpenURL(t, url)
	pos, err := db.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hub := stream.New(pos)
	db.OnPublish(hub.Advance)
	db.Start(t.Context())
	r := &rig{t: t, db: db, hub: hub, rooms: &rooms{hub: hub, in: map[string]map[string]bool{}},
		remote: &remote{devices: map[string]*e2ee.Devices{}}, outbox: &outbox{},
		accounts: account.New(account.Options{DB: db, Hub: hub, ServerName: here})}
	r.Service = e2ee.New(e2ee.Options{DB: db, Hub: hub, Rooms: r.rooms, Accounts: r.accounts, Remote: r.remote,
		Outbox: r.outbox, ServerName: here, Verify: event.VerifyJSON})
	r.accounts.OnDevices(r.Service)
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func each(t *testing.T, fn func(t *testing.T, r *rig)) {
	t.Helper()
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		t.Run(d.String(), func(t *testing.T) { fn(t, newRig(t, d)) })
	}
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// code is the error code of err, "" for none.
func code(err error) string {
	if err == nil {
		return ""
	}
	return matrixerr.From(err).Code
}

func (r *rig) refused(err error, want string) {
	r.t.Helper()
	if code(err) != want {
		r.t.Errorf("got %v, want %s", err, want)
	}
}

// user makes an account with devices.
func (r *rig) user(local string, devices ...string) string {
	r.t.Helper()
	if ok, _ := r.accounts.Exists(r.t.Context(), "@"+local+":"+here); !ok {
		_, err := r.accounts.CreateUser(r.t.Context(), account.NewUser{Username: local})
		r.must(err)
	}
	for _, id := range devices {
		_, err := r.accounts.LoginTrusted(r.t.Context(), local, account.NewDevice{ID: id, DisplayName: "The " + id})
		r.must(err)
	}
	return "@" + local + ":" + here
}

// keypair is an ed25519 key.
type keypair struct {
	public string
	key    ed25519.PrivateKey
}

func newKey() keypair {
	public, key, _ := ed25519.GenerateKey(rand.Reader)
	return keypair{base64.RawStdEncoding.EncodeToString(public), key}
}

func (k keypair) sign(object json.RawMessage, user, id string) json.RawMessage {
	out, err := event.SignJSON(object, event.Signer{Server: user, KeyID: "ed25519:" + id, Key: k.key})
	if err != nil {
		panic(err)
	}
	return out
}

func toJSON(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

// deviceKeys are signed identity keys.
func deviceKeys(k keypair, user, id string) json.RawMessage {
	return k.sign(toJSON(map[string]any{"user_id": user, "device_id": id, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": map[string]string{"ed25519:" + id: k.public, "curve25519:" + id: newKey().public}}), user, id)
}

func oneTime(k keypair, user, id string) json.RawMessage {
	return k.sign(toJSON(map[string]any{"key": newKey().public}), user, id)
}

// oneTimes are n signed keys, with ids from first on.
func oneTimes(k keypair, user, id string, first, n int) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for i := first; i < first+n; i++ {
		out[fmt.Sprintf("signed_curve25519:AAAA%04d", i)] = oneTime(k, user, id)
	}
	return out
}

func crossKey(k keypair, user, usage string) json.RawMessage {
	return toJSON(map[string]any{"user_id": user, "usage": []string{usage}, "keys": map[string]string{"ed25519:" + k.public: k.public}})
}

// upload gives a device identity keys.
func (r *rig) upload(user, id string) keypair {
	r.t.Helper()
	k := newKey()
	_, err := r.UploadKeys(r.t.Context(), user, id, e2ee.Upload{DeviceKeys: deviceKeys(k, user, id)})
	r.must(err)
	return k
}

func (r *rig) claim(user, id string) string {
	r.t.Helper()
	got, _, err := r.Claim(r.t.Context(), e2ee.Claims{user: {id: "signed_curve25519"}}, 0)
	r.must(err)
	for name := range got[user][id] {
		return strings.TrimPrefix(name, "signed_curve25519:")
	}
	return ""
}

func (r *rig) counts(user, id string) string {
	r.t.Helper()
	n, unused, err := r.KeyCounts(r.t.Context(), user, id)
	r.must(err)
	return fmt.Sprint(n["signed_curve25519"], unused)
}

// lists is what a sync would say of device lists.
func (r *rig) lists(user string, from int64, m e2ee.Moves) string {
	r.t.Helper()
	var changed, left []string
	r.must(r.db.Read(r.t.Context(), func(tx *sqldb.Tx) (err error) {
		changed, left, err = r.DeviceLists(tx, user, from, r.hub.Published(), m)
		return err
	}))
	return fmt.Sprint(changed, left)
}

func (r *rig) devices(asking, user string) []string {
	r.t.Helper()
	a, err := r.Query(r.t.Context(), asking, map[string][]string{user: nil}, 0)
	r.must(err)
	out := []string{}
	for id := range a.DeviceKeys[user] {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

func (r *rig) pending(server string, limit int) (edus []e2ee.EDU) {
	r.t.Helper()
	r.must(r.db.Read(r.t.Context(), func(tx *sqldb.Tx) (err error) {
		edus, err = r.PendingEDUs(tx, server, limit)
		return err
	}))
	return edus
}
