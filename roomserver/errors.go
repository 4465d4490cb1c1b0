package roomserver

import (
	"errors"

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
	ErrBadRequest   = errors.New("the request is not valid")
)

// NotAllowed is the refusal of an event by the authorisation rules.
type NotAllowed = auth.NotAllowed
