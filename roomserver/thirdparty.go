package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Third-party invites: who proves to have an address to which an m.room.third_party_invite was issued is invited by the
// server of who issued it (client-server API, "Third-party invites"; server-server API, the same).

// Redemption is an identity server's word that a local user has the address of an m.room.third_party_invite.
type Redemption struct {
	RoomID string
	Sender string          // who issued the invite
	User   string          // who has the address
	Signed json.RawMessage // an object with mxid, token and signatures
}

// Bounds of redemptions.
const (
	maxSigned           = 8 << 10
	maxToken            = 255
	maxRedemptions      = 5_000 // that wait, of all users
	redemptionLifetime  = 3 * 24 * time.Hour
	redemptionsAtATime  = 4
	redemptionsPerRound = 32
	redemptionTime      = time.Minute
)

func (q *Redemption) check() error {
	mxid, token := gjson.GetBytes(q.Signed, "mxid"), gjson.GetBytes(q.Signed, "token")
	switch {
	case !event.ValidRoomID(q.RoomID) || !event.ValidUserID(q.Sender):
		return fmt.Errorf("%w: the invite names no room or no sender", ErrBadRequest)
	case len(q.Signed) > maxSigned || !gjson.ValidBytes(q.Signed) || mxid.Type != gjson.String || token.Type != gjson.String || len(token.Str) > maxToken:
		return fmt.Errorf("%w: the invite is not signed for a user and token", ErrBadRequest)
	case mxid.Str != q.User:
		return fmt.Errorf("%w: the invite is signed for another user", ErrBadRequest)
	}
	return nil
}

// Redeem has a local user invited who has the address of a third-party invite.
func (s *Server) Redeem(ctx context.Context, q Redemption) error {
	if err := q.check(); err != nil {
		return err
	}
	if s.IsLocal(q.Sender) {
		return s.redeemHere(ctx, q)
	}
	if s.Remote == nil {
		return ErrNoRoute
	}
	return s.Remote.ExchangeInvite(ctx, serverOf(q.Sender), q.RoomID, encode(map[string]any{
		"type": "m.room.member", "room_id": q.RoomID, "sender": q.Sender, "state_key": q.User,
		"content": map[string]any{"membership": auth.Invite, "third_party_invite": map[string]any{"display_name": "", "signed": q.Signed}},
	}))
}

// Exchange invites a user of another server who has the address of a third-party invite that a local user issued. raw is
// the partial m.room.member event of PUT /exchange_third_party_invite.
func (s *Server) Exchange(ctx context.Context, origin, roomID string, raw json.RawMessage) error {
	e := gjson.ParseBytes(raw)
	invite := e.Get("content.third_party_invite")
	q := Redemption{RoomID: roomID, Sender: e.Get("sender").Str, User: e.Get("state_key").Str, Signed: json.RawMessage(invite.Get("signed").Raw)}
	switch {
	case e.Get("type").Str != "m.room.member" || e.Get("content.membership").Str != auth.Invite || e.Get("room_id").Str != roomID:
		return fmt.Errorf("%w: the event is not an invite to the room that the path names", ErrBadRequest)
	case !event.ValidUserID(q.User) || serverOf(q.User) != origin:
		return &NotAllowed{Reason: "the invited user belongs to another server than the one that asks"}
	case !s.IsLocal(q.Sender):
		return fmt.Errorf("%w: the sender is not a user of this server", ErrBadRequest)
	}
	if err := q.check(); err != nil {
		return err
	}
	return s.redeemHere(ctx, q)
}

// redeemHere sends the invite for a third-party invite that a local user issued.
func (s *Server) redeemHere(ctx context.Context, q Redemption) error {
	if _, err := s.residentHandle(ctx, q.RoomID); err != nil {
		return err
	}
	issued, err := s.CurrentState(ctx, q.RoomID, "m.room.third_party_invite", gjson.GetBytes(q.Signed, "token").Str)
	if err != nil {
		return err
	}
	if issued == nil || issued.Event.Sender() != q.Sender {
		return &NotAllowed{Reason: "the sender issued no third-party invite with this token in the room"}
	}
	now, err := s.Membership(ctx, q.RoomID, q.User)
	if err != nil || now.State == store.Join || now.State == store.Invite {
		return err // nothing is left to do
	}
	key, ok := auth.InviteSigner(issued.Event, q.Signed)
	if !ok {
		return &NotAllowed{Reason: "no key of the third-party invite signed its redemption"}
	}
	if err := s.checkInviteKey(ctx, key); err != nil {
		return err
	}
	_, err = s.SetMembership(ctx, MembershipRequest{RoomID: q.RoomID, Sender: q.Sender, Target: q.User, Membership: auth.Invite,
		Content: map[string]json.RawMessage{"third_party_invite": encode(map[string]any{
			"display_name": issued.Event.ContentString("display_name"), "signed": q.Signed})}})
	return err
}

