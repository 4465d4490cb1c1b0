package house

import "testing"

// missing are the endpoints of the specification that are not served, by operation, and why. It can only become
// shorter: what is served must not be in it.
var missing = map[string]string{}

// TestNothingIsMissing holds that every endpoint of the specification is served, deprecated ones too, save those listed.
// What this server calls of application services is held by package bridges.
func TestNothingIsMissing(t *testing.T) {
	served := map[string]bool{}
	for _, r := range routes(t) {
		served[key(r.Method, r.Path)] = true
	}
	known := map[string]bool{}
	for _, e := range specEndpoints(t) {
		if e.api == "application-service" {
			continue
		}
		known[e.operation] = true
		reason, listed := missing[e.operation]
		switch is := served[key(e.method, e.path)]; {
		case is && listed:
			t.Errorf("%s %s (%s) is served: take it off the list of what is missing", e.method, e.path, e.operation)
		case !is && !listed:
			t.Errorf("%s %s (%s) is not served", e.method, e.path, e.operation)
		case !is && reason == "":
			t.Errorf("%s is missing for no reason", e.operation)
		}
	}
	for operation := range missing {
		if !known[operation] {
			t.Errorf("the specification has no %s", operation)
		}
	}
}
