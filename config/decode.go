package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// decoder walks a YAML tree along the structs and keeps every mistake. A library's decoder would stop at the first
// and could not say which settings were near.
type decoder struct {
	source string // what the lines belong to
	errs   []string
	places filePlaces
}

func (d *decoder) fail(n ast.Node, format string, args ...any) {
	d.errs = append(d.errs, d.place(n)+": "+fmt.Sprintf(format, args...))
}

// place is file:line, or the variable or flag.
func (d *decoder) place(n ast.Node) string {
	if strings.HasPrefix(d.source, "environment ") || strings.HasPrefix(d.source, "--set ") {
		return d.source
	}
	return fmt.Sprintf("%s:%d", d.source, n.GetToken().Position.Line)
}

func (d *decoder) root(c *Config, n ast.Node) { d.value(reflect.ValueOf(c).Elem(), n, "", "") }

// override sets one value from text; text for a string is taken as it is.
func (d *decoder) override(c *Config, path, text, source string) {
	d.source = source
	v, tag, ok := find(reflect.ValueOf(c).Elem(), path)
	if !ok {
		known := map[string]string{}
		for _, s := range Settings() {
			known[s.Path] = s.Path
		}
		d.errs = append(d.errs, source+": there is no such setting"+suggest(path, known))
		return
	}
	if v.Kind() == reflect.String {
		text = strconv.Quote(text)
	}
	f, err := parser.ParseBytes([]byte(text), 0)
	if err != nil || len(f.Docs) != 1 || f.Docs[0].Body == nil {
		d.errs = append(d.errs, source+": this value cannot be read; lists are written [a, b]")
		return
	}
	d.value(v, f.Docs[0].Body, path, tag)
}

// find follows a dotted path to a setting.
func find(v reflect.Value, path string) (reflect.Value, reflect.StructTag, bool) {
	name, rest, more := strings.Cut(path, ".")
	if v.Kind() != reflect.Struct {
		return v, "", false
	}
	i, ok := fieldByName(v.Type(), name)
	switch {
	case !ok:
		return v, "", false
	case more:
		return find(v.Field(i), rest)
	}
	return v.Field(i), v.Type().Field(i).Tag, v.Field(i).Kind() != reflect.Struct
}

func fieldByName(t reflect.Type, name string) (int, bool) {
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("yaml"); tag != "" && tag == name {
			return i, true
		}
	}
	return 0, false
}

// value decodes n into v, which the path names.
func (d *decoder) value(v reflect.Value, n ast.Node, path string, tag reflect.StructTag) {
	if _, null := n.(*ast.NullNode); null {
		return // "section:" with everything commented out keeps the defaults
	}
	d.places[path] = d.place(n)
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(u, n, path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(v, n, path)
	case reflect.Map:
		d.dictionary(v, n, path)
	case reflect.Slice:
		d.list(v, n, path, tag)
	default:
		d.scalar(v, n, path, tag)
	}
}

// entries are the key-value pairs of a mapping; false when n is something else.
func (d *decoder) entries(n ast.Node, path string) ([]*ast.MappingValueNode, bool) {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		d.fail(n, "%s must hold settings, each on a line of its own", title(path))
		return nil, false
	}
	return values, true
}

func (d *decoder) mapping(v reflect.Value, n ast.Node, path string) {
	entries, _ := d.entries(n, path)
	for _, e := range entries {
		name := e.Key.GetToken().Value
		i, ok := fieldByName(v.Type(), name)
		if !ok {
			d.fail(e.Key, "there is no setting %s%s", join(path, name), suggest(name, fieldNames(v.Type())))
			continue
		}
		d.value(v.Field(i), e.Value, join(path, name), v.Type().Field(i).Tag)
	}
}

// dictionary merges into the map, so that one entry can be changed without repeating the others.
func (d *decoder) dictionary(v reflect.Value, n ast.Node, path string) {
	entries, _ := d.entries(n, path)
	merged := reflect.MakeMap(v.Type())
	for _, k := range v.MapKeys() {
		merged.SetMapIndex(k, v.MapIndex(k))
	}
	for _, e := range entries {
		key := reflect.ValueOf(e.Key.GetToken().Value)
		item := reflect.New(v.Type().Elem()).Elem()
		if old := merged.MapIndex(key); old.IsValid() {
			item.Set(old)
		}
		d.value(item, e.Value, join(path, key.String()), "")
		merged.SetMapIndex(key, item)
	}
	v.Set(merged)
}

func (d *decoder) list(v reflect.Value, n ast.Node, path string, tag reflect.StructTag) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.fail(n, "%s must be a list, such as [a, b]", title(path))
		return
	}
	items := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, item := range seq.Values {
		d.value(items.Index(i), item, path, tag)
	}
	v.Set(items)
}

func (d *decoder) text(u encoding.TextUnmarshaler, n ast.Node, path string) {
	s, ok := scalarText(n)
	if !ok {
		d.fail(n, "%s must be a single value", title(path))
		return
	}
	if err := u.UnmarshalText([]byte(s)); err != nil {
		d.fail(n, "%s is %q: %s", path, s, reason(u, err))
	}
}

func (d *decoder) scalar(v reflect.Value, n ast.Node, path string, tag reflect.StructTag) {
	s, ok := scalarText(n)
	if !ok {
		d.fail(n, "%s must be a single value", title(path))
		return
	}
	var err error
	switch v.Kind() {
	case reflect.String:
		if msg := checkText(s, tag); msg != "" {
			d.fail(n, "%s is %q: %s", path, s, msg)
		}
		v.SetString(s)
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			d.fail(n, "%s is %q: write true or false", path, s)
			return
		}
		v.SetBool(b.Value)
	case reflect.Int:
		var i int64
		if i, err = strconv.ParseInt(s, 10, 32); err != nil || i < 0 {
			d.fail(n, "%s is %q: write a whole number of at least 0", path, s)
			return
		}
		v.SetInt(i)
	case reflect.Float64:
		var f float64
		if f, err = strconv.ParseFloat(s, 64); err != nil || !(f >= 0 && f < 1e9) {
			d.fail(n, "%s is %q: write a number of at least 0", path, s)
			return
		}
		v.SetFloat(f)
	}
}

// scalarText is a scalar as it was written.
func scalarText(n ast.Node) (string, bool) {
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

func join(path, name string) string { return strings.TrimPrefix(path+"."+name, ".") }

func title(path string) string {
	if path == "" {
		return "The file"
	}
	return path
}
