package e2ee_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"knock/internal/e2ee"
	"knock/internal/sqldb"
)

func TestDeviceLists(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a, b, c := r.user("a", "A1"), r.user("b", "B1"), r.user("c", "C1")
		const far = "@u:far"
		for _, user := range []string{a, b, far} {
			r.rooms.set(user, "!r", true)
		}
		pos := r.hub.Published()
		r.upload(a, "A1")
		for user, want := range map[string]string{a: "[@a:hs] []", b: "[@a:hs] []", c: "[] []"} {
			if got := r.lists(user, pos, e2ee.Moves{}); got != want {
				t.Errorf("%s: %s", user, got)
			}
		}
		if r.hub.LastUser(b) <= pos || r.hub.LastUser(c) > pos {
			t.Error("the wrong users were woken")
		}
		pos = r.hub.Published()
		r.rooms.set(c, "!r", true)
		if got := r.lists(c, pos, e2ee.Moves{Joined: []string{"!r"}}); got != "[@a:hs @b:hs @c:hs @u:far] []" {
			t.Error(got)
		}
		if got := r.lists(b, pos, e2ee.Moves{In: []string{c}}); got != "[@c:hs] []" {
			t.Error(got)
		}
		r.rooms.set(far, "!r", false)
		if got := r.lists(b, pos, e2ee.Moves{In: []string{far}, Out: []string{far}}); got != "[] [@u:far]" {
			t.Error("in and out again:", got)
		}
		r.rooms.set(far, "!r", true)
		if got := r.lists(b, pos, e2ee.Moves{In: []string{far}, Out: []string{far}}); got != "[@u:far] []" {
			t.Error("out and in again:", got)
		}
		r.rooms.set(c, "!other", true)
		r.rooms.set(far, "!other", true)
		r.rooms.set(c, "!r", false)
		if got := r.lists(c, pos, e2ee.Moves{Left: []string{"!r"}}); got != "[] [@a:hs @b:hs]" {
			t.Error("still shares a room with far:", got)
		}
	})
}

// update is an m.device_list_update EDU.
func update(user, id string, stream int64, keys json.RawMessage, prev ...int64) json.RawMessage {
	u := map[string]any{"user_id": user, "device_id": id, "stream_id": stream, "prev_id": prev}
	if keys != nil {
		u["keys"] = keys
	} else {
		u["deleted"] = true
	}
	return toJSON(u)
}

// eventually asks until it holds: lists are fetched in the background.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("it never came about that", what)
}

func (r *rig) run() {
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
}

func (r *rig) asked() int {
	r.remote.mu.Lock()
	defer r.remote.mu.Unlock()
	return r.remote.asked
}

