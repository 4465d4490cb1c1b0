package event

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// testdata/canonical: "canonical" and "strict" print the canonical form or why
// there is none.
func TestCanonical(t *testing.T) {
	datadriven.RunTest(t, "testdata/canonical", func(t *testing.T, d *datadriven.TestData) string {
		fn := Canonical
		if d.Cmd == "strict" {
			fn = CanonicalStrict
		}
		out, err := fn(nil, []byte(d.Input))
		if err != nil {
			return "error: " + err.Error()
		}
		return string(out)
	})
}

func TestCanonicalIsNotCopied(t *testing.T) {
	in := []byte(`{"a":[1,{"b":"\u0001\n\"é"}],"b":null}`)
	out, err := Canonical(nil, in)
	if err != nil || &out[0] != &in[0] {
		t.Errorf("%s, %v", out, err)
	}
	out, err = Canonical([]byte("x"), in)
	if err != nil || string(out) != "x"+string(in) {
		t.Errorf("%s, %v", out, err)
	}
}

func TestNotUTF8(t *testing.T) {
	for _, in := range []string{"\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", `"\ud800"`, `"\ud800\ud800"`, `"\udc00\ud800"`, `{"\ud800x":1}`, `"\ud800\u"`} {
		if _, err := Canonical(nil, []byte(in)); !errors.Is(err, ErrUTF8) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestDepth(t *testing.T) {
	for _, pair := range []string{"[]", "{}"} {
		for n, want := range map[int]error{maxDepth: nil, maxDepth + 1: ErrTooDeep, 1 << 20: ErrTooDeep} {
			open, leaf := pair[:1], "1"
			if open == "{" {
				open = `{"a":`
			}
			in := strings.Repeat(open, n) + leaf + strings.Repeat(pair[1:], n)
			if _, err := Canonical(nil, []byte(in)); !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("%d × %s: %v", n, pair, err)
			}
		}
	}
}

// Many keys in the worst order, and many objects, must not cost more than a sort.
func TestCanonicalLarge(t *testing.T) {
	var in bytes.Buffer
	in.WriteString("[")
	for i := range 200 {
		if i > 0 {
			in.WriteByte(',')
		}
		in.WriteString(`{"z":{"y":{},"x":[ {"b":1,"a":{}} ]},"a":"\u00e9"}`)
	}
	in.WriteString("]")
	out, err := Canonical(nil, in.Bytes())
	want := "[" + strings.TrimSuffix(strings.Repeat(`{"a":"é","z":{"x":[{"a":{},"b":1}],"y":{}}},`, 200), ",") + "]"
	if err != nil || string(out) != want {
		t.Errorf("%v: %.200s", err, out)
	}
}

func TestAppendString(t *testing.T) {
	for in, want := range map[string]string{
		"":                    `""`,
		"a\x00\x1f\b\t\n\f\r": `"a\u0000\u001f\b\t\n\f\r"`,
		"\"\\/\x7f é \u2028":  "\"\\\"\\\\/\x7f é \u2028\"",
		"\xffa\uFFFD":         "\"\uFFFDa\uFFFD\"",
	} {
		if got := string(AppendString(nil, in)); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestSetMember(t *testing.T) {
	for _, c := range [][3]string{
		{`{}`, "b", `{"b":0}`},
		{`{"a":1}`, "b", `{"a":1,"b":0}`},
		{`{"c":1}`, "b", `{"b":0,"c":1}`},
		{`{"a":1,"c":1}`, "b", `{"a":1,"b":0,"c":1}`},
		{`{"a":1,"b":{"x":[]},"c":1}`, "b", `{"a":1,"b":0,"c":1}`},
		{`{"a":1,"b":1}`, "b", `{"a":1,"b":0}`},
		{`{"\"":1,"\\":2}`, "b", `{"\"":1,"\\":2,"b":0}`},
		{`{"a":1}`, `\`, `{"\\":0,"a":1}`},
	} {
		if got := string(setMember([]byte(c[0]), c[1], []byte("0"))); got != c[2] {
			t.Errorf("%s + %s: %s, want %s", c[0], c[1], got, c[2])
		}
	}
}
