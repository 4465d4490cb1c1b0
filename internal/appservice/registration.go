package appservice

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Bounds of registrations.
const (
	// MaxServices is how many application services a node takes: which of them an event is for is a set of bits.
	MaxServices   = 64
	maxFile       = 1 << 20 // bytes
	maxNamespaces = 100     // of one kind in one file
	maxPattern    = 2000    // bytes of one regular expression
	maxProtocols  = 100
	minToken      = 8 // bytes: a token that can be guessed is an open door
	maxToken      = 512
)

// Registration is what a registration file says (Application Service API, "Registration").
type Registration struct {
	ID              string
	URL             string // without a slash at its end; "" wants no traffic
	ASToken         string
	HSToken         string
	SenderLocalpart string
	Users           []Namespace
	Aliases         []Namespace
	Rooms           []Namespace
	Protocols       []string
	// ReceiveEphemeral asks for typing, receipts and presence; UnstableEphemeral does so under the name of MSC2409.
	ReceiveEphemeral, UnstableEphemeral bool
	// Encryption asks for messages to devices (MSC4203), device lists and counts of one-time keys (MSC3202). Messages
	// that a service gets in this way are not in /sync any more.
	Encryption bool
	// RateLimited says that the users of the namespaces are limited as others are; the sender never is.
	RateLimited bool

	file string
	line int // of the id, for errors found later
}

// Namespace is a part of the ids of this server. A value belongs to it when Pattern matches at its start.
type Namespace struct {
	Exclusive bool
	Pattern   *regexp.Regexp

	text string
	line int
}

// Errors is every mistake of the registration files, each with its place.
type Errors []string

// Error lists them, one a line.
func (e Errors) Error() string { return strings.Join(e, "\n") }

// Load reads registration files and checks them for themselves and against each other. The error is Errors.
func Load(files []string, serverName string) ([]Registration, error) {
	var all []Registration
	var errs Errors
	if len(files) > MaxServices {
		return nil, Errors{fmt.Sprintf("app_service_files: at most %d application services can be used", MaxServices)}
	}
	for _, file := range files {
		data, err := readFile(file)
		if err != nil {
			errs = append(errs, err.Error())
			continue
		}
		r, mistakes := Parse(file, data)
		if errs = append(errs, mistakes...); len(mistakes) == 0 {
			all = append(all, r)
		}
	}
	if errs = append(errs, conflicts(all, serverName)...); len(errs) > 0 {
		return nil, errs
	}
	return all, nil
}

func readFile(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("app_service_files: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: this is too large for a registration file", file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("app_service_files: %w", err)
	}
	return data, nil
}

// reader walks one file and keeps every mistake. It never quotes a token.
type reader struct {
	file string
	errs Errors
}

func (r *reader) fail(n ast.Node, format string, args ...any) {
	r.errs = append(r.errs, fmt.Sprintf("%s:%d: ", r.file, lineOf(n))+fmt.Sprintf(format, args...))
}

func lineOf(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 1
}

var position = regexp.MustCompile(`^\[(\d+):\d+\] (.*)`)

// Parse reads a registration; file is for the places of mistakes. Keys that are not known are left to those who know
// them.
func Parse(file string, data []byte) (reg Registration, errs Errors) {
	f, err := parser.ParseBytes(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), 0)
	if err != nil {
		text := strings.TrimSpace(yaml.FormatError(err, false, false))
		if m := position.FindStringSubmatch(text); m != nil {
			return reg, Errors{file + ":" + m[1] + ": this is not YAML: " + m[2]}
		}
		return reg, Errors{file + ": this is not YAML"}
	}
	if len(f.Docs) != 1 || f.Docs[0].Body == nil {
		return reg, Errors{file + ": a registration file holds one YAML document"}
	}
	r := &reader{file: file}
	fields, ok := r.mapping(f.Docs[0].Body, "The file")
	if !ok {
		return reg, r.errs
	}
	reg = r.registration(f.Docs[0].Body, fields)
	return reg, r.errs
}

