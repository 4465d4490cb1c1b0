package mediaapi

import (
	"bytes"
	"encoding/binary"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

func BenchmarkUpload256K(b *testing.B) {
	n := newNode(b, sqldbtest.Open(b, sqldb.SQLite), nil)
	content := make([]byte, 256<<10)
	b.SetBytes(int64(len(content)))
	for i := uint64(0); b.Loop(); i++ {
		binary.LittleEndian.PutUint64(content, i)
		n.upload(content, octetStream, "")
	}
}

func BenchmarkDownload256K(b *testing.B) {
	n := newNode(b, sqldbtest.Open(b, sqldb.SQLite), nil)
	uri := n.upload(make([]byte, 256<<10), octetStream, "")
	b.SetBytes(256 << 10)
	for b.Loop() {
		n.get(downloads + uri)
	}
}

func BenchmarkThumbnailWarm(b *testing.B) {
	n := newNode(b, sqldbtest.Open(b, sqldb.SQLite), nil)
	uri := n.upload(gray(b, "image/jpeg", 1000, 800), "image/jpeg", "")
	for b.Loop() {
		n.get(thumbnails + uri + "?width=96&height=96&method=crop")
	}
}

func BenchmarkRemoteCached(b *testing.B) {
	far := &fakeRemote{answer: func(string, string) (*RemoteMedia, error) {
		return &RemoteMedia{Body: body(string(bytes.Repeat([]byte("x"), 1000)))}, nil
	}}
	n := newNode(b, sqldbtest.Open(b, sqldb.SQLite), func(o *Options) { o.Remote = far })
	for b.Loop() {
		n.get(downloads + "there.example/abc")
	}
}
