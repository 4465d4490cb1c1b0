package event

import (
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// testdata/redact: an event in canonical JSON, or its members beside the usual
// ones, redacted under each version; versions with the same result share a line.
func TestRedact(t *testing.T) {
	datadriven.RunTest(t, "testdata/redact", func(t *testing.T, d *datadriven.TestData) string {
		in, err := Canonical(nil, []byte(d.Input))
		if err != nil {
			t.Fatal(err)
		}
		list, _ := fieldsOf(nil, in)
		typ, _ := stringValue(lookup(in, "type"))
		var ids, outs []string
		for _, id := range Versions() {
			v := version(t, id)
			out := string(v.redaction.appendRedacted(nil, in, list, typ, true))
			if n := len(outs); n > 0 && outs[n-1] == out {
				ids[n-1] += " " + id
				continue
			}
			ids, outs = append(ids, id), append(outs, out)
		}
		var b strings.Builder
		for i := range ids {
			b.WriteString(ids[i] + ": " + outs[i] + "\n")
		}
		return b.String()
	})
}

func TestRedactEvent(t *testing.T) {
	for _, id := range Versions() {
		e := build(t, version(t, id), "m.room.member", ptr("@alice:domain"), `{"membership":"join","displayname":"x"}`)
		r := e.Redact()
		if string(r.ContentJSON()) != `{"membership":"join"}` || !r.Redacted() || e.Redacted() || r.EventID() != e.EventID() {
			t.Errorf("version %s: %s", id, r.JSON())
		}
		if again := r.Redact(); string(again.JSON()) != string(r.JSON()) {
			t.Errorf("version %s: redacted twice: %s", id, again.JSON())
		}
		if err := r.VerifySignature("domain", "ed25519:1", public(specSigner(t))); err != nil {
			t.Errorf("version %s: %v", id, err)
		}
		if r.Hash() != e.Hash() {
			t.Errorf("version %s: another reference hash", id)
		}
	}
}
