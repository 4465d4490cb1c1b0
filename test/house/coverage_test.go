package house

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"knock/cmd/knock/node"
	"knock/config"
	"knock/internal/httpx"
)

var update = flag.Bool("update", false, "write docs/coverage.md")

// endpoint is a row of docs/spec-endpoints.tsv: what the specification has, v1.19.
type endpoint struct {
	api, method, path, operation string
	deprecated                   bool
}

func specEndpoints(t *testing.T) []endpoint {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "docs/spec-endpoints.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	var all []endpoint
	for _, line := range strings.Split(strings.TrimRight(string(data), "\n"), "\n")[1:] {
		f := strings.Split(line, "\t")
		if len(f) != 5 {
			t.Fatalf("bad line %q", line)
		}
		// A space at the end tells two operations of one path apart, such as an invite of a user and one of an address.
		all = append(all, endpoint{f[0], f[1], strings.TrimRight(f[2], " "), f[3], f[4] != ""})
	}
	return all
}

// routes are what a node serves that has everything turned on.
func routes(t *testing.T) []httpx.Route {
	t.Helper()
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	cfg.PublicBaseURL = "https://matrix.example.org"
	cfg.Federation.PublicAddress = "matrix.example.org:443"
	cfg.Support.Email = "admin@example.org"
	cfg.Registration.SharedSecret = "for tests"
	cfg.PolicyServer.Enabled = true
	n, err := node.New(context.Background(), cfg, node.Options{Offline: true, LogTo: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n.Routes()
}

var variable = regexp.MustCompile(`\{[^}]*\}`)

// key names an endpoint whatever its variables are called.
func key(method, path string) string { return method + " " + variable.ReplaceAllString(path, "{}") }

// TestCoverage compares docs/coverage.md with the route table. The list can only be true.
func TestCoverage(t *testing.T) {
	got := coverage(specEndpoints(t), routes(t))
	file := filepath.Join(root, "docs/coverage.md")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/coverage.md is out of date; go test ./test/house -update writes it")
	}
}

func coverage(spec []endpoint, rows []httpx.Route) []byte {
	served := map[string]bool{}
	for _, r := range rows {
		served[key(r.Method, r.Path)] = true
	}
	var b bytes.Buffer
	b.WriteString("# Coverage\n\nWhat of the Matrix specification, v1.19, this server serves. Made from the route table by\n" +
		"`go test ./test/house -update`; what is not served answers 404 `M_UNRECOGNIZED`.\n")
	inSpec := map[string]bool{}
	for _, api := range []string{"client-server", "server-server"} {
		var yes, no []string
		for _, e := range spec {
			if e.api != api {
				continue
			}
			inSpec[key(e.method, e.path)] = true
			line := fmt.Sprintf("- `%s %s` (%s)", e.method, e.path, e.operation)
			if e.deprecated {
				line += ", deprecated"
			}
			if served[key(e.method, e.path)] {
				yes = append(yes, line)
			} else {
				no = append(no, line)
			}
		}
		fmt.Fprintf(&b, "\n## %s: %d of %d\n\n### Served\n\n%s\n\n### Not yet\n\n%s\n", api, len(yes), len(yes)+len(no), list(yes), list(no))
	}
	var extra []string
	for _, r := range rows {
		if !inSpec[key(r.Method, r.Path)] {
			extra = append(extra, fmt.Sprintf("- `%s %s` (%s)", r.Method, r.Path, r.Spec))
		}
	}
	fmt.Fprintf(&b, "\n## Beyond the specification\n\n%s\n\nEvery `v3` path is also served as `r0`.\n", list(extra))
	return b.Bytes()
}

func list(lines []string) string {
	if len(lines) == 0 {
		return "None."
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestRoutes checks what every row must have.
func TestRoutes(t *testing.T) {
	classes := config.Default().RateLimits.Classes
	for _, r := range routes(t) {
		name := r.Method + " " + r.Path
		if _, ok := classes[r.Limit]; r.Limit != "" && !ok {
			t.Errorf("%s: the configuration has no rate limit %q", name, r.Limit)
		}
		if r.Spec == "" {
			t.Errorf("%s names no section of the specification", name)
		}
		if r.Handler == nil {
			t.Errorf("%s has no handler", name)
		}
	}
}
