package config

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// Setting is one value that can be set.
type Setting struct {
	Path    string // "listeners.client.address"
	Env     string // "KNOCK_LISTENERS_CLIENT_ADDRESS"
	Default string // as YAML
	Doc     string
	Enum    []string // all that is allowed; nil: anything
}

// Settings lists everything that can be set, in the order of the file.
func Settings() []Setting {
	var all []Setting
	walk(reflect.ValueOf(*Default()), "", 0, func(s Setting, _ reflect.Value, _ int, leaf bool) {
		if leaf {
			all = append(all, s)
		}
	})
	return all
}

// walk visits sections and settings; value is the default.
func walk(v reflect.Value, path string, depth int, visit func(s Setting, v reflect.Value, depth int, leaf bool)) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := f.Tag.Get("yaml")
		if name == "" {
			continue
		}
		s := Setting{Path: join(path, name), Doc: f.Tag.Get("doc"), Default: format(v.Field(i))}
		s.Env = "KNOCK_" + strings.ToUpper(strings.ReplaceAll(s.Path, ".", "_"))
		if enum := f.Tag.Get("enum"); enum != "" {
			s.Enum = strings.Split(enum, ",")
		}
		section := f.Type.Kind() == reflect.Struct
		visit(s, v.Field(i), depth, !section)
		if section {
			walk(v.Field(i), s.Path, depth+1, visit)
		}
	}
}

// format writes a default as YAML.
func format(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case string:
		if x == "" || strings.HasPrefix(x, ":") {
			return fmt.Sprintf("%q", x)
		}
		return x
	case []string, []netip.Prefix, []Policy, []Provider:
		return "[]"
	case map[string]string:
		return "{}"
	case map[string]Class:
		parts := make([]string, 0, len(x))
		for _, name := range slices.Sorted(maps.Keys(x)) {
			parts = append(parts, fmt.Sprintf("%s: {per_second: %g, burst: %d}", name, x[name].PerSecond, x[name].Burst))
		}
		return strings.Join(parts, "\n")
	}
	return fmt.Sprint(v.Interface())
}

// Example is a configuration file with every setting at its default.
func Example() []byte {
	var b strings.Builder
	b.WriteString("# Configuration of a Knock node. Every setting has the default shown here; a file needs only what differs.\n" +
		"# Each can also be set in the environment (registration.mode is KNOCK_REGISTRATION_MODE) or with --set\n" +
		"# registration.mode=open. Made by `knock config example`.\n")
	walk(reflect.ValueOf(*Default()), "", 0, func(s Setting, v reflect.Value, depth int, leaf bool) {
		indent := strings.Repeat("  ", depth)
		name := s.Path[strings.LastIndexByte(s.Path, '.')+1:]
		if depth == 0 {
			b.WriteString("\n")
		}
		for _, line := range wrap(s.Doc, 110-len(indent)) {
			b.WriteString(indent + "# " + line + "\n")
		}
		switch {
		case !leaf:
			b.WriteString(indent + name + ":\n")
		case strings.Contains(s.Default, "\n"):
			b.WriteString(indent + name + ":\n")
			for line := range strings.SplitSeq(s.Default, "\n") {
				b.WriteString(indent + "  " + line + "\n")
			}
		default:
			b.WriteString(indent + name + ": " + s.Default + "\n")
		}
	})
	return []byte(b.String())
}

// Markdown is docs/configuration.md.
func Markdown() []byte {
	var b strings.Builder
	b.WriteString("# Configuration\n\nMade from the structs in `config`; `knock config example` prints a file with every default and `knock config check`\n" +
		"names every mistake in a file with its line. A setting is looked up in the defaults, then the file (`--config`, else\n`knock.yaml` if there is one), then the environment, then `--set name=value`; the last one wins. Lists and maps in the\n" +
		"environment are written as in YAML: `[a, b]`, `{http: warn}`.\n")
	walk(reflect.ValueOf(*Default()), "", 0, func(s Setting, _ reflect.Value, depth int, leaf bool) {
		if !leaf {
			fmt.Fprintf(&b, "\n%s `%s`\n\n%s\n", strings.Repeat("#", depth+2), s.Path, s.Doc)
			return
		}
		def := "`" + strings.ReplaceAll(s.Default, "\n", "`, `") + "`"
		fmt.Fprintf(&b, "\n- **`%s`** – %s", s.Path, s.Doc)
		if s.Enum != nil {
			fmt.Fprintf(&b, " One of `%s`.", strings.Join(s.Enum, "`, `"))
		}
		fmt.Fprintf(&b, " Default: %s. Environment: `%s`.\n", def, s.Env)
	})
	return []byte(b.String())
}

func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}
