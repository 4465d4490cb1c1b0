package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/tidwall/gjson"

	"knock/roomserver/auth"
)

// followUps are changes of local users that their rooms must hear of, worked off
// in the background so that no answer waits for a thousand rooms.
type followUps struct {
	mu    sync.Mutex
	users map[string]followUp
	wake  chan struct{}
}

type followUp struct{ profile, leave bool }

// ProfileChanged brings a local user's member events up to date with their
// profile, in the background.
func (s *Server) ProfileChanged(_ context.Context, userID, field string, _ json.RawMessage) error {
	if field == "displayname" || field == "avatar_url" {
		s.follow(userID, followUp{profile: true})
	}
	return nil
}

// UserDeactivated takes a deactivated user out of all rooms, in the background.
func (s *Server) UserDeactivated(_ context.Context, userID string, _ bool) error {
	s.follow(userID, followUp{leave: true})
	return nil
}

func (s *Server) follow(userID string, what followUp) {
	s.follows.mu.Lock()
	old := s.follows.users[userID]
	s.follows.users[userID] = followUp{profile: old.profile || what.profile, leave: old.leave || what.leave}
	s.follows.mu.Unlock()
	select {
	case s.follows.wake <- struct{}{}:
	default:
	}
}

// runFollowUps works off changes of users until ctx ends.
func (s *Server) runFollowUps(ctx context.Context) {
	for {
		for user, what, ok := s.nextFollowUp(); ok; user, what, ok = s.nextFollowUp() {
			s.followUser(ctx, user, what)
		}
		select {
		case <-s.follows.wake:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) nextFollowUp() (string, followUp, bool) {
	s.follows.mu.Lock()
	defer s.follows.mu.Unlock()
	for user, what := range s.follows.users {
		delete(s.follows.users, user)
		return user, what, true
	}
	return "", followUp{}, false
}

func (s *Server) followUser(ctx context.Context, user string, what followUp) {
	for _, room := range s.Hub.JoinedRooms(user) {
		var err error
		if what.leave {
			err = s.Leave(ctx, room, user, "")
		} else {
			err = s.refreshMember(ctx, room, user)
		}
		var refused *NotAllowed
		if err != nil && ctx.Err() == nil && !errors.As(err, &refused) {
			s.Log.WithError(err).WithField("room", room).WithField("user", user).Warn("A change of a user could not be brought into a room")
		}
	}
}

// refreshMember sends a user's member event again with the profile of now.
func (s *Server) refreshMember(ctx context.Context, roomID, user string) error {
	old, err := s.CurrentState(ctx, roomID, "m.room.member", user)
	if err != nil || old == nil || auth.Membership(old.Event) != auth.Join {
		return err
	}
	content := map[string]json.RawMessage{}
	gjson.ParseBytes(old.Event.ContentJSON()).ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "displayname", "avatar_url", "membership", "reason", "join_authorised_via_users_server", "third_party_invite", "is_direct":
		default:
			content[key.Str] = json.RawMessage(value.Raw)
		}
		return true
	})
	_, err = s.SetMembership(ctx, MembershipRequest{RoomID: roomID, Sender: user, Target: user, Membership: auth.Join, Content: content})
	return err
}
