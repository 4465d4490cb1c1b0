// Package files owns content-addressed storage on a local disk: a file's name is the SHA-256 of what is in it, so
// the same content is stored once, whoever uploads it. It keeps the order in which an upload becomes durable and
// lets nothing be removed that somebody is about to name in a row. Who names a file is its caller's business.
package files

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Hash is the SHA-256 of a file's content and its name in the store.
type Hash [32]byte

// String is the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Shards is the number of directories that the files are spread over, by the first byte of their hash.
const Shards = 256

// Disk is a store in one directory. It is safe for concurrent use by one process.
type Disk struct {
	root   string
	opened time.Time
	// locks guard a hash from the moment its file is in place until its row is committed. One lock serves all
	// hashes of a shard.
	locks [Shards]sync.Mutex
	// step is told about each step of an upload before the next; tests stop the process there.
	step func(string)
}

// Open prepares the store in the directory root and makes it when it is not there.
func Open(root string) (*Disk, error) {
	d := &Disk{root: root, opened: time.Now(), step: func(string) {}}
	if err := os.MkdirAll(d.temps(), 0o700); err != nil {
		return nil, fmt.Errorf("make the media directory: %w", err)
	}
	if err := syncDir(root); err != nil {
		return nil, err
	}
	return d, nil
}

// Open opens a file for reading. The error is fs.ErrNotExist when there is none of this content.
func (d *Disk) Open(h Hash) (*os.File, error) { return os.Open(d.path(h)) }

func (d *Disk) temps() string { return filepath.Join(d.root, "tmp") }

func (d *Disk) shard(first byte) string {
	return filepath.Join(d.root, hex.EncodeToString([]byte{first}))
}

func (d *Disk) path(h Hash) string { return filepath.Join(d.shard(h[0]), h.String()) }

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// RemoveTemps removes what interrupted uploads left: everything of an earlier process, and what this one has not
// written to for longer than age.
func (d *Disk) RemoveTemps(age time.Duration) (removed int, err error) {
	entries, err := os.ReadDir(d.temps())
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // it was finished meanwhile
		}
		if info.ModTime().Before(d.opened) || time.Since(info.ModTime()) > age {
			if os.Remove(filepath.Join(d.temps(), e.Name())) == nil {
				removed++
			}
		}
	}
	return removed, nil
}

// exists reports whether the content is in place with the size that it must have.
func (d *Disk) exists(h Hash, size int64) (bool, error) {
	info, err := os.Stat(d.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Size() == size, err
}
