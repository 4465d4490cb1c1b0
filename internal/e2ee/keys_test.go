package e2ee_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"knock/internal/e2ee"
	"knock/internal/sqldb/sqldbtest"
)

func TestUploadAndQuery(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a, b := r.user("a", "A1", "A2"), r.user("b", "B1")
		k := newKey()
		keys := deviceKeys(k, a, "A1")
		_, err := r.UploadKeys(t.Context(), a, "A1", e2ee.Upload{DeviceKeys: keys})
		r.must(err)
		pos := r.hub.Published()
		_, err = r.UploadKeys(t.Context(), a, "A1", e2ee.Upload{DeviceKeys: keys})
		r.must(err)
		if got := r.lists(a, pos, e2ee.Moves{}); got != "[] []" {
			t.Error("the same keys again are a change:", got)
		}
		if got := r.devices(b, a); !cmp.Equal(got, []string{"A1"}) {
			t.Error(got)
		}
		got, err := r.Query(t.Context(), b, map[string][]string{a: {"A1", "A2"}, b: {}, "nobody": nil}, 0)
		r.must(err)
		var d struct {
			Signatures map[string]map[string]string
			Unsigned   map[string]string
		}
		r.must(json.Unmarshal(got.DeviceKeys[a]["A1"], &d))
		if d.Unsigned["device_display_name"] != "The A1" || d.Signatures[a]["ed25519:A1"] == "" {
			t.Errorf("%s", got.DeviceKeys[a]["A1"])
		}
		if got.DeviceKeys[b] == nil || got.DeviceKeys["nobody"] != nil || len(got.Failures) != 0 {
			t.Error(got)
		}
	})
}

func TestUploadRefused(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a := r.user("a", "A1")
		k := newKey()
		for _, c := range []struct{ name, body, want string }{
			{"of another user", `{"device_keys":` + string(deviceKeys(k, "@b:hs", "A1")) + `}`, "M_INVALID_PARAM"},
			{"of another device", `{"device_keys":` + string(deviceKeys(k, a, "A2")) + `}`, "M_INVALID_PARAM"},
			{"no object", `{"device_keys":[]}`, "M_BAD_JSON"},
			{"no algorithms", `{"device_keys":{"user_id":"@a:hs","device_id":"A1","keys":{}}}`, "M_BAD_JSON"},
			{"key of another device", `{"device_keys":{"user_id":"@a:hs","device_id":"A1","algorithms":[],"keys":{"ed25519:X":"k"}}}`, "M_INVALID_PARAM"},
			{"wrong signatures", `{"device_keys":{"user_id":"@a:hs","device_id":"A1","algorithms":[],"keys":{},"signatures":{"x":1}}}`, "M_BAD_JSON"},
			{"key without algorithm", `{"one_time_keys":{"AAAA":"k"}}`, "M_INVALID_PARAM"},
			{"key without key", `{"one_time_keys":{"a:b":{}}}`, "M_BAD_JSON"},
			{"number", `{"one_time_keys":{"a:b":7}}`, "M_BAD_JSON"},
			{"two fallback keys", `{"fallback_keys":{"a:b":"k","a:c":"k"}}`, "M_INVALID_PARAM"},
			{"nothing", `{}`, ""},
			{"null", `{"device_keys":null}`, ""},
		} {
			var up struct {
				DeviceKeys json.RawMessage            `json:"device_keys"`
				OneTime    map[string]json.RawMessage `json:"one_time_keys"`
				Fallback   map[string]json.RawMessage `json:"fallback_keys"`
			}
			r.must(json.Unmarshal([]byte(c.body), &up))
			_, err := r.UploadKeys(t.Context(), a, "A1", e2ee.Upload{DeviceKeys: up.DeviceKeys, OneTime: up.OneTime, Fallback: up.Fallback})
			if code(err) != c.want {
				t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
		}
		_, err := r.UploadKeys(t.Context(), a, "GONE", e2ee.Upload{DeviceKeys: deviceKeys(k, a, "GONE")})
		r.refused(err, "M_UNKNOWN_TOKEN")
	})
}

