package interop

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/roomserver/event"
)

// device is somebody's device with keys: those that sign are real, the others only look so.
type device struct {
	*person
	key   event.Signer
	since string
	lists []string // whose devices changed
	mail  []lab.Event
}

func newDevice(p *person) *device {
	p.t.Helper()
	d := &device{person: p, key: event.Signer{Server: p.UserID, KeyID: "ed25519:" + p.DeviceID, Key: newSeed(p.t)}}
	d.sync(0)
	return d
}

func newSeed(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func public(key ed25519.PrivateKey) string {
	return base64.RawStdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
}

func (d *device) signed(v object, keys ...event.Signer) (out json.RawMessage) {
	d.t.Helper()
	out, err := json.Marshal(v)
	for _, k := range keys {
		if err == nil {
			out, err = event.SignJSON(out, k)
		}
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

// upload publishes the device with one-time keys and a fallback key, and returns what others should be told.
func (d *device) upload(count int) json.RawMessage {
	d.t.Helper()
	keys := d.signed(object{"user_id": d.UserID, "device_id": d.DeviceID, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
		"keys": object{"ed25519:" + d.DeviceID: public(d.key.Key), "curve25519:" + d.DeviceID: public(newSeed(d.t))}}, d.key)
	once := object{}
	for i := range count {
		once[fmt.Sprintf("signed_curve25519:AAAAA%d", i)] = d.signed(object{"key": public(newSeed(d.t))}, d.key)
	}
	fallback := object{"signed_curve25519:FALLBACK": d.signed(object{"key": public(newSeed(d.t)), "fallback": true}, d.key)}
	d.call(http.MethodPost, lab.V3("keys", "upload"), object{"device_keys": keys, "one_time_keys": once, "fallback_keys": fallback}, nil)
	return keys
}

// sync asks for news of devices and messages.
func (d *device) sync(timeout int) {
	d.t.Helper()
	var s struct {
		Next     string                           `json:"next_batch"`
		Lists    struct{ Changed, Left []string } `json:"device_lists"`
		ToDevice struct{ Events []lab.Event }     `json:"to_device"`
	}
	query := url.Values{"timeout": {strconv.Itoa(timeout)}}
	if d.since != "" {
		query.Set("since", d.since)
	}
	d.get(lab.V3("sync")+"?"+query.Encode(), &s)
	d.since = s.Next
	d.lists = append(d.lists, s.Lists.Changed...)
	d.mail = append(d.mail, s.ToDevice.Events...)
}

// hears waits until the devices of somebody have changed.
func (d *device) hears(of *device) {
	d.t.Helper()
	d.eventually(func() error {
		d.sync(1000)
		if !slices.Contains(d.lists, of.UserID) {
			return fmt.Errorf("no change of %s", of.UserID)
		}
		return nil
	})
	d.lists = nil
}

type queried struct {
	Devices  map[string]map[string]json.RawMessage `json:"device_keys"`
	Master   map[string]json.RawMessage            `json:"master_keys"`
	Self     map[string]json.RawMessage            `json:"self_signing_keys"`
	User     map[string]json.RawMessage            `json:"user_signing_keys"`
	Failures map[string]any
}

func (d *device) query(of *device) (q queried) {
	d.t.Helper()
	d.call(http.MethodPost, lab.V3("keys", "query"), object{"device_keys": object{of.UserID: []string{}}}, &q)
	if len(q.Failures) > 0 {
		d.t.Errorf("%s asked for the keys of %s: %v", d.UserID, of.UserID, q.Failures)
	}
	return q
}

// claim is the id of the key that was given.
func (d *device) claim(of *device) string {
	d.t.Helper()
	var c struct {
		Keys map[string]map[string]map[string]json.RawMessage `json:"one_time_keys"`
	}
	d.call(http.MethodPost, lab.V3("keys", "claim"), object{"one_time_keys": object{of.UserID: object{of.DeviceID: "signed_curve25519"}}}, &c)
	for id, key := range c.Keys[of.UserID][of.DeviceID] {
		if err := event.VerifyJSON(key, of.UserID, of.key.KeyID, of.key.Key.Public().(ed25519.PublicKey)); err != nil {
			d.t.Errorf("a claimed key: %v", err)
		}
		return id
	}
	return ""
}

func (d *device) send(txn, text string, to *device) {
	d.t.Helper()
	d.call(http.MethodPut, lab.V3("sendToDevice", "m.room.encrypted", txn),
		object{"messages": object{to.UserID: object{to.DeviceID: object{"algorithm": "none", "body": text}}}}, nil)
}

// receives waits for messages and wants each once.
func (d *device) receives(texts ...string) {
	d.t.Helper()
	d.eventually(func() error {
		d.sync(1000)
		var got []string
		for _, m := range d.mail {
			got = append(got, m.Text("body"))
		}
		if !slices.Equal(got, texts) {
			return fmt.Errorf("messages: %q", got)
		}
		return nil
	})
	d.mail = nil
}

// encryption is device lists, keys asked for and claimed, messages to devices, and cross-signing, both ways.
func encryption(t *testing.T, p *pair) {
	room, host, guest := p.together()
	guest.sees(room, host.set(room, "m.room.encryption", "", object{"algorithm": "m.megolm.v1.aes-sha2"}))
	a, b := newDevice(host), newDevice(guest)
	for _, pair := range [][2]*device{{a, b}, {b, a}} {
		from, to := pair[0], pair[1]
		keys := from.upload(2)
		to.hears(from)
		got := to.query(from).Devices[from.UserID][from.DeviceID]
		if err := event.VerifyJSON(got, from.UserID, from.key.KeyID, from.key.Key.Public().(ed25519.PublicKey)); err != nil {
			t.Errorf("the device's keys: %v\nwant %s\ngot %s", err, keys, got)
		}
		one, two, last := to.claim(from), to.claim(from), to.claim(from)
		if one == two || one == "" || two == "" || last != "signed_curve25519:FALLBACK" {
			t.Errorf("claimed %s, %s and %s", one, two, last)
		}
		from.send("t1", "first", to)
		from.send("t1", "first", to)
		from.send("t2", "second", to)
		to.receives("first", "second")
		crossSigning(t, from, to)
		logins(t, p, from, to)
	}
}

// crossSigning has others learn of a user's keys that sign devices, and of what they signed.
func crossSigning(t *testing.T, from, to *device) {
	t.Helper()
	master, self, user := newSeed(t), newSeed(t), newSeed(t)
	signer := event.Signer{Server: from.UserID, KeyID: "ed25519:" + public(master), Key: master}
	key := func(usage string, k ed25519.PrivateKey) object {
		return object{"user_id": from.UserID, "usage": []string{usage}, "keys": object{"ed25519:" + public(k): public(k)}}
	}
	from.call(http.MethodPost, lab.V3("keys", "device_signing", "upload"), object{"master_key": from.signed(key("master", master), from.key),
		"self_signing_key": from.signed(key("self_signing", self), signer), "user_signing_key": from.signed(key("user_signing", user), signer)}, nil)
	to.hears(from)
	to.eventually(func() error {
		q := to.query(from)
		if err := event.VerifyJSON(q.Self[from.UserID], from.UserID, signer.KeyID, master.Public().(ed25519.PublicKey)); err != nil || q.Master[from.UserID] == nil || q.User[from.UserID] != nil {
			return fmt.Errorf("keys that sign: %s %s %s: %w", q.Master[from.UserID], q.Self[from.UserID], q.User[from.UserID], err)
		}
		return nil
	})
	var mine queried
	from.call(http.MethodPost, lab.V3("keys", "query"), object{"device_keys": object{from.UserID: []string{}}}, &mine)
	signed, err := event.SignJSON(mine.Devices[from.UserID][from.DeviceID], event.Signer{Server: from.UserID, KeyID: "ed25519:" + public(self), Key: self})
	if err != nil {
		t.Fatal(err)
	}
	var device object
	if err := json.Unmarshal(signed, &device); err != nil {
		t.Fatal(err)
	}
	delete(device, "unsigned")
	var failed struct{ Failures map[string]any }
	from.call(http.MethodPost, lab.V3("keys", "signatures", "upload"), object{from.UserID: object{from.DeviceID: device}}, &failed)
	if len(failed.Failures) > 0 {
		t.Errorf("the signature was refused: %v", failed.Failures)
	}
	to.eventually(func() error {
		got := to.query(from).Devices[from.UserID][from.DeviceID]
		return event.VerifyJSON(got, from.UserID, "ed25519:"+public(self), self.Public().(ed25519.PublicKey))
	})
}

// logins are devices that come and go.
func logins(t *testing.T, p *pair, from, to *device) {
	t.Helper()
	c := lab.NewClient(from.BaseURL)
	t.Cleanup(c.Close)
	if err := c.Login(p.ctx, from.UserID, from.Password); err != nil {
		t.Fatal(err)
	}
	second := newDevice(&person{c, t, p.ctx, from.server})
	to.sync(0)
	to.lists = nil
	second.upload(0)
	to.hears(from)
	to.eventually(func() error {
		if q := to.query(from); q.Devices[from.UserID][second.DeviceID] == nil {
			return fmt.Errorf("the new device is not among %d", len(q.Devices[from.UserID]))
		}
		return nil
	})
	second.call(http.MethodPost, lab.V3("logout"), object{}, nil)
	to.eventually(func() error {
		if q := to.query(from); q.Devices[from.UserID][second.DeviceID] != nil {
			return fmt.Errorf("the device is still there")
		}
		return nil
	})
	to.sync(0)
	to.lists = nil
}
