package store

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"

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

// note is what is kept beside an event's JSON, so that it costs no row and no
// index: what the sending device of a local event is told about it, or the room
// version of an outlier, which came when the room's version was only claimed.
type note struct{ Device, Txn, Version string }

// pack returns the event_json bytes of an event. Canonical JSON holds no raw
// control characters, so a newline ends it, or a carriage return before a version.
func (c *codec) pack(json []byte, n note) []byte {
	plain := json
	switch {
	case n.Version != "":
		plain = make([]byte, 0, len(json)+len(n.Version)+1)
		plain = append(plain, json...)
		plain = append(plain, '\r')
		plain = append(plain, n.Version...)
	case n != (note{}):
		plain = make([]byte, 0, len(json)+len(n.Device)+len(n.Txn)+2)
		plain = append(plain, json...)
		plain = append(plain, '\n')
		plain = append(plain, n.Device...)
		plain = append(plain, '\n')
		plain = append(plain, n.Txn...)
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
	json, rest, noted := bytes.Cut(plain, []byte{'\n'})
	if !noted {
		json, version, _ := bytes.Cut(plain, []byte{'\r'})
		return json[:len(json):len(json)], note{Version: string(version)}, nil
	}
	device, txn, _ := bytes.Cut(rest, []byte{'\n'})
	return json[:len(json):len(json)], note{Device: string(device), Txn: string(txn)}, nil
}

// Pack returns the compressed form of an event for Write, made by the caller so
// that the writer does not have to.
func (s *Store) Pack(e *event.Event, device, txn string) []byte {
	return s.codec.pack(e.JSON(), note{Device: device, Txn: txn})
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
