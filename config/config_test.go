package config

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "write the generated files and expected messages")

func TestGood(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.good.yml")
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			if _, err := Load(Source{File: f}); err != nil {
				t.Fatal(err)
			}
		})
	}
	if len(files) == 0 {
		t.Fatal("no files")
	}
}

func TestBad(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.bad.yml")
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			_, err := Load(Source{File: f})
			if err == nil {
				t.Fatal("accepted")
			}
			same(t, strings.TrimSuffix(f, ".yml")+".txt", []byte(err.Error()+"\n"))
		})
	}
	if len(files) == 0 {
		t.Fatal("no files")
	}
}

// same compares with a committed file, or writes it.
func same(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is out of date (go test ./config -update writes it):\n%s", file, diff)
	}
}

func TestGenerated(t *testing.T) {
	same(t, "../docs/configuration.md", Markdown())
	same(t, "testdata/example.good.yml", Example())
}

func TestExampleIsTheDefault(t *testing.T) {
	d := &decoder{places: filePlaces{}}
	got := Default()
	got.RateLimits.Classes = nil
	if d.file(got, "example", Example()); len(d.errs) > 0 {
		t.Fatal(d.errs)
	}
	if diff := cmp.Diff(Default(), got, cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateEmpty(), cmpopts.EquateComparable()); diff != "" {
		t.Error(diff)
	}
}

func TestOverrides(t *testing.T) {
	c, err := Load(Source{
		Env: []string{"HOME=/", "KNOCK_SERVER_NAME=example.org", "KNOCK_REGISTRATION_MODE=open", "KNOCK_TEST_POSTGRES=x",
			"KNOCK_FEDERATION_ALLOW_NETWORKS=[127.0.0.0/8]", "KNOCK_LOGGING_LEVELS={http: warn}", "KNOCK_REGISTRATION_SHARED_SECRET=a: b"},
		Set: []string{"registration.mode=disabled", "presence.enabled=false", "media.max_upload_size=1MiB"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.ServerName != "example.org" || c.Registration.Mode != "disabled" || c.Presence.Enabled || c.Media.MaxUploadSize != 1<<20 ||
		len(c.Federation.AllowNetworks) != 1 || c.Logging.Levels["http"] != "warn" || c.Registration.SharedSecret != "a: b" {
		t.Errorf("%+v", c)
	}
	_, err = Load(Source{Env: []string{"KNOCK_SERVERNAME=x"}, Set: []string{"presence=1", "presence.enable=true", "x", "room.default_version=13"}})
	want := strings.Join([]string{
		"environment KNOCK_SERVERNAME: there is no such setting; did you mean KNOCK_SERVER_NAME?",
		"--set presence: there is no such setting; knock config example lists them",
		"--set presence.enable: there is no such setting; did you mean presence.enabled?",
		"--set x: write --set name=value, such as --set registration.mode=open",
		`--set room.default_version: room.default_version is "13": use one of 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12`,
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestPathsAreRelativeToTheFile(t *testing.T) {
	c, err := Load(Source{File: "testdata/full.good.yml"})
	if err != nil {
		t.Fatal(err)
	}
	if c.DataDir != "testdata/here" || c.KeyFile() != "testdata/here/signing.key" || c.DatabaseURL() != "sqlite:testdata/here/rooms.db" || c.MediaPath() != "/srv/media" {
		t.Error(c.DataDir, c.KeyFile(), c.DatabaseURL(), c.MediaPath())
	}
	if c.RateLimits.Classes["login"] != (Class{PerSecond: 5, Burst: 10}) || c.RateLimits.Classes["message"].Burst != 60 {
		t.Error(c.RateLimits.Classes)
	}
}

func TestServerNames(t *testing.T) {
	for name, want := range map[string]bool{
		"example.org": true, "example.org:8448": true, "1.2.3.4": true, "1.2.3.4:1": true, "[::1]": true, "[::1]:8448": true, "localhost": true,
		"": false, "a b": false, "example.org:": false, "example.org:99999": false, "::1": false, "[::1": false, "exämple.org": false, "a/b": false,
		"[1.2.3.4]": false, "a_b": false,
	} {
		if got := ValidServerName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestSizesAndTimes(t *testing.T) {
	for in, want := range map[string]string{"50MiB": "50MiB", "1024": "1KiB", "0": "0", "1000": "1000", "2G": "2GiB", "5 MB": "5000000"} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err != nil || s.String() != want {
			t.Errorf("%s: %s %v", in, s, err)
		}
	}
	for in, want := range map[string]string{"90s": "1m30s", "10m": "10m", "24h": "1d", "14d": "14d", "0": "0s", "1h": "1h"} {
		var d Duration
		if err := d.UnmarshalText([]byte(in)); err != nil || d.String() != want {
			t.Errorf("%s: %s %v", in, d, err)
		}
	}
	for _, in := range []string{"", "-1", "x", "1XB", "99999999999TiB"} {
		var s Size
		if s.UnmarshalText([]byte(in)) == nil {
			t.Errorf("%q is a size", in)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(Example())
	f.Fuzz(func(_ *testing.T, data []byte) {
		d := &decoder{places: filePlaces{}}
		c := Default()
		d.file(c, "fuzz", data)
		c.files = &d.places
		c.check()
	})
}
