package keys

import (
	"errors"
	"strings"

	"knock/roomserver/event"
)

// xMatrix is the content of an Authorization header (Server-Server API, Request Authentication).
type xMatrix struct {
	origin, destination, key, sig string
	hasDestination                bool
}

const (
	scheme    = "X-Matrix"
	maxHeader = 4 << 10
	maxParams = 32
)

var errHeader = errors.New("the Authorization header is not a valid X-Matrix header")

// parseXMatrix reads a header. ok is false when it has another scheme.
func parseXMatrix(header string) (x xMatrix, ok bool, err error) {
	name, rest, _ := strings.Cut(header, " ")
	if !strings.EqualFold(name, scheme) {
		return x, false, nil
	}
	if len(header) > maxHeader {
		return x, true, errHeader
	}
	params, err := parseParams(rest)
	if err != nil {
		return x, true, err
	}
	x.origin, x.key, x.sig = params["origin"], params["key"], params["sig"]
	x.destination, x.hasDestination = params["destination"]
	if x.sig == "" {
		x.sig = params["signature"]
	}
	if !event.ValidServerName(x.origin) || !strings.HasPrefix(x.key, algorithm) || len(x.key) > 255 || x.sig == "" {
		return x, true, errHeader
	}
	return x, true, nil
}

// parseParams reads a comma-separated list of name=value (RFC 9110, section 11.4), names in lower case. A name that
// comes twice is refused.
func parseParams(s string) (map[string]string, error) {
	params := map[string]string{}
	for s = skipSpace(s); s != ""; s = skipSpace(s) {
		if s[0] == ',' {
			s = s[1:]
			continue
		}
		name, rest := token(s, false)
		rest = skipSpace(rest)
		if name == "" || !strings.HasPrefix(rest, "=") || len(params) == maxParams {
			return nil, errHeader
		}
		value, rest, ok := paramValue(skipSpace(rest[1:]))
		name = strings.ToLower(name)
		if _, twice := params[name]; !ok || twice {
			return nil, errHeader
		}
		params[name] = value
		if s = skipSpace(rest); s != "" && s[0] != ',' {
			return nil, errHeader
		}
	}
	return params, nil
}

// paramValue reads a token, with colons for the sake of older servers, or a quoted string.
func paramValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		value, rest = token(s, true)
		return value, rest, value != ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		c := s[i]
		if c == '"' {
			return b.String(), s[i+1:], true
		}
		if c == '\\' && i+1 < len(s) {
			i++
			c = s[i]
		}
		if c < ' ' && c != '\t' || c == 0x7F { // not even behind a backslash
			return "", "", false
		}
		b.WriteByte(c)
	}
	return "", "", false
}

// token splits off the longest token (RFC 9110, section 5.6.2) at the start of s.
func token(s string, colon bool) (tok, rest string) {
	for i := range len(s) {
		c := s[i]
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' ||
			strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 || colon && c == ':' {
			continue
		}
		return s[:i], s[i:]
	}
	return s, ""
}

func skipSpace(s string) string { return strings.TrimLeft(s, " \t") }
