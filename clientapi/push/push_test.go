package push

import (
	"context"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"knock/internal/httpx"
	"knock/internal/pushrules"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/test/shapes"
)

func TestRoutes(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		hub := stream.New(0)
		rules := pushrules.New(pushrules.Options{DB: db, Hub: hub, Log: logrus.NewEntry(logrus.New())})
		router := shapes.Watched(t, httpx.NewRouter(New(rules, nil).Routes(), httpx.Hooks{
			Authenticate: func(_ context.Context, token string, _ *httpx.Request) (httpx.Caller, error) {
				return httpx.Caller{UserID: token}, nil
			}}))
		const base = "/_matrix/client/v3/pushrules/"
		for _, c := range []struct{ method, path, body, want string }{
			{"GET", "", ``, `200 {"global":{"override":[{"rule_id":".m.rule.master","default":true,"enabled":false,"conditions":[],"actions":[]}`},
			{"GET", "global/", ``, `200 {"override":[`},
			{"GET", "global/override/.m.rule.is_user_mention", ``, `200 "value":"@a:x"`},
			{"GET", "global/override/.m.rule.call", ``, `404 M_NOT_FOUND`},
			{"GET", "global/underride/.m.rule.call/enabled", ``, `200 {"enabled":true}`},
			{"PUT", "global/underride/.m.rule.call/enabled", `{"enabled":false}`, `200 {}`},
			{"GET", "global/underride/.m.rule.call/enabled", ``, `200 {"enabled":false}`},
			{"GET", "global/underride/.m.rule.message/actions", ``, `200 {"actions":["notify"]}`},
			{"PUT", "global/underride/.m.rule.message/actions", `{"actions":["dont_notify"]}`, `200 {}`},
			{"GET", "global/underride/.m.rule.message/actions", ``, `200 {"actions":["dont_notify"]}`},
			{"GET", "global/pudding/cake", ``, `404 M_NOT_FOUND`},
			{"GET", "global/pudding/cake/enabled", ``, `404 M_NOT_FOUND`},
			{"GET", "global/content/cake", ``, `404 M_NOT_FOUND`},
			{"PUT", "global/content/cake", `{"pattern":"cake*lie","actions":["notify"]}`, `200 {}`},
			{"GET", "global/content/cake", ``, `200 {"rule_id":"cake","default":false,"enabled":true,"pattern":"cake*lie","actions":["notify"]}`},
			{"PUT", "global/content/tea?after=cake", `{"pattern":"tea","actions":[]}`, `200 {}`},
			{"PUT", "global/content/soup?before=nothing", `{"pattern":"soup","actions":[]}`, `400 before/after rule not found: nothing`},
			{"GET", "global/", ``, `200 "content":[{"rule_id":"cake"`},
			{"PUT", "global/room/%21r%3Ax", `{"actions":[]}`, `200 {}`},
			{"GET", "global/room/!r:x", ``, `200 {"rule_id":"!r:x","default":false,"enabled":true,"actions":[]}`},
			{"PUT", "global/content/.cake", `{"pattern":"x","actions":[]}`, `400 M_INVALID_PARAM`},
			{"PUT", "global/content/a%2Fb", `{"pattern":"x","actions":[]}`, `400 M_INVALID_PARAM`},
			{"PUT", "global/pudding/cake", `{"pattern":"x","actions":[]}`, `400 M_INVALID_PARAM`},
			{"PUT", "global/content/x", `{"pattern":"x"}`, `400 M_MISSING_PARAM`},
			{"PUT", "global/content/x", `nonsense`, `400 M_NOT_JSON`},
			{"PUT", "global/content/cake/enabled", `{}`, `400 M_MISSING_PARAM`},
			{"PUT", "global/content/nothing/enabled", `{"enabled":true}`, `404 M_NOT_FOUND`},
			{"PUT", "global/content/nothing/actions", `{"actions":[]}`, `404 M_NOT_FOUND`},
			{"PUT", "global/content/cake/actions", `{}`, `400 M_MISSING_PARAM`},
			{"DELETE", "global/override/.m.rule.master", ``, `400 M_INVALID_PARAM`},
			{"DELETE", "global/content/cake", ``, `200 {}`},
			{"DELETE", "global/content/cake", ``, `404 M_NOT_FOUND`},
		} {
			req := httptest.NewRequest(c.method, base+c.path, strings.NewReader(c.body))
			req.Header.Set("Authorization", "Bearer @a:x")
			w := httptest.NewRecorder()
			router.ServeHTTP(w, req)
			status, text, _ := strings.Cut(c.want, " ")
			if status != strconv.Itoa(w.Code) || !strings.Contains(w.Body.String(), text) {
				t.Errorf("%s %s %s: %d %s, want %s", c.method, c.path, c.body, w.Code, w.Body, c.want)
			}
		}
		if hub.LastUser("@a:x") == 0 {
			t.Error("a change must wake the user's syncs")
		}
		changed := func(from, to int64) (yes bool) {
			err := db.Read(t.Context(), func(tx *sqldb.Tx) (err error) {
				yes, err = rules.RulesChangedSince(tx, "@a:x", from, to)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return yes
		}
		last := hub.LastUser("@a:x")
		if !changed(0, last) || changed(last, last+5) || changed(0, last-1) {
			t.Error("the rules changed at their position and at no other")
		}
	})
}
