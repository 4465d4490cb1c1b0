package files

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"time"
)

// References is what a collector asks of those who name files.
type References interface {
	// InUse returns those of the hashes that a row names.
	InUse(ctx context.Context, hashes []Hash) ([]Hash, error)
	// Forget removes what is known about content that is about to go.
	Forget(ctx context.Context, h Hash) error
}

// sweepBatch is how many hashes are asked about at once.
const sweepBatch = 500

// Sweep removes the files of one shard (0 ≤ shard < Shards) that no row names and that are older than age. It
// looks for rows twice, the second time under the lock that uploads of the same content hold.
func (d *Disk) Sweep(ctx context.Context, shard int, age time.Duration, refs References) (removed int, freed int64, err error) {
	old, err := d.older(byte(shard), age)
	for len(old) > 0 && err == nil {
		batch := old[:min(sweepBatch, len(old))]
		old = old[len(batch):]
		used, err := inUse(ctx, refs, batch)
		if err != nil {
			return removed, freed, err
		}
		for _, h := range batch {
			if used[h] {
				continue
			}
			size, err := d.remove(ctx, h, age, refs)
			if err != nil {
				return removed, freed, err
			}
			if size >= 0 {
				removed, freed = removed+1, freed+size
			}
		}
	}
	return removed, freed, err
}

func inUse(ctx context.Context, refs References, hashes []Hash) (map[Hash]bool, error) {
	list, err := refs.InUse(ctx, hashes)
	used := make(map[Hash]bool, len(list))
	for _, h := range list {
		used[h] = true
	}
	return used, err
}

// older lists the files of a shard that were last named longer than age ago.
func (d *Disk) older(shard byte, age time.Duration) ([]Hash, error) {
	entries, err := os.ReadDir(d.shard(shard))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []Hash
	for _, e := range entries {
		raw, decodeErr := hex.DecodeString(e.Name())
		if decodeErr != nil || len(raw) != len(Hash{}) {
			continue // not one of ours
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > age {
			list = append(list, Hash(raw))
		}
	}
	return list, err
}

// remove removes one file unless it came into use or was named again; size is below zero then.
func (d *Disk) remove(ctx context.Context, h Hash, age time.Duration, refs References) (size int64, err error) {
	lock := &d.locks[h[0]]
	lock.Lock()
	defer lock.Unlock()
	info, err := os.Stat(d.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	if err != nil || time.Since(info.ModTime()) <= age {
		return -1, err
	}
	used, err := inUse(ctx, refs, []Hash{h})
	if err != nil || used[h] {
		return -1, err
	}
	if err := refs.Forget(ctx, h); err != nil {
		return -1, err
	}
	return info.Size(), os.Remove(d.path(h))
}
