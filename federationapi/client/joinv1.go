package client

import (
	"context"
	"encoding/json"
	"net/http"
)

// Unsupported reports whether an error is the answer of a server that does not know the endpoint.
func Unsupported(err error) bool { return unsupported(err) }

// SendJoinV1 is SendJoin through version 1 of the endpoint, for servers that know no other. Its answer stands in a list
// behind a status.
func (c *Client) SendJoinV1(ctx context.Context, server, roomID, eventID string, e json.RawMessage, into JoinSink) error {
	resp, err := c.do(ctx, server, call{
		name: "send_join", method: http.MethodPut, content: e, hurry: true, limit: joinLimit, timeout: joinTimeout, total: joinTotal,
		path: path("/_matrix/federation/v1/send_join/", roomID, "/", eventID),
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var sinkErr error
	parts := map[string]part{"state": {list: into.State}, "auth_chain": {list: into.Auth}}
	if err := scanListed(newScanner(resp.Body), parts, &sinkErr); err != nil && sinkErr == nil {
		return fail(ctx, server, err)
	}
	return sinkErr
}

// scanListed is scanParts of an object that is the second of two in a list.
func scanListed(s *scanner, parts map[string]part, sinkErr *error) error {
	for _, step := range []func() error{
		func() error { return s.expect('[') },
		s.skip,
		func() error { return s.expect(',') },
		func() error { return scanParts(s, parts, sinkErr) },
		func() error { return s.expect(']') },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
