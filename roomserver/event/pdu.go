package event

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/sjson"
)

// PDU is an event as gomatrixserverlib sees it. Unlike Event it has unsigned, and
// changes when the library redacts it; it belongs to one goroutine.
type PDU struct {
	*Event
	unsigned []byte
}

var _ gomatrixserverlib.PDU = (*PDU)(nil)

// PDU returns a view of the event for gomatrixserverlib.
func (e *Event) PDU() *PDU { return &PDU{Event: e} }

// errContent: the event is not of the type or form that was asked for.
var errContent = errors.New("event: content does not have the form of its type")

// Membership returns content.membership of a membership event.
func (e *Event) Membership() (string, error) { return e.stateText("m.room.member", "membership") }

// JoinRule returns content.join_rule of m.room.join_rules.
func (e *Event) JoinRule() (string, error) { return e.stateText("m.room.join_rules", "join_rule") }

// HistoryVisibility returns content.history_visibility of m.room.history_visibility.
func (e *Event) HistoryVisibility() (gomatrixserverlib.HistoryVisibility, error) {
	s, err := e.stateText("m.room.history_visibility", "history_visibility")
	return gomatrixserverlib.HistoryVisibility(s), err
}

func (e *Event) stateText(typ, key string) (string, error) {
	s, ok := stringValue(e.ContentField(key))
	if !ok || !e.isState || e.typ != typ {
		return "", errContent
	}
	return s, nil
}

// PowerLevels returns the content of m.room.power_levels as the library reads it.
func (p *PDU) PowerLevels() (*gomatrixserverlib.PowerLevelContent, error) {
	if !p.IsState("m.room.power_levels", "") {
		return nil, errContent
	}
	c, err := gomatrixserverlib.NewPowerLevelContentFromEvent(p)
	if err != nil {
		return nil, err
	}
	return &c, nil
}

// JSON returns the event with its unsigned, if that was set.
func (p *PDU) JSON() []byte {
	if p.unsigned == nil {
		return p.Event.JSON()
	}
	return setMember(p.Event.JSON(), "unsigned", p.unsigned)
}

// MarshalJSON returns JSON.
func (p *PDU) MarshalJSON() ([]byte, error) { return p.JSON(), nil }

// Redact replaces the event by its redacted copy.
func (p *PDU) Redact() { p.Event = p.Event.Redact() }

// Unsigned returns what SetUnsigned set, or nil.
func (p *PDU) Unsigned() []byte { return p.unsigned }

// SetUnsigned returns a copy with another unsigned.
func (p *PDU) SetUnsigned(unsigned any) (gomatrixserverlib.PDU, error) {
	raw, err := json.Marshal(unsigned)
	if err != nil {
		return nil, err
	}
	if raw, err = Canonical(nil, raw); err != nil {
		return nil, err
	}
	return &PDU{p.Event, raw}, nil
}

// SetUnsignedField sets a value at an sjson path of unsigned.
func (p *PDU) SetUnsignedField(path string, value any) error {
	raw, err := sjson.SetBytes(p.unsigned, path, value)
	if err != nil {
		return err
	}
	p.unsigned, err = canonicalObject(nil, raw, false, nil)
	return err
}

// Sign returns a copy with one more signature; an unusable key changes nothing.
func (p *PDU) Sign(server string, keyID gomatrixserverlib.KeyID, key ed25519.PrivateKey) gomatrixserverlib.PDU {
	signed, err := p.Event.Sign(Signer{server, string(keyID), key})
	if err != nil {
		signed = p.Event
	}
	return &PDU{signed, p.unsigned}
}

// ToHeaderedJSON returns the event with the library's own keys for room version
// and event id.
func (p *PDU) ToHeaderedJSON() ([]byte, error) {
	b := setMember(p.JSON(), "_room_version", AppendString(nil, p.V().ID))
	return setMember(b, "_event_id", AppendString(nil, p.EventID())), nil
}
