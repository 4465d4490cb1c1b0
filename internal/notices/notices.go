// Package notices owns server notices: what the people who run this server tell its users, each in a room of their own
// with a user of the server's (Client-Server API, "Server Notices"). It is the only reader and writer of the tables in
// 0257_server_notices.sql.
package notices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"

	"github.com/sirupsen/logrus"

	"knock/internal/account"
	"knock/internal/clock"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/store"
)

// ServiceID stands for this package where accounts belong to somebody other than a person: account.NewUser, Service.
const ServiceID = "server notices"

// Options configure a Service.
type Options struct {
	DB       *sqldb.DB
	Rooms    *roomserver.Server
	Accounts *account.Service
	Sender   string // localpart of the user who sends notices; no person may make an account of this name

	DisplayName string // of the sender
	Avatar      string // mxc:// URI, of the sender and of the rooms; "": none
	RoomName    string
	AutoJoin    bool // users are joined instead of invited only

	// Serviced says whether a user belongs to an application service; such get no notices that are for everybody. nil:
	// none does.
	Serviced func(userID string) bool
	Log      *logrus.Entry
	Clock    clock.Clock // nil: the machine's
}

// Service sends notices. It is safe for concurrent use.
type Service struct {
	o      Options
	sender string // user id
	store  noticeStore

	making sync.Mutex // held while the sender is made
	made   bool

	// users has each user's notices sent one after the other, so that one room is made.
	users [64]sync.Mutex
	seed  maphash.Seed
	wake  chan struct{} // something for Run
}

// New makes a Service. It starts nothing; see Run.
func New(o Options) *Service {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	return &Service{o: o, sender: UserID(o.Sender, o.Accounts.ServerName()), store: noticeStore{o.DB}, seed: maphash.MakeSeed(), wake: make(chan struct{}, 1)}
}

// UserID is the user who sends notices.
func UserID(localpart, server string) string { return "@" + localpart + ":" + server }

// Notice is something to tell one user.
type Notice struct {
	User     string          // user id
	Type     string          // of the event; "" is m.room.message
	StateKey *string         // nil: not a state event
	Content  json.RawMessage // a JSON object
	// TxnID, unless it is empty, makes one event of all notices with the same Scope, User and Type.
	TxnID, Scope string
}

// tag is by which clients know the room (Client-Server API, "Server Notices").
const tag = "m.server_notice"

// Send tells a user something and returns the event's id once it is committed. Errors: M_INVALID_PARAM for users of other
// servers, M_NOT_FOUND, M_USER_DEACTIVATED, M_FORBIDDEN where the sender's name is a person's, and those of
// roomserver.Server.Send.
func (s *Service) Send(ctx context.Context, n Notice) (eventID string, err error) {
	if err := s.Check(ctx, n.User); err != nil {
		return "", err
	}
	if err := s.makeSender(ctx); err != nil {
		return "", err
	}
	mine := &s.users[maphash.String(s.seed, n.User)%uint64(len(s.users))]
	mine.Lock()
	defer mine.Unlock()
	room, err := s.room(ctx, n.User)
	if err != nil {
		return "", err
	}
	q := roomserver.SendRequest{RoomID: room, Sender: s.sender, Type: n.Type, StateKey: n.StateKey, Content: n.Content, TxnID: n.TxnID, Path: "notice " + n.Scope}
	if q.Type == "" {
		q.Type = "m.room.message"
	}
	if id, err := s.o.Rooms.Sent(ctx, q); id != "" || err != nil {
		return id, err
	}
	if err := s.furnish(ctx, room); err != nil {
		return "", err
	}
	if err := s.bring(ctx, room, n.User); err != nil {
		return "", err
	}
	return s.o.Rooms.Send(ctx, q)
}

// Check says why a user cannot be told anything.
func (s *Service) Check(ctx context.Context, user string) error {
	if _, ok := s.o.Accounts.Localpart(user); !ok || user == s.sender {
		return matrixerr.InvalidParam("Notices go to users of this server only; check the user id " + user)
	}
	u, err := s.o.Accounts.User(ctx, user)
	if err == nil && u.Deactivated {
		err = matrixerr.UserDeactivated()
	}
	return err
}

// Holds reports whether a room is the one in which a user gets notices.
func (s *Service) Holds(ctx context.Context, room, user string) (bool, error) {
	id, err := s.store.room(ctx, user)
	return id == room && err == nil, err
}

// room is where a user gets notices. The first makes it, and the first of another sender makes another.
func (s *Service) room(ctx context.Context, user string) (string, error) {
	old, err := s.store.room(ctx, user)
	if err != nil {
		return "", err
	}
	if old == "" {
		return s.newRoom(ctx, user, old)
	}
	in, err := s.o.Rooms.IsMember(ctx, old, s.sender)
	if err != nil || in {
		return old, err
	}
	room, err := s.newRoom(ctx, user, old)
	if err != nil {
		return "", err
	}
	return room, s.o.Accounts.DeleteTag(ctx, user, old, tag)
}

