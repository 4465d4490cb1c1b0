package event

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strconv"
)

// Builder holds what is needed to make an event of our own, or the template of
// one that another server will sign.
type Builder struct {
	Version  *Version
	Type     string
	Sender   string
	RoomID   string // "" for the create event from version 12 on
	StateKey *string
	Content  json.RawMessage // any valid JSON object

	PrevEvents []string
	AuthEvents []string // from version 12 on without the create event
	Depth      int64
	Redacts    string // put where the room version has it
	TS         int64  // origin_server_ts, milliseconds
	Sticky     *int64 // for how many milliseconds it is sticky (MSC4354); nil: it is not

	// Hashes are the reference hashes of prev and auth events, which versions 1
	// and 2 quote beside the ids.
	Hashes map[string][32]byte

	origin string // of templates alone
}

// Build hashes and signs the event. It is held to the same rules as events from
// outside; errors are *ParseError, or come from the key.
func (b *Builder) Build(s Signer) (*Event, error) {
	body, err := b.encode(s.Server)
	if err != nil {
		return nil, err
	}
	h := sha256.Sum256(body)
	hashes := append(base64.RawStdEncoding.AppendEncode([]byte(`{"sha256":"`), h[:]), `"}`...)
	body = setMember(body, "hashes", hashes)

	var buf [24]field
	list, _ := fieldsOf(buf[:0], body)
	covered := b.Version.redaction.appendRedacted(nil, body, list, b.Type, false)
	signed, err := s.addTo(body, covered)
	if err != nil {
		return nil, err
	}
	e, err := b.finish(signed, sha256.Sum256(covered))
	if err != nil {
		return nil, err
	}
	return e, nil
}

// finish reads the signed event back, strictly.
func (b *Builder) finish(signed []byte, reference [32]byte) (*Event, error) {
	if len(signed) > MaxSize {
		return nil, tooLarge("")
	}
	var buf [24]field
	list, _ := fieldsOf(buf[:0], signed)
	e := &Event{v: b.Version, json: signed}
	if err := e.read(list, true); err != nil {
		return nil, err
	}
	if e.oversized {
		return nil, tooLarge("")
	}
	if b.Version.HashIDs() {
		e.setHashID(signed, reference)
	}
	return e, nil
}

// Template returns the event without hashes and signatures, as /make_join and
// its like give it to another server. The event id of versions 1 and 2 is left to
// the one who signs. origin is the server that gives it.
func (b *Builder) Template(origin string) (json.RawMessage, error) {
	t := *b
	t.origin = origin
	return t.encode("")
}

// encode writes the event in canonical JSON. In versions 1 and 2 it gets a new
// event id of the given server.
func (b *Builder) encode(server string) ([]byte, error) {
	content, err := b.content()
	if err != nil {
		return nil, &ParseError{Field: "content", Err: err}
	}
	dst := make([]byte, 0, len(content)+64*(len(b.PrevEvents)+len(b.AuthEvents))+512)
	dst = b.appendRefs(append(dst, `{"auth_events":`...), b.AuthEvents)
	dst = append(append(dst, `,"content":`...), content...)
	dst = strconv.AppendInt(append(dst, `,"depth":`...), b.Depth, 10)
	if !b.Version.HashIDs() && server != "" {
		dst = AppendString(append(dst, `,"event_id":`...), "$"+rand.Text()+":"+server)
	}
	if b.Sticky != nil {
		dst = append(AppendString(append(dst, ','), stickyKey), `:{"duration_ms":`...)
		dst = append(strconv.AppendInt(dst, *b.Sticky, 10), '}')
	}
	if b.origin != "" {
		dst = AppendString(append(dst, `,"origin":`...), b.origin)
	}
	dst = strconv.AppendInt(append(dst, `,"origin_server_ts":`...), b.TS, 10)
	dst = b.appendRefs(append(dst, `,"prev_events":`...), b.PrevEvents)
	if b.Redacts != "" && !b.Version.RedactsInContent {
		dst = AppendString(append(dst, `,"redacts":`...), b.Redacts)
	}
	if b.RoomID != "" {
		dst = AppendString(append(dst, `,"room_id":`...), b.RoomID)
	}
	dst = AppendString(append(dst, `,"sender":`...), b.Sender)
	if b.StateKey != nil {
		dst = AppendString(append(dst, `,"state_key":`...), *b.StateKey)
	}
	return append(AppendString(append(dst, `,"type":`...), b.Type), '}'), nil
}

func (b *Builder) content() ([]byte, error) {
	content, err := canonicalObject(nil, b.Content, b.Version.StrictJSON, nil)
	if err != nil || b.Redacts == "" || !b.Version.RedactsInContent {
		return content, err
	}
	return setMember(content, "redacts", AppendString(nil, b.Redacts)), nil
}

// appendRefs writes ids, or pairs of ids and hashes.
func (b *Builder) appendRefs(dst []byte, ids []string) []byte {
	dst = append(dst, '[')
	for i, id := range ids {
		if i > 0 {
			dst = append(dst, ',')
		}
		if !b.Version.References {
			dst = AppendString(dst, id)
			continue
		}
		dst = append(AppendString(append(dst, '['), id), ",{"...)
		if h, ok := b.Hashes[id]; ok {
			dst = append(base64.RawStdEncoding.AppendEncode(append(dst, `"sha256":"`...), h[:]), '"')
		}
		dst = append(dst, "}]"...)
	}
	return append(dst, ']')
}

// ParseTemplate reads an event that another server proposes that we sign, as
// /make_join answers it. Every field of the builder is the other server's claim
// and for the caller to check; RoomID and Sender are "" when absent.
func ParseTemplate(v *Version, raw []byte) (*Builder, error) {
	if len(raw) > maxRaw {
		return nil, tooLarge("")
	}
	whole, err := canonicalObject(nil, raw, v.StrictJSON, v.drops)
	if err != nil {
		return nil, &ParseError{Err: err}
	}
	var buf [24]field
	list, _ := fieldsOf(buf[:0], whole)
	r := reader{e: &Event{v: v, json: whole}}
	for _, f := range list {
		r.field(view(whole[f.name:f.nameTo]), f)
	}
	if r.err != nil {
		return nil, r.err
	}
	return r.builder()
}

func (r *reader) builder() (*Builder, error) {
	e := r.e
	if err := e.readRefs(orEmpty(r.auth), orEmpty(r.prev)); err != nil {
		return nil, err
	}
	if e.typ == "" || e.raw.content.to == 0 {
		return nil, badField("content")
	}
	e.readRedacts()
	return &Builder{
		Version: e.v, Type: e.typ, Sender: e.sender, RoomID: e.room, StateKey: e.StateKey(),
		Content: e.ContentJSON(), PrevEvents: e.PrevEventIDs(), AuthEvents: e.AuthRefs(),
		Depth: e.depth, Redacts: e.redacts, TS: e.ts,
	}, nil
}

func orEmpty(list []byte) []byte {
	if list == nil {
		return []byte("[]")
	}
	return list
}
