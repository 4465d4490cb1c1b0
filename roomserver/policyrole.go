package roomserver

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/tidwall/gjson"

	"knock/internal/matrixerr"
	"knock/roomserver/event"
)

// PolicyRole is what a policy server needs (server-server API, "Policy Servers").
type PolicyRole struct {
	// Signer has the key that rooms name in m.room.policy, under the id that it always has.
	Signer event.Signer
	// Judge returns why an event is not recommended, "" when it is.
	Judge func(ctx context.Context, e *event.Event) (reason string, err error)
}

// NewPolicyRole makes a role that signs with a key.
func NewPolicyRole(server string, key ed25519.PrivateKey, judge func(context.Context, *event.Event) (string, error)) *PolicyRole {
	return &PolicyRole{Signer: event.Signer{Server: server, KeyID: policyKey, Key: key}, Judge: judge}
}

// signsFor reports whether this server has the key that a room named with it.
func (s *Server) signsFor(p *policy) bool {
	return s.PolicyRole != nil && s.PolicyRole.Signer.Key.Public().(ed25519.PublicKey).Equal(p.key)
}

// recommends returns a *PolicyRefusal for an event that this server, as a policy
// server, does not recommend.
func (s *Server) recommends(ctx context.Context, e *event.Event) error {
	reason, err := s.PolicyRole.Judge(ctx, e)
	if err != nil {
		return err
	}
	if reason != "" {
		return &PolicyRefusal{matrixerr.New(http.StatusBadRequest, "M_FORBIDDEN", "The room's policy server does not recommend this: "+reason)}
	}
	return nil
}

// SignAsPolicyServer returns this server's signature over an event of a room that
// it is in, for another server that may be there. Errors: ErrUnknownRoom,
// ErrBadRequest, NotAllowed, and a *PolicyRefusal for what is not recommended.
func (s *Server) SignAsPolicyServer(ctx context.Context, origin string, raw json.RawMessage) (signature string, err error) {
	room := gjson.GetBytes(raw, "room_id")
	if room.Type != gjson.String || s.PolicyRole == nil {
		return "", ErrUnknownRoom
	}
	r, err := s.residentHandle(ctx, room.Str)
	if err != nil {
		return "", err
	}
	if allowed, err := s.ServerAllowed(ctx, room.Str, origin); err != nil || !allowed {
		if err == nil {
			err = &NotAllowed{Reason: "the room's server ACL denies " + origin}
		}
		return "", err
	}
	e, err := event.Parse(r.key.Version, raw)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: %w", ErrBadRequest, err)
	case e.Redacted():
		// The content that the hash is of was not shown.
		return "", fmt.Errorf("%w: the event's content does not match its hash", ErrBadRequest)
	case (&policy{}).exempt(e.Type(), e.StateKey()):
		return "", fmt.Errorf("%w: m.room.policy needs no signature", ErrBadRequest)
	}
	if err := s.recommends(ctx, e); err != nil {
		return "", err
	}
	if e, err = e.Sign(s.PolicyRole.Signer); err != nil {
		return "", err
	}
	var signed struct {
		Signatures map[string]map[string]string `json:"signatures"`
	}
	err = json.Unmarshal(e.JSON(), &signed)
	return signed.Signatures[s.ServerName][policyKey], err
}
