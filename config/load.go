package config

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"
)

// Errors is every mistake of a configuration, each with its place.
type Errors []string

// Error lists them, one a line.
func (e Errors) Error() string { return strings.Join(e, "\n") }

// Source is where a configuration comes from; later fields override earlier ones.
type Source struct {
	File string   // path; "" is none, only the defaults
	Env  []string // like os.Environ; those that start with KNOCK_ count
	Set  []string // "registration.mode=open", from flags
}

var position = regexp.MustCompile(`^\[(\d+):\d+\] (.*)`)

// filePlaces remembers where each setting was made, for errors found later.
type filePlaces map[string]string

// Load reads a configuration. The error is Errors, or that the file cannot be read.
func Load(src Source) (*Config, error) {
	d := &decoder{places: filePlaces{}}
	c := Default()
	if src.File != "" {
		data, err := os.ReadFile(src.File)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		d.file(c, src.File, data)
	}
	d.environment(c, src.Env)
	for _, s := range src.Set {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			d.errs = append(d.errs, fmt.Sprintf("--set %s: write --set name=value, such as --set registration.mode=open", s))
			continue
		}
		d.override(c, key, value, "--set "+key)
	}
	c.files = &d.places
	if len(d.errs) == 0 {
		d.errs = c.check()
	}
	if len(d.errs) > 0 {
		return nil, Errors(d.errs)
	}
	if src.File != "" {
		c.rebase(filepath.Dir(src.File))
	}
	return c, nil
}

// file decodes one YAML document over c.
func (d *decoder) file(c *Config, name string, data []byte) {
	f, err := parser.ParseBytes(data, 0)
	if err != nil {
		d.errs = append(d.errs, syntaxError(name, err))
		return
	}
	if len(f.Docs) > 1 {
		d.errs = append(d.errs, name+": write one document, without --- between parts")
		return
	}
	d.source = name
	for _, doc := range f.Docs {
		if doc.Body != nil {
			d.root(c, doc.Body)
		}
	}
}

// syntaxError turns the library's "[line:column] text" into file:line.
func syntaxError(name string, err error) string {
	text := strings.TrimSpace(yaml.FormatError(err, false, false))
	if m := position.FindStringSubmatch(text); m != nil {
		return name + ":" + m[1] + ": this is not YAML: " + m[2]
	}
	return name + ": this is not YAML: " + text
}

// environment applies KNOCK_… variables. An unknown one is refused: it is most likely a mistyped setting.
func (d *decoder) environment(c *Config, env []string) {
	env = slices.Sorted(slices.Values(env))
	names := map[string]string{}
	for _, s := range Settings() {
		names[s.Env] = s.Path
	}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "KNOCK_") || name == "KNOCK_CONFIG" || strings.HasPrefix(name, "KNOCK_TEST_") {
			continue
		}
		path, ok := names[name]
		if !ok {
			d.errs = append(d.errs, fmt.Sprintf("environment %s: there is no such setting%s", name, suggest(name, names)))
			continue
		}
		d.override(c, path, value, "environment "+name)
	}
}

// rebase makes relative paths relative to the file that they stand in.
func (c *Config) rebase(dir string) {
	paths := []*string{&c.DataDir, &c.SigningKey, &c.Media.Path, &c.Federation.CAFile,
		&c.Listeners.Client.TLSCert, &c.Listeners.Client.TLSKey, &c.Listeners.Federation.TLSCert, &c.Listeners.Federation.TLSKey}
	for i := range c.SSO.Providers {
		paths = append(paths, &c.SSO.Providers[i].ClientSecretFile)
	}
	for i := range c.AppServices {
		paths = append(paths, &c.AppServices[i])
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	if file, ok := strings.CutPrefix(c.Database.URL, "sqlite:"); ok && !filepath.IsAbs(file) {
		c.Database.URL = "sqlite:" + filepath.Join(dir, file)
	}
}