func TestRemoteLists(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a := r.user("a", "A1")
		const far = "@u:far"
		k := newKey()
		r.remote.devices[far] = &e2ee.Devices{UserID: far, Stream: 5, Devices: []e2ee.DeviceInfo{{ID: "D1", Keys: deviceKeys(k, far, "D1")},
			{ID: "BAD", Keys: deviceKeys(k, "@other:far", "BAD")}}}
		r.run()
		if got := r.devices(a, far); !cmp.Equal(got, []string{"D1"}) {
			t.Error(got)
		}
		if got := r.devices(a, far); len(got) != 1 || r.asked() != 2 {
			t.Error("kept though no room is shared")
		}
		r.rooms.set(a, "!r", true)
		r.rooms.set(far, "!r", true)
		pos := r.hub.Published()
		r.devices(a, far)
		eventually(t, "the list is stored", func() bool { return r.lists(a, pos, e2ee.Moves{}) != "[] []" })
		n := r.asked()
		if got := r.devices(a, far); len(got) != 1 || r.asked() != n {
			t.Error("asked again:", got)
		}

		pos = r.hub.Published()
		r.must(r.ReceiveDeviceList(t.Context(), "far", update(far, "D2", 6, deviceKeys(k, far, "D2"), 5)))
		if got := r.lists(a, pos, e2ee.Moves{}); got != "[@u:far] []" {
			t.Error(got)
		}
		if got := r.devices(a, far); !cmp.Equal(got, []string{"D1", "D2"}) || r.asked() != n {
			t.Error(got)
		}
		pos = r.hub.Published()
		r.must(r.ReceiveDeviceList(t.Context(), "far", update(far, "D1", 7, nil, 6)))
		r.must(r.ReceiveDeviceList(t.Context(), "far", update(far, "D1", 7, nil, 6)))
		if got := r.devices(a, far); !cmp.Equal(got, []string{"D2"}) || r.asked() != n {
			t.Error(got)
		}

		// A gap: 8 is missing. Meanwhile the answer is what the server says now.
		r.remote.mu.Lock()
		r.remote.devices[far] = &e2ee.Devices{UserID: far, Stream: 9, Devices: []e2ee.DeviceInfo{{ID: "D3", Keys: deviceKeys(k, far, "D3")}}}
		r.remote.mu.Unlock()
		r.must(r.ReceiveDeviceList(t.Context(), "far", update(far, "D3", 9, deviceKeys(k, far, "D3"), 8)))
		eventually(t, "the gap is filled", func() bool { return cmp.Equal(r.devices(a, far), []string{"D3"}) })

		r.refused(r.ReceiveDeviceList(t.Context(), "other", update(far, "D3", 9, nil)), "M_FORBIDDEN")
		r.refused(r.ReceiveDeviceList(t.Context(), "far", json.RawMessage(`[]`)), "M_BAD_JSON")

		// The last shared room is left: what is known is dropped, and fetched again later.
		r.rooms.set(far, "!r", false)
		r.must(r.Prune(t.Context()))
		r.rooms.set(far, "!r", true)
		n = r.asked()
		r.devices(a, far)
		if r.asked() == n {
			t.Error("an old list was kept")
		}
	})
}

// TestUnseenDevices hears of another server's devices without keys: clients have nothing to fetch, and what follows
// fits on.
func TestUnseenDevices(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a := r.user("a", "A1")
		const far = "@u:far"
		k := newKey()
		r.rooms.set(a, "!r", true)
		r.rooms.set(far, "!r", true)
		from := r.hub.Published()
		hear := func(device string, stream int64, keys json.RawMessage, prev ...int64) string {
			r.must(r.ReceiveDeviceList(t.Context(), "far", update(far, device, stream, keys, prev...)))
			defer func() { from = r.hub.Published() }()
			return r.lists(a, from, e2ee.Moves{})
		}
		const none = "[] []"
		if got := hear("D1", 3, json.RawMessage("null")); got != none {
			t.Errorf("a device of somebody who is not followed: %s", got)
		}
		r.remote.devices[far] = &e2ee.Devices{UserID: far, Stream: 5}
		r.devices(a, far)
		r.run()
		eventually(t, "the list is stored", func() bool {
			n := r.asked()
			r.devices(a, far)
			return r.asked() == n
		})
		from = r.hub.Published()
		if got := hear("D1", 6, json.RawMessage("null"), 5); got != none {
			t.Errorf("a device without keys: %s", got)
		}
		if got := hear("D2", 7, deviceKeys(k, far, "D2"), 6); got == none || !cmp.Equal(r.devices(a, far), []string{"D2"}) {
			t.Errorf("a device with keys: %s", got)
		}
	})
}

