package main

import (
	"bytes"
	"strings"
	"testing"

	"knock/cmd/knock/node"
)

func TestPrintChecks(t *testing.T) {
	var out bytes.Buffer
	checks := []node.Check{{Name: "name", Result: "ok", Text: "fine"}, {Name: "queue", Result: "warning", Text: "2 wait", Advice: "wait"}}
	if err := printChecks(&out, checks); err != nil {
		t.Errorf("warnings fail: %v", err)
	}
	checks = append(checks, node.Check{Name: "keys", Result: "failed", Text: "none", Advice: "look"})
	if err := printChecks(&out, checks); err == nil || !strings.Contains(out.String(), "→ look") {
		t.Errorf("%v\n%s", err, &out)
	}
}
