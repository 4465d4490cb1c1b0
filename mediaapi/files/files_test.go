package files

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

func open(t testing.TB) *Disk {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "media"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func put(t testing.TB, d *Disk, content string) Hash {
	t.Helper()
	in, err := d.Receive(bytes.NewReader([]byte(content)), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Keep(in, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	return in.Hash
}

func read(t testing.TB, d *Disk, h Hash) string {
	t.Helper()
	f, err := d.Open(h)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func count(t testing.TB, d *Disk) (temps, files int) {
	t.Helper()
	err := filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil || e.IsDir():
		case filepath.Dir(path) == d.temps():
			temps++
		default:
			files++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return temps, files
}

func TestKeep(t *testing.T) {
	d := open(t)
	h := put(t, d, "hello")
	if h != sha256.Sum256([]byte("hello")) {
		t.Errorf("hash %s", h)
	}
	if again := put(t, d, "hello"); again != h {
		t.Errorf("same content, other hash: %s", again)
	}
	if got := read(t, d, h); got != "hello" {
		t.Errorf("read %q", got)
	}
	put(t, d, "")
	if temps, files := count(t, d); temps != 0 || files != 2 {
		t.Errorf("%d temporary files and %d files, want 0 and 2", temps, files)
	}
	if _, err := d.Open(Hash{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown content: %v", err)
	}
}

func TestReceiveRefuses(t *testing.T) {
	d := open(t)
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		r    io.Reader
		want error
	}{
		"too large":     {bytes.NewReader(make([]byte, 101)), ErrTooLarge},
		"one at a time": {iotest.OneByteReader(bytes.NewReader(make([]byte, 101))), ErrTooLarge},
		"endless":       {endless{}, ErrTooLarge},
		"breaks off":    {io.MultiReader(bytes.NewReader(make([]byte, 50)), iotest.ErrReader(broken)), broken},
	} {
		_, err := d.Receive(c.r, 100)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		var read *ReadError
		if errors.As(err, &read) != (c.want == broken) {
			t.Errorf("%s: %T", name, err)
		}
	}
	if _, err := d.Receive(bytes.NewReader(make([]byte, 100)), 100); err != nil {
		t.Errorf("exactly the limit: %v", err)
	}
	if temps, _ := count(t, d); temps != 1 {
		t.Errorf("%d temporary files, want the one not kept", temps)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// A file that a crash left short under its name is replaced, not trusted.
func TestKeepReplacesDamaged(t *testing.T) {
	d := open(t)
	h := put(t, d, "content")
	if err := os.Truncate(d.path(h), 3); err != nil {
		t.Fatal(err)
	}
	put(t, d, "content")
	if got := read(t, d, h); got != "content" {
		t.Errorf("read %q", got)
	}
}

// refs names some hashes; onAsk runs at each question.
type refs struct {
	mu     sync.Mutex
	used   map[Hash]bool
	forgot []Hash
	onAsk  func()
}

func (r *refs) use(h Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used[h] = true
}

func (r *refs) InUse(_ context.Context, hashes []Hash) (used []Hash, err error) {
	if r.onAsk != nil {
		r.onAsk()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range hashes {
		if r.used[h] {
			used = append(used, h)
		}
	}
	return used, nil
}

func (r *refs) Forget(_ context.Context, h Hash) error {
	r.forgot = append(r.forgot, h)
	return nil
}

func age(t testing.TB, d *Disk, h Hash, by time.Duration) {
	t.Helper()
	at := time.Now().Add(-by)
	if err := os.Chtimes(d.path(h), at, at); err != nil {
		t.Fatal(err)
	}
}

func sweep(t testing.TB, d *Disk, r *refs) (removed int, freed int64) {
	t.Helper()
	for shard := range Shards {
		n, size, err := d.Sweep(t.Context(), shard, 24*time.Hour, r)
		if err != nil {
			t.Fatal(err)
		}
		removed, freed = removed+n, freed+size
	}
	return removed, freed
}

func TestSweep(t *testing.T) {
	d := open(t)
	used, young, old := put(t, d, "used"), put(t, d, "young"), put(t, d, "old")
	age(t, d, used, 48*time.Hour)
	age(t, d, young, 23*time.Hour)
	age(t, d, old, 25*time.Hour)
	r := &refs{used: map[Hash]bool{used: true}}
	if n, size := sweep(t, d, r); n != 1 || size != 3 {
		t.Errorf("removed %d files of %d bytes, want the old one", n, size)
	}
	if len(r.forgot) != 1 || r.forgot[0] != old {
		t.Errorf("forgot %v", r.forgot)
	}
	read(t, d, used)
	read(t, d, young)
	if _, err := d.Open(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old file is still there: %v", err)
	}
}

// Content that comes into use between the two questions, or is uploaded again, stays.
func TestSweepLooksAgain(t *testing.T) {
	t.Run("row", func(t *testing.T) {
		d := open(t)
		h := put(t, d, "content")
		age(t, d, h, 48*time.Hour)
		r := &refs{used: map[Hash]bool{}}
		asked := 0
		r.onAsk = func() {
			if asked++; asked == 2 {
				r.use(h)
			}
		}
		if n, _ := sweep(t, d, r); n != 0 || asked != 2 {
			t.Errorf("removed %d after %d questions", n, asked)
		}
	})
	t.Run("upload", func(t *testing.T) {
		d := open(t)
		h := put(t, d, "content")
		age(t, d, h, 48*time.Hour)
		once := sync.Once{}
		r := &refs{onAsk: func() { once.Do(func() { put(t, d, "content") }) }}
		if n, _ := sweep(t, d, r); n != 0 {
			t.Error("a file that was just uploaded again is gone")
		}
	})
}

// While a row is being committed its file cannot be collected, however old it is.
func TestSweepWaitsForRow(t *testing.T) {
	d := open(t)
	h := put(t, d, "content")
	r := &refs{used: map[Hash]bool{}}
	in, err := d.Receive(bytes.NewReader([]byte("content")), 100)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	err = d.Keep(in, func() error {
		age(t, d, h, 48*time.Hour)
		go func() {
			defer close(done)
			if n, _ := sweep(t, d, r); n != 0 {
				t.Error("collected under the lock")
			}
		}()
		r.use(h)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	<-done
	read(t, d, h)
}

func TestRemoveTemps(t *testing.T) {
	d := open(t)
	for _, name := range []string{"in-before", "in-idle", "in-now"} {
		if err := os.WriteFile(filepath.Join(d.temps(), name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(d.temps(), "in-before"), old, old); err != nil {
		t.Fatal(err)
	}
	if n, err := d.RemoveTemps(time.Hour); err != nil || n != 1 {
		t.Errorf("removed %d, %v; want the one of an earlier process", n, err)
	}
	if n, err := d.RemoveTemps(0); err != nil || n != 2 {
		t.Errorf("removed %d, %v; want those that are idle", n, err)
	}
}

// TestCrash kills a process between any two steps of an upload. Whatever it left, a row has its whole file.
func TestCrash(t *testing.T) {
	steps := []string{"created", "written", "flushed", "renamed", "named", "row"}
	if at := os.Getenv("KNOCK_TEST_KILL_AT"); at != "" {
		crashAt(t, at, os.Getenv("KNOCK_TEST_KILL_DIR"))
		return
	}
	for _, at := range steps {
		t.Run(at, func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.Command(os.Args[0], "-test.run=^TestCrash$")
			cmd.Env = append(os.Environ(), "KNOCK_TEST_KILL_AT="+at, "KNOCK_TEST_KILL_DIR="+dir)
			if err := cmd.Run(); err == nil {
				t.Fatal("the process was not killed")
			}
			d, err := Open(filepath.Join(dir, "media"))
			if err != nil {
				t.Fatal(err)
			}
			_, rowErr := os.Stat(filepath.Join(dir, "row"))
			f, fileErr := d.Open(sha256.Sum256([]byte("content")))
			if rowErr == nil && fileErr != nil {
				t.Error("a row without a file")
			}
			if fileErr == nil {
				b, _ := io.ReadAll(f)
				if string(b) != "content" {
					t.Errorf("the file holds %q", b)
				}
				f.Close()
			}
			if _, err := d.RemoveTemps(time.Hour); err != nil {
				t.Error(err)
			}
			if temps, _ := count(t, d); temps != 0 {
				t.Errorf("%d temporary files are left", temps)
			}
			if got := read(t, d, put(t, d, "content")); got != "content" {
				t.Errorf("uploaded again, it reads %q", got)
			}
		})
	}
}

func crashAt(t *testing.T, at, dir string) {
	d, err := Open(filepath.Join(dir, "media"))
	if err != nil {
		t.Fatal(err)
	}
	d.step = func(step string) {
		if step == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	in, err := d.Receive(bytes.NewReader([]byte("content")), 100)
	if err != nil {
		t.Fatal(err)
	}
	_ = d.Keep(in, func() error {
		if err := os.WriteFile(filepath.Join(dir, "row"), nil, 0o600); err != nil {
			return err
		}
		d.step("row")
		return nil
	})
}

func BenchmarkKeep(b *testing.B) {
	d := open(b)
	content := make([]byte, 256<<10)
	b.SetBytes(int64(len(content)))
	for i := 0; b.Loop(); i++ {
		content[0], content[1], content[2] = byte(i), byte(i>>8), byte(i>>16)
		in, err := d.Receive(bytes.NewReader(content), 1<<20)
		if err != nil {
			b.Fatal(err)
		}
		if err := d.Keep(in, func() error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
