// Package shapes owns what answers of the Matrix specification look like, and compares answers with that. It is for
// tests: those of package hstest compare every JSON answer that their nodes give.
//
// responses.tsv has a line for each endpoint and status with a JSON body. Command renew, beside this package, makes it from
// the OpenAPI files of a version of the specification; nothing in it is written by hand. A shape is JSON too:
//
//	"string", "integer", "number", "boolean", "null", "object", "any"   a value of that type
//	"string:a|b"                                                        one of these texts
//	[S]                                                                 a list of S
//	{"a!": S, "b": T, "*": U}                                           an object that has a, and may have b; all else is U
//	{"|": [S, T]}                                                       S or T
//
// Fields that a shape does not name may be there.
package shapes

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

//go:embed responses.tsv
var responses string

// Book has the shapes of all answers.
type Book struct {
	mux  *http.ServeMux
	rows map[string]map[int]any // pattern → status → shape
}

// Load reads the book.
func Load() (*Book, error) {
	b := &Book{mux: http.NewServeMux(), rows: map[string]map[int]any{}}
	for line := range strings.Lines(responses) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if strings.HasPrefix(line, "#") {
			continue
		}
		if len(f) != 5 {
			return nil, fmt.Errorf("bad line %q", line)
		}
		status, err := strconv.Atoi(f[3])
		if err != nil {
			return nil, err
		}
		var shape any
		if err := json.Unmarshal([]byte(f[4]), &shape); err != nil {
			return nil, fmt.Errorf("%s: %w", f[2], err)
		}
		b.add(f[1], strings.TrimRight(f[2], " "), status, shape)
	}
	return b, nil
}

func (b *Book) add(method, path string, status int, shape any) {
	pattern := method + " " + path
	if strings.HasSuffix(path, "/") {
		pattern += "{$}"
	}
	if b.rows[pattern] == nil {
		b.rows[pattern] = map[int]any{}
		b.mux.Handle(pattern, http.NotFoundHandler())
	}
	b.rows[pattern][status] = shape
}

var failure = any(map[string]any{"errcode!": "string", "error!": "string"})

var stages = any(map[string]any{"flows!": []any{map[string]any{"stages!": []any{"string"}}}, "params": map[string]any{"*": "object"},
	"session": "string", "completed": []any{"string"}, "errcode": "string", "error": "string"})

// tolerated differs from the letter of the specification, and why it stays.
var tolerated = map[string]string{
	"PUT /_matrix/federation/v1/invite/{roomId}/{eventId} answers 200: [].event lacks origin": noOrigin,
	"PUT /_matrix/federation/v2/invite/{roomId}/{eventId} answers 200: .event lacks origin":   noOrigin,
	"GET /_matrix/client/v3/voip/turnServer answers 200: the body lacks uris":                 noRelay,
	"GET /_matrix/client/v3/voip/turnServer answers 200: the body lacks username":             noRelay,
	"GET /_matrix/client/v3/voip/turnServer answers 200: the body lacks password":             noRelay,
	"GET /_matrix/client/v3/voip/turnServer answers 200: the body lacks ttl":                  noRelay,
}

const noRelay = "a node without a relay answers {}, which clients take for that; an error they would repeat"

const noOrigin = "the answer is the invite as its sender built it, and events of today have no origin"

