package mediaapi

import (
	"errors"
	"mime"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

const octetStream = "application/octet-stream"

// inline are the types that a browser may show: it does not run anything in them (Client-Server API, "Serving inline
// content").
var inline = map[string]bool{
	"text/css": true, "text/plain": true, "text/csv": true, "application/json": true, "application/ld+json": true,
	"image/jpeg": true, "image/gif": true, "image/png": true, "image/apng": true, "image/webp": true, "image/avif": true,
	"video/mp4": true, "video/webm": true, "video/ogg": true, "video/quicktime": true,
	"audio/mp4": true, "audio/webm": true, "audio/aac": true, "audio/mpeg": true, "audio/ogg": true, "audio/wave": true,
	"audio/wav": true, "audio/x-wav": true, "audio/x-pn-wav": true, "audio/flac": true, "audio/x-flac": true,
}

const maxTypeBytes = 255

// cleanType is a content type as it may stand in a header: what was sent when it is well-formed, without its
// parameters when only they are not, else application/octet-stream.
func cleanType(sent string) string {
	sent = strings.TrimSpace(sent)
	if len(sent) > maxTypeBytes || !printableASCII(sent) {
		return octetStream
	}
	base, _, err := mime.ParseMediaType(sent)
	if !strings.Contains(base, "/") {
		return octetStream
	}
	if errors.Is(err, mime.ErrInvalidMediaParameter) {
		return base
	}
	if err != nil {
		return octetStream
	}
	return sent
}

func printableASCII(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

const maxNameBytes = 1024

// cleanName is a file name without what no file name has: control characters and broken UTF-8.
func cleanName(sent string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, sent)
}

// disposition is the Content-Disposition of a file.
func disposition(contentType, name string) string {
	kind := "attachment"
	if base, _, err := mime.ParseMediaType(contentType); err == nil && inline[base] {
		kind = "inline"
	}
	switch {
	case name == "":
		return kind
	case printableASCII(name) && !strings.ContainsAny(name, `"\%`):
		return kind + `; filename="` + name + `"`
	}
	return kind + "; filename*=utf-8''" + extValue(name)
}

// extValue percent-encodes all but the characters that RFC 5987 lets stand (attr-char).
func extValue(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$&+-.^_`|~", c) >= 0 {
			b.WriteByte(c)
		} else {
			b.WriteString("%" + string(hex[c>>4]) + string(hex[c&15]))
		}
	}
	return b.String()
}

// safeHeaders let a browser show a file and do nothing else with it.
func safeHeaders(h http.Header, contentType, disposition string) {
	h.Set("Content-Type", contentType)
	h.Set("Content-Disposition", disposition)
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; "+
		"style-src 'unsafe-inline'; object-src 'self';")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
}