// checkInviteKey asks whether a key may still sign. Only the server that issues the invite does: all others must come to
// the same verdict about the event.
func (s *Server) checkInviteKey(ctx context.Context, key auth.InviteKey) error {
	if key.ValidityURL == "" || s.KeyValid == nil {
		return nil
	}
	valid, err := s.KeyValid(ctx, key.ValidityURL, key.Public)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoIdentity, err)
	}
	if !valid {
		return &NotAllowed{Reason: "the identity server does not stand by the key of the third-party invite any more"}
	}
	return nil
}

// QueueRedemptions remembers what an identity server told of a local user's address; each invite is asked for until its
// server answered or gave no answer for three days.
func (s *Server) QueueRedemptions(ctx context.Context, list []Redemption) error {
	now := s.Clock().UnixMilli()
	rows := make([]store.Redemption, 0, len(list))
	seen := map[[3]string]bool{}
	for _, q := range list {
		if err := q.check(); err != nil {
			return err
		}
		row := store.Redemption{NID: s.db.NextID(), Room: q.RoomID, User: q.User, Token: gjson.GetBytes(q.Signed, "token").Str, Sender: q.Sender, Signed: q.Signed, Added: now}
		if key := [3]string{row.Room, row.User, row.Token}; !seen[key] {
			seen[key] = true
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	full := false
	err := s.db.Do(ctx, &sqldb.Op{
		Name: "redemptions",
		Check: func(tx *sqldb.Tx) error {
			n, err := s.Store.CountRedemptions(tx)
			full = n+int64(len(rows)) > maxRedemptions
			return err
		},
		Write: func(tx *sqldb.Tx, _ int64) error {
			if full {
				return nil
			}
			return s.Store.AddRedemptions(tx, rows)
		},
	})
	if err == nil && full {
		err = matrixerr.LimitExceeded(10 * time.Minute)
	}
	s.wakeRedemptions()
	return err
}

func (s *Server) wakeRedemptions() {
	select {
	case s.redeems <- struct{}{}:
	default: // it will look anyway
	}
}

// runRedemptions works off what waits until ctx ends.
func (s *Server) runRedemptions(ctx context.Context) {
	for {
		wait, err := s.redeemDue(ctx)
		if err != nil && ctx.Err() == nil {
			s.Log.WithError(err).Error("Third-party invites that wait could not be read; it is tried again")
			wait = time.Minute
		}
		timer := time.NewTimer(wait)
		select {
		case <-s.redeems:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// redeemDue tries those whose turn it is and returns when to look again.
func (s *Server) redeemDue(ctx context.Context) (time.Duration, error) {
	for {
		var list []store.Redemption
		var next int64
		now := s.Clock().UnixMilli()
		err := s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
			list, next, err = s.Store.DueRedemptions(tx, now, now+time.Hour.Milliseconds(), redemptionsPerRound)
			return err
		})
		if err != nil || len(list) == 0 {
			return max(time.Duration(next-now)*time.Millisecond, time.Second), err
		}
		if err := s.redeemAll(ctx, list); err != nil {
			return 0, err
		}
	}
}

func (s *Server) redeemAll(ctx context.Context, list []store.Redemption) error {
	work, errs := make(chan store.Redemption), make([]error, redemptionsAtATime)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for r := range work {
				errs[i] = errors.Join(errs[i], s.redeemOne(ctx, r))
			}
		})
	}
	for _, r := range list {
		work <- r
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

// redeemOne tries one and writes down how it went.
func (s *Server) redeemOne(ctx context.Context, r store.Redemption) error {
	tryCtx, cancel := context.WithTimeout(ctx, redemptionTime)
	err := s.Redeem(tryCtx, Redemption{RoomID: r.Room, Sender: r.Sender, User: r.User, Signed: r.Signed})
	cancel()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	now := s.Clock()
	settled := err == nil || isFinal(err) || now.UnixMilli()-r.Added > redemptionLifetime.Milliseconds()
	if err != nil {
		s.Log.WithError(err).WithField("room", r.Room).WithField("user", r.User).WithField("given_up", settled).
			Info("A third-party invite could not be turned into one of the user")
	}
	return s.db.Do(ctx, &sqldb.Op{Name: "redemptions", Write: func(tx *sqldb.Tx, _ int64) error {
		if settled {
			return s.Store.EndRedemption(tx, r.NID)
		}
		pause := min(time.Second<<min(r.Tries, 12), time.Hour)
		return s.Store.DelayRedemption(tx, r.NID, now.Add(pause).UnixMilli())
	}})
}

// isFinal reports whether trying again cannot help: a server said no.
func isFinal(err error) bool {
	var m *matrixerr.Error
	return errors.As(MatrixError(err), &m) && m.HTTP >= 400 && m.HTTP < 500 && m.Code != "M_LIMIT_EXCEEDED"
}
