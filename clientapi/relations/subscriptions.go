package relations

import (
	"context"
	"net/http"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/threads"
	"knock/roomserver"
)

// subscriptionRoutes are those of thread subscriptions.
func (a *API) subscriptionRoutes() []httpx.Route {
	const thread = "/_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription"
	row := func(method, path string, h httpx.Handler, spec string) httpx.Route {
		return httpx.Route{Method: method, Path: path, Handler: h, Auth: httpx.AuthUser, Spec: spec}
	}
	return []httpx.Route{
		row(http.MethodGet, thread, a.subscription, "MSC4306"),
		row(http.MethodPut, thread, a.subscribe, "MSC4306"),
		row(http.MethodDelete, thread, a.unsubscribe, "MSC4306"),
		row(http.MethodGet, "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions", a.subscriptions, "MSC4308"),
	}
}

func (a *API) subscription(ctx context.Context, r *httpx.Request) (any, error) {
	state, err := a.o.Threads.Get(ctx, r.Caller.UserID, r.Vars["roomId"], r.Vars["eventId"])
	if err != nil {
		return nil, roomserver.MatrixError(err)
	}
	return map[string]bool{"automatic": state == threads.Automatic}, nil
}

func (a *API) subscribe(ctx context.Context, r *httpx.Request) (any, error) {
	var body struct {
		Automatic *string `json:"automatic"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	cause := ""
	if body.Automatic != nil {
		if cause = *body.Automatic; cause == "" {
			return nil, matrixerr.InvalidParam("automatic must be the id of an event of the thread; leave it out to subscribe by hand")
		}
	}
	return nil, roomserver.MatrixError(a.o.Threads.Follow(ctx, r.Caller.UserID, r.Vars["roomId"], r.Vars["eventId"], cause))
}

func (a *API) unsubscribe(ctx context.Context, r *httpx.Request) (any, error) {
	return nil, roomserver.MatrixError(a.o.Threads.Unfollow(ctx, r.Caller.UserID, r.Vars["roomId"], r.Vars["eventId"]))
}

// subscriptions pages back through changes: from the token of a page or of sliding sync, included, to the pos of a sliding
// sync, which knows what was before.
func (a *API) subscriptions(ctx context.Context, r *httpx.Request) (any, error) {
	if r.Query("dir") != "b" {
		return nil, matrixerr.InvalidParam(`dir must be "b"; subscriptions are only listed backwards`)
	}
	n, err := limit(r)
	if err != nil {
		return nil, err
	}
	upto, err := a.o.Rooms.Store.DB.Position(ctx)
	if err != nil {
		return nil, err
	}
	if from := r.Query("from"); from != "" {
		pos, ok := threads.ParseToken(from)
		if !ok {
			return nil, matrixerr.InvalidParam("from is not a token of thread subscriptions; leave it out to begin with the newest")
		}
		upto = min(upto, pos)
	}
	after, err := a.subscriptionsAfter(r.Query("to"))
	if err != nil {
		return nil, err
	}
	var out threads.Page
	err = a.o.Rooms.Store.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		out, err = a.o.Threads.Page(tx, r.Caller.UserID, after, upto, n)
		return err
	})
	answer := map[string]any{"subscribed": out.Subscribed, "unsubscribed": out.Unsubscribed}
	if out.Prev != "" {
		answer["end"] = out.Prev
	}
	return answer, err
}

func (a *API) subscriptionsAfter(token string) (int64, error) {
	if token == "" {
		return 0, nil
	}
	if pos, ok := threads.ParseToken(token); ok {
		return pos, nil
	}
	if a.o.SyncPosition != nil {
		if pos, ok := a.o.SyncPosition(token); ok {
			return pos, nil
		}
	}
	return 0, matrixerr.InvalidParam("to is not a token of this server")
}
