package mediaapi

import (
	"crypto/rand"
	"encoding/base64"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// mxc is an mxc:// URI in its two parts.
type mxc struct{ origin, id string }

func (u mxc) String() string { return "mxc://" + u.origin + "/" + u.id }

const maxIDBytes = 255

// valid holds the parts against the characters that the specification allows: nothing in them can leave a path.
func (u mxc) valid() bool {
	if u.id == "" || len(u.id) > maxIDBytes || len(u.origin) > maxIDBytes {
		return false
	}
	for i := range len(u.id) {
		switch c := u.id[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-':
		default:
			return false
		}
	}
	_, _, ok := spec.ParseAndValidateServerName(spec.ServerName(u.origin))
	return ok
}

// newID makes a media id that nobody guesses.
func newID() string {
	b := make([]byte, 18)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}
