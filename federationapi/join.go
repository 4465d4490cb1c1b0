package federationapi

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/store"
)

func (a *API) sendJoin(ctx context.Context, r *httpx.Request) (any, error) {
	omit, err := omitMembers(r)
	if err != nil {
		return nil, err
	}
	return a.joined(ctx, r, omit, "", "")
}

// omitMembers reports whether the other server takes an answer without most members.
func omitMembers(r *httpx.Request) (bool, error) {
	switch r.Query("omit_members") {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, matrixerr.InvalidParam("omit_members is true or false")
}

// sendJoinV1 answers in the form of version 1: a list of the status and the answer.
func (a *API) sendJoinV1(ctx context.Context, r *httpx.Request) (any, error) {
	return a.joined(ctx, r, false, "[200,", "]")
}

// joined accepts a join and streams the state of the room before it.
func (a *API) joined(ctx context.Context, r *httpx.Request, omit bool, before, after string) (any, error) {
	acc, err := a.accept(ctx, r, auth.Join, omit)
	if err != nil {
		return nil, err
	}
	servers, err := json.Marshal(notNil(acc.Servers))
	if err != nil {
		return nil, err
	}
	origin, err := json.Marshal(a.o.ServerName)
	if err != nil {
		return nil, err
	}
	return httpx.Stream(func(w http.ResponseWriter) error {
		out := startJSON(w)
		out.text(before + `{"origin":` + string(origin) + `,"members_omitted":` + strconv.FormatBool(acc.Omitted) + `,"servers_in_room":` + string(servers))
		out.text(`,"event":`)
		out.raw(acc.Event.JSON())
		out.text(`,"state":`)
		out.events(acc.State)
		out.text(`,"auth_chain":`)
		out.events(acc.Auth)
		out.text("}" + after)
		return out.Flush()
	}), nil
}

// jsonWriter writes a large answer piece by piece. Its first error sticks and is returned by Flush.
type jsonWriter struct{ *bufio.Writer }

func startJSON(w http.ResponseWriter) jsonWriter {
	w.Header().Set("Content-Type", "application/json")
	return jsonWriter{bufio.NewWriterSize(w, 32<<10)}
}

func (w jsonWriter) text(s string) { _, _ = w.WriteString(s) }
func (w jsonWriter) raw(b []byte)  { _, _ = w.Write(b) }

func (w jsonWriter) events(list []*store.Stored) {
	w.text("[")
	for i, raw := range roomserver.PDUs(list) {
		if i > 0 {
			w.text(",")
		}
		w.raw(raw)
	}
	w.text("]")
}
