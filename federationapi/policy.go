package federationapi

import (
	"context"
	"errors"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
)

// policyRoutes are those of a policy server, also as MSC4284 had them.
func (a *API) policyRoutes() []httpx.Route {
	if a.o.Rooms.PolicyRole == nil {
		return nil
	}
	sign := httpx.Route{Method: "POST", Handler: a.policySign, Auth: httpx.AuthServer, Limit: "policy", MaxBody: maxPolicyEvent, Spec: "Server-Server: Policy Servers"}
	stable, unstable := sign, sign
	stable.Path, unstable.Path = "/_matrix/policy/v1/sign", "/_matrix/policy/unstable/org.matrix.msc4284/sign"
	return []httpx.Route{stable, unstable}
}

// maxPolicyEvent bounds one event: 65,536 bytes as it is hashed, more as it may be written.
const maxPolicyEvent = 512 << 10

// policySign recommends an event with a signature.
func (a *API) policySign(ctx context.Context, r *httpx.Request) (any, error) {
	raw, err := r.ObjectBytes()
	if err != nil {
		return nil, err
	}
	signature, err := a.o.Rooms.SignAsPolicyServer(ctx, r.Caller.Origin, raw)
	if errors.Is(err, roomserver.ErrBadRequest) {
		return nil, matrixerr.BadJSON(err.Error()).With(err)
	}
	if err != nil {
		return nil, domainError(err)
	}
	signer := a.o.Rooms.PolicyRole.Signer
	return map[string]any{signer.Server: map[string]string{signer.KeyID: signature}}, nil
}
