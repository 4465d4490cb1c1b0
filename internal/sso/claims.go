package sso

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	maxLocalpart   = 200 // bytes of a name that a provider gives, as a localpart
	maxDisplayName = 256 // characters
)

// Profile is what a provider says of a person, for a new account.
type Profile struct {
	Localpart   string // "" when it says nothing that could be one
	DisplayName string
	Email       string // "" unless the provider has confirmed it
}

// Provider is where the person signed in.
func (p *Person) Provider() Provider { return p.at.Provider }

// Profile reads the claims of the ID token and, when one is not there, those of the UserInfo endpoint (OpenID Connect
// Core, "UserInfo Endpoint"). Errors are for people.
func (p *Person) Profile(ctx context.Context) (Profile, error) {
	claims := map[string]json.RawMessage{}
	if err := p.id.Claims(&claims); err != nil {
		return Profile{}, p.at.wrong(err)
	}
	names := p.at.Claims
	if p.known.provider.UserInfoEndpoint() != "" && (lacks(claims, names.Localpart) || lacks(claims, names.DisplayName) || lacks(claims, names.Email)) {
		more, err := p.userInfo(ctx)
		if err != nil {
			return Profile{}, err
		}
		for name, value := range more {
			if _, known := claims[name]; !known {
				claims[name] = value
			}
		}
	}
	out := Profile{Localpart: localpart(text(claims, names.Localpart), names.StripDomain), DisplayName: displayName(text(claims, names.DisplayName))}
	if verified := string(claims["email_verified"]); verified == "true" || verified == `"true"` {
		out.Email = text(claims, names.Email)
	}
	return out, nil
}

// userInfo asks for more claims.
func (p *Person) userInfo(ctx context.Context) (map[string]json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.at.web), callTimeout)
	defer cancel()
	info, err := p.known.provider.UserInfo(ctx, oauth2.StaticTokenSource(p.token))
	if err != nil {
		return nil, p.at.unreachable(err)
	}
	if info.Subject != p.Subject {
		return nil, p.at.wrong(errors.New("the UserInfo endpoint speaks of another person"))
	}
	claims := map[string]json.RawMessage{}
	if err := info.Claims(&claims); err != nil {
		return nil, p.at.wrong(err)
	}
	return claims, nil
}

func lacks(claims map[string]json.RawMessage, name string) bool {
	_, ok := claims[name]
	return name != "" && !ok
}

// text is a claim that is a string or a number.
func text(claims map[string]json.RawMessage, name string) string {
	raw := claims[name]
	if name == "" || len(raw) == 0 {
		return ""
	}
	var s string
	var n json.Number
	switch {
	case json.Unmarshal(raw, &s) == nil:
		return strings.TrimSpace(s)
	case json.Unmarshal(raw, &n) == nil:
		return n.String()
	}
	return ""
}

// localpart writes a name in the characters that a localpart may have (Appendices, "Mapping from other character sets").
func localpart(name string, stripDomain bool) string {
	if stripDomain {
		name, _, _ = strings.Cut(name, "@")
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		next := string(name[i])
		switch c := name[i]; {
		case 'A' <= c && c <= 'Z':
			next = string(c + 'a' - 'A')
		case (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("._-/+", rune(c)):
			next = fmt.Sprintf("=%02x", c)
		}
		if b.Len()+len(next) > maxLocalpart {
			break
		}
		b.WriteString(next)
	}
	return b.String()
}

// displayName leaves out what cannot be seen and cuts to what a profile takes.
func displayName(name string) string {
	visible := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, name)
	if runes := []rune(visible); len(runes) > maxDisplayName {
		return string(runes[:maxDisplayName])
	}
	return visible
}
