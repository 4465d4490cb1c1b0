package e2ee

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
)

// An upload of one-time keys is stored as one value: for each key its id, then either the 32 bytes of the key and the
// 64 of its only signature, by the device itself, or its JSON when it has any other form. The packed form takes half
// of the JSON's room.
const (
	packedKey byte = 1 + iota
	plainKey
)

var errBatch = errors.New("e2ee: stored one-time keys are damaged")

// oneTimeKey is a key by its id, the algorithm left aside. stored is its form in an upload, made before the writer
// needs it.
type oneTimeKey struct {
	id     string
	key    json.RawMessage
	stored []byte
}

func (k oneTimeKey) pack(userID, deviceID string) oneTimeKey {
	out := appendText(append(make([]byte, 0, 112), packedKey), k.id)
	packed, ok := appendPacked(out, k.key, userID, deviceID)
	if !ok {
		out[0] = plainKey
		packed = appendText(out, string(k.key))
	}
	k.stored = packed
	return k
}

func packKeys(keys []oneTimeKey) []byte {
	out := make([]byte, 0, len(keys)*112)
	for _, k := range keys {
		out = append(out, k.stored...)
	}
	return out
}

// packable is the form that signed keys nearly always have.
type packable struct {
	Key        string     `json:"key"`
	Signatures signatures `json:"signatures"`
}

func appendPacked(dst []byte, raw json.RawMessage, userID, deviceID string) ([]byte, bool) {
	var p packable
	if json.Unmarshal(raw, &p) != nil {
		return dst, false
	}
	key, errKey := base64.RawStdEncoding.DecodeString(p.Key)
	sig, errSig := base64.RawStdEncoding.DecodeString(p.Signatures[userID][ed25519ID(deviceID)])
	if errKey != nil || errSig != nil || len(key) != 32 || len(sig) != 64 {
		return dst, false
	}
	if !sameJSON(raw, unpack(key, sig, userID, deviceID)) {
		return dst, false
	}
	return append(append(dst, key...), sig...), true
}

func unpack(key, sig []byte, userID, deviceID string) json.RawMessage {
	return encode(packable{Key: base64.RawStdEncoding.EncodeToString(key),
		Signatures: signatures{userID: {ed25519ID(deviceID): base64.RawStdEncoding.EncodeToString(sig)}}})
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func cutText(data []byte) (text, rest []byte, ok bool) {
	n, size := binary.Uvarint(data)
	if size <= 0 || n > uint64(len(data)-size) {
		return nil, nil, false
	}
	return data[size : size+int(n)], data[size+int(n):], true
}

// eachKey calls fn with the keys of a stored upload, in order, until it returns false.
func eachKey(data []byte, fn func(id []byte, form byte, value []byte) bool) error {
	for len(data) > 0 {
		form := data[0]
		id, rest, ok := cutText(data[1:])
		if !ok {
			return errBatch
		}
		var value []byte
		switch {
		case form == packedKey && len(rest) >= 96:
			value, rest = rest[:96], rest[96:]
		case form == plainKey:
			if value, rest, ok = cutText(rest); !ok {
				return errBatch
			}
		default:
			return errBatch
		}
		if !fn(id, form, value) {
			return nil
		}
		data = rest
	}
	return nil
}

func decodeKey(form byte, value []byte, userID, deviceID string) json.RawMessage {
	if form == packedKey {
		return unpack(value[:32], value[32:], userID, deviceID)
	}
	return json.RawMessage(value)
}

// keyAt returns the key at an index of a stored upload.
func keyAt(data []byte, index int64, userID, deviceID string) (k oneTimeKey, err error) {
	found := false
	err = eachKey(data, func(id []byte, form byte, value []byte) bool {
		if index > 0 {
			index--
			return true
		}
		k, found = oneTimeKey{id: string(id), key: decodeKey(form, value, userID, deviceID)}, true
		return false
	})
	if err == nil && !found {
		err = errBatch
	}
	return k, err
}
