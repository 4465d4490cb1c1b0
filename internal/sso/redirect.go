package sso

import (
	"net/url"
	"slices"
	"strings"

	"knock/internal/matrixerr"
)

const maxClientURL = 4096 // bytes

// notClients are schemes that browsers and machines do something with, rather than give it to an app.
var notClients = []string{"about", "blob", "chrome", "content", "data", "file", "filesystem", "ftp", "intent", "jar", "javascript",
	"mailto", "sms", "tel", "vbscript", "view-source", "ws", "wss"}

func errClientURL() error {
	return matrixerr.InvalidParam("redirectUrl must be the address of a client, such as https://chat.example.org/ or app.example:/login")
}

// ClientURL reads the address of a client, to which a user is sent back. It must be absolute, and what it leads to an app
// or a site. The error is M_INVALID_PARAM.
func ClientURL(raw string) (*url.URL, error) {
	if outside := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"<>\\^`{|}", r) }; len(raw) > maxClientURL || strings.IndexFunc(raw, outside) >= 0 {
		return nil, errClientURL()
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme == "" || u.User != nil || slices.Contains(notClients, u.Scheme):
		return nil, errClientURL()
	case isWeb(u) && (u.Host == "" || u.Opaque != ""):
		return nil, errClientURL()
	}
	u.Host = strings.ToLower(u.Host)
	return u, nil
}

func isWeb(u *url.URL) bool { return u.Scheme == "https" || u.Scheme == "http" }

// Trusts says whether a client need not be asked about.
func (s *Service) Trusts(u *url.URL) bool {
	return !dotted(u) && slices.ContainsFunc(s.trusted, func(t *url.URL) bool {
		return t.Scheme == u.Scheme && t.Host == u.Host && t.Opaque == u.Opaque && within(u.Path, t.Path)
	})
}

// within says whether a path is another or below it.
func within(path, root string) bool {
	root = strings.TrimSuffix(root, "/")
	return path == root || strings.HasPrefix(path, root+"/")
}

// dotted says whether a browser would walk up the path.
func dotted(u *url.URL) bool {
	return slices.ContainsFunc(strings.Split(u.Path, "/"), func(s string) bool { return s == "." || s == ".." })
}

// ClientName is what people know of a client: the site, or the scheme of an app.
func ClientName(u *url.URL) string {
	if u.Host != "" && isWeb(u) {
		return u.Host
	}
	return u.Scheme + ":"
}

// WithToken adds a login token to a client's address (Client-Server API, "Handling the callback from the Authentication
// server"): what the client wrote there stays as it is, but for login tokens.
func WithToken(u *url.URL, token string) string {
	out := *u
	kept := []string{}
	for part := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, _ := strings.Cut(part, "=")
		if plain, err := url.QueryUnescape(name); part != "" && (err != nil || plain != "loginToken") {
			kept = append(kept, part)
		}
	}
	out.RawQuery = strings.Join(append(kept, "loginToken="+url.QueryEscape(token)), "&")
	return out.String()
}
