package client

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
)

// known verifies with one key.
type known struct {
	keyID string
	key   ed25519.PublicKey
}

func (k known) VerifyJSONs(_ context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	out := make([]gomatrixserverlib.VerifyJSONResult, len(requests))
	for i, r := range requests {
		out[i].Error = gomatrixserverlib.VerifyJSON(string(r.ServerName), gomatrixserverlib.KeyID(k.keyID), k.key, r.Message)
	}
	return out, nil
}

// TestLibraryAcceptsSignatures has gomatrixserverlib check the signatures of requests whose content and paths are hard
// to write the same way twice. It cannot read keys with quotes or backslashes, nor
// the signs of -0.25 and 1e-07.
func TestLibraryAcceptsSignatures(t *testing.T) {
	var r *rig
	var accepted int
	var content string
	check := func(w http.ResponseWriter, req *http.Request) {
		signer := r.o.Signer
		keys := known{signer.KeyID, signer.Key.Public().(ed25519.PublicKey)}
		if got, refusal := fclient.VerifyHTTPRequest(req, time.Now(), there, nil, keys); got == nil {
			t.Errorf("%s: %d %v", content, refusal.Code, refusal.JSON)
		} else {
			accepted++
		}
		_, _ = w.Write([]byte(`{"pdus":{}}`))
	}
	r = withServer(t, map[string]http.HandlerFunc{"PUT /_matrix/federation/v1/send/{txn}": check, "GET /_matrix/federation/v1/query/profile": check})
	contents := []string{
		`{}`, `{"a":"<b>&amp;'\u0022"}`, `{"a":"\u2028\u2029\u0000\u001f\u007f"}`, `{"z":1,"a":{"z":[],"a":null}}`, `{"":"","\u00e9":"é","\ud83d\ude00":"😀","～":1}`,
		`{"n":[0,-1,9007199254740991,-9007199254740991]}`, `{"n":[1.5,-1.25,1e3]}`, `{"a":"\/ \\ \b\f\n\r\t"}`, `{"ab":"\u0061\"\\"}`,
	}
	for _, content = range contents {
		tr := &Transaction{Origin: r.o.ServerName, TS: 1, PDUs: []json.RawMessage{json.RawMessage(content)}, EDUs: []EDU{{Type: "m.x", Content: json.RawMessage(content)}}}
		if _, err := r.SendTransaction(t.Context(), there, `a/b?c#d e%20ü&<`, tr); err != nil {
			t.Errorf("%s: %v", content, err)
		}
	}
	if _, err := r.QueryProfile(t.Context(), there, `@a/b+c=d&e%<ü>:a.example`, ""); err != nil {
		t.Error(err)
	}
	if accepted != len(contents)+1 {
		t.Errorf("%d requests were accepted of %d", accepted, len(contents)+1)
	}
}
