package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
)

// followUps are changes of local users that their rooms must hear of, worked off
// in the background so that no answer waits for a thousand rooms. They are
// written down with the change itself, and deleted when every room has heard.
type followUps struct {
	mu    sync.Mutex
	users map[string]followUp
	wake  chan struct{}
}

// followUp is what changed: a set of these, as it is stored.
type followUp int64

const (
	followProfile followUp = 1 << iota
	followLeave
)

// followRetry is when what failed is tried again.
const followRetry = 5 * time.Minute

var (
	putFollowUp = sqldb.Register("followUps.put", `INSERT INTO follow_ups (user_id, what) VALUES ($1, $2)
		ON CONFLICT (user_id) DO UPDATE SET what = follow_ups.what | excluded.what`)
	deleteFollowUp = sqldb.Register("followUps.delete", `DELETE FROM follow_ups WHERE user_id = $1`)
	allFollowUps   = sqldb.Register("followUps.all", `SELECT user_id, what FROM follow_ups`)
)

// ProfileChanging writes down, in the transaction that changes a local user's
// profile, that the user's rooms are to hear of it.
func (s *Server) ProfileChanging(tx *sqldb.Tx, userID, field string) error {
	if !inMemberEvents(field) {
		return nil
	}
	return putFollow(tx, userID, followProfile)
}

// UserDeactivating writes down, in the transaction that closes an account, that
// the user is to leave all rooms.
func (s *Server) UserDeactivating(tx *sqldb.Tx, userID string) error {
	return putFollow(tx, userID, followLeave)
}

func putFollow(tx *sqldb.Tx, userID string, what followUp) error {
	_, err := tx.Exec(putFollowUp, []byte(userID), int64(what))
	return err
}

func inMemberEvents(field string) bool { return field == "displayname" || field == "avatar_url" }

// ProfileChanged brings a local user's member events up to date with their
// profile, in the background.
func (s *Server) ProfileChanged(_ context.Context, userID, field string, _ json.RawMessage) error {
	if inMemberEvents(field) {
		s.follow(userID, followProfile)
	}
	return nil
}

// UserDeactivated takes a deactivated user out of all rooms, in the background.
func (s *Server) UserDeactivated(_ context.Context, userID string, _ bool) error {
	s.follow(userID, followLeave)
	return nil
}

func (s *Server) follow(userID string, what followUp) {
	s.follows.mu.Lock()
	s.follows.users[userID] |= what
	s.follows.mu.Unlock()
	select {
	case s.follows.wake <- struct{}{}:
	default:
	}
}

// runFollowUps works off changes of users until ctx ends, first those that were
// under way when the node stopped.
func (s *Server) runFollowUps(ctx context.Context) {
	tick := time.NewTicker(followRetry)
	defer tick.Stop()
	s.findFollowUps(ctx)
	for {
		for user, what, ok := s.nextFollowUp(); ok && ctx.Err() == nil; user, what, ok = s.nextFollowUp() {
			if s.followUser(ctx, user, what) {
				s.followed(ctx, user)
			}
		}
		select {
		case <-s.follows.wake:
		case <-tick.C:
			s.findFollowUps(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// findFollowUps takes up what is written down.
func (s *Server) findFollowUps(ctx context.Context) {
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		_, err := sqldb.Collect(tx, allFollowUps, func(rows *sqldb.Rows) (_ struct{}, err error) {
			var user []byte
			var what int64
			if err = rows.Scan(&user, &what); err == nil {
				s.follow(string(user), followUp(what))
			}
			return struct{}{}, err
		})
		return err
	})
	if err != nil && ctx.Err() == nil {
		s.Log.WithError(err).Warn("Changes of users that rooms are to hear of could not be read; it is tried again")
	}
}

// followed deletes what is done, unless the user has changed meanwhile.
func (s *Server) followed(ctx context.Context, user string) {
	err := s.db.Do(ctx, &sqldb.Op{Name: "followUps", Write: func(tx *sqldb.Tx, _ int64) error {
		s.follows.mu.Lock()
		_, again := s.follows.users[user]
		s.follows.mu.Unlock()
		if again {
			return nil
		}
		_, err := tx.Exec(deleteFollowUp, []byte(user))
		return err
	}})
	if err != nil && ctx.Err() == nil {
		s.Log.WithError(err).Warn("It could not be written down that rooms have heard of a change of a user; they will hear of it again")
	}
}

func (s *Server) nextFollowUp() (string, followUp, bool) {
	s.follows.mu.Lock()
	defer s.follows.mu.Unlock()
	for user, what := range s.follows.users {
		delete(s.follows.users, user)
		return user, what, true
	}
	return "", 0, false
}

// followUser tells all rooms of a user; false when some did not hear and may
// later. A room that refuses has heard.
func (s *Server) followUser(ctx context.Context, user string, what followUp) bool {
	done := true
	for _, room := range s.Hub.JoinedRooms(user) {
		var err error
		if what&followLeave != 0 {
			err = s.Leave(ctx, room, user, "")
		} else {
			err = s.refreshMember(ctx, room, user)
		}
		var refused *NotAllowed
		if err == nil || errors.As(err, &refused) {
			continue
		}
		if done = false; ctx.Err() != nil {
			return false
		}
		s.Log.WithError(err).WithField("room", room).WithField("user", user).Warn("A change of a user could not be brought into a room; it is tried again")
	}
	return done
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
