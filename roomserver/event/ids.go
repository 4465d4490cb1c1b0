package event

import (
	"net/netip"
	"strings"
	"unicode/utf8"
)

// maxID is the limit of ids, types and state keys (client-server API, Size limits).
const maxID = 255

// ServerOf returns what follows the first ":" of a user id, room id, alias or old
// event id: the server name. It is "" when there is none.
func ServerOf(id string) string {
	_, server, _ := strings.Cut(id, ":")
	return server
}

// LocalpartOf returns what stands between the sigil and the first ":".
func LocalpartOf(id string) string {
	if id == "" {
		return ""
	}
	local, _, _ := strings.Cut(id[1:], ":")
	return local
}

// ValidUserID tells whether id is a user id, historical ones included: any
// localpart without ":" and NUL, even an empty one, up to 255 bytes.
func ValidUserID(id string) bool { return len(id) <= maxID && userIDForm(id) }

// CompliantUserID tells whether id may be shown to clients outside of events:
// a localpart that is not empty and stays within U+0021 to U+007E.
func CompliantUserID(id string) bool {
	if !ValidUserID(id) {
		return false
	}
	local := LocalpartOf(id)
	for i := range len(local) {
		if local[i] < 0x21 || local[i] > 0x7E {
			return false
		}
	}
	return local != ""
}

// ValidLocalpart tells whether a new user may have this localpart: a-z, 0-9 and
// . _ = - / + only. The length is that of the whole id and is not looked at.
func ValidLocalpart(local string) bool {
	for i := range len(local) {
		c := local[i]
		if !lower(c) && !digit(c) && strings.IndexByte("._=-/+", c) < 0 {
			return false
		}
	}
	return local != ""
}

// ValidRoomID tells whether id is a room id of any version: "!opaque:server", or
// "!" and a reference hash.
func ValidRoomID(id string) bool {
	return len(id) <= maxID && (roomIDForm(id) || hashRoomID(id))
}

// ValidAlias tells whether alias is a room alias, "#localpart:server".
func ValidAlias(alias string) bool {
	return len(alias) <= maxID && sigilForm(alias, '#')
}

// ValidEventID tells whether id can be an event id of some room version.
func ValidEventID(id string) bool {
	return len(id) > 1 && len(id) <= maxID && id[0] == '$' && text(id)
}

// ValidServerName checks the grammar of server names: a DNS name, an IPv4 address
// or an IPv6 address in brackets, and optionally a port.
func ValidServerName(name string) bool {
	if len(name) > maxID {
		return false
	}
	host, rest := name, ""
	if strings.HasPrefix(name, "[") {
		end := strings.IndexByte(name, ']')
		if end < 0 || !ipv6(name[1:end]) {
			return false
		}
		return name[end+1:] == "" || port(name[end+1:])
	}
	if i := strings.IndexByte(name, ':'); i >= 0 {
		host, rest = name[:i], name[i:]
	}
	return dnsName(host) && (rest == "" || port(rest))
}

func dnsName(host string) bool {
	for i := range len(host) {
		c := host[i]
		if !lower(c) && !digit(c) && !upper(c) && c != '-' && c != '.' {
			return false
		}
	}
	return host != ""
}

func ipv6(host string) bool {
	if len(host) < 2 || len(host) > 45 || strings.IndexByte(host, '%') >= 0 {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Is6()
}

// port checks ":" and a port number.
func port(s string) bool {
	if len(s) < 2 || len(s) > 6 || s[0] != ':' {
		return false
	}
	n := 0
	for i := 1; i < len(s); i++ {
		if !digit(s[i]) {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= 65535
}

// userIDForm and roomIDForm leave the length aside.
func userIDForm(id string) bool { return sigilForm(id, '@') }

func roomIDForm(id string) bool { return sigilForm(id, '!') && id[1] != ':' }

func sigilForm(id string, sigil byte) bool {
	if id == "" || id[0] != sigil {
		return false
	}
	local, server, ok := strings.Cut(id[1:], ":")
	return ok && text(local) && ValidServerName(server)
}

func hashRoomID(id string) bool { return id != "" && id[0] == '!' && hashPart(id[1:], IDHashURL) }

// hashEventID tells whether id is "$" and a reference hash as the format writes it.
func hashEventID(id string, f IDFormat) bool {
	return id != "" && id[0] == '$' && hashPart(id[1:], f)
}

// hashPart checks 43 characters of unpadded base64. The last one carries two
// unused bits, which must be zero: otherwise two texts would name one hash.
func hashPart(s string, f IDFormat) bool {
	if len(s) != 43 {
		return false
	}
	c62, c63 := byte('-'), byte('_')
	if f == IDHash {
		c62, c63 = '+', '/'
	}
	for i := range 42 {
		c := s[i]
		if !lower(c) && !upper(c) && !digit(c) && c != c62 && c != c63 {
			return false
		}
	}
	return strings.IndexByte("AEIMQUYcgkosw048", s[42]) >= 0
}

// text tells whether s is valid UTF-8 without NUL.
func text(s string) bool { return strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) }

func digit(c byte) bool { return c >= '0' && c <= '9' }
func lower(c byte) bool { return c >= 'a' && c <= 'z' }
func upper(c byte) bool { return c >= 'A' && c <= 'Z' }
