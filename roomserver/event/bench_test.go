package event

import (
	"crypto/sha256"
	"fmt"
	"testing"
)

// message is an ordinary message event of 828 bytes in room version 11.
func message(tb testing.TB) *Event {
	tb.Helper()
	v := version(tb, "11")
	body := ""
	for {
		e := build(tb, v, "m.room.message", nil, fmt.Sprintf(`{"body":%q,"m.mentions":{},"msgtype":"m.text"}`, body))
		if n := 828 - len(e.JSON()); n <= 0 {
			return e
		}
		body += "x"
	}
}

func BenchmarkParse(b *testing.B) {
	e := message(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(e.V(), e.JSON()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFromStored(b *testing.B) {
	e := message(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := FromStored(e.V(), e.EventID(), e.JSON()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	e := message(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := CanonicalStrict(nil, e.JSON()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkContentHash(b *testing.B) {
	e := message(b)
	list, _ := fieldsOf(nil, e.JSON())
	b.ReportAllocs()
	for b.Loop() {
		e.hashMatches(list)
	}
}

func BenchmarkSHA256(b *testing.B) {
	e := message(b)
	for b.Loop() {
		sha256.Sum256(e.JSON())
	}
}

func BenchmarkReferenceHash(b *testing.B) {
	e := message(b)
	list, _ := fieldsOf(nil, e.JSON())
	b.ReportAllocs()
	for b.Loop() {
		referenceHash(e.V(), e.JSON(), list, e.Type())
	}
}

func BenchmarkBuild(b *testing.B) {
	s, v := specSigner(b), version(b, "11")
	bd := Builder{
		Version: v, Type: "m.room.message", Sender: "@alice:domain", RoomID: "!room:domain",
		Content:    []byte(`{"body":"hello there","msgtype":"m.text"}`),
		PrevEvents: []string{ref(v, 1)}, AuthEvents: []string{ref(v, 2), ref(v, 3), ref(v, 4)}, Depth: 5, TS: 1,
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := bd.Build(s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	e, s := message(b), specSigner(b)
	key := public(s)
	b.ReportAllocs()
	for b.Loop() {
		if err := e.VerifySignature(s.Server, s.KeyID, key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendClient(b *testing.B) {
	e := message(b)
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = e.AppendClient(dst[:0], ClientOptions{RoomID: true, Age: 1234, HasAge: true, Membership: "join"})
	}
}
