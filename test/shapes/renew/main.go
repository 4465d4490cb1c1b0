// Command renew makes test/shapes/responses.tsv from the OpenAPI files of the specification, which are in data/api of its
// repository:
//
//	go run ./test/shapes/renew DIRECTORY v1.19 > test/shapes/responses.tsv
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "renew: wanted are the directory data/api of the specification, and its version")
		os.Exit(2)
	}
	text, err := book(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "renew:", err)
		os.Exit(1)
	}
	fmt.Print(text)
}

// object is what YAML calls a mapping.
type object = map[string]any

// book is responses.tsv.
func book(dir, version string) (string, error) {
	r := &reader{files: map[string]object{}}
	var rows []row
	for _, api := range []string{"client-server", "server-server"} {
		files, err := filepath.Glob(filepath.Join(dir, api, "*.yaml"))
		if err != nil || len(files) == 0 {
			return "", fmt.Errorf("no files in %s: %v", filepath.Join(dir, api), err)
		}
		for _, file := range files {
			more, err := r.rows(api, file)
			if err != nil {
				return "", fmt.Errorf("%s: %w", file, err)
			}
			rows = append(rows, more...)
		}
	}
	slices.SortFunc(rows, row.compare)
	out := "# What answers of the Matrix specification, " + version + ", look like: API, method, path, status, shape. Package shapes says how shapes are written.\n"
	for _, r := range rows {
		out += strings.Join([]string{r.api, r.method, r.path, r.status, r.shape}, "\t") + "\n"
	}
	return out, nil
}

type row struct{ api, method, path, status, shape string }

func (r row) compare(o row) int {
	return slices.Compare([]string{r.path, r.api, r.method, r.status}, []string{o.path, o.api, o.method, o.status})
}

// reader reads files and what they refer to.
type reader struct{ files map[string]object }

