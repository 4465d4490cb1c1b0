package account

import (
	"bytes"
	"container/list"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"knock/internal/matrixerr"
)

// The stages that this server can check.
const (
	StagePassword          = "m.login.password"
	StageDummy             = "m.login.dummy"
	StageRegistrationToken = "m.login.registration_token"
	StageEmail             = "m.login.email.identity"
	StageTerms             = "m.login.terms"
	StageCaptcha           = "m.login.recaptcha"
	StageSSO               = "m.login.sso"
)

const (
	maxUIASessions  = 10_000
	maxUserSessions = 50 // of one user
	maxOperation    = 1024
	uiaLifetime     = 30 * time.Minute
)

// UIA holds the sessions of User-Interactive Authentication: in memory, bounded, each good for one operation of one
// user (Client-Server API, "User-Interactive Authentication API"). After a restart a client begins again.
type UIA struct {
	now      func() time.Time
	mu       sync.Mutex
	sessions map[string]*list.Element
	order    *list.List               // of *UIASession, oldest first
	users    map[string][]*UIASession // of each user, oldest first
}

// NewUIA makes an empty holder; now may be nil.
func NewUIA(now func() time.Time) *UIA {
	if now == nil {
		now = time.Now
	}
	return &UIA{now: now, sessions: map[string]*list.Element{}, order: list.New(), users: map[string][]*UIASession{}}
}

// UIARequest is one attempt at an operation that needs authentication.
type UIARequest struct {
	Operation string         // what is to be done, target included: a session is good for nothing else
	UserID    string         // who does it, "" for nobody yet
	Flows     [][]string     // stages of each flow, in order
	Params    map[string]any // what a client needs to know for the stages, by stage; nil: nothing
	Auth      json.RawMessage
	// Verify checks a stage. A 401 lets the client try the stage again; any other error ends the request.
	Verify func(ctx context.Context, session *UIASession, stage string, auth json.RawMessage) error
}

// UIASession is what a client has proved so far.
type UIASession struct {
	id, operation, userID string
	sum                   [sha256.Size]byte // of the operation, which is cut when it is long
	started               time.Time
	uia                   *UIA
	turn                  chan struct{} // full while somebody does the operation

	mu        sync.Mutex
	latest    UIARequest // for stages that are completed on a web page; what the client sent is not kept
	completed []string
	values    map[string]string
	atEnd     []func()
	ended     bool
}

// UIAChallenge is the error that asks the client for more; it is answered with status 401 and Body.
type UIAChallenge struct {
	Session   string
	Flows     [][]string
	Params    map[string]any
	Completed []string
	Cause     *matrixerr.Error // why the last attempt failed; nil when none did
}

func (c *UIAChallenge) Error() string {
	if c.Cause != nil {
		return "authentication refused: " + c.Cause.Error()
	}
	return "authentication needed"
}

// Body is the JSON object of the 401.
func (c *UIAChallenge) Body() map[string]any {
	type flow struct {
		Stages []string `json:"stages"`
	}
	flows := make([]flow, len(c.Flows))
	for i, stages := range c.Flows {
		flows[i].Stages = stages
	}
	body := map[string]any{"session": c.Session, "flows": flows, "params": map[string]any{}}
	if c.Params != nil {
		body["params"] = c.Params
	}
	if len(c.Completed) > 0 {
		body["completed"] = c.Completed
	}
	if c.Cause != nil {
		body["errcode"], body["error"] = c.Cause.Code, c.Cause.Msg
	}
	return body
}

// uiaAuth is what every "auth" dictionary may have.
type uiaAuth struct {
	Type    string `json:"type"`
	Session string `json:"session"`
}

func parseUIAAuth(raw json.RawMessage) (a uiaAuth, err error) {
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || string(raw) == "null" {
		return a, nil
	}
	if raw[0] != '{' || json.Unmarshal(raw, &a) != nil {
		return a, matrixerr.BadJSON("auth must be an object whose type and session are strings")
	}
	return a, nil
}

