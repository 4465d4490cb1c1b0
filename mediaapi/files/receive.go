package files

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
)

// ErrTooLarge says that a stream had more bytes than it was allowed.
var ErrTooLarge = errors.New("more bytes than allowed")

// ReadError is a failure of the stream that content came from, as opposed to one of the disk.
type ReadError struct{ Err error }

func (e *ReadError) Error() string { return "read content: " + e.Err.Error() }

// Unwrap gives the stream's own error.
func (e *ReadError) Unwrap() error { return e.Err }

// Incoming is content that has been received, hashed and flushed to a temporary file, and has no name yet.
type Incoming struct {
	Hash Hash
	Size int64
	temp string
}

// buffers are what content passes through on its way from the network to hash and disk.
var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// Receive streams r to a temporary file while hashing it. It reads at most limit bytes; more is ErrTooLarge. An
// error of r itself is a *ReadError. What it returns must be given to Keep or Discard.
func (d *Disk) Receive(r io.Reader, limit int64) (*Incoming, error) {
	f, err := os.CreateTemp(d.temps(), "in-*")
	if err != nil {
		return nil, err
	}
	d.step("created")
	in := &Incoming{temp: f.Name()}
	err = d.fill(f, r, limit, in)
	if err = errors.Join(err, f.Close()); err != nil {
		d.Discard(in)
		return nil, err
	}
	return in, nil
}

func (d *Disk) fill(f *os.File, r io.Reader, limit int64, in *Incoming) error {
	buf, ok := buffers.Get().(*[]byte)
	if !ok {
		return errors.New("files: buffer pool holds something else")
	}
	defer buffers.Put(buf)
	h := sha256.New()
	for {
		n, readErr := r.Read(*buf)
		if in.Size += int64(n); in.Size > limit {
			return ErrTooLarge
		}
		h.Write((*buf)[:n])
		if _, err := f.Write((*buf)[:n]); err != nil {
			return err
		}
		if readErr == io.EOF {
			break
		}
		if readErr != nil {
			return &ReadError{readErr}
		}
	}
	h.Sum(in.Hash[:0])
	d.step("written")
	if err := f.Sync(); err != nil {
		return fmt.Errorf("flush content: %w", err)
	}
	d.step("flushed")
	return nil
}

// Discard removes received content that shall not be kept.
func (d *Disk) Discard(in *Incoming) { _ = os.Remove(in.temp) } // RemoveTemps gets what stays

// Keep gives received content its name, durably, and then calls row, which commits what names it. The collector
// is kept away until row returns. When row fails the file stays, named by nobody, until the collector finds it.
func (d *Disk) Keep(in *Incoming, row func() error) error {
	lock := &d.locks[in.Hash[0]]
	lock.Lock()
	defer lock.Unlock()
	if err := d.place(in); err != nil {
		d.Discard(in)
		return fmt.Errorf("store content: %w", err)
	}
	return row()
}

func (d *Disk) place(in *Incoming) error {
	there, err := d.exists(in.Hash, in.Size)
	if err != nil {
		return err
	}
	if there {
		d.Discard(in)
		// A collector in another process does not see the lock; to it the file is young again.
		now := time.Now()
		err = os.Chtimes(d.path(in.Hash), now, now)
	} else {
		err = d.rename(in)
	}
	if err != nil {
		return err
	}
	d.step("renamed")
	// Also for a file that was there: who put it may not have come as far as this.
	if err := syncDir(d.shard(in.Hash[0])); err != nil {
		return err
	}
	d.step("named")
	return nil
}

func (d *Disk) rename(in *Incoming) error {
	err := os.Rename(in.temp, d.path(in.Hash))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Mkdir(d.shard(in.Hash[0]), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := syncDir(d.root); err != nil {
		return err
	}
	return os.Rename(in.temp, d.path(in.Hash))
}
