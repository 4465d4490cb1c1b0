// Package journeys owns the stories of whole nodes: txtar scripts that are played on both databases. README.md in this
// directory lists the commands.
package journeys

import (
	"context"
	"fmt"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"knock/cmd/knock/demo/lab"
	"knock/internal/sqldb"
	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

func TestJourneys(t *testing.T) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		t.Run(d.String(), func(t *testing.T) {
			testscript.Run(t, testscript.Params{Dir: "testdata", Cmds: commands(), RequireUniqueNames: true,
				Setup: func(e *testscript.Env) error {
					tb := e.T().(testing.TB) // Run promises it
					e.Values[storyKey{}] = &story{site: hstest.New(tb, d), users: map[string]*user{}, rooms: map[string]string{},
						events: map[string]string{}, files: map[string]string{}, floods: map[string]*flood{}}
					return nil
				}})
		})
	}
}

// story is what the commands of one script share.
type story struct {
	site   *hstest.Site
	users  map[string]*user
	rooms  map[string]string // name → id
	events map[string]string // name → id; a message's name is its text
	files  map[string]string // name → mxc: URI
	floods map[string]*flood // those that a crash cut short
	code   string            // the error code of the last command that was to fail
}

type storyKey struct{}

type user struct {
	*lab.Client
	node *hstest.Node
}

// command does one line of a script. Its arguments are as many as usage has words; those in brackets may be left out,
// and the last one may stand for several when it ends in ….
type command struct {
	usage string
	do    func(ctx context.Context, s *story, args []string) error
}

func commands() map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	all := map[string]func(ts *testscript.TestScript, neg bool, args []string){}
	for name, c := range table() {
		all[name] = func(ts *testscript.TestScript, neg bool, args []string) { c.run(ts, name, neg, args) }
	}
	return all
}

func (c command) run(ts *testscript.TestScript, name string, neg bool, args []string) {
	if !c.fits(len(args)) {
		ts.Fatalf("usage: %s %s", name, c.usage)
	}
	s := ts.Value(storyKey{}).(*story)
	ctx, cancel := s.site.Context()
	defer cancel()
	err := c.do(ctx, s, args)
	switch {
	case neg && err == nil:
		ts.Fatalf("%s %v was to fail", name, args)
	case neg:
		s.code = codeOf(err)
		ts.Logf("%v", err)
	case err != nil:
		ts.Fatalf("%s: %v", name, err)
	}
}

// must finds what a script named before.
func must[T any](what string, all map[string]T, name string) (T, error) {
	v, ok := all[name]
	if !ok {
		return v, fmt.Errorf("there is no %s %s", what, name)
	}
	return v, nil
}
