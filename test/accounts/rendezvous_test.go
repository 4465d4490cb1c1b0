package accounts

import (
	"net/http"
	"testing"
)

// TestRendezvous leaves a text where another device finds it.
func TestRendezvous(t *testing.T) {
	each(t, nil, func(w *world) {
		const path = "/_matrix/client/unstable/io.element.msc4388/rendezvous"
		c := w.n.Client()
		features := w.call(c, http.MethodGet, "/_matrix/client/versions", nil).Get("unstable_features")
		if !features.Get(`io\.element\.msc4388`).Bool() || features.Get(`org\.matrix\.msc4108`).Exists() {
			t.Error("without a public URL there is the newer form alone: ", features)
		}
		id := w.call(c, http.MethodPost, path, map[string]string{"data": "hello"}).Get("id").Str
		if got := w.call(w.n.Client(), http.MethodGet, path+"/"+id, nil).Get("data").Str; got != "hello" {
			t.Error(got)
		}
	})
}
