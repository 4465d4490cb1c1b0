package federationapi

import (
	"context"
	"encoding/json"
	"errors"

	"knock/federationapi/client"
	"knock/internal/matrixerr"
	"knock/roomserver"
)

// remote is the federation client as the room server wants it: the same calls, with its own type of sink.
type remote struct{ *client.Client }

// NewRemote makes the room server's view of other servers.
func NewRemote(c *client.Client) roomserver.Remote { return remote{c} }

// policyWords are the errors that the specification gives policy servers, passed on to the event's sender as they are.
var policyWords = map[string]bool{"M_FORBIDDEN": true, "M_BAD_JSON": true, "M_NOT_JSON": true, "M_NOT_FOUND": true, "M_LIMIT_EXCEEDED": true, "M_SAFETY": true}

func (r remote) PolicySignature(ctx context.Context, server string, unstable bool, e json.RawMessage) (string, error) {
	signature, err := r.Client.PolicySignature(ctx, server, unstable, e)
	var answer *client.Error
	switch {
	case errors.As(err, &answer) && answer.Matrix != nil && policyWords[answer.Matrix.Code]:
		word := answer.Matrix
		if answer.RetryAfter > 0 {
			word = word.WithField("retry_after_ms", answer.RetryAfter.Milliseconds())
		}
		return "", &roomserver.PolicyRefusal{Answer: word}
	case err == nil && signature == "":
		return "", &roomserver.PolicyRefusal{Answer: matrixerr.Forbidden("The room's policy server does not recommend this")}
	}
	return signature, err
}

func (r remote) SendJoin(ctx context.Context, server, roomID, eventID string, e json.RawMessage, omit bool, into roomserver.JoinSink) error {
	err := r.Client.SendJoin(ctx, server, roomID, eventID, e, omit, client.JoinSink(into))
	if client.Unsupported(err) { // so nothing went into the sink
		err = r.Client.SendJoinV1(ctx, server, roomID, eventID, e, client.JoinSink(into))
	}
	return err
}

func (r remote) State(ctx context.Context, server, roomID, eventID string, into roomserver.JoinSink) error {
	return r.Client.State(ctx, server, roomID, eventID, client.JoinSink(into))
}
