package event

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"sync"
)

var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

// contentHash is the SHA-256 of an event without signatures, hashes and unsigned
// (server-server API, Calculating the content hash).
func contentHash(b []byte, list []field) [32]byte {
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	dst := append((*buf)[:0], '{')
	for _, f := range list {
		switch string(b[f.name:f.nameTo]) {
		case "signatures", "hashes", "unsigned":
		default:
			dst = append(append(dst, b[f.name-1:f.end]...), ',')
		}
	}
	*buf = closeObject(dst)
	return sha256.Sum256(*buf)
}

// referenceHash is the SHA-256 of the redacted event without signatures
// (server-server API, Calculating the reference hash).
func referenceHash(v *Version, b []byte, list []field, typ string) [32]byte {
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	*buf = v.redaction.appendRedacted((*buf)[:0], b, list, typ, false)
	return sha256.Sum256(*buf)
}

// Hash returns the reference hash. From version 3 on it is also the event id.
func (e *Event) Hash() [32]byte {
	if e.v.HashIDs() {
		if h, ok := HashOf(e.v, e.id); ok {
			return h
		}
	}
	var buf [24]field
	list, _ := fieldsOf(buf[:0], e.json)
	return referenceHash(e.v, e.json, list, e.typ)
}

// HashOf returns the reference hash that an event id stands for; false when the
// id is none of the room version, or one of versions 1 and 2.
func HashOf(v *Version, id string) (h [32]byte, ok bool) {
	if !v.HashIDs() || !hashEventID(id, v.IDFormat) {
		return h, false
	}
	n, err := v.encoding().Decode(h[:], []byte(id[1:]))
	return h, err == nil && n == len(h)
}

// IDOf is the inverse of HashOf.
func IDOf(v *Version, h [32]byte) string { return "$" + v.encoding().EncodeToString(h[:]) }

func (v *Version) encoding() *base64.Encoding {
	if v.IDFormat == IDHash {
		return base64.RawStdEncoding
	}
	return base64.RawURLEncoding
}

// decodeBase64 appends what s encodes, in either alphabet, with or without padding,
// as the appendices recommend.
func decodeBase64(dst []byte, s string) ([]byte, error) {
	s = strings.TrimRight(s, "=")
	if strings.ContainsAny(s, "-_") {
		return base64.RawURLEncoding.AppendDecode(dst, []byte(s))
	}
	return base64.RawStdEncoding.AppendDecode(dst, []byte(s))
}