func (r *reader) mapping(n ast.Node, what string) (map[string]ast.Node, bool) {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		r.fail(n, "%s must hold settings, each on a line of its own", what)
		return nil, false
	}
	out := make(map[string]ast.Node, len(values))
	for _, v := range values {
		if key, ok := v.Key.(ast.Node); ok {
			out[keyText(key)] = v.Value
		}
	}
	return out, true
}

// keyText is a key without the quotes that it may be written in.
func keyText(key ast.Node) string {
	if s, ok := key.(*ast.StringNode); ok {
		return s.Value
	}
	return key.GetToken().Value
}

func (r *reader) registration(root ast.Node, fields map[string]ast.Node) Registration {
	reg := Registration{file: r.file, RateLimited: true}
	reg.ID = r.text(root, fields, "id", 1, 255)
	if n := fields["id"]; n != nil {
		reg.line = lineOf(n)
	}
	if strings.ContainsAny(reg.ID, "|\x00") {
		r.fail(fields["id"], "id must not contain | or the character 0")
	}
	reg.ASToken = r.text(root, fields, "as_token", minToken, maxToken)
	reg.HSToken = r.text(root, fields, "hs_token", minToken, maxToken)
	reg.SenderLocalpart = r.text(root, fields, "sender_localpart", 1, 200)
	if i := strings.IndexFunc(reg.SenderLocalpart, outsideLocalpart); i >= 0 {
		r.fail(fields["sender_localpart"], "sender_localpart is %q: use the characters a-z, 0-9 and . _ = - / +", reg.SenderLocalpart)
	}
	reg.URL = r.url(root, fields)
	reg.ReceiveEphemeral = r.flag(fields, false, "receive_ephemeral")
	reg.UnstableEphemeral = r.flag(fields, false, "de.sorunome.msc2409.push_ephemeral", "push_ephemeral")
	reg.Encryption = r.flag(fields, false, "org.matrix.msc3202")
	reg.RateLimited = r.flag(fields, true, "rate_limited")
	reg.Protocols = r.protocols(fields["protocols"])
	r.namespaces(root, fields, &reg)
	return reg
}

func outsideLocalpart(c rune) bool {
	return (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("._=-/+", c)
}

func (r *reader) text(root ast.Node, fields map[string]ast.Node, name string, shortest, longest int) string {
	n := fields[name]
	if n == nil {
		r.fail(root, "%s is missing", name)
		return ""
	}
	s, ok := scalar(n)
	if !ok || len(s) < shortest || len(s) > longest {
		r.fail(n, "%s must be a text of %d to %d bytes", name, shortest, longest)
		return ""
	}
	return s
}

// scalar is a scalar as it was written: a token of digits is a text too.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func (r *reader) url(root ast.Node, fields map[string]ast.Node) string {
	n, ok := fields["url"]
	if !ok {
		r.fail(root, "url is missing; write null when the service wants no traffic")
		return ""
	}
	if _, null := n.(*ast.NullNode); null {
		return ""
	}
	s, ok := scalar(n)
	u, err := url.Parse(s)
	switch {
	case ok && s == "":
		return ""
	case !ok || err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		r.fail(n, "url must be like http://localhost:29318, or null when the service wants no traffic")
		return ""
	}
	return strings.TrimRight(s, "/")
}

func (r *reader) flag(fields map[string]ast.Node, def bool, names ...string) bool {
	for _, name := range names {
		switch n := fields[name].(type) {
		case nil, *ast.NullNode:
		case *ast.BoolNode:
			return n.Value
		default:
			r.fail(n, "%s must be true or false", name)
		}
	}
	return def
}

func (r *reader) sequence(n ast.Node, name string, most int) []ast.Node {
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return nil
	case *ast.SequenceNode:
		if len(n.Values) <= most {
			return n.Values
		}
		r.fail(n, "%s may have at most %d entries", name, most)
	default:
		r.fail(n, "%s must be a list", name)
	}
	return nil
}

