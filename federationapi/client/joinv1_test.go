package client

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
)

func TestSendJoinV1(t *testing.T) {
	for body, want := range map[string]Kind{
		`[200, {"auth_chain":[{"a":1}],"state":[{"s":1},{"s":2}]}]`: "",
		`[200,{"auth_chain":[{"a":1}],"state":[{"s":1},{"s":2}]}`:   KindBroken,
		`[{"auth_chain":[],"state":[]}]`:                            KindBadBody,
		`{"auth_chain":[],"state":[]}`:                              KindBadBody,
		`[200,{"auth_chain":[]}]`:                                   KindBadBody,
		`[200,[]]`:                                                  KindBadBody,
	} {
		r := withServer(t, map[string]http.HandlerFunc{
			"PUT /_matrix/federation/v1/send_join/{room}/{event}": answer(body),
			"PUT /_matrix/federation/v2/send_join/{room}/{event}": refuse(404, `{"errcode":"M_UNRECOGNIZED","error":"?"}`),
		})
		n := 0
		count := func(json.RawMessage) error { n++; return nil }
		into := JoinSink{State: count, Auth: count}
		if err := r.SendJoin(context.Background(), there, "!r", "$e", json.RawMessage(`{}`), false, into); !Unsupported(err) || n != 0 {
			t.Errorf("version 2: %v", err)
		}
		err := r.SendJoinV1(context.Background(), there, "!r", "$e", json.RawMessage(`{}`), into)
		if got := kindOf(err); err != nil && got != want || err == nil && (want != "" || n != 3) {
			t.Errorf("%s: %v (%s), %d events, want %q", body, err, kindOf(err), n, want)
		}
	}
}