// Authorize returns the session when all stages of a flow are complete: then do the operation, call Done if that went well,
// and Leave in any case. Until then others who show the same session wait. Errors: *UIAChallenge, or what Verify ended the
// request with. A client may leave the session out of its first attempt.
func (u *UIA) Authorize(ctx context.Context, r UIARequest) (*UIASession, error) {
	auth, err := parseUIAAuth(r.Auth)
	if err != nil {
		return nil, err
	}
	s := u.find(auth.Session, r)
	if s == nil {
		if auth.Session != "" {
			return nil, u.endedChallenge(r)
		}
		s = u.begin(r)
	}
	if err := s.progress(ctx, r, auth.Type); err != nil {
		return nil, err
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.hasEnded() {
		s.Leave()
		return nil, u.endedChallenge(r)
	}
	return s, nil
}

// endedChallenge has a client begin again.
func (u *UIA) endedChallenge(r UIARequest) error {
	return u.begin(r).challenge(r, matrixerr.Unknown(http.StatusUnauthorized, "This authentication session has ended or is for something else; begin again"))
}

// progress attempts a stage, "" for none, and is nil when all of a flow are complete.
func (s *UIASession) progress(ctx context.Context, r UIARequest, stage string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = r
	s.latest.Operation, s.latest.Auth = "", nil
	if stage != "" && !slices.Contains(s.completed, stage) {
		if err := s.attempt(ctx, r, stage); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(r.Flows, func(flow []string) bool { return slices.Equal(flow, s.completed) }) {
		return nil
	}
	return s.challenge(r, nil)
}

// Leave lets others have the session who wait for it.
func (s *UIASession) Leave() { <-s.turn }

func (s *UIASession) hasEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// attempt checks one stage, which must be the next of some flow. The session is locked.
func (s *UIASession) attempt(ctx context.Context, r UIARequest, stage string) error {
	next, err := s.next(r, stage)
	if err != nil {
		return err
	}
	err = r.Verify(ctx, s, stage, r.Auth)
	var refused *matrixerr.Error
	switch {
	case err == nil:
		s.completed = next
		return nil
	case errors.As(err, &refused) && refused.HTTP == http.StatusUnauthorized:
		return s.challenge(r, refused)
	}
	return err
}

// next is what is complete after a stage, which must be the next of some flow.
func (s *UIASession) next(r UIARequest, stage string) ([]string, error) {
	next := append(slices.Clone(s.completed), stage)
	begins := func(flow []string) bool { return len(flow) >= len(next) && slices.Equal(flow[:len(next)], next) }
	if !slices.ContainsFunc(r.Flows, begins) {
		return nil, s.challenge(r, matrixerr.Unknown(http.StatusUnauthorized, "This stage is not the next one of any flow"))
	}
	return next, nil
}

func (s *UIASession) challenge(r UIARequest, cause *matrixerr.Error) *UIAChallenge {
	return &UIAChallenge{Session: s.id, Flows: r.Flows, Params: r.Params, Completed: slices.Clone(s.completed), Cause: cause}
}

// Session is the live session of an id, for a stage that is completed on a web page; nil when there is none.
func (u *UIA) Session(id string) *UIASession {
	u.mu.Lock()
	defer u.mu.Unlock()
	el, ok := u.sessions[id]
	if !ok || u.now().Sub(el.Value.(*UIASession).started) >= uiaLifetime {
		return nil
	}
	return el.Value.(*UIASession)
}

// Operation is what the session is for; only the part before the first zero byte where the whole is long.
func (s *UIASession) Operation() string { return s.operation }

// UserID is the user who does the operation, "" for nobody yet.
func (s *UIASession) UserID() string { return s.userID }

// Has says whether a stage is complete.
func (s *UIASession) Has(stage string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.completed, stage)
}

// Awaits says whether a stage is the next one of some flow.
func (s *UIASession) Awaits(stage string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.next(s.latest, stage)
	return err == nil
}

// Complete checks a stage outside of a request for the operation. Errors: *UIAChallenge when the stage is not the next
// one or auth is refused (its Cause says why), or what Verify ended with.
func (s *UIASession) Complete(ctx context.Context, stage string, auth json.RawMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.completed, stage) {
		return nil
	}
	r := s.latest
	r.Auth = auth
	return s.attempt(ctx, r, stage)
}

