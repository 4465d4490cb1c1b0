package roomserver

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/tidwall/gjson"

	"knock/internal/matrixerr"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Policy servers (server-server API, "Policy Servers"): a room may name a server that signs each event which it
// recommends. Own events are signed there before anybody sees them; events of others that lack the signature are shown
// to it and soft-failed when it does not sign them.

// policyKey is the id that the key in m.room.policy always has.
const policyKey = "ed25519:policy_server"

// policyTypes are the state that names a room's policy server, the specification's first.
var policyTypes = [...]string{"m.room.policy", "org.matrix.msc4284.policy"}

// policy is the policy server of a room.
type policy struct {
	server   string
	key      ed25519.PublicKey // nil when the room names none that can be used: then no event passes
	unstable bool              // named by the unstable state event
}

// PolicyRefusal is a policy server's word against an event.
type PolicyRefusal struct{ Answer *matrixerr.Error }

// Error is what the policy server said.
func (e *PolicyRefusal) Error() string { return "the policy server refuses: " + e.Answer.Error() }

// Unwrap lets doors answer with the policy server's own error.
func (e *PolicyRefusal) Unwrap() error { return e.Answer }

// errUnasked is returned for an event that the room's policy server has not
// signed; it must be asked first, outside the room's lock.
var errUnasked = errors.New("the event lacks the signature of the room's policy server")

// verdict is what is known of a policy server's view of an event beside its signature.
type verdict int

const (
	unasked verdict = iota
	refused
	excused // it gave no usable answer, and events may do without
)

// readPolicy reads what names a policy server; nil when it is not valid.
func readPolicy(e *event.Event) *policy {
	content := gjson.ParseBytes(e.ContentJSON())
	via, key := content.Get("via"), content.Get("public_keys.ed25519")
	p := &policy{server: via.Str, unstable: e.Type() != policyTypes[0]}
	if p.unstable && !key.Exists() {
		key = content.Get("public_key")
	}
	if via.Type != gjson.String || key.Type != gjson.String || !event.ValidServerName(via.Str) {
		return nil
	}
	p.key, _ = auth.DecodeKey(key.Str)
	return p
}

// knownPolicy is the policy server for a state.
type knownPolicy struct {
	state *store.Ref
	p     *policy
}

// policy returns the room's policy server by its newest state, nil when it uses
// none. The caller holds the room's lock.
func (r *room) policy(ctx context.Context) (*policy, error) {
	if r.policed.state == r.tip.state {
		return r.policed.p, nil
	}
	p, err := r.findPolicy(ctx)
	if err == nil {
		r.policed = knownPolicy{r.tip.state, p}
	}
	return p, err
}

func (r *room) findPolicy(ctx context.Context) (*policy, error) {
	for _, tuple := range r.s.policyTuples {
		nid, ok := r.tip.state.Set.Get(tuple)
		if !ok || tuple == 0 {
			continue
		}
		e, err := r.event(ctx, nid)
		if err != nil {
			return nil, err
		}
		p := readPolicy(e.Event)
		if p == nil || !r.tip.in(p.server) {
			continue
		}
		if p.server == r.s.ServerName && !r.s.signsFor(p) {
			return nil, nil // nobody can sign: not even we
		}
		return p, nil
	}
	return nil, nil
}

// loadPolicyTuples learns the numbers of the state that names policy servers, so
// that looking for one costs no query.
func (s *Server) loadPolicyTuples(ctx context.Context) error {
	var tuples []store.Tuple
	for _, typ := range policyTypes {
		tuples = append(tuples, store.Tuple{Type: typ})
	}
	nids, err := s.Store.InternTuples(ctx, tuples)
	copy(s.policyTuples[:], nids)
	return err
}

// exempt reports whether events of a type and state key need no signature: those
// that name the policy server, so that it can be replaced when it does not answer.
func (p *policy) exempt(typ string, key *string) bool {
	return key != nil && *key == "" && (typ == policyTypes[0] || p.unstable && typ == policyTypes[1])
}

// signed reports whether the policy server has signed the event or need not.
func (p *policy) signed(e *event.Event) bool {
	return p == nil || p.exempt(e.Type(), e.StateKey()) || e.VerifySignature(p.server, policyKey, p.key) == nil
}

// askPolicy returns the event with the policy server's signature, or without and
// excused. Errors are a *PolicyRefusal, or ErrNoPolicy when there was no usable
// answer.
func (s *Server) askPolicy(ctx context.Context, p *policy, e *event.Event) (*event.Event, verdict, error) {
	signed, err := s.policySigned(ctx, p, e)
	if errors.Is(err, ErrNoPolicy) && s.PolicyOptional && ctx.Err() == nil {
		s.Log.WithError(err).WithField("event", e.EventID()).Info("An event goes on without the policy server's signature")
		return e, excused, nil
	}
	return signed, unasked, err
}