func (r *reader) protocols(n ast.Node) (out []string) {
	for _, item := range r.sequence(n, "protocols", maxProtocols) {
		s, ok := scalar(item)
		if !ok || s == "" || len(s) > 255 {
			r.fail(item, "a protocol is a text of 1 to 255 bytes")
			continue
		}
		out = append(out, s)
	}
	return out
}

func (r *reader) namespaces(root ast.Node, fields map[string]ast.Node, reg *Registration) {
	n := fields["namespaces"]
	if n == nil {
		r.fail(root, "namespaces is missing")
		return
	}
	if _, null := n.(*ast.NullNode); null {
		return
	}
	kinds, ok := r.mapping(n, "namespaces")
	if !ok {
		return
	}
	reg.Users = r.namespaceList(kinds["users"], "namespaces.users")
	reg.Aliases = r.namespaceList(kinds["aliases"], "namespaces.aliases")
	reg.Rooms = r.namespaceList(kinds["rooms"], "namespaces.rooms")
}

func (r *reader) namespaceList(n ast.Node, name string) (out []Namespace) {
	for _, item := range r.sequence(n, name, maxNamespaces) {
		fields, ok := r.mapping(item, "An entry of "+name)
		if !ok {
			continue
		}
		pattern := r.text(item, fields, "regex", 1, maxPattern)
		if pattern == "" {
			continue
		}
		re, err := regexp.Compile("^(?:" + pattern + ")")
		if err != nil {
			r.fail(fields["regex"], "regex cannot be used: %s", reason(err))
			continue
		}
		out = append(out, Namespace{Exclusive: r.flag(fields, false, "exclusive"), Pattern: re, text: pattern, line: lineOf(item)})
	}
	return out
}

func reason(err error) string { return strings.TrimPrefix(err.Error(), "error parsing regexp: ") }

// conflicts finds what several registrations cannot have both.
func conflicts(all []Registration, serverName string) (errs Errors) {
	for i, a := range all {
		for _, b := range all[:i] {
			fail := func(line int, format string, args ...any) {
				errs = append(errs, a.file+":"+strconv.Itoa(line)+": "+fmt.Sprintf(format, args...))
			}
			if a.ID == b.ID {
				fail(a.line, "the id %q is that of %s too; each application service needs one of its own", a.ID, b.file)
			}
			if a.ASToken == b.ASToken {
				fail(a.line, "the as_token is that of %s too; each application service needs one of its own", b.file)
			}
			if a.SenderLocalpart == b.SenderLocalpart {
				fail(a.line, "the sender_localpart %q is that of %s too", a.SenderLocalpart, b.file)
			}
			for _, kind := range [][2][]Namespace{{a.Users, b.Users}, {a.Aliases, b.Aliases}, {a.Rooms, b.Rooms}} {
				for _, clash := range clashes(kind[0], kind[1]) {
					fail(clash[0].line, "the exclusive namespace %q overlaps with %q of %s:%d", clash[0].text, clash[1].text, b.file, clash[1].line)
				}
			}
			if inExclusive(b.Users, "@"+a.SenderLocalpart+":"+serverName) {
				fail(a.line, "the sender_localpart %q lies in an exclusive namespace of %s", a.SenderLocalpart, b.file)
			}
			if inExclusive(a.Users, "@"+b.SenderLocalpart+":"+serverName) {
				fail(a.line, "the sender_localpart %q of %s lies in an exclusive namespace of this file", b.SenderLocalpart, b.file)
			}
		}
	}
	return errs
}

func clashes(a, b []Namespace) (out [][2]Namespace) {
	for _, x := range a {
		for _, y := range b {
			if x.Exclusive && y.Exclusive && overlap(x.Pattern, y.Pattern) {
				out = append(out, [2]Namespace{x, y})
			}
		}
	}
	return out
}

func inExclusive(list []Namespace, id string) bool {
	for _, n := range list {
		if n.Exclusive && n.Pattern.MatchString(id) {
			return true
		}
	}
	return false
}
