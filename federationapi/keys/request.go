package keys

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"slices"
	"strings"

	"knock/internal/matrixerr"
	"knock/roomserver/event"
)

// maxHeaders bounds how many X-Matrix headers of one request are looked at.
const maxHeaders = 4

// VerifyRequest checks the X-Matrix signature of a request to us and returns the server that made it. uri is the path
// and query as they came, headers are the Authorization headers, body the whole body, bounded by the caller;
// destinations are our own names. Errors are *matrixerr.Error: 401 M_UNAUTHORIZED, or 400 M_NOT_JSON when the signature
// holds for no reading of a body that has no canonical form.
func (r *Ring) VerifyRequest(ctx context.Context, method, uri string, headers []string, body []byte, destinations []string) (origin string, err error) {
	list, err := r.requestHeaders(headers, destinations)
	if err != nil {
		return "", err
	}
	bodies, malformed := readings(body)
	ns := needs{}
	for _, x := range list {
		ns.add(x.origin, x.key, need{now: true})
	}
	if err := r.ensure(ctx, ns); err != nil {
		return "", unauthorized("The request could not be verified; try again", err)
	}
	for _, x := range list {
		for _, content := range bodies {
			if err = r.verifyHeader(x, method, uri, content); err == nil {
				return x.origin, nil
			}
		}
	}
	if malformed != nil {
		return "", matrixerr.NotJSON("The request body is not valid JSON").With(malformed)
	}
	return "", unauthorized("The signature of the request is not valid: "+err.Error(), err)
}

// readings are what a signature may cover for a body: its canonical form. A body without one may hold a part that is
// malformed among many that are not, and must not be lost as a whole, so it may also be signed as other servers'
// libraries read it, or byte by byte as it came. Neither lets anybody but the signer choose what is read: what stands
// behind the content in the signed text is ours.
func readings(body []byte) (list [][]byte, malformed error) {
	if len(body) == 0 {
		return [][]byte{nil}, nil
	}
	canonical, err := event.Canonical(nil, body)
	if err == nil {
		return [][]byte{canonical}, nil
	}
	if loose, err := event.CanonicalLoose(nil, body); err == nil {
		list = append(list, loose)
	}
	return append(list, body), err
}

func unauthorized(msg string, cause error) error { return matrixerr.Unauthorized(msg).With(cause) }

// requestHeaders reads the headers: all of one origin, and meant for us.
func (r *Ring) requestHeaders(headers, destinations []string) ([]xMatrix, error) {
	var list []xMatrix
	for _, h := range headers[:min(len(headers), maxHeaders)] {
		x, ok, err := parseXMatrix(h)
		switch {
		case !ok:
			continue
		case err != nil:
			return nil, unauthorized("The Authorization header must be X-Matrix with origin, destination, key and sig", err)
		case x.hasDestination && !slices.Contains(destinations, x.destination):
			return nil, unauthorized("The request is meant for another server", nil)
		case x.origin == r.o.ServerName, len(list) > 0 && x.origin != list[0].origin:
			return nil, unauthorized("The origin of the request is not possible", nil)
		}
		list = append(list, x)
	}
	if len(list) == 0 {
		return nil, unauthorized("The request must be signed with an X-Matrix Authorization header", nil)
	}
	return list, nil
}

func (r *Ring) verifyHeader(x xMatrix, method, uri string, content []byte) error {
	sig, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(x.sig, "="))
	if err != nil {
		return errors.New("sig is not base64")
	}
	signed := x.signed(method, uri, content)
	return r.check([]string{x.key}, x.origin, need{now: true}, r.o.Clock.Millis(), func(_ string, k verifyKey) error {
		if !ed25519.Verify(k.key, signed, sig) {
			return event.ErrBadSignature
		}
		return nil
	})
}

// signed is the canonical JSON that the signature covers; content is canonical or empty.
func (x xMatrix) signed(method, uri string, content []byte) []byte {
	b := []byte{'{'}
	if len(content) > 0 {
		b = append(append(append(b, `"content":`...), content...), ',')
	}
	if x.hasDestination {
		b = append(event.AppendString(append(b, `"destination":`...), x.destination), ',')
	}
	b = event.AppendString(append(b, `"method":`...), method)
	b = event.AppendString(append(b, `,"origin":`...), x.origin)
	b = event.AppendString(append(b, `,"uri":`...), uri)
	return append(b, '}')
}
