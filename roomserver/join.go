package roomserver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tidwall/gjson"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// JoinRequest asks to bring a local user into a room.
type JoinRequest struct {
	RoomIDOrAlias, User string
	Via                 []string
	Reason              string
	Content             map[string]json.RawMessage
	// Joined, unless nil, is called when the user is in the room, before Join
	// returns, and also when its caller waits no longer.
	Joined func(ctx context.Context, roomID string)
}

// Join brings a local user into a room, through another server when this one is
// not in it, and returns the room's id. What is begun with other servers goes on
// when ctx ends.
func (s *Server) Join(ctx context.Context, q JoinRequest) (string, error) {
	roomID, to, err := s.locate(ctx, q.RoomIDOrAlias, q.Via)
	if err != nil {
		return "", err
	}
	m := MembershipRequest{RoomID: roomID, Sender: q.User, Target: q.User, Membership: auth.Join, Reason: q.Reason, Content: q.Content}
	for {
		done, err := s.tryHere(ctx, m, q.Joined)
		if done {
			return roomID, err
		}
		mine, err := s.joins.do(ctx, roomID, q.User, func(ctx context.Context, f *flight) error { return s.fly(ctx, f, m, to, q.Joined) })
		if mine || ctx.Err() != nil || errors.Is(err, errStopping) {
			return roomID, err
		}
	}
}

// tryHere joins a room that this server is in. It is not done where others must
// be asked: of a room that this server is not in, and where nobody here may let
// the user in, which is the error then.
func (s *Server) tryHere(ctx context.Context, m MembershipRequest, joined func(context.Context, string)) (done bool, err error) {
	resident, err := s.IsResident(ctx, m.RoomID)
	if err != nil || !resident {
		return err != nil, err
	}
	if s.partials.underWay(m.RoomID) != nil && !s.Hub.IsJoined(m.Target, m.RoomID) {
		return false, nil // whether they are invited or banned is not known here yet
	}
	err = s.joinHere(ctx, m)
	if err == nil && joined != nil {
		joined(ctx, m.RoomID)
	}
	var refused *NotAllowed
	return err == nil || !errors.As(err, &refused) || !s.needsAuthoriser(ctx, m.RoomID), err
}

// fly joins a room through other servers.
func (s *Server) fly(ctx context.Context, f *flight, m MembershipRequest, to route, joined func(context.Context, string)) error {
	done, err := s.tryHere(ctx, m, joined) // somebody else may have landed meanwhile
	if done {
		return err
	}
	log := s.Log.WithField("room", m.RoomID).WithField("user", m.Target)
	log.Info("A room is joined through other servers")
	err = s.throughOthers(ctx, m.RoomID, m.Target, to, err, func(ctx context.Context, server string) error { return s.joinThrough(ctx, f, server, m) })
	if err != nil {
		log.WithError(err).Info("A room could not be joined through other servers")
		return err
	}
	log.WithField("server", f.server).WithField("events", f.events.Load()).WithField("seconds", time.Since(f.since).Seconds()).Info("A room was joined through another server")
	if joined != nil {
		joined(ctx, m.RoomID)
	}
	return nil
}

// joinHere joins a room that this server is in.
func (s *Server) joinHere(ctx context.Context, m MembershipRequest) error {
	authoriser, err := s.Authoriser(ctx, m.RoomID, m.Target)
	if err != nil {
		return err
	}
	m.Authoriser = authoriser
	_, err = s.SetMembership(ctx, m)
	return err
}

// needsAuthoriser reports whether a room admits members of other rooms, which
// another server may vouch for.
func (s *Server) needsAuthoriser(ctx context.Context, roomID string) bool {
	rules, err := s.CurrentState(ctx, roomID, "m.room.join_rules", "")
	if err != nil || rules == nil {
		return false
	}
	rule := auth.JoinRule(rules.Event)
	return rule == "restricted" || rule == "knock_restricted"
}

// Authoriser returns a local user who may vouch for somebody's join of a
// restricted room (room version 8 and later), "" where none is needed or none
// can.
func (s *Server) Authoriser(ctx context.Context, roomID, user string) (string, error) {
	if !s.needsAuthoriser(ctx, roomID) {
		return "", nil
	}
	v, err := s.Current(ctx, roomID)
	if err != nil {
		return "", err
	}
	var found string
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		member, err := s.StateEvent(tx, v, "m.room.member", user)
		if err != nil {
			return err
		}
		if member != nil {
			if m := auth.Membership(member.Event); m == auth.Join || m == auth.Invite {
				return nil
			}
		}
		rules, err := s.StateEvent(tx, v, "m.room.join_rules", "")
		if err != nil || rules == nil {
			return err
		}
		in, err := s.inAllowed(tx, rules.Event, user)
		if err != nil || !in {
			return err
		}
		powers, err := s.Powers(tx, v)
		for _, local := range s.Hub.JoinedUsers(roomID) {
			if err == nil && powers.UserLevel(local) >= powers.Invite() && (found == "" || local < found) {
				found = local
			}
		}
		return err
	})
	return found, err
}

// maxAllowRooms bounds the conditions of a join rule that are looked at.
const maxAllowRooms = 100

// inAllowed reports whether a user is in one of the rooms that a join rule
// allows, as far as is known here: of rooms that this server is in.
func (s *Server) inAllowed(tx *sqldb.Tx, rules *event.Event, user string) (bool, error) {
	for i, allow := range gjson.GetBytes(rules.ContentJSON(), "allow").Array() {
		if i == maxAllowRooms {
			break
		}
		room := allow.Get("room_id").Str
		if allow.Get("type").Str != "m.room_membership" || room == "" {
			continue
		}
		if s.IsLocal(user) {
			if s.Hub.IsJoined(user, room) {
				return true, nil
			}
			continue
		}
		if len(s.Hub.JoinedUsers(room)) == 0 {
			continue
		}
		in, err := s.isMember(tx, room, user)
		if err != nil || in {
			return in, err
		}
	}
	return false, nil
}