func TestOneTimeKeys(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a := r.user("a", "A1")
		k := newKey()
		first, second := oneTimes(k, a, "A1", 0, 2), oneTimes(k, a, "A1", 10, 2)
		upload := func(up e2ee.Upload) error {
			_, err := r.UploadKeys(t.Context(), a, "A1", up)
			return err
		}
		fallback := map[string]json.RawMessage{"signed_curve25519:FALL": k.sign(json.RawMessage(`{"fallback":true,"key":"f"}`), a, "A1")}
		r.must(upload(e2ee.Upload{OneTime: first, Fallback: fallback}))
		r.must(upload(e2ee.Upload{OneTime: second}))
		r.must(upload(e2ee.Upload{OneTime: first}))
		if got := r.counts(a, "A1"); got != "4[signed_curve25519]" && got != "4 [signed_curve25519]" {
			t.Error(got)
		}
		other := map[string]json.RawMessage{"signed_curve25519:AAAA0000": oneTime(k, a, "A1")}
		err := upload(e2ee.Upload{OneTime: other})
		r.refused(err, "M_INVALID_PARAM")
		var order []string
		for range 5 {
			order = append(order, r.claim(a, "A1"))
		}
		if got := strings.Join(order, " "); got != "AAAA0000 AAAA0001 AAAA0010 AAAA0011 FALL" {
			t.Error("not in the order of the uploads:", got)
		}
		r.must(upload(e2ee.Upload{OneTime: first})) // repeated after all were given out
		if got := r.claim(a, "A1"); got != "FALL" {
			t.Error("given out twice:", got)
		}
		if got := r.counts(a, "A1"); strings.Contains(got, "signed") {
			t.Error("the fallback key counts as unused:", got)
		}
		r.must(upload(e2ee.Upload{Fallback: fallback}))
		if got := r.counts(a, "A1"); strings.Contains(got, "signed") {
			t.Error("the same fallback key is unused again:", got)
		}
		fallback["signed_curve25519:NEW"] = fallback["signed_curve25519:FALL"]
		delete(fallback, "signed_curve25519:FALL")
		r.must(upload(e2ee.Upload{Fallback: fallback, OneTime: oneTimes(k, a, "A1", 20, 1)}))
		if got := r.claim(a, "A1") + r.claim(a, "A1"); got != "AAAA0020NEW" {
			t.Error(got)
		}
	})
}

// TestKeyForms claims keys of every form as they were uploaded.
func TestKeyForms(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a := r.user("a", "A1")
		k := newKey()
		for i, key := range []json.RawMessage{oneTime(k, a, "A1"), json.RawMessage(`"plain"`),
			k.sign(json.RawMessage(`{"key":"AAA","extra":{"n":1.5}}`), a, "A1"), json.RawMessage(`{"key":"no signature"}`),
			k.sign(oneTime(k, a, "A1"), "@other:hs", "X")} {
			name := fmt.Sprintf("signed_curve25519:%d", i)
			_, err := r.UploadKeys(t.Context(), a, "A1", e2ee.Upload{OneTime: map[string]json.RawMessage{name: key}})
			r.must(err)
			got, _, err := r.Claim(t.Context(), e2ee.Claims{a: {"A1": "signed_curve25519"}}, 0)
			r.must(err)
			var want, have any
			r.must(json.Unmarshal(key, &want))
			r.must(json.Unmarshal(got[a]["A1"][name], &have))
			if diff := cmp.Diff(want, have); diff != "" {
				t.Error(diff)
			}
		}
	})
}

