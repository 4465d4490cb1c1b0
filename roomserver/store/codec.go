package store

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"strings"

	"github.com/klauspost/compress/zstd"

	"knock/roomserver/event"
)

// dictionary holds what events have in common. It is made from synthetic
// events; changing it needs a new codec number, since stored rows name theirs.
//
//go:embed dictionary.txt
var dictionary []byte

// Codecs of event_json rows: the first byte of each.
const (
	codecPlain byte = 0 // as it is
	codecZstd1 byte = 1 // zstd with the dictionary of version 1
)

const (
	dictionaryID   = 1
	maxStoredBytes = 1 << 20 // no event with its notes is larger
)

// codec packs an event's canonical JSON together with what we note about it.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newCodec() *codec {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderDictRaw(dictionaryID, dictionary),
		zstd.WithEncoderConcurrency(2), zstd.WithEncoderCRC(false), zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(fmt.Sprintf("store: the zstd encoder's options are wrong: %v", err))
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderDictRaw(dictionaryID, dictionary), zstd.WithDecoderMaxMemory(maxStoredBytes), zstd.WithDecoderConcurrency(2))
	if err != nil {
		panic(fmt.Sprintf("store: the zstd decoder's options are wrong: %v", err))
	}
	return &codec{enc: enc, dec: dec}
}

// Note is what the sender of a local event, or the device that sent it, is told
// about it.
type Note struct {
	Device, Txn string
	Delay       string // id of the delayed event that it was (MSC4140); device and transaction are empty then
}

// note is what is kept beside an event's JSON, so that it costs no row and no
// index: a Note, or the room version of an outlier, which came when the room's
// version was only claimed.
type note struct {
	Note
	Version string
}

// Canonical JSON holds no raw control characters, so one of these ends it and
// says what follows.
const (
	beforeDevice  = '\n' // then another one, and a transaction
	beforeVersion = '\r'
	beforeDelay   = '\v'
)

func (n note) tail() string {
	switch {
	case n.Version != "":
		return string(beforeVersion) + n.Version
	case n.Delay != "":
		return string(beforeDelay) + n.Delay
	case n.Note != Note{}:
		return string(beforeDevice) + n.Device + string(beforeDevice) + n.Txn
	}
	return ""
}

// cutNote is the inverse of tail: it returns the JSON that came before it too.
func cutNote(plain []byte) ([]byte, note) {
	end := bytes.IndexAny(plain, string([]rune{beforeDevice, beforeVersion, beforeDelay}))
	if end < 0 {
		return plain, note{}
	}
	json, tail := plain[:end:end], string(plain[end+1:])
	switch plain[end] {
	case beforeVersion:
		return json, note{Version: tail}
	case beforeDelay:
		return json, note{Note: Note{Delay: tail}}
	}
	device, txn, _ := strings.Cut(tail, string(beforeDevice))
	return json, note{Note: Note{Device: device, Txn: txn}}
}

// pack returns the event_json bytes of an event.
func (c *codec) pack(json []byte, n note) []byte {
	plain := json
	if tail := n.tail(); tail != "" {
		plain = append(append(make([]byte, 0, len(json)+len(tail)), json...), tail...)
	}
	packed := c.enc.EncodeAll(plain, append(make([]byte, 0, len(plain)), codecZstd1))
	if len(packed) <= len(plain) {
		return packed
	}
	return append([]byte{codecPlain}, plain...)
}

var errCodec = errors.New("event_json row with an unknown codec")

// unpack is the inverse of pack. The JSON it returns is not shared with data.
func (c *codec) unpack(data []byte) ([]byte, note, error) {
	if len(data) == 0 {
		return nil, note{}, errCodec
	}
	var plain []byte
	var err error
	switch data[0] {
	case codecPlain:
		plain = bytes.Clone(data[1:])
	case codecZstd1:
		plain, err = c.dec.DecodeAll(data[1:], nil)
	default:
		err = errCodec
	}
	if err != nil {
		return nil, note{}, err
	}
	json, n := cutNote(plain)
	return json, n, nil
}

// Pack returns the compressed form of an event for Write, made by the caller so
// that the writer does not have to.
func (s *Store) Pack(e *event.Event, n Note) []byte {
	return s.codec.pack(e.JSON(), note{Note: n})
}

// PackOutlier is Pack for an event whose room may turn out to have another
// version.
func (s *Store) PackOutlier(e *event.Event) []byte {
	return s.codec.pack(e.JSON(), note{Version: e.V().ID})
}

func versionOf(id string) (*event.Version, error) {
	v, ok := event.GetVersion(id)
	if !ok {
		return nil, fmt.Errorf("the unknown room version %q", id)
	}
	return v, nil
}
