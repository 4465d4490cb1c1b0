package rooms

import (
	"context"
	"encoding/json"
	"net/http"

	"knock/internal/httpx"
	"knock/internal/identity"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// address is an invitee whose user id the inviter does not know (Client-Server API, "Third-party invites").
type address struct {
	Server  string `json:"id_server"`
	Token   string `json:"id_access_token"`
	Medium  string `json:"medium"`
	Address string `json:"address"`
}

func (w address) given() bool { return w.Medium != "" || w.Address != "" || w.Server != "" }

const (
	maxAddress = 500
	maxIDToken = 4096
)

func (a *API) checkAddress(w address) error {
	switch {
	case a.o.Identity == nil:
		return matrixerr.New(http.StatusForbidden, "M_THREEPID_DENIED", "This server does not invite by e-mail address or telephone number; invite a user id")
	case w.Medium == "" || w.Address == "":
		return matrixerr.MissingParam(`"medium" and "address" say who is invited; one is missing`)
	case w.Server == "" || w.Token == "":
		return matrixerr.MissingParam(`"id_server" and "id_access_token" say which identity server knows the address; one is missing`)
	case len(w.Address) > maxAddress || len(w.Medium) > maxAddress || len(w.Token) > maxIDToken:
		return matrixerr.InvalidParam("The address or the token is too long")
	case !event.ValidServerName(w.Server):
		return matrixerr.InvalidParam(`"id_server" must be a host name and perhaps a port, such as id.example.org`)
	}
	return nil
}

// inviteAddress invites who has an address: the user whom the identity server knows, or whoever proves to have it.
func (a *API) inviteAddress(ctx context.Context, r *httpx.Request, w address) error {
	if err := a.checkAddress(w); err != nil {
		return err
	}
	room, err := a.joined(r)
	if err != nil {
		return err
	}
	return a.inviteByAddress(ctx, room, r.Caller.UserID, w, false)
}

// inviteAddresses is for the invitees of a new room, which stands whatever becomes of them.
func (a *API) inviteAddresses(ctx context.Context, room string, q roomserver.CreateRequest, list []address) {
	for _, w := range list {
		if err := a.inviteByAddress(ctx, room, q.Creator, w, q.IsDirect); err != nil {
			a.o.Log.WithError(err).WithField("room", room).Info("An address could not be invited to a new room")
		}
	}
}

func (a *API) inviteByAddress(ctx context.Context, room, sender string, w address, direct bool) error {
	if err := a.mayInvite(ctx, room, sender); err != nil {
		return err // before anybody is asked about the address
	}
	who := identity.Account{Server: w.Server, Token: w.Token}
	whom := identity.Address{Medium: w.Medium, Address: w.Address}.Canonical()
	user, err := a.o.Identity.Lookup(ctx, who, whom)
	if err != nil {
		return err
	}
	if user == "" {
		stored, err := a.storeInvite(ctx, room, sender, who, whom)
		if err != nil {
			return err
		}
		if stored.BoundTo == "" {
			return a.sendStored(ctx, room, sender, stored)
		}
		user = stored.BoundTo
	}
	if !event.ValidUserID(user) {
		return matrixerr.Unknown(http.StatusBadGateway, "The identity server knows somebody who is no Matrix user")
	}
	now, err := a.s.Membership(ctx, room, user)
	if err != nil {
		return fail(err)
	}
	if now.State == store.Join {
		return matrixerr.Forbidden("Who has this address is in the room already.")
	}
	return a.set(ctx, roomserver.MembershipRequest{RoomID: room, Sender: sender, Target: user, IsDirect: direct}, "invite")
}

// mayInvite checks what the auth rules say about m.room.third_party_invite.
func (a *API) mayInvite(ctx context.Context, room, sender string) error {
	v, err := a.s.Current(ctx, room)
	if err != nil {
		return fail(err)
	}
	return a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		powers, err := a.s.Powers(tx, v)
		if err == nil && powers.UserLevel(sender) < powers.Invite() {
			err = matrixerr.Forbidden("Your power level does not let you invite.")
		}
		return err
	})
}

// storeInvite has the identity server write to the address, with what the room and the sender are called.
func (a *API) storeInvite(ctx context.Context, room, sender string, who identity.Account, whom identity.Address) (*identity.Stored, error) {
	v, err := a.s.Current(ctx, room)
	if err != nil {
		return nil, fail(err)
	}
	i := identity.Invite{Medium: whom.Medium, Address: whom.Address, RoomID: room, Sender: sender}
	err = a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		for _, f := range []struct {
			typ, key, field string
			into            *string
		}{
			{"m.room.canonical_alias", "", "alias", &i.RoomAlias}, {"m.room.avatar", "", "url", &i.RoomAvatar},
			{"m.room.join_rules", "", "join_rule", &i.JoinRule}, {"m.room.name", "", "name", &i.RoomName},
			{"m.room.create", "", "type", &i.RoomType},
			{typeMember, sender, "displayname", &i.SenderName}, {typeMember, sender, "avatar_url", &i.SenderAvatar},
		} {
			e, err := a.s.StateEvent(tx, v, f.typ, f.key)
			if err != nil {
				return err
			}
			if e != nil {
				*f.into = e.Event.ContentString(f.field)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return a.o.Identity.Store(ctx, who, i)
}

// sendStored tells the room of an invite that whoever has the address may redeem.
func (a *API) sendStored(ctx context.Context, room, sender string, stored *identity.Stored) error {
	content, err := json.Marshal(struct {
		DisplayName string         `json:"display_name"`
		PublicKey   string         `json:"public_key"`
		ValidityURL string         `json:"key_validity_url"`
		PublicKeys  []identity.Key `json:"public_keys"`
	}{stored.DisplayName, stored.PublicKeys[0].PublicKey, stored.PublicKeys[0].ValidityURL, stored.PublicKeys})
	if err != nil {
		return err
	}
	_, err = a.s.Send(ctx, roomserver.SendRequest{RoomID: room, Sender: sender, Type: "m.room.third_party_invite", StateKey: &stored.Token, Content: content})
	return failWrite(err)
}

// redeem has who joins invited on an identity server's word that they have the address of a third-party invite.
func (a *API) redeem(ctx context.Context, user, target string, signed json.RawMessage) error {
	var word struct {
		Sender string `json:"sender"`
		User   string `json:"mxid"`
	}
	if err := json.Unmarshal(signed, &word); err != nil {
		return matrixerr.BadJSON(`"third_party_signed" has the wrong shape`).With(err)
	}
	if word.User != user {
		return matrixerr.Forbidden(`"third_party_signed" is for another user`)
	}
	if target[0] == '#' {
		room, _, err := a.s.ResolveAlias(ctx, target)
		if err != nil {
			return roomserver.MatrixError(err)
		}
		target = room
	}
	return failWrite(a.s.Redeem(ctx, roomserver.Redemption{RoomID: target, Sender: word.Sender, User: user, Signed: signed}))
}