// TestNoKeyTwice has sixteen claimers take the keys of a few devices while more are uploaded.
func TestNoKeyTwice(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		const devices, uploads, each = 3, 4, 10
		a := r.user("a", "D0", "D1", "D2")
		k := newKey()
		var wg sync.WaitGroup
		for d := range devices {
			wg.Go(func() {
				id := fmt.Sprint("D", d)
				for u := range uploads {
					if _, err := r.UploadKeys(t.Context(), a, id, e2ee.Upload{OneTime: oneTimes(k, a, id, u*each, each)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		var mu sync.Mutex
		seen := map[string]int{}
		take := func() int {
			want := e2ee.Claims{a: {"D0": "signed_curve25519", "D1": "signed_curve25519", "D2": "signed_curve25519"}}
			got, _, err := r.Claim(t.Context(), want, 0)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			n := 0
			for device, keys := range got[a] {
				for name := range keys {
					seen[device+name]++
					n++
				}
			}
			return n
		}
		for range 16 {
			wg.Go(func() {
				for range 5 {
					take()
				}
			})
		}
		wg.Wait()
		for take() > 0 {
		}
		if len(seen) != devices*uploads*each {
			t.Errorf("%d keys were given out of %d", len(seen), devices*uploads*each)
		}
		for name, n := range seen {
			if n != 1 {
				t.Errorf("%s was given out %d times", name, n)
			}
		}
	})
}

func TestRestart(t *testing.T) {
	for name, url := range sqldbtest.URLs(t) {
		t.Run(name, func(t *testing.T) {
			r := openRig(t, url)
			a, b := r.user("a", "A1"), r.user("b", "B1")
			k := r.upload(a, "A1")
			_, err := r.UploadKeys(t.Context(), a, "A1", e2ee.Upload{OneTime: oneTimes(k, a, "A1", 0, 3)})
			r.must(err)
			if got := r.claim(a, "A1"); got != "AAAA0000" {
				t.Error(got)
			}
			r.must(r.SendToDevice(t.Context(), b, "B1", "m.x", "1", e2ee.Messages{a: {"A1": json.RawMessage(`{"n":1}`)}}))
			r.must(r.db.Close())
			r = openRig(t, url)
			if got := r.claim(a, "A1"); got != "AAAA0001" {
				t.Error(got)
			}
			r.must(r.SendToDevice(t.Context(), b, "B1", "m.x", "1", e2ee.Messages{a: {"A1": json.RawMessage(`{"n":1}`)}}))
			if got := r.messages(a, "A1", 0, 10); len(got) != 1 {
				t.Error(got)
			}
			if got := r.lists(b, 0, e2ee.Moves{}); got != "[] []" {
				t.Error(got)
			}
			r.rooms.set(a, "!r", true)
			r.rooms.set(b, "!r", true)
			if got := r.lists(b, 0, e2ee.Moves{}); got != "[@a:hs] []" {
				t.Error("the database forgot a change:", got)
			}
			r.must(r.db.SetMeta(t.Context(), "epoch", []byte("another"))) // as a restore does
			r.must(r.db.Close())
			r = openRig(t, url)
			if got := r.claim(a, "A1"); got != "" {
				t.Error("a key that may have been given out came back with a restore:", got)
			}
		})
	}
}

func TestDeviceDeleted(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a, b := r.user("a", "A1", "A2"), r.user("b", "B1")
		for _, id := range []string{"A1", "A2"} {
			k := r.upload(a, id)
			_, err := r.UploadKeys(t.Context(), a, id, e2ee.Upload{OneTime: oneTimes(k, a, id, 0, 3)})
			r.must(err)
		}
		r.must(r.SendToDevice(t.Context(), b, "B1", "m.x", "1", e2ee.Messages{a: {"*": json.RawMessage(`{}`)}}))
		for _, user := range []string{a, b, "@c:far"} {
			r.rooms.set(user, "!r", true)
		}
		pos := r.hub.Published()
		r.must(r.accounts.DeleteDevices(t.Context(), a, "A1"))
		if got := r.devices(b, a); !cmp.Equal(got, []string{"A2"}) {
			t.Error(got)
		}
		if got := r.lists(b, pos, e2ee.Moves{}); got != "[@a:hs] []" {
			t.Error(got)
		}
		if got := r.claim(a, "A1"); got != "" {
			t.Error(got)
		}
		if got := r.messages(a, "A1", 0, 10); len(got) != 0 {
			t.Error(got)
		}
		edus := r.pending("far", 10)
		if len(edus) != 1 || !strings.Contains(string(edus[0].Content), `"deleted":true`) {
			t.Errorf("%+v", edus)
		}
		pos = r.hub.Published()
		r.must(r.accounts.RenameDevice(t.Context(), a, "A2", "Renamed"))
		if got := r.lists(b, pos, e2ee.Moves{}); got != "[@a:hs] []" {
			t.Error("a rename is not seen:", got)
		}
		r.must(r.accounts.Deactivate(t.Context(), a, false))
		if got := r.devices(b, a); len(got) != 0 {
			t.Error(got)
		}
	})
}

func TestRemoteClaim(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		got, failures, err := r.Claim(t.Context(), e2ee.Claims{"@u:far": {"D": "signed_curve25519"}}, 0)
		r.must(err)
		if string(got["@u:far"]["D"]["signed_curve25519:1"]) == "" || len(got) != 1 || len(failures) != 0 {
			t.Error(got, failures)
		}
		r.remote.down = true
		got, failures, err = r.Claim(t.Context(), e2ee.Claims{"@u:far": {"D": "signed_curve25519"}}, 0)
		r.must(err)
		if len(got) != 0 || failures["far"] == nil {
			t.Error(got, failures)
		}
	})
}