func (r *reader) load(file string) (object, error) {
	if doc, ok := r.files[file]; ok {
		return doc, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	doc := object{}
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	r.files[file] = doc
	return doc, nil
}

// place is a part of a file, and the files and parts that led to it.
type place struct {
	file string
	node any
	from []string
}

func (p place) at(keys ...string) place {
	for _, k := range keys {
		o, _ := p.node.(object)
		p.node = o[k]
	}
	return p
}

// rows are the answers of a file with a JSON body.
func (r *reader) rows(api, file string) (rows []row, err error) {
	doc, err := r.load(file)
	if err != nil {
		return nil, err
	}
	top := place{file: file, node: doc}
	base := baseOf(top)
	paths, _ := doc["paths"].(object)
	for at := range paths {
		methods, _ := paths[at].(object)
		for method := range methods {
			responses, _ := top.at("paths", at, method, "responses").node.(object)
			for status := range responses {
				answer, err := r.follow(top.at("paths", at, method, "responses", status))
				if err != nil {
					return nil, err
				}
				schema := answer.at("content", "application/json", "schema")
				if schema.node == nil || !strings.HasPrefix(status, "2") {
					continue
				}
				shape, err := r.shape(schema)
				if err != nil {
					return nil, fmt.Errorf("%s %s: %w", method, at, err)
				}
				text, err := encode(shape)
				if err != nil {
					return nil, err
				}
				rows = append(rows, row{api, strings.ToUpper(method), base + at, status, text})
			}
		}
	}
	return rows, nil
}

func baseOf(doc place) string {
	servers, _ := doc.at("servers").node.([]any)
	if len(servers) == 0 {
		return ""
	}
	first := place{node: servers[0]}
	base, _ := first.at("variables", "basePath", "default").node.(string)
	return strings.TrimSuffix(base, "/")
}

// follow goes where a place refers to. A place that leads to itself ends as nothing.
func (r *reader) follow(p place) (place, error) {
	for {
		ref, _ := p.at("$ref").node.(string)
		if ref == "" {
			return p, nil
		}
		file, part, _ := strings.Cut(ref, "#")
		if file == "" {
			file = p.file
		} else {
			file = path.Join(path.Dir(p.file), file)
		}
		if name := file + "#" + part; slices.Contains(p.from, name) {
			return place{}, nil
		} else {
			p.from = append(slices.Clone(p.from), name)
		}
		doc, err := r.load(file)
		if err != nil {
			return place{}, err
		}
		p.file, p.node = file, doc
		if part = strings.Trim(part, "/"); part != "" {
			p = p.at(strings.Split(part, "/")...)
		}
		if p.node == nil {
			return place{}, fmt.Errorf("nothing at %s", ref)
		}
	}
}

// shape is the shape of a schema.
func (r *reader) shape(p place) (any, error) {
	p, err := r.follow(p)
	if err != nil {
		return nil, err
	}
	s, _ := p.node.(object)
	for _, key := range []string{"oneOf", "anyOf"} {
		if list, ok := s[key].([]any); ok {
			return r.either(p, list)
		}
	}
	if types, ok := s["type"].([]any); ok {
		return r.either(p, eachType(s, types))
	}
	typ, _ := s["type"].(string)
	switch {
	case typ == "array":
		item, err := r.shape(p.at("items"))
		return []any{item}, err
	case typ == "string":
		return "string" + choices(s), nil
	case typ == "object", s["allOf"] != nil, s["properties"] != nil:
		return r.fields(p)
	case typ == "":
		return "any", nil
	}
	return typ, nil
}

// eachType are schemas of one type each for a schema of several.
func eachType(s object, types []any) (list []any) {
	for _, t := range types {
		one := object{}
		for k, v := range s {
			one[k] = v
		}
		one["type"] = t
		list = append(list, one)
	}
	return list
}

func (r *reader) either(p place, list []any) (any, error) {
	var shapes []any
	for _, one := range list {
		shape, err := r.shape(place{p.file, one, p.from})
		if err != nil {
			return nil, err
		}
		shapes = append(shapes, shape)
	}
	if len(shapes) == 1 {
		return shapes[0], nil
	}
	return object{"|": shapes}, nil
}

func choices(s object) string {
	list, _ := s["enum"].([]any)
	var texts []string
	for _, v := range list {
		texts = append(texts, fmt.Sprint(v))
	}
	if len(texts) == 0 {
		return ""
	}
	return ":" + strings.Join(texts, "|")
}

// fields is the shape of an object, with the fields of all schemas that it is made of.
func (r *reader) fields(p place) (any, error) {
	fields, must := object{}, map[string]bool{}
	if err := r.gather(p, fields, must); err != nil {
		return nil, err
	}
	out := object{}
	for name, shape := range fields {
		if must[name] {
			name += "!"
		}
		out[name] = shape
	}
	if len(out) == 0 {
		return "object", nil
	}
	return out, nil
}

func (r *reader) gather(p place, fields object, must map[string]bool) error {
	p, err := r.follow(p)
	if err != nil {
		return err
	}
	parts, _ := p.at("allOf").node.([]any)
	for _, part := range parts {
		if err := r.gather(place{p.file, part, p.from}, fields, must); err != nil {
			return err
		}
	}
	add := func(name string, at place) error {
		shape, err := r.shape(at)
		fields[name] = merge(fields[name], shape)
		return err
	}
	properties, _ := p.at("properties").node.(object)
	for name := range properties {
		if err := add(name, p.at("properties", name)); err != nil {
			return err
		}
	}
	if rest, ok := p.at("additionalProperties").node.(object); ok {
		if err := add("*", place{p.file, rest, p.from}); err != nil {
			return err
		}
	}
	patterns, _ := p.at("patternProperties").node.(object)
	for pattern := range patterns {
		if err := add("*", p.at("patternProperties", pattern)); err != nil {
			return err
		}
	}
	required, _ := p.at("required").node.([]any)
	for _, name := range required {
		must[fmt.Sprint(name)] = true
	}
	return nil
}

// merge joins what two schemas say of a field.
func merge(a, b any) any {
	first, ok := a.(object)
	second, both := b.(object)
	switch {
	case a == nil || a == "any" || a == "object" && both:
		return b
	case b == "any" || b == "object" && ok || !ok || !both:
		return a
	}
	for name, shape := range second {
		first[name] = merge(first[name], shape)
	}
	return first
}

func encode(shape any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(shape)
	return strings.TrimSpace(b.String()), err
}
