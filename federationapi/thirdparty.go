package federationapi

import (
	"context"
	"encoding/json"
	"fmt"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
	"knock/roomserver/event"
)

// exchangeInvite invites a user of the server that asks who has the address of a third-party invite.
func (a *API) exchangeInvite(ctx context.Context, r *httpx.Request) (any, error) {
	raw, err := r.ObjectBytes()
	if err != nil {
		return nil, err
	}
	room, origin := r.Vars["roomId"], r.Caller.Origin
	if err := a.admitted(ctx, room, origin); err != nil {
		return nil, domainError(err)
	}
	return nil, domainError(a.o.Rooms.Exchange(ctx, origin, room, raw))
}

// maxBoundInvites bounds the invites that one address may have.
const maxBoundInvites = 100

// onBind hears from an identity server that one of our users has an address, and of the invites that wait for it. Anybody
// may call it: each invite carries a signature that the server which issued it checks.
func (a *API) onBind(ctx context.Context, r *httpx.Request) (any, error) {
	var body struct {
		User    string `json:"mxid"`
		Invites []struct {
			User   string          `json:"mxid"`
			RoomID string          `json:"room_id"`
			Sender string          `json:"sender"`
			Signed json.RawMessage `json:"signed"`
		} `json:"invites"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	switch {
	case !event.ValidUserID(body.User):
		return nil, matrixerr.MissingParam("mxid, the user who has the address, is missing")
	case len(body.Invites) > maxBoundInvites:
		return nil, matrixerr.TooLarge(fmt.Sprintf("At most %d invites can be handed over at once", maxBoundInvites))
	}
	if !a.o.Rooms.IsLocal(body.User) || !a.o.Rooms.Exists(ctx, body.User) {
		return nil, matrixerr.NotFound("The user does not exist on this server")
	}
	list := make([]roomserver.Redemption, 0, len(body.Invites))
	for _, i := range body.Invites {
		if i.User != body.User {
			return nil, matrixerr.InvalidParam("An invite is for another user than the one who has the address")
		}
		list = append(list, roomserver.Redemption{RoomID: i.RoomID, Sender: i.Sender, User: i.User, Signed: i.Signed})
	}
	return nil, domainError(a.o.Rooms.QueueRedemptions(ctx, list))
}
