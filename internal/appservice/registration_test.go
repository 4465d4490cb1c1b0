package appservice

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const example = `id: "IRC Bridge"
url: "http://127.0.0.1:1234/"
as_token: "30c05ae90a248a4188e620216fa72e34"
hs_token: 31241241231231
sender_localpart: "_irc_bot" # a comment
rate_limited: false
de.sorunome.msc2409.push_ephemeral: true
protocols: [irc]
namespaces:
  users:
    - exclusive: true
      regex: "@_irc_bridge_.*"
  aliases:
    - exclusive: false
      regex: "#_irc_bridge_.*"
  rooms: []
`

func TestParse(t *testing.T) {
	r, errs := Parse("irc.yaml", []byte(example))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if r.ID != "IRC Bridge" || r.URL != "http://127.0.0.1:1234" || r.HSToken != "31241241231231" || r.RateLimited || r.ReceiveEphemeral || !r.UnstableEphemeral ||
		len(r.Users) != 1 || !r.Users[0].Exclusive || len(r.Aliases) != 1 || r.Aliases[0].Exclusive || len(r.Rooms) != 0 || r.Protocols[0] != "irc" {
		t.Errorf("%+v", r)
	}
	if r, errs = Parse("x", []byte(strings.Replace(example, `"http://127.0.0.1:1234/"`, "null", 1))); r.URL != "" || len(errs) > 0 {
		t.Error(r.URL, errs)
	}
}

func TestMistakes(t *testing.T) {
	for change, want := range map[[2]string]string{
		{`id: "IRC Bridge"` + "\n", ""}:              "f.yaml:1: id is missing",
		{`"IRC Bridge"`, `"a|b"`}:                    "f.yaml:1: id must not contain |",
		{`"http://127.0.0.1:1234/"`, `ftp://x`}:      "f.yaml:2: url must be like",
		{`url: "http://127.0.0.1:1234/"` + "\n", ""}: "url is missing",
		{`"_irc_bot"`, `"Irc bot"`}:                  "f.yaml:5: sender_localpart is",
		{`"30c05ae90a248a4188e620216fa72e34"`, "x"}:  "f.yaml:3: as_token must be a text of 8 to 512 bytes",
		{`rate_limited: false`, "rate_limited: 7"}:   "f.yaml:6: rate_limited must be true or false",
		{`"@_irc_bridge_.*"`, `"@(("`}:               "f.yaml:12: regex cannot be used",
		{`[irc]`, `irc`}:                             "f.yaml:8: protocols must be a list",
		{`rooms: []`, "rooms: [1]"}:                  "f.yaml:16: An entry of namespaces.rooms must hold settings",
		{`protocols: [irc]`, "protocols: [irc"}:      "this is not YAML",
	} {
		_, errs := Parse("f.yaml", []byte(strings.Replace(example, change[0], change[1], 1)))
		if !strings.Contains(errs.Error(), want) {
			t.Errorf("%q: %q, want %q", change, errs, want)
		}
		if strings.Contains(errs.Error(), "30c05ae") {
			t.Errorf("a token is quoted: %q", errs)
		}
	}
}

func TestConflicts(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, changes ...string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(strings.NewReplacer(changes...).Replace(example)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	irc := write("irc.yaml")
	fine := write("fine.yaml", "IRC Bridge", "other", "30c05", "abcde", "_irc_b", "_xmpp_b")
	if all, err := Load([]string{irc, fine}, "x"); err != nil || len(all) != 2 {
		t.Fatal(err)
	}
	for want, file := range map[string]string{
		`the id "IRC Bridge" is that of`:                  write("1.yaml", "30c05", "abcde", "_irc_b", "_xmpp_b"),
		"the as_token is that of":                         write("2.yaml", "IRC Bridge", "other", "_irc_b", "_xmpp_b"),
		`the sender_localpart "_irc_bot" is that of`:      write("3.yaml", "IRC Bridge", "other", "30c05", "abcde", "@_irc_b", "@_xmpp_b"),
		`the exclusive namespace "@_irc.*" overlaps with`: write("4.yaml", "IRC Bridge", "other", "30c05", "abcde", "@_irc_bridge_.*", "@_irc.*", "_irc_bot", "bot"),
		`lies in an exclusive namespace of`:               write("5.yaml", "IRC Bridge", "other", "30c05", "abcde", "@_irc_b", "@_xmpp_b", `"_irc_bot"`, `"_irc_bridge_1"`),
		"no such file":                                    filepath.Join(dir, "none.yaml"),
	} {
		if _, err := Load([]string{irc, file}, "x"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"@_irc_.*", "@_irc_bridge_.*", true}, {"@_irc_.*", "@_slack_.*", false}, {"@.*", "@x", true},
		{"@_irc_.*:x$", "@_slack_.*:x$", false}, {"@bot:x$", "@bot:xyz", false}, {"@bot:x", "@bot:xyz", true},
		{"@.*_bot:x$", "@irc_.*:x$", true}, {"@[a-m].*", "@[n-z].*", false}, {"@[a-m].*", "@[m-z].*", true},
		{"(?i)@ABC", "@abc", true}, {"@a{3}:x$", "@a{4}:x$", false}, {"@a+:x$", "@a{4}:x$", true},
	} {
		a, b := regexp.MustCompile("^(?:"+c.a+")"), regexp.MustCompile("^(?:"+c.b+")")
		if overlap(a, b) != c.want || overlap(b, a) != c.want {
			t.Errorf("%s and %s: want %v", c.a, c.b, c.want)
		}
	}
}

func TestClaims(t *testing.T) {
	reg, errs := Parse("irc.yaml", []byte(example))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	r := newRegistry("hs", []Registration{reg}, nil)
	for id, want := range map[string]claim{
		"@_irc_bridge_1:hs": {1, 1}, "@_irc_bot:hs": {1, 1}, "@_irc_bridge_1:other": {}, "@alice:hs": {}, "x@_irc_bridge_1:hs": {}, "": {},
	} {
		if got := r.user(id); got != want || r.user(id) != want {
			t.Errorf("%s: %v", id, got)
		}
	}
	if c := r.alias("#_irc_bridge_x:hs"); c.in != 1 || c.exclusive != 0 {
		t.Error(c)
	}
	if r.token(reg.ASToken) == nil || r.token(reg.HSToken) != nil || r.token("") != nil {
		t.Error("tokens")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("namespaces: {users: [{regex: a}]}\n? [a]: b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, errs := Parse("f", data); len(errs) == 0 && (r.ID == "" || r.ASToken == "") {
			t.Error("accepted without id or token")
		}
	})
}
