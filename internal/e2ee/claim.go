package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// maxClaims bounds the devices in one request.
const maxClaims = 5000

// Claims names the keys that somebody wants: user id → device id → algorithm.
type Claims map[string]map[string]string

// Claimed are keys: user id → device id → "algorithm:id" → key.
type Claimed map[string]map[string]map[string]json.RawMessage

func (c Claimed) add(user, device, name string, key json.RawMessage) {
	if c[user] == nil {
		c[user] = map[string]map[string]json.RawMessage{}
	}
	if c[user][device] == nil {
		c[user][device] = map[string]json.RawMessage{}
	}
	c[user][device][name] = key
}

// Failures are the servers that could not be reached; each has an empty object, or one that says why.
type Failures map[string]any

// Claim gives out one-time keys, oldest upload first and each only once, or fallback keys where none are left. Other
// servers are asked at the same time, for no longer than timeout (0 is ten seconds). Devices without keys are left out.
// Errors: M_INVALID_PARAM.
func (s *Service) Claim(ctx context.Context, want Claims, timeout time.Duration) (Claimed, Failures, error) {
	n := 0
	for _, devices := range want {
		n += len(devices)
	}
	if n > maxClaims {
		return nil, nil, matrixerr.InvalidParam("At most 5000 keys can be claimed at once")
	}
	found, err := s.claimLocal(ctx, localOnly(s, want))
	if err != nil {
		return nil, nil, err
	}
	failures := askEach(s, ctx, timeout, byServer(want), func(ctx context.Context, server string, want map[string]map[string]string) (func(), error) {
		raw, err := s.o.Remote.ClaimKeys(ctx, server, want)
		if err != nil {
			return nil, err
		}
		var answer struct {
			Keys Claimed `json:"one_time_keys"`
		}
		if err := json.Unmarshal(raw, &answer); err != nil {
			return nil, err
		}
		return func() { found.merge(want, answer.Keys) }, nil
	})
	return found, failures, nil
}

// merge takes those of another server's keys that it was asked for.
func (c Claimed) merge(want Claims, got Claimed) {
	for user, devices := range want {
		for device, algorithm := range devices {
			for name, key := range got[user][device] {
				if a, _, err := parseKey(name, key); err == nil && a == algorithm {
					c.add(user, device, name, key)
					break
				}
			}
		}
	}
}

// ClaimLocal answers another server's POST /user/keys/claim (Server-Server API, "End-to-End Encryption").
func (s *Service) ClaimLocal(ctx context.Context, want Claims) (Claimed, error) {
	return s.claimLocal(ctx, localOnly(s, want))
}

// claim is one key that is wanted.
type claim struct{ user, device, algorithm string }

func (s *Service) claimLocal(ctx context.Context, want Claims) (Claimed, error) {
	wanted := map[claim]bool{}
	for user, devices := range want {
		for device, algorithm := range devices {
			wanted[claim{user, device, algorithm}] = true
		}
	}
	if len(wanted) == 0 {
		return Claimed{}, nil
	}
	users := keysOf(want)
	var found Claimed
	err := s.do(ctx, "e2ee.claim", 0, func(tx *sqldb.Tx, _ int64, done *after) error {
		found = Claimed{}
		if err := s.takeOneTime(tx, users, wanted, found, done); err != nil {
			return err
		}
		return s.takeFallback(tx, users, wanted, found, done)
	})
	return found, err
}

