package federationapi

import (
	"context"
	"encoding/json"

	"knock/federationapi/client"
	"knock/roomserver"
)

// remote is the federation client as the room server wants it: the same calls, with its own type of sink.
type remote struct{ *client.Client }

// NewRemote makes the room server's view of other servers.
func NewRemote(c *client.Client) roomserver.Remote { return remote{c} }

func (r remote) SendJoin(ctx context.Context, server, roomID, eventID string, e json.RawMessage, into roomserver.JoinSink) error {
	return r.Client.SendJoin(ctx, server, roomID, eventID, e, client.JoinSink(into))
}
