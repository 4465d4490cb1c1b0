package roomserver

import (
	"errors"
	"net/http"
	"time"

	"knock/internal/matrixerr"
	"knock/roomserver/auth"
)

// Errors of the domain. The doors map them to the specification's codes.
var (
	ErrUnknownRoom  = errors.New("this server does not know the room")
	ErrUnknownEvent = errors.New("this server does not have the event")
	ErrNotJoined    = errors.New("the user is not in the room")
	ErrNotVisible   = errors.New("the user may not see this")
	ErrNotLocal     = errors.New("the id does not belong to this server")
	ErrTooLarge     = errors.New("the event is too large")
	ErrNoRoute      = errors.New("no server could be reached that is in the room")
	ErrUnsupported  = errors.New("the room version is not supported")
	ErrAliasTaken   = errors.New("the alias is taken")
	ErrUnknownAlias = errors.New("the alias does not exist")
	ErrUnknownUser  = errors.New("the user does not exist on this server")
	ErrNoCreate     = errors.New("the state that came with the invite lacks the room's m.room.create as a full event")
	ErrNoPolicy     = errors.New("the room's policy server gave no usable answer")
	ErrNoIdentity   = errors.New("the identity server could not be asked about its key")
	ErrBlocked      = errors.New("the user takes no invite of the inviter")
	ErrBadRequest   = errors.New("the request is not valid")
	ErrBadAnswer    = errors.New("another server's answer does not hold")
	ErrPartial      = errors.New("not all members of the room are known here yet")
	ErrBusy         = errors.New("too many large answers of other servers are worked on")
)

// NotAllowed is the refusal of an event by the authorisation rules.
type NotAllowed = auth.NotAllowed

// MatrixError maps an error of this package to the specification's code. Other
// errors are returned as they are.
func MatrixError(err error) error {
	var refused *NotAllowed
	if errors.As(err, &refused) {
		return matrixerr.Forbidden("You are not allowed to do this: " + refused.Reason + ".").With(err)
	}
	for _, m := range mapped {
		if errors.Is(err, m.err) {
			return m.as.With(err)
		}
	}
	return err
}

var mapped = []struct {
	err error
	as  *matrixerr.Error
}{
	{ErrUnknownRoom, matrixerr.NotFound("This server does not know the room, or is not in it.")},
	{ErrUnknownEvent, matrixerr.NotFound("The event was not found.")},
	{ErrUnknownAlias, matrixerr.NotFound("The room alias was not found.")},
	{ErrUnknownUser, matrixerr.NotFound("The user does not exist on this server.")},
	{ErrNotJoined, matrixerr.Forbidden("You are not in this room.")},
	{ErrNotVisible, matrixerr.Forbidden("You may not see this room.")},
	{ErrNotLocal, matrixerr.Forbidden("This id belongs to another server; ask that server.")},
	{ErrTooLarge, matrixerr.TooLarge("The event is too large; an event may have 65,536 bytes at most.")},
	{ErrNoRoute, matrixerr.New(http.StatusBadGateway, "M_UNKNOWN", "No server that is in the room could be reached. Try again later, or name another server in \"via\".")},
	{ErrUnsupported, matrixerr.New(http.StatusBadRequest, "M_UNSUPPORTED_ROOM_VERSION", "This server does not support the room version.")},
	{ErrAliasTaken, matrixerr.New(http.StatusBadRequest, "M_ROOM_IN_USE", "The room alias is taken; choose another one.")},
	{ErrNoCreate, matrixerr.MissingParam("The invite lacks the room's m.room.create event as a full PDU.")},
	{ErrNoPolicy, matrixerr.New(http.StatusBadGateway, "M_UNKNOWN", "The room's policy server could not be asked, so nothing was sent. Try again later; m.room.policy can be changed without it.")},
	{ErrBadAnswer, matrixerr.Unknown(http.StatusBadGateway, "The answer of the other server is not right, so it was not used. Try again later, or name another server in \"via\".")},
	{ErrPartial, matrixerr.NotFound("This server came into the room just now and does not know all its members yet. Ask another server that is in the room.")},
	{errStopping, matrixerr.Unknown(http.StatusServiceUnavailable, "The server is stopping; try again in a moment.")},
	{ErrBusy, matrixerr.LimitExceeded(30 * time.Second)},
	{ErrNoIdentity, matrixerr.Unknown(http.StatusBadGateway, "The identity server could not be asked whether its key is valid. Try again later.")},
	{ErrBlocked, matrixerr.InviteBlocked()},
	{ErrBadRequest, matrixerr.InvalidParam("The request is not valid.")},
}
