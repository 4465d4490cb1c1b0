package interop

import (
	"testing"

	"knock/internal/sqldb"
	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

// journey is something that users of two servers do together. In one run of it the room is Knock's, in another
// Synapse's.
type journey struct {
	name     string
	run      func(t *testing.T, p *pair)
	versions []string // of the rooms; nil is the newest
	short    bool     // run on PostgreSQL too, in the newest version
}

var journeys = []journey{
	{"talk", talk, all, true},
	{"moderation", moderation, all, true},
	{"invites", invites, all, true},
	{"blocked", blocked, newest, true},
	{"knocks", knocks, two, true},
	{"restricted", restricted, all, true},
	{"knock_restricted", knockRestricted, newest, false},
	{"alone", alone, two, false},
	{"acl", acl, newest, false},
	{"three", three, newest, false},
	{"encryption", encryption, newest, true},
	{"ephemeral", ephemeral, newest, true},
	{"profiles", profiles, newest, false},
	{"aliases", aliases, newest, false},
	{"directory", directory, newest, false},
	{"spaces", spaces, newest, false},
	{"media", media, newest, true},
	{"upgrade", upgrade, newest, false},
	{"history", history, two, true},
	{"visibility", visibility, newest, false},
	{"split", split, two, true},
	{"gap", gap, newest, false},
	{"down", down, newest, false},
}

var (
	newest = []string{"12"}
	two    = []string{"10", "12"} // of each kind of state resolution
	all    = []string{"10", "11", "12"}
)

// TestSynapse does all with one Synapse, and a Knock for each engine.
func TestSynapse(t *testing.T) {
	certs := newCertificates(t)
	s := startSynapse(t, certs)
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		t.Run(d.String(), func(t *testing.T) {
			sides := [3]server{startKnock(t, d, certs).side(), s.side(), startKnock(t, d, certs).side()}
			for _, j := range journeys {
				if d != sqldb.SQLite {
					j.versions = newest
				}
				if j.short || d == sqldb.SQLite {
					t.Run(j.name, func(t *testing.T) { bothWays(t, j, sides) })
				}
			}
		})
	}
}

func bothWays(t *testing.T, j journey, s [3]server) {
	for _, v := range j.versions {
		for _, p := range []*pair{{home: s[0], away: s[1], third: s[2], version: v}, {home: s[1], away: s[0], third: s[2], version: v}} {
			t.Run(p.home.kind+"-v"+v, func(t *testing.T) {
				p.begin(t)
				j.run(t, p)
			})
		}
	}
}

// knock is a node whose name is the address of its gate.
type knock struct {
	gate *gate
	node *hstest.Node
	t    *testing.T
}

func startKnock(t *testing.T, d sqldb.Dialect, c certificates) *knock {
	t.Helper()
	site := hstest.New(t, d)
	g := newGate(t)
	return &knock{g, site.Start(g.name, "listeners.federation.address="+g.target, "listeners.federation.tls_cert="+c.cert,
		"listeners.federation.tls_key="+c.key, "federation.ca_file="+c.ca), t}
}

func (k *knock) side() server { return server{"knock", k.gate, k.node.URL(), k.restart} }

// restart stops the node while something happens.
func (k *knock) restart(during func()) {
	k.t.Helper()
	if err := k.node.Stop(); err != nil {
		k.t.Fatal(err)
	}
	during()
	if err := k.node.Start(); err != nil {
		k.t.Fatal(err)
	}
}
