package account

import (
	"context"
	"encoding/json"

	"knock/internal/httpx"
)

// Confirm does an operation of another part of the door once the caller has shown again who they are
// (User-Interactive Authentication). operation names it, target included: a session is good for nothing else.
func (a *API) Confirm(ctx context.Context, r *httpx.Request, operation string, auth json.RawMessage,
	do func() (any, error)) (any, error) {
	return a.withProof(ctx, r, operation, auth, do)
}
