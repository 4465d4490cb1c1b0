package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// pkg is one package of the tree, its test files left out.
type pkg struct {
	path    string // "roomserver/event"
	name    string
	doc     string
	imports []string // of ours, "knock/" cut off
}

// tree parses every package of the module.
func tree(t *testing.T) []pkg {
	t.Helper()
	byPath := map[string]*pkg{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".") && d.Name() != "..") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		add(byPath, filepath.ToSlash(rel), f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for _, p := range byPath {
		all = append(all, *p)
	}
	slices.SortFunc(all, func(a, b pkg) int { return strings.Compare(a.path, b.path) })
	return all
}

func add(byPath map[string]*pkg, dir string, f *ast.File) {
	p := byPath[dir]
	if p == nil {
		p = &pkg{path: dir, name: f.Name.Name}
		byPath[dir] = p
	}
	if f.Doc != nil {
		p.doc += f.Doc.Text()
	}
	for _, i := range f.Imports {
		name, err := strconv.Unquote(i.Path.Value)
		if ours, ok := strings.CutPrefix(name, "knock/"); ok && err == nil && !slices.Contains(p.imports, ours) {
			p.imports = append(p.imports, ours)
		}
	}
}

// ring is a rule: packages under from may import those under to and their own leaves.
type ring struct {
	from string
	to   []string
}

var ground = []string{"internal/stream", "internal/sqldb", "internal/matrixerr", "internal/httpx", "internal/obs", "internal/cache",
	"internal/limits", "internal/clock", "internal/schema", "internal/fold", "internal/mail", "internal/glob", "internal/webpage"}

var domain = []string{"roomserver", "internal/account", "internal/ephemeral", "internal/pushrules", "internal/e2ee",
	"internal/relations", "internal/userdir", "internal/reports", "internal/appservice", "internal/pushers", "internal/identity", "internal/sso", "internal/search", "internal/threads", "internal/policy", "internal/delayed", "internal/sticky", "internal/notices"}

// rings are searched in order; the first that fits a package rules it.
var rings = []ring{
	{"cmd/knock", []string{""}},
	{"test", []string{""}},
	{"config", ground},
	{"clientapi/sync", slices.Concat([]string{"clientapi/syncread"}, domain, ground)},
	{"clientapi/slidingsync", slices.Concat([]string{"clientapi/syncread"}, domain, ground)},
	{"clientapi", slices.Concat(domain, ground)},
	{"federationapi", slices.Concat(domain, ground)},
	{"mediaapi", slices.Concat([]string{"internal/account"}, ground)},
	{"roomserver/event", nil},
	{"roomserver", ground},
	{"internal/sqldb/sqldbtest", ground},
	{"internal/account", ground},
	{"internal/identity", ground},
	{"internal/ephemeral", ground},
	{"internal/pushrules", ground},
	// Indexes over rooms: domain packages that read what roomserver owns.
	{"internal/relations", slices.Concat([]string{"roomserver"}, ground)},
	{"internal/userdir", slices.Concat([]string{"roomserver"}, ground)},
	{"internal/appservice", slices.Concat([]string{"roomserver", "internal/ephemeral", "internal/e2ee"}, ground)},
	{"internal/pushers", slices.Concat([]string{"roomserver", "internal/pushrules"}, ground)},
	{"internal/notices", slices.Concat([]string{"roomserver", "internal/account"}, ground)},
	{"internal/sticky", slices.Concat([]string{"roomserver"}, ground)},
	{"internal/policy", slices.Concat([]string{"roomserver"}, ground)},
	{"internal/reports", slices.Concat([]string{"roomserver"}, ground)},
	{"internal/search", slices.Concat([]string{"roomserver", "internal/relations"}, ground)},
	{"internal/threads", slices.Concat([]string{"roomserver", "internal/relations"}, ground)},
	{"internal", ground},
}

func under(p string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return dir == "" || p == dir || strings.HasPrefix(p, dir+"/") })
}

// TestRings holds doors → domain → ground. Nobody imports cmd, and doors do not know each other.
func TestRings(t *testing.T) {
	for _, p := range tree(t) {
		i := slices.IndexFunc(rings, func(r ring) bool { return under(p.path, r.from) })
		if i < 0 {
			t.Errorf("%s belongs to no ring: put it where house rules know it", p.path)
			continue
		}
		for _, to := range p.imports {
			if !allowed(rings[i], p.path, to) {
				t.Errorf("%s imports %s, which its ring forbids", p.path, to)
			}
		}
	}
}

func allowed(r ring, from, to string) bool {
	switch {
	case under(to, "clientapi") && under(from, "clientapi"):
		// Parts of the door do not know each other, but for what both kinds of sync read.
		return under(to, from) || slices.Contains(r.to, to)
	case r.from != "internal" && under(to, r.from):
		return true
	}
	return under(to, r.to...)
}

// TestPackageComments asks of every package that it says what it owns.
func TestPackageComments(t *testing.T) {
	for _, p := range tree(t) {
		want := "Package " + p.name + " owns "
		switch {
		case p.name == "main":
			want = "Command " + path.Base(p.path) + " "
		case strings.HasSuffix(p.name, "test"):
			want = "Package " + p.name + " " // helpers own nothing
		}
		if !strings.HasPrefix(p.doc, want) {
			t.Errorf("%s: the package comment must start with %q", p.path, want)
		}
	}
}
