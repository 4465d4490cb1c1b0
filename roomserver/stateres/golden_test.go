package stateres

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"knock/roomserver/auth"
	"knock/roomserver/state"
)

// TestGolden runs testdata/*. Commands:
//
//	room version=11            starts a room
//	events                     adds one event a line: name type[/state_key] sender [ts=n] [depth=n] [auth=a,b] [rejected] content
//	resolve                    resolves the state sets, one a line, given by the names of their events
func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var w *world
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "room":
				var version string
				d.ScanArgs(t, "version", &version)
				w = newWorld(t, version)
			case "events":
				for line := range strings.Lines(d.Input) {
					addLine(t, w, strings.TrimSpace(line))
				}
			case "resolve":
				return resolveLines(t, w, d.Input)
			default:
				d.Fatalf(t, "unknown command %q", d.Cmd)
			}
			return ""
		})
	})
}

func addLine(t *testing.T, w *world, line string) {
	head, content, ok := strings.Cut(line, "{")
	fields := strings.Fields(head)
	if !ok || len(fields) < 3 {
		t.Fatalf("not an event: %s", line)
	}
	s := spec{name: fields[0], sender: fields[2], content: "{" + content}
	s.evType, s.key, _ = strings.Cut(fields[1], "/")
	for _, field := range fields[3:] {
		name, value, _ := strings.Cut(field, "=")
		switch name {
		case "ts", "depth":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if name == "ts" {
				s.ts = n
			} else {
				s.depth = n
			}
		case "auth":
			s.auth = byNames(t, w, strings.Split(value, ","))
		case "rejected":
			s.rejected = true
		default:
			t.Fatalf("unknown field %q", field)
		}
	}
	w.add(s)
}

func byNames(t *testing.T, w *world, names []string) (ids []int64) {
	for _, name := range names {
		id, ok := w.byName[name]
		if !ok {
			t.Fatalf("no event %q", name)
		}
		ids = append(ids, id)
	}
	return ids
}

func resolveLines(t *testing.T, w *world, input string) string {
	var sets []*state.Set
	for line := range strings.Lines(input) {
		sets = append(sets, w.set(byNames(t, w, strings.Fields(line))...))
	}
	var out strings.Builder
	for _, e := range w.resolve(sets...).Entries() {
		key, _ := w.events[e.Event].Key()
		fmt.Fprintf(&out, "%s = %s", strings.TrimSuffix(w.events[e.Event].Type()+"/"+key, "/"), w.names[e.Event])
		if m := auth.Membership(w.events[e.Event]); m != "" {
			fmt.Fprintf(&out, " (%s)", m)
		}
		out.WriteString("\n")
	}
	return out.String()
}