// Check compares the JSON body of an answer with what the specification says, and returns what differs, a line each;
// the first of each kind. What the specification does not know is not compared. Paths of old clients (r0) are those of v3.
func (b *Book) Check(method string, at *url.URL, status int, body []byte) []string {
	clean := path.Clean(at.Path)
	if clean != at.Path && clean+"/" != at.Path || strings.Contains(at.RawQuery, "event_fields") || strings.Contains(at.RawQuery, "event_format") ||
		strings.Contains(at.RawQuery, "org.matrix.msc4140.delay") {
		return nil // a path that the matching here does not know, events that are to look otherwise, or one that is only scheduled
	}
	there := *at
	there.Path = strings.Replace(at.Path, "/_matrix/client/r0/", "/_matrix/client/v3/", 1)
	there.RawPath = strings.Replace(at.RawPath, "/_matrix/client/r0/", "/_matrix/client/v3/", 1)
	_, pattern := b.mux.Handler(&http.Request{Method: method, URL: &there, Host: at.Host})
	byStatus := b.rows[pattern]
	if byStatus == nil {
		return nil
	}
	shape, ok := byStatus[status]
	switch {
	case !ok && status == http.StatusUnauthorized && bytes.Contains(body, []byte(`"flows"`)):
		shape = stages
	case !ok && status >= 400:
		shape = failure
	case !ok:
		return []string{fmt.Sprintf("%s answers %d", pattern, status)}
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return []string{fmt.Sprintf("%s answers %d with a body that is no JSON: %v", pattern, status, err)}
	}
	var c comparison
	c.compare(shape, value, "")
	for i, text := range c.found {
		c.found[i] = fmt.Sprintf("%s answers %d: %s", pattern, status, text)
	}
	return slices.DeleteFunc(c.found, func(text string) bool { return tolerated[text] != "" })
}

// comparison gathers what differs. Places are without names and numbers, so that one kind of difference is one text.
type comparison struct{ found []string }

func (c *comparison) fail(place, format string, args ...any) {
	if place == "" {
		place = "the body"
	}
	text := place + " " + fmt.Sprintf(format, args...)
	if !slices.Contains(c.found, text) {
		c.found = append(c.found, text)
	}
}

func (c *comparison) compare(shape, value any, place string) {
	switch s := shape.(type) {
	case string:
		if !isOf(s, value) {
			c.fail(place, "should be %s and is %s", s, kind(value))
		}
	case []any:
		list, ok := value.([]any)
		if !ok {
			c.fail(place, "should be a list and is %s", kind(value))
		}
		for _, item := range list {
			c.compare(s[0], item, place+"[]")
		}
	case map[string]any:
		if either, ok := s["|"].([]any); ok {
			c.any(either, value, place)
			return
		}
		c.object(s, value, place)
	}
}

func (c *comparison) any(shapes []any, value any, place string) {
	var first comparison
	for i, shape := range shapes {
		var try comparison
		if try.compare(shape, value, place); len(try.found) == 0 {
			return
		}
		_, isShape := shape.(map[string]any)
		if _, isObject := value.(map[string]any); i == 0 || isShape && isObject { // what differs within says more
			first = try
		}
	}
	c.found = append(c.found, first.found...)
}

func (c *comparison) object(shape map[string]any, value any, place string) {
	object, ok := value.(map[string]any)
	if !ok {
		c.fail(place, "should be an object and is %s", kind(value))
		return
	}
	named := map[string]bool{}
	for key, field := range shape {
		name, must := strings.CutSuffix(key, "!")
		if key == "*" {
			continue
		}
		named[name] = true
		if v, there := object[name]; there {
			c.compare(field, v, place+"."+name)
		} else if must {
			c.fail(place, "lacks %s", name)
		}
	}
	for name, v := range object {
		if rest, ok := shape["*"]; ok && !named[name] {
			c.compare(rest, v, place+".*")
		}
	}
}

func isOf(shape string, value any) bool {
	if texts, ok := strings.CutPrefix(shape, "string:"); ok {
		s, isText := value.(string)
		return isText && slices.Contains(strings.Split(texts, "|"), s)
	}
	switch shape {
	case "any":
		return true
	case "integer":
		n, ok := value.(json.Number)
		return ok && !strings.ContainsAny(n.String(), ".eE")
	case "number":
		_, ok := value.(json.Number)
		return ok
	}
	return kind(value) == shape
}

func kind(value any) string {
	switch v := value.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "boolean"
	case json.Number:
		return "number"
	case []any:
		return "list"
	case map[string]any:
		return "object"
	default:
		return fmt.Sprintf("%T", v)
	}
}