func (s *Server) policySigned(ctx context.Context, p *policy, e *event.Event) (*event.Event, error) {
	if p.signed(e) {
		return e, nil
	}
	if p.server == s.ServerName {
		if err := s.recommends(ctx, e); err != nil {
			return nil, err
		}
		return e.Sign(s.PolicyRole.Signer)
	}
	if s.Remote == nil {
		return nil, ErrNoPolicy
	}
	signature, err := s.Remote.PolicySignature(ctx, p.server, p.unstable, e.JSON())
	var word *PolicyRefusal
	if errors.As(err, &word) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoPolicy, err)
	}
	signed, err := e.WithSignature(p.server, policyKey, signature)
	if err == nil && !p.signed(signed) {
		err = event.ErrBadSignature
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s answered with a signature that does not hold: %w", ErrNoPolicy, p.server, err)
	}
	return signed, nil
}

// askAbout asks the room's policy server, as of now, about an event.
func (s *Server) askAbout(ctx context.Context, key store.RoomKey, e *event.Event) (*event.Event, verdict, error) {
	r, err := s.handleOf(ctx, key)
	if err != nil {
		return nil, unasked, err
	}
	if err := r.lock(); err != nil {
		return nil, unasked, err
	}
	p, err := r.policy(ctx)
	r.mu.Unlock()
	if err != nil {
		return nil, unasked, err
	}
	return s.askPolicy(ctx, p, e)
}

// policyTime bounds the question about one event of another server, which holds
// up those behind it.
const policyTime = 15 * time.Second

// placeAsked adds an event of another server after its room's policy server was
// asked. Whatever keeps it from signing, the event is soft-failed.
func (s *Server) placeAsked(ctx context.Context, key store.RoomKey, e *event.Event, a admission) error {
	asking, cancel := context.WithTimeout(ctx, policyTime)
	signed, word, err := s.askAbout(asking, key, e)
	cancel()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, ErrNoPolicy) && s.PolicyOptional {
		signed, word, err = e, excused, nil // it took too long
	}
	if err != nil {
		s.Log.WithError(err).WithField("room", key.ID).WithField("event", e.EventID()).Info("The policy server does not recommend an event")
		a.policy = refused
		return s.admitOne(ctx, key, e, a)
	}
	a.policy = word
	return s.admitOne(ctx, key, signed, a)
}

// sendPoliced sends an event to a room with a policy server: it is built, shown
// to the policy server without holding the room, and then takes the place for
// which it was built. Repeats of a transaction wait for the first.
func (s *Server) sendPoliced(ctx context.Context, key store.RoomKey, q SendRequest, txn []byte) (string, error) {
	if txn == nil {
		return s.sendAsked(ctx, key, q, nil)
	}
	done := s.asking.DoChan(string(txn), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return s.sendAsked(ctx, key, q, txn)
	})
	select {
	case result := <-done:
		id, _ := result.Val.(string)
		return id, result.Err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (s *Server) sendAsked(ctx context.Context, key store.RoomKey, q SendRequest, txn []byte) (string, error) {
	if txn != nil { // another one may have sent it since the first look
		if id, err := s.sentBefore(ctx, txn); id != "" || err != nil {
			return id, err
		}
	}
	e, p, id, err := s.draftPoliced(ctx, key, q)
	if err != nil || id != "" {
		return id, err
	}
	e, word, err := s.askPolicy(ctx, p, e)
	if err != nil {
		return "", err
	}
	a := admission{flags: store.Outgoing, policy: word, origin: q.origin(txn)}
	return e.EventID(), s.retry(ctx, func() error { return s.insertSigned(ctx, key, e, a) })
}

// draftPoliced builds an event without adding it; id is that of a state event
// that says the same already.
func (s *Server) draftPoliced(ctx context.Context, key store.RoomKey, q SendRequest) (e *event.Event, p *policy, id string, err error) {
	r, err := s.handleOf(ctx, key)
	if err != nil {
		return nil, nil, "", err
	}
	if err := r.lock(); err != nil {
		return nil, nil, "", err
	}
	defer r.mu.Unlock()
	if q.StateKey != nil {
		if id, err = r.unchanged(ctx, q); id != "" || err != nil {
			return nil, nil, id, err
		}
	}
	if p, err = r.policy(ctx); err != nil {
		return nil, nil, "", err
	}
	e, _, err = r.buildEvent(ctx, q)
	return e, p, "", err
}