func (s *Service) newRoom(ctx context.Context, user, old string) (string, error) {
	return s.o.Rooms.Create(ctx, roomserver.CreateRequest{Creator: s.sender, Preset: "private_chat", Name: s.o.RoomName,
		CreationContent:    map[string]json.RawMessage{"m.federate": json.RawMessage("false")},
		PowerLevelOverride: map[string]json.RawMessage{"users_default": json.RawMessage("-10")}, // nobody answers here
		Also:               func(tx *sqldb.Tx, room string) error { return s.store.setRoom(tx, user, old, room) }})
}

// furnish gives a room the name and the picture of the configuration, unless it has them.
func (s *Service) furnish(ctx context.Context, room string) error {
	for _, state := range []struct{ typ, field, value string }{
		{"m.room.name", "name", s.o.RoomName}, {"m.room.avatar", "url", s.o.Avatar},
	} {
		if state.value == "" {
			continue
		}
		content, err := json.Marshal(map[string]string{state.field: state.value})
		if err != nil {
			return err
		}
		key := ""
		if _, err := s.o.Rooms.Send(ctx, roomserver.SendRequest{RoomID: room, Sender: s.sender, Type: state.typ, StateKey: &key, Content: content}); err != nil {
			return fmt.Errorf("%s of a room for notices: %w", state.typ, err)
		}
	}
	return nil
}

// label marks the room for the user's clients. A user whose account data is full is told without it.
func (s *Service) label(ctx context.Context, room, user string) error {
	tags, err := s.o.Accounts.Tags(ctx, user, room)
	if _, tagged := tags[tag]; err != nil || tagged {
		return err
	}
	err = s.o.Accounts.SetTag(ctx, user, room, tag, json.RawMessage("{}"))
	if err != nil && refused(err) {
		s.o.Log.WithError(err).WithField("user", user).Info("A room for notices cannot be marked for its user")
		return nil
	}
	return err
}

// bring sees to it that a user knows of the room, and that it is a room for notices.
func (s *Service) bring(ctx context.Context, room, user string) error {
	if err := s.label(ctx, room, user); err != nil {
		return err
	}
	m, err := s.o.Rooms.Membership(ctx, room, user)
	if err != nil || m.State == store.Join {
		return err
	}
	if m.State != store.Invite {
		if _, err := s.o.Rooms.SetMembership(ctx, roomserver.MembershipRequest{RoomID: room, Sender: s.sender, Target: user, Membership: auth.Invite}); err != nil {
			return err
		}
	}
	if s.o.AutoJoin {
		_, err = s.o.Rooms.Join(ctx, roomserver.JoinRequest{RoomIDOrAlias: room, User: user})
	}
	return err
}

var errPerson = matrixerr.Forbidden("The name of server_notices.localpart is an account that somebody made; set another one")

// makeSender makes the user who sends notices, and gives it the name and the picture of the configuration.
func (s *Service) makeSender(ctx context.Context) error {
	s.making.Lock()
	defer s.making.Unlock()
	if s.made {
		return nil
	}
	exists, err := s.o.Accounts.Exists(ctx, s.sender)
	if err != nil {
		return err
	}
	ours, err := s.store.isSender(ctx, s.sender)
	switch {
	case err != nil:
		return err
	case exists && !ours:
		return errPerson
	case !exists:
		// The mark comes first: an account without it would look like a person's.
		if err := s.store.insertSender(ctx, s.sender); err != nil {
			return err
		}
		if _, err := s.o.Accounts.CreateUser(ctx, account.NewUser{Username: s.o.Sender, DisplayName: s.o.DisplayName, Service: ServiceID}); err != nil {
			return err
		}
	}
	if err := s.dress(ctx); err != nil {
		return err
	}
	s.made = true
	return nil
}

func (s *Service) dress(ctx context.Context) error {
	profile, err := s.o.Accounts.Profile(ctx, s.sender)
	if err != nil {
		return err
	}
	for field, want := range map[string]string{account.FieldDisplayName: s.o.DisplayName, account.FieldAvatarURL: s.o.Avatar} {
		value, err := json.Marshal(want)
		if err != nil {
			return err
		}
		if was := profile[field]; want == "" || string(was) == string(value) {
			continue
		}
		if err := s.o.Accounts.SetProfileField(ctx, s.sender, field, value); err != nil {
			return err
		}
	}
	return nil
}

// refused reports whether an error is about the notice or its user, and not a failure that may pass.
func refused(err error) bool {
	var m *matrixerr.Error
	return errors.As(roomserver.MatrixError(err), &m) && m.HTTP < 500 && m.RetryAfter == 0
}