func (s *Server) isMember(tx *sqldb.Tx, roomID, userID string) (bool, error) {
	key, err := s.Store.RoomTx(tx, roomID)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	user, err := s.Store.FindName(tx, userID)
	if err != nil || user == 0 {
		return false, err
	}
	m, err := s.Store.Member(tx, key.NID, user)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return m.State == store.Join, err
}

// joinThrough joins a room through a server that is in it (server-server API,
// "Joining Rooms"). Nothing is written before the answer is checked.
func (s *Server) joinThrough(ctx context.Context, f *flight, server string, m MembershipRequest) error {
	f.at(server, stepMake)
	e, err := s.makeThrough(ctx, "join", server, m)
	if err != nil {
		return err
	}
	answer, err := s.sendJoin(ctx, f, server, e, s.PartialJoins)
	if err != nil {
		return err
	}
	defer answer.release()
	f.at(server, stepWrite)
	return s.takeJoin(ctx, f, answer)
}

// sendJoin sends a join through a server and returns its answer, which holds.
// omit lets it leave members out. The caller releases the answer.
func (s *Server) sendJoin(ctx context.Context, f *flight, server string, e *event.Event, omit bool) (*joinAnswer, error) {
	f.at(server, stepSend)
	a := &joinAnswer{s: s, v: e.V(), room: e.Room(), join: e, from: server, seen: &f.events}
	err := s.Remote.SendJoin(ctx, server, e.Room(), e.EventID(), e.JSON(), omit,
		JoinSink{State: a.addState, Auth: a.addAuth, Event: a.setEvent, Omitted: a.setOmitted})
	if err == nil && a.omitted && !omit {
		err = fmt.Errorf("%w: it lacks members, which nobody said it may", ErrBadAnswer)
	}
	if err == nil {
		f.at(server, stepCheck)
		if err = a.check(ctx); err != nil {
			err = fmt.Errorf("%s: %w", server, err)
		}
	}
	if err != nil {
		a.release()
	}
	return a, err
}

// makeThrough gets the template of a membership event from a server and makes
// the user's event of it.
func (s *Server) makeThrough(ctx context.Context, kind, server string, m MembershipRequest) (*event.Event, error) {
	version, template, err := s.Remote.Make(ctx, kind, server, m.RoomID, m.Target, event.Versions())
	if err != nil {
		return nil, err
	}
	if version == "" {
		version = "1"
	}
	v, ok := event.GetVersion(version)
	if !ok {
		return nil, ErrUnsupported
	}
	t := gjson.ParseBytes(template)
	if t.Get("type").Str != "m.room.member" || t.Get("sender").Str != m.Target || t.Get("state_key").Str != m.Target || t.Get("room_id").Str != m.RoomID {
		return nil, fmt.Errorf("%w: %s sent a template of another event", ErrBadAnswer, server)
	}
	m.Membership = kind
	m.Authoriser = t.Get("content." + authoriserKey).Str
	if m.Authoriser != "" && serverOf(m.Authoriser) != server { // our signature must not vouch for what we did not look at
		return nil, fmt.Errorf("%w: %s lets another server's user vouch for the join", ErrBadAnswer, server)
	}
	content, err := s.memberContent(ctx, m.Target, m)
	if err != nil {
		return nil, err
	}
	b := event.Builder{
		Version: v, Type: "m.room.member", Sender: m.Target, StateKey: &m.Target, RoomID: m.RoomID, Content: content,
		Depth: min(t.Get("depth").Int(), maxDepth), TS: s.Clock().UnixMilli(), Hashes: map[string][32]byte{},
	}
	b.PrevEvents = templateRefs(t.Get("prev_events"), b.Hashes)
	b.AuthEvents = templateRefs(t.Get("auth_events"), b.Hashes)
	e, err := b.Build(s.Signer)
	if err != nil {
		return nil, fmt.Errorf("%w: %s sent a template that makes no event: %w", ErrBadAnswer, server, err)
	}
	return e, nil
}

// templateRefs reads the prev or auth events of a template in either format.
func templateRefs(list gjson.Result, hashes map[string][32]byte) []string {
	var ids []string
	for _, ref := range list.Array() {
		id := ref.Str
		if ref.IsArray() {
			id = ref.Get("0").Str
			if hash, err := base64.RawStdEncoding.DecodeString(ref.Get("1.sha256").Str); err == nil && len(hash) == 32 {
				hashes[id] = [32]byte(hash)
			}
		}
		ids = append(ids, id)
	}
	return ids
}

// cites returns the auth events of an event, and in room version 12 the create
// event with them; not ok when one is absent or was not judged good before: an
// event cannot rest on what rests on it.
func (a *joinAnswer) cites(e *event.Event) (cited []*event.Event, ok bool) {
	refs := e.AuthRefs()
	if a.v.DomainlessRoomIDs && e.Type() != "m.room.create" {
		refs = append(refs[:len(refs):len(refs)], e.CreateID())
	}
	cited = make([]*event.Event, len(refs))
	for i, id := range refs {
		if cited[i] = a.byID[id]; cited[i] == nil || !a.good[id] {
			return nil, false
		}
	}
	return cited, true
}

// permits applies the auth rules to an event and what it cites.
func (a *joinAnswer) permits(e *event.Event, cited []*event.Event) bool {
	return auth.CheckAuthEvents(e, cited[:len(e.AuthRefs())]) == nil && auth.Check(e, auth.NewState(cited)) == nil
}