// Proved completes a stage that was checked elsewhere. The error is *UIAChallenge when it is not the next one.
func (s *UIASession) Proved(stage string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.completed, stage) {
		return nil
	}
	next, err := s.next(s.latest, stage)
	if err == nil {
		s.completed = next
	}
	return err
}

// Keep remembers something for the operation, from within Verify, and what to do when the session ends.
func (s *UIASession) Keep(key, value string, atEnd func()) {
	if s.ended {
		atEnd()
		return
	}
	if s.values == nil {
		s.values = map[string]string{}
	}
	s.values[key] = value
	s.atEnd = append(s.atEnd, atEnd)
}

// Value is what Keep remembered.
func (s *UIASession) Value(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values[key]
}

// Done ends the session: its operation has been done.
func (s *UIASession) Done() {
	s.uia.mu.Lock()
	s.uia.remove(s.id)
	s.uia.mu.Unlock()
	s.end()
}

func (s *UIASession) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	for _, fn := range s.atEnd {
		fn()
	}
}

// find returns the live session of this id if it was begun for the same operation of the same user.
func (u *UIA) find(id string, r UIARequest) *UIASession {
	u.mu.Lock()
	defer u.mu.Unlock()
	el, ok := u.sessions[id]
	if !ok {
		return nil
	}
	s := el.Value.(*UIASession)
	if u.now().Sub(s.started) >= uiaLifetime || s.sum != sha256.Sum256([]byte(r.Operation)) || s.userID != r.UserID {
		return nil
	}
	return s
}

// begin makes a session, at the cost of those that have expired or are too many.
func (u *UIA) begin(r UIARequest) *UIASession {
	s := &UIASession{id: rand.Text(), operation: r.Operation, sum: sha256.Sum256([]byte(r.Operation)), userID: r.UserID, started: u.now(),
		uia: u, turn: make(chan struct{}, 1)}
	if len(s.operation) > maxOperation {
		name, _, _ := strings.Cut(s.operation, "\x00")
		s.operation = strings.Clone(name[:min(len(name), maxOperation)])
	}
	for _, old := range u.insert(s) {
		old.end()
	}
	return s
}

func (u *UIA) insert(s *UIASession) (out []*UIASession) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for front := u.order.Front(); front != nil; front = u.order.Front() {
		old := front.Value.(*UIASession)
		if len(u.sessions) < maxUIASessions && s.started.Sub(old.started) < uiaLifetime {
			break
		}
		u.remove(old.id)
		out = append(out, old)
	}
	if mine := u.users[s.userID]; s.userID != "" && len(mine) >= maxUserSessions {
		out = append(out, mine[0])
		u.remove(mine[0].id)
	}
	u.sessions[s.id] = u.order.PushBack(s)
	if s.userID != "" {
		u.users[s.userID] = append(u.users[s.userID], s)
	}
	return out
}

// remove takes a session out of the maps; u is locked.
func (u *UIA) remove(id string) {
	el, ok := u.sessions[id]
	if !ok {
		return
	}
	s := u.order.Remove(el).(*UIASession)
	delete(u.sessions, id)
	if mine := slices.DeleteFunc(u.users[s.userID], func(one *UIASession) bool { return one == s }); len(mine) > 0 {
		u.users[s.userID] = mine
	} else {
		delete(u.users, s.userID)
	}
}