// TestUpdateDuringFetch gets an update while the list is on its way: the list that arrives is too old.
func TestUpdateDuringFetch(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a := r.user("a", "A1")
		const far = "@u:far"
		k := newKey()
		r.rooms.set(a, "!r", true)
		r.rooms.set(far, "!r", true)
		r.remote.devices[far] = &e2ee.Devices{UserID: far, Stream: 5}
		r.remote.during = func() {
			keys := deviceKeys(k, far, "D1")
			r.remote.mu.Lock()
			r.remote.devices[far] = &e2ee.Devices{UserID: far, Stream: 6, Devices: []e2ee.DeviceInfo{{ID: "D1", Keys: keys}}}
			r.remote.mu.Unlock()
			if err := r.ReceiveDeviceList(t.Context(), "far", update(far, "D1", 6, keys, 5)); err != nil {
				t.Error(err)
			}
		}
		r.devices(a, far)
		r.run()
		eventually(t, "the newer list is stored", func() bool {
			r.remote.mu.Lock()
			fetched := r.remote.fetched
			r.remote.mu.Unlock()
			return fetched >= 2 && cmp.Equal(r.devices(a, far), []string{"D1"})
		})
	})
}

func TestServerDown(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a := r.user("a", "A1")
		r.remote.down = true
		got, err := r.Query(t.Context(), a, map[string][]string{"@u:far": nil, a: nil}, time.Second)
		r.must(err)
		if got.Failures["far"] == nil || got.DeviceKeys["@u:far"] != nil || got.DeviceKeys[a] == nil {
			t.Error(got)
		}
	})
}

// TestOutboundLists follows the EDUs that another server gets: each points to the one before it.
func TestOutboundLists(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a := r.user("a", "A1", "A2")
		r.rooms.set(a, "!r", true)
		r.rooms.set("@u:far", "!r", true)
		type edu struct {
			Device string  `json:"device_id"`
			Stream int64   `json:"stream_id"`
			Prev   []int64 `json:"prev_id"`
			Name   string  `json:"device_display_name"`
		}
		read := func() (out []edu) {
			all := r.pending("far", 100)
			for _, e := range all {
				var u edu
				r.must(json.Unmarshal(e.Content, &u))
				out = append(out, u)
			}
			if len(all) > 0 {
				r.must(r.Delivered(t.Context(), "far", all[len(all)-1].Pos))
			}
			return out
		}
		r.upload(a, "A1")
		r.upload(a, "A2")
		r.upload(a, "A1") // the newest state of a device is enough
		if diff := cmp.Diff([]edu{{"A2", 2, []int64{}, "The A2"}, {"A1", 3, []int64{2}, "The A1"}}, read()); diff != "" {
			t.Error(diff)
		}
		r.upload(a, "A2")
		if diff := cmp.Diff([]edu{{"A2", 4, []int64{3}, "The A2"}}, read()); diff != "" {
			t.Error(diff)
		}
		d, err := r.LocalDevices(t.Context(), a)
		r.must(err)
		if d.Stream != 4 || len(d.Devices) != 2 {
			t.Error(d)
		}
		r.rooms.set("@v:new", "!r", true)
		r.must(r.db.Do(t.Context(), &sqldb.Op{Name: "join", Positions: 1, Write: func(tx *sqldb.Tx, pos int64) error {
			_, err := r.AnnounceDevices(tx, pos, a, []string{"new"})
			return err
		}}))
		if got := r.pending("new", 100); len(got) != 2 {
			t.Error(got)
		}
		r.must(r.accounts.DeleteAllDevices(t.Context(), a, 0))
		got := read()
		if len(got) != 2 || got[0].Stream+1 != got[1].Stream || got[1].Prev[0] != got[0].Stream {
			t.Error(got)
		}
		_, err = r.LocalDevices(t.Context(), "@u:far")
		r.refused(err, "M_NOT_FOUND")
		r.rooms.set("@v:new", "!r", false)
		r.user("a", "A3")
		r.upload(a, "A3")
		if got := r.pending("new", 100); len(got) != 0 {
			t.Error("a server that shares no room is told of devices:", got)
		}
	})
}

