package federationapi

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"knock/internal/e2ee"
)

// heard is an Encryption that notes what it is given.
type heard struct {
	Encryption
	got  []string
	fail error
}

func (h *heard) note(kind string) error {
	h.got = append(h.got, kind)
	return h.fail
}

func (h *heard) ReceiveToDevice(context.Context, string, json.RawMessage) error {
	return h.note("to-device")
}
func (h *heard) ReceiveDeviceList(context.Context, string, json.RawMessage) error {
	return h.note("device list")
}
func (h *heard) ReceiveSigningKeys(context.Context, string, json.RawMessage) error {
	return h.note("signing keys")
}

var _ Encryption = (*e2ee.Service)(nil)

// TestTurns takes messages to devices before all else of a transaction, and what must arrive before events.
func TestTurns(t *testing.T) {
	h := &heard{}
	a := New(Options{Encryption: h})
	tr, err := parseTransaction([]byte(`{"edus":[{"edu_type":"m.typing","content":{}},{"edu_type":"m.signing_key_update","content":{}},
		{"edu_type":"m.device_list_update","content":{}},{"edu_type":"m.unknown","content":{}},{"edu_type":"m.direct_to_device","content":{}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	a.sort(tr)
	if first := a.passing(tr); first != 3 || tr.EDUs[3].Type != "m.typing" || tr.EDUs[4].Type != "m.unknown" {
		t.Errorf("%d before the events, then %+v", first, tr.EDUs[first:])
	}
	if err := a.takeEDUs(t.Context(), "b.test", tr.EDUs); err != nil || !slices.Equal(h.got, []string{"to-device", "signing keys", "device list"}) {
		t.Errorf("%v, %v", h.got, err)
	}
	h.fail = errors.New("the disk is full")
	if _, err := a.take(t.Context(), "b.test", tr); err == nil {
		t.Error("taken, though a message could not be written down; no event may be tried")
	}
}
