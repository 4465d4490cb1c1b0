package account

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"knock/internal/matrixerr"
)

// maxUserID is the length of a user id in bytes, sigil and server name included (appendices, "User Identifiers").
const maxUserID = 255

// Canonical turns what a person typed as a new user name into a localpart: lower case, and only of the characters
// that the grammar allows. The error is M_INVALID_USERNAME.
func (s *Service) Canonical(username string) (string, error) {
	if username == "" {
		return "", matrixerr.InvalidUsername("A user name must not be empty")
	}
	local := lowerASCII(username)
	if len(local)+1+len(s.suffix) > maxUserID {
		return "", matrixerr.InvalidUsername(fmt.Sprintf("A user name may have at most %d characters here",
			maxUserID-1-len(s.suffix)))
	}
	if strings.IndexFunc(local, outsideGrammar) >= 0 {
		return "", matrixerr.InvalidUsername("A user name may only have the characters a-z, 0-9 and . _ = - / +")
	}
	return local, nil
}

// lowerASCII leaves other letters alone: they are refused, not folded into something that looks alike.
func lowerASCII(s string) string { return strings.Map(lower, s) }

func lower(r rune) rune {
	if 'A' <= r && r <= 'Z' {
		return r + 'a' - 'A'
	}
	return r
}

func outsideGrammar(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("._=-/+", r)
}

// Available checks a new user name and returns its localpart. Errors: M_INVALID_USERNAME, M_EXCLUSIVE,
// M_USER_IN_USE. It reserves nothing.
func (s *Service) Available(ctx context.Context, username string) (string, error) {
	return s.available(ctx, username, "")
}

// available is Available for an application service, whose own names are free to it.
func (s *Service) available(ctx context.Context, username, service string) (string, error) {
	local, err := s.Canonical(username)
	if err != nil {
		return "", err
	}
	if s.o.Exclusive != nil && s.o.Exclusive(s.userID(local), service) {
		return "", matrixerr.Exclusive("This user name belongs to an application service; choose another")
	}
	taken, err := s.exists(ctx, local)
	if err != nil {
		return "", err
	}
	if taken {
		return "", matrixerr.UserInUse()
	}
	return local, nil
}

// randomLocalpart is a user name for somebody who did not choose one.
func randomLocalpart() string { return strings.ToLower(rand.Text()[:16]) }