func TestCrossSigning(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a, b := r.user("a", "A1"), r.user("b", "B1")
		for _, user := range []string{a, b, "@u:far"} {
			r.rooms.set(user, "!r", true)
		}
		device := newKey()
		keys := deviceKeys(device, a, "A1")
		_, err := r.UploadKeys(t.Context(), a, "A1", e2ee.Upload{DeviceKeys: keys})
		r.must(err)
		msk, ssk, usk := newKey(), newKey(), newKey()
		c := e2ee.CrossSigning{Master: crossKey(msk, a, "master"),
			SelfSigning: msk.sign(crossKey(ssk, a, "self_signing"), a, msk.public),
			UserSigning: msk.sign(crossKey(usk, a, "user_signing"), a, msk.public)}
		upload := func(c e2ee.CrossSigning, authorised bool) error {
			return r.UploadCrossSigning(t.Context(), a, c, authorised)
		}
		r.refused(upload(e2ee.CrossSigning{SelfSigning: c.SelfSigning}, false), "M_MISSING_PARAM")
		r.refused(upload(e2ee.CrossSigning{Master: crossKey(msk, b, "master")}, false), "M_INVALID_PARAM")
		r.refused(upload(e2ee.CrossSigning{Master: crossKey(msk, a, "self_signing")}, false), "M_INVALID_PARAM")
		r.refused(upload(e2ee.CrossSigning{Master: c.Master, SelfSigning: crossKey(ssk, a, "self_signing")}, false), "M_INVALID_SIGNATURE")
		pos := r.hub.Published()
		r.must(upload(c, false))
		if got := r.lists(b, pos, e2ee.Moves{}); got != "[@a:hs] []" {
			t.Error(got)
		}
		pos = r.hub.Published()
		r.must(upload(c, false))
		if needed, err := r.NeedsAuth(t.Context(), a, c); needed || err != nil {
			t.Error(needed, err)
		}
		if got := r.lists(b, pos, e2ee.Moves{}); got != "[] []" {
			t.Error("the same keys are a change:", got)
		}

		// Signatures.
		sign := func(user string, o e2ee.Objects) string {
			failures, err := r.UploadSignatures(t.Context(), user, o)
			r.must(err)
			out := ""
			for _, byID := range failures {
				for _, e := range byID {
					out += e.Code
				}
			}
			return out
		}
		if got := sign(a, e2ee.Objects{a: {"A1": ssk.sign(keys, a, ssk.public), msk.public: device.sign(c.Master, a, "A1")}}); got != "" {
			t.Error(got)
		}
		if got := sign(a, e2ee.Objects{a: {"A1": msk.sign(keys, a, ssk.public)}}); got != "M_INVALID_SIGNATURE" {
			t.Error(got)
		}
		if got := sign(a, e2ee.Objects{a: {"A1": ssk.sign(deviceKeys(device, a, "A1"), a, ssk.public)}}); got != "M_INVALID_SIGNATURE" {
			t.Error("another object:", got)
		}
		if got := sign(a, e2ee.Objects{a: {"NONE": ssk.sign(keys, a, ssk.public)}}); got != "M_NOT_FOUND" {
			t.Error(got)
		}
		bMaster := newKey()
		r.must(r.UploadCrossSigning(t.Context(), b, e2ee.CrossSigning{Master: crossKey(bMaster, b, "master")}, false))
		pos = r.hub.Published()
		if got := sign(a, e2ee.Objects{b: {bMaster.public: usk.sign(crossKey(bMaster, b, "master"), a, usk.public)}}); got != "" {
			t.Error(got)
		}
		for _, lists := range []string{r.lists(a, pos, e2ee.Moves{}), openSame(r).lists(a, pos, e2ee.Moves{})} {
			if lists != "[@b:hs] []" {
				t.Error("the signer's other devices do not hear of it:", lists)
			}
		}
		if got := r.lists(b, pos, e2ee.Moves{}); got != "[] []" {
			t.Error(got)
		}
		mine, err := r.Query(t.Context(), a, map[string][]string{a: nil, b: nil}, 0)
		r.must(err)
		theirs, err := r.Query(t.Context(), b, map[string][]string{a: nil, b: nil}, 0)
		r.must(err)
		if !strings.Contains(string(mine.Master[b]), usk.public) || strings.Contains(string(theirs.Master[b]), usk.public) {
			t.Error("only the signer sees a signature on another's key")
		}
		if mine.UserSigning[a] == nil || theirs.UserSigning[a] != nil || theirs.UserSigning[b] != nil {
			t.Error("the user-signing key is its owner's alone")
		}
		if !strings.Contains(string(theirs.DeviceKeys[a]["A1"]), ssk.public) || !strings.Contains(string(theirs.Master[a]), "ed25519:A1") {
			t.Errorf("%s %s", theirs.DeviceKeys[a]["A1"], theirs.Master[a])
		}
		// The same device keys again keep their signatures.
		_, err = r.UploadKeys(t.Context(), a, "A1", e2ee.Upload{DeviceKeys: keys})
		r.must(err)
		if again, _ := r.QueryLocal(t.Context(), map[string][]string{a: nil}); !strings.Contains(string(again.DeviceKeys[a]["A1"]), ssk.public) {
			t.Error("a signature was lost")
		}
		edus := fmt.Sprint(r.pending("far", 100))
		if !strings.Contains(edus, "m.signing_key_update") || !strings.Contains(edus, "m.device_list_update") {
			t.Error(edus)
		}

		// Reset.
		other := newKey()
		reset := e2ee.CrossSigning{Master: crossKey(other, a, "master")}
		if needed, err := r.NeedsAuth(t.Context(), a, reset); !needed || err != nil {
			t.Error(needed, err)
		}
		r.refused(upload(reset, false), "M_FORBIDDEN")
		r.must(upload(reset, true))
		mine, err = r.Query(t.Context(), a, map[string][]string{a: nil, b: nil}, 0)
		r.must(err)
		if mine.SelfSigning[a] != nil || strings.Contains(string(mine.Master[b]), usk.public) {
			t.Error("what the old keys signed is still there")
		}
		named := newKey()
		r.user("a", named.public)
		r.refused(upload(e2ee.CrossSigning{Master: crossKey(named, a, "master")}, true), "M_FORBIDDEN")
	})
}

