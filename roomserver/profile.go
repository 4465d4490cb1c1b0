package roomserver

import (
	"context"
	"database/sql"
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
	users map[string]struct{} // for whom something is written down
	wake  chan struct{}
}

// followUp is what changed, as it is stored: a set of the first two bits, and above
// them how often more was written down since.
type followUp int64

const (
	followProfile followUp = 1 << iota
	followLeave
	followAgain
)

// followRetry is when what failed is tried again.
const followRetry = 5 * time.Minute

var (
	putFollowUp = sqldb.Register("followUps.put", `INSERT INTO follow_ups (user_id, what) VALUES ($1, $2)
		ON CONFLICT (user_id) DO UPDATE SET what = (follow_ups.what | excluded.what) + $3`)
	getFollowUp    = sqldb.Register("followUps.get", `SELECT what FROM follow_ups WHERE user_id = $1`)
	deleteFollowUp = sqldb.Register("followUps.delete", `DELETE FROM follow_ups WHERE user_id = $1 AND what = $2`)
	allFollowUps   = sqldb.Register("followUps.all", `SELECT user_id FROM follow_ups`)
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
	_, err := tx.Exec(putFollowUp, []byte(userID), int64(what), int64(followAgain))
	return err
}

func inMemberEvents(field string) bool { return field == "displayname" || field == "avatar_url" }

// ProfileChanged brings a local user's member events up to date with their
// profile, in the background.
func (s *Server) ProfileChanged(_ context.Context, userID, field string, _ json.RawMessage) error {
	if inMemberEvents(field) {
		s.follow(userID)
	}
	return nil
}

// UserDeactivated takes a deactivated user out of all rooms, in the background.
func (s *Server) UserDeactivated(_ context.Context, userID string, _ bool) error {
	s.follow(userID)
	return nil
}

// follow has a user's follow-up looked at.
func (s *Server) follow(userID string) {
	s.follows.mu.Lock()
	s.follows.users[userID] = struct{}{}
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
		for user, ok := s.nextFollowUp(); ok && ctx.Err() == nil; user, ok = s.nextFollowUp() {
			if err := s.workOff(ctx, user); err != nil && ctx.Err() == nil {
				s.Log.WithError(err).WithField("user", user).Warn("What rooms are to hear of a user could not be read or be struck off; it is tried again")
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
			if err = rows.Scan(&user); err == nil {
				s.follow(string(user))
			}
			return struct{}{}, err
		})
		return err
	})
	if err != nil && ctx.Err() == nil {
		s.Log.WithError(err).Warn("Changes of users that rooms are to hear of could not be read; it is tried again")
	}
}

// workOff tells rooms what is written down of a user, and strikes it off when all
// have heard.
func (s *Server) workOff(ctx context.Context, user string) error {
	what, err := s.writtenDown(ctx, user)
	if err != nil || what == 0 || !s.followUser(ctx, user, what) {
		return err
	}
	return s.strikeOff(ctx, user, what)
}

// writtenDown returns what rooms are to hear of a user, 0 for nothing.
func (s *Server) writtenDown(ctx context.Context, user string) (what followUp, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		err := tx.QueryRow(getFollowUp, []byte(user)).Scan(&what)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return what, err
}

// strikeOff deletes what is done, unless more was written down meanwhile.
func (s *Server) strikeOff(ctx context.Context, user string, what followUp) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "followUps", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := tx.Exec(deleteFollowUp, []byte(user), int64(what))
		return err
	}})
}

func (s *Server) nextFollowUp() (string, bool) {
	s.follows.mu.Lock()
	defer s.follows.mu.Unlock()
	for user := range s.follows.users {
		delete(s.follows.users, user)
		return user, true
	}
	return "", false
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
