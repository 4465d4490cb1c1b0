package client

import (
	"context"
	"encoding/json"
	"net/http"
)

// ExchangeInvite asks the server of who issued an m.room.third_party_invite to invite the user who proves to have the
// address (PUT /exchange_third_party_invite). e is the partial m.room.member event.
func (c *Client) ExchangeInvite(ctx context.Context, server, roomID string, e json.RawMessage) error {
	_, err := c.bytes(ctx, server, call{name: "exchange_third_party_invite", method: http.MethodPut, content: e,
		path: path("/_matrix/federation/v1/exchange_third_party_invite/", roomID)})
	return err
}