func TestRemoteCrossSigning(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a := r.user("a", "A1")
		const far = "@u:far"
		msk, usk, mine := newKey(), newKey(), newKey()
		r.must(r.UploadCrossSigning(t.Context(), a, e2ee.CrossSigning{Master: crossKey(mine, a, "master"),
			UserSigning: mine.sign(crossKey(usk, a, "user_signing"), a, mine.public)}, false))
		r.remote.devices[far] = &e2ee.Devices{UserID: far, Stream: 1, Master: crossKey(msk, far, "master")}
		r.rooms.set(a, "!r", true)
		r.rooms.set(far, "!r", true)
		failures, err := r.UploadSignatures(t.Context(), a, e2ee.Objects{far: {msk.public: usk.sign(crossKey(msk, far, "master"), a, usk.public)}})
		if err != nil || len(failures) != 0 {
			t.Error(failures, err)
		}
		got, err := r.Query(t.Context(), a, map[string][]string{far: nil}, 0)
		if err != nil || !strings.Contains(string(got.Master[far]), usk.public) {
			t.Error(got, err)
		}
		r.run()
		eventually(t, "the keys are stored", func() bool { n := r.asked(); r.devices(a, far); return r.asked() == n })
		next := newKey()
		pos := r.hub.Published()
		r.must(r.ReceiveSigningKeys(t.Context(), "far", toJSON(map[string]any{"user_id": far, "master_key": crossKey(next, far, "master")})))
		if got := r.lists(a, pos, e2ee.Moves{}); got != "[@u:far] []" {
			t.Error(got)
		}
		got, err = r.Query(t.Context(), a, map[string][]string{far: nil}, 0)
		if err != nil || !strings.Contains(string(got.Master[far]), next.public) || strings.Contains(string(got.Master[far]), usk.public) {
			t.Error(got, err)
		}
		r.refused(r.ReceiveSigningKeys(t.Context(), "other", toJSON(map[string]any{"user_id": far})), "M_FORBIDDEN")
	})
}