// takeOneTime takes one key from the oldest upload of each device that has some left.
func (s *Service) takeOneTime(tx *sqldb.Tx, users []string, wanted map[claim]bool, found Claimed, done *after) error {
	var nids []int64
	_, err := sqldb.Collect(tx, batchesOpen, func(r *sqldb.Rows) (_ struct{}, err error) {
		var user, device, algorithm []byte
		var nid int64
		if err = r.Scan(&user, &device, &algorithm, &nid); err == nil && wanted[claim{string(user), string(device), string(algorithm)}] {
			nids = append(nids, nid)
		}
		return struct{}{}, err
	}, users)
	if err != nil || len(nids) == 0 {
		return err
	}
	taken, err := sqldb.Collect(tx, batchesTake, func(r *sqldb.Rows) (b batch, err error) {
		var user, device, algorithm []byte
		err = r.Scan(&b.nid, &user, &device, &algorithm, &b.used)
		b.userID, b.deviceID, b.algorithm = string(user), string(device), string(algorithm)
		return b, err
	}, nids, 1)
	if err != nil {
		return err
	}
	data, err := s.batchData(tx, nids, done)
	if err != nil {
		return err
	}
	for _, b := range taken {
		k, err := keyAt(data[b.nid], b.used-1, b.userID, b.deviceID)
		if err != nil {
			return err
		}
		found.add(b.userID, b.deviceID, b.algorithm+":"+k.id, k.key)
		done.add(func() { s.counts.drop(b.userID, b.deviceID) })
	}
	return nil
}

// batchData reads the keys of uploads, from memory where they are there. They are kept in memory once the transaction
// is committed: before that, a position may still become another upload's. done is nil for those who only look.
func (s *Service) batchData(tx *sqldb.Tx, nids []int64, done *after) (map[int64][]byte, error) {
	out := make(map[int64][]byte, len(nids))
	var missing []int64
	for _, nid := range nids {
		if data, ok := s.batches.Get(nid); ok {
			out[nid] = data
		} else {
			missing = append(missing, nid)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	_, err := sqldb.Collect(tx, batchKeysOf, func(r *sqldb.Rows) (_ struct{}, err error) {
		var nid int64
		var data []byte
		if err = r.Scan(&nid, &data); err != nil {
			return
		}
		out[nid] = data
		if done != nil {
			done.add(func() { s.batches.Put(nid, data) })
		}
		return
	}, missing)
	return out, err
}

// takeFallback gives fallback keys to the claims that no one-time key was left for.
func (s *Service) takeFallback(tx *sqldb.Tx, users []string, wanted map[claim]bool, found Claimed, done *after) error {
	left := 0
	for c := range wanted {
		if found[c.user][c.device] == nil {
			left++
		}
	}
	if left == 0 {
		return nil
	}
	stored, err := sqldb.Collect(tx, fallbackOfUsers, func(r *sqldb.Rows) (f fallback, err error) {
		return f, r.Scan(&f.user, &f.device, &f.algorithm, &f.id, &f.key, &f.used)
	}, users)
	if err != nil {
		return err
	}
	for _, f := range stored {
		user, device, algorithm := string(f.user), string(f.device), string(f.algorithm)
		if !wanted[claim{user, device, algorithm}] || found[user][device] != nil {
			continue
		}
		found.add(user, device, algorithm+":"+string(f.id), f.key)
		if f.used {
			continue
		}
		if _, err := tx.Exec(fallbackUse, user, device, algorithm, 1); err != nil {
			return err
		}
		done.add(func() { s.counts.drop(user, device) })
	}
	return nil
}

// askEach asks other servers at the same time. What ask returns is run one after the other; servers that did not answer
// in time are the failures.
func askEach[W any](s *Service, ctx context.Context, timeout time.Duration, want map[string]W,
	ask func(context.Context, string, W) (func(), error)) Failures {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout(timeout))
	defer cancel()
	failures := Failures{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for server, w := range want {
		if server == s.o.ServerName {
			continue
		}
		if s.o.Remote == nil {
			failures[server] = struct{}{}
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			take, err := ask(ctx, server, w)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures[server] = failure(err)
				return
			}
			take()
		})
	}
	wg.Wait()
	return failures
}

// failure is what a client is told of a server that did not answer well.
func failure(err error) any {
	var known *matrixerr.Error
	if errors.As(err, &known) && known.HTTP != http.StatusInternalServerError {
		return map[string]string{"errcode": known.Code, "error": known.Msg}
	}
	return struct{}{}
}
