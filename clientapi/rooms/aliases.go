package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
	"knock/roomserver/event"
)

// maxNewAliases bounds the aliases that are resolved for one event.
const maxNewAliases = 50

// aliases is the content of m.room.canonical_alias.
type aliases struct {
	Alias string   `json:"alias,omitempty"`
	Alt   []string `json:"alt_aliases,omitempty"`
}

func (c aliases) all() []string {
	if c.Alias == "" {
		return c.Alt
	}
	return append([]string{c.Alias}, c.Alt...)
}

// checkAliases makes sure that the aliases that a new m.room.canonical_alias
// event adds point to its room.
func (a *API) checkAliases(ctx context.Context, user, room string, content json.RawMessage) error {
	if !a.o.Hub.IsJoined(user, room) {
		return notIn
	}
	var next, old aliases
	if err := httpx.Unmarshal(content, &next); err != nil {
		return err
	}
	if e, err := a.s.CurrentState(ctx, room, "m.room.canonical_alias", ""); err == nil && e != nil {
		_ = json.Unmarshal(e.Event.ContentJSON(), &old) // what others wrote there may be of any shape
	}
	known := old.all()
	added := slices.DeleteFunc(next.all(), func(alias string) bool { return slices.Contains(known, alias) })
	if len(added) > maxNewAliases {
		return matrixerr.InvalidParam(fmt.Sprintf("At most %d aliases can be added at once", maxNewAliases))
	}
	for _, alias := range added {
		if !event.ValidAlias(alias) {
			return matrixerr.InvalidParam("An alias must look like #name:server")
		}
	}
	for _, alias := range added {
		if err := a.pointsTo(ctx, alias, room); err != nil {
			return err
		}
	}
	return nil
}

func (a *API) pointsTo(ctx context.Context, alias, room string) error {
	target, _, err := a.s.ResolveAlias(ctx, alias)
	var known *matrixerr.Error
	switch {
	case err == nil && target == room:
		return nil
	case err == nil:
		return matrixerr.New(http.StatusBadRequest, "M_BAD_ALIAS", "The alias "+alias+" points to another room")
	case errors.Is(err, roomserver.ErrUnknownAlias), errors.As(err, &known) && known.Code == "M_NOT_FOUND":
		return matrixerr.New(http.StatusBadRequest, "M_BAD_ALIAS", "The alias "+alias+" does not exist; add it to the room first").With(err)
	}
	return err
}
