package roomserver

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/tidwall/gjson"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Bounds of the servers that are tried for one membership.
const (
	maxCandidates = 12
	maxNamed      = 8 // of those that the user named: the others must get a turn
)

// route is where a room may be reached.
type route struct {
	named []string // by the user
	alias []string // by the alias
}

// locate resolves an alias and says which servers came along.
func (s *Server) locate(ctx context.Context, roomIDOrAlias string, via []string) (string, route, error) {
	to := route{named: via}
	if len(roomIDOrAlias) > 0 && roomIDOrAlias[0] == '#' {
		roomID, servers, err := s.ResolveAlias(ctx, roomIDOrAlias)
		to.alias = servers
		return roomID, to, err
	}
	if !event.ValidRoomID(roomIDOrAlias) {
		return "", to, ErrUnknownRoom
	}
	return roomIDOrAlias, to, nil
}

// candidates are the servers to ask about a room, the likeliest first: those that
// the user named, the inviter's and those of the state that came with the invite,
// the alias's, those that are in the room. What is known of a room that this
// server is not in (inside is false) is old: servers that are named go without it;
// so they do without the one that the room id names, which is a guess. Servers that
// failed lately come last.
func (s *Server) candidates(ctx context.Context, roomID, user string, to route, inside bool) []string {
	list := slices.Clone(to.named[:min(len(to.named), maxNamed)])
	if m, err := s.Membership(ctx, roomID, user); err == nil && (m.State == store.Invite || m.State == store.Knock) {
		list = append(list, s.toldBy(ctx, m)...)
	}
	list = append(list, to.alias...)
	if servers, err := s.JoinedServers(ctx, roomID); err == nil && (inside || len(list) == 0) {
		list = append(list, servers...)
	}
	if len(list) == 0 {
		list = append(list, serverOf(roomID))
	}
	var up, down []string
	for _, server := range list {
		switch {
		case server == "" || server == s.ServerName || !event.ValidServerName(server) || slices.Contains(up, server) || slices.Contains(down, server):
		case s.Down != nil && s.Down(server):
			down = append(down, server)
		default:
			up = append(up, server)
		}
	}
	up = append(up, down...)
	return up[:min(len(up), maxCandidates)]
}

// toldBy are the servers of those who made an invite or a knock and the state that came along: a room id need not
// name one.
func (s *Server) toldBy(ctx context.Context, m store.MemberRow) (servers []string) {
	var list []gjson.Result
	if e, err := s.Store.LoadOne(ctx, m.Event); err == nil {
		servers = append(servers, serverOf(e.Event.Sender()))
	}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		raws, err := s.Stripped(tx, m)
		for _, raw := range raws {
			list = append(list, gjson.GetBytes(raw, "sender"))
		}
		return err
	})
	if err != nil {
		s.Log.WithError(err).Warn("The state that came with an invite or a knock could not be read")
	}
	for _, sender := range list {
		servers = append(servers, serverOf(sender.Str))
	}
	return servers
}

// throughOthers tries the candidates in turn, each for as long as joinServerTime.
// without, where it is not nil, is the error of doing it here, returned when
// nobody can help. Otherwise the error that says most is.
func (s *Server) throughOthers(ctx context.Context, roomID, user string, to route, without error, try func(ctx context.Context, server string) error) error {
	var worst error
	if s.Remote != nil {
		for _, server := range s.candidates(ctx, roomID, user, to, without != nil) {
			err := s.tryServer(ctx, server, try)
			if err == nil {
				return nil
			}
			s.Log.WithError(err).WithField("room", roomID).WithField("server", server).Info("A server could not help with a membership")
			if worst == nil || gravity(err) > gravity(worst) {
				worst = err
			}
			if ctx.Err() != nil {
				break
			}
		}
	}
	switch {
	case without != nil:
		return without
	case worst != nil:
		return worst
	}
	return ErrUnknownRoom
}

func (s *Server) tryServer(ctx context.Context, server string, try func(ctx context.Context, server string) error) error {
	ctx, cancel := context.WithTimeout(ctx, joinServerTime)
	defer cancel()
	return try(ctx, server)
}

// gravity orders the errors of several servers by how much they say to the user.
func gravity(err error) int {
	var refused *NotAllowed
	var m *matrixerr.Error
	switch {
	case errors.As(err, &refused), errors.Is(err, ErrUnsupported):
		return 2
	case !errors.As(err, &m) || m.HTTP >= http.StatusInternalServerError:
		return 0
	case m.Code == "M_FORBIDDEN":
		return 2
	}
	return 1
}
