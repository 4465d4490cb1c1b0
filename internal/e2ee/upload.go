package e2ee

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// Bounds of one-time keys.
const (
	maxUploadKeys = 2000 // in one request
	maxStoredKeys = 5000 // of one device
	maxAlgorithms = 8    // in one request
)

// Upload is what a device publishes of itself. The names of one-time and fallback keys are "algorithm:id".
type Upload struct {
	DeviceKeys json.RawMessage // nil: as they are
	OneTime    map[string]json.RawMessage
	Fallback   map[string]json.RawMessage
}

// UploadKeys stores keys of a local device and returns how many one-time keys it has, by algorithm. A key that is
// uploaded again is no error when it is the same. Errors: M_BAD_JSON, M_INVALID_PARAM, M_UNKNOWN_TOKEN (the device is
// gone).
func (s *Service) UploadKeys(ctx context.Context, userID, deviceID string, up Upload) (map[string]int, error) {
	u, err := s.newUpload(userID, deviceID, up)
	if err != nil {
		return nil, err
	}
	if u.empty() {
		counts, _, err := s.KeyCounts(ctx, userID, deviceID)
		return counts, err
	}
	err = s.do(ctx, "e2ee.upload", max(1, len(u.oneTime)), func(tx *sqldb.Tx, pos int64, done *after) error {
		gone := matrixerr.UnknownToken("This device has been deleted; log in again", false)
		names, err := s.o.Accounts.DeviceNames(tx, []string{userID})
		if _, ok := names[userID][deviceID]; err == nil && !ok {
			err = gone
		}
		if err != nil {
			return err
		}
		return u.write(tx, pos, done)
	})
	if err != nil {
		return nil, err
	}
	counts, _, err := s.KeyCounts(ctx, userID, deviceID)
	return counts, err
}

// uploading is an upload on its way into the database.
type uploading struct {
	s                *Service
	userID, deviceID string
	keys             *signed
	oneTime          map[string][]oneTimeKey // by algorithm
	fallback         map[string]oneTimeKey   // by algorithm
}

func (s *Service) newUpload(userID, deviceID string, up Upload) (*uploading, error) {
	u := &uploading{s: s, userID: userID, deviceID: deviceID, oneTime: map[string][]oneTimeKey{}, fallback: map[string]oneTimeKey{}}
	if isGiven(up.DeviceKeys) {
		o, err := parseDeviceKeys(up.DeviceKeys, userID, deviceID)
		if err != nil {
			return nil, err
		}
		u.keys = &o
	}
	if len(up.OneTime) > maxUploadKeys {
		return nil, matrixerr.InvalidParam("At most 2000 one-time keys can be uploaded at once")
	}
	for _, name := range keysOf(up.OneTime) {
		algorithm, k, err := parseKey(name, up.OneTime[name])
		if err != nil {
			return nil, err
		}
		u.oneTime[algorithm] = append(u.oneTime[algorithm], k.pack(userID, deviceID))
	}
	for _, name := range keysOf(up.Fallback) {
		algorithm, k, err := parseKey(name, up.Fallback[name])
		if err != nil {
			return nil, err
		}
		if _, twice := u.fallback[algorithm]; twice {
			return nil, matrixerr.InvalidParam("There can be one fallback key for each algorithm")
		}
		u.fallback[algorithm] = k
	}
	if len(u.oneTime) > maxAlgorithms || len(u.fallback) > maxAlgorithms {
		return nil, matrixerr.InvalidParam("At most 8 algorithms can be used for one-time keys")
	}
	return u, nil
}

// isGiven reports whether an optional member of a request is there.
func isGiven(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// parseKey reads a one-time or fallback key: a string, or an object with a key and signatures.
func parseKey(name string, raw json.RawMessage) (algorithm string, k oneTimeKey, err error) {
	algorithm, id, ok := strings.Cut(name, ":")
	if !ok || algorithm == "" || id == "" || len(name) > maxID || strings.ContainsRune(name, 0) {
		return "", k, matrixerr.InvalidParam(`The name of a key must be an algorithm, a colon and an id, such as "signed_curve25519:AAAAAQ"`)
	}
	var text *string
	if json.Unmarshal(raw, &text) == nil && text != nil {
		if len(*text) > maxID {
			return "", k, matrixerr.BadJSON("Key " + name + " is too long")
		}
		return algorithm, oneTimeKey{id: id, key: encode(*text)}, nil
	}
	o, err := parseSigned(raw, "Key "+name)
	if err != nil {
		return "", k, err
	}
	if _, ok := o.text("key"); !ok {
		return "", k, matrixerr.BadJSON("Key " + name + ` needs its "key"`)
	}
	return algorithm, oneTimeKey{id: id, key: o.encode()}, nil
}

func (u *uploading) empty() bool { return u.keys == nil && len(u.oneTime) == 0 && len(u.fallback) == 0 }

func (u *uploading) write(tx *sqldb.Tx, pos int64, done *after) error {
	fresh, spent, err := u.newKeys(tx)
	if err != nil {
		return err
	}
	if err := u.writeDeviceKeys(tx, pos, done); err != nil {
		return err
	}
	if err := u.s.deleteBatches(tx, spent); err != nil {
		return err
	}
	if err := u.writeOneTime(tx, pos, fresh); err != nil {
		return err
	}
	if err := u.writeFallback(tx); err != nil {
		return err
	}
	done.add(func() { u.s.counts.drop(u.userID, u.deviceID) })
	return nil
}

// writeDeviceKeys stores identity keys that differ from the stored ones, in a signature at least.
func (u *uploading) writeDeviceKeys(tx *sqldb.Tx, pos int64, done *after) error {
	if u.keys == nil {
		return nil
	}
	o := *u.keys
	was, err := readDeviceKeys(tx, u.userID, u.deviceID)
	if err != nil {
		return err
	}
	if was != nil && o.same(*was) {
		o = *was
		changed := false
		for user, byKey := range u.keys.signatures {
			for id, signature := range byKey {
				changed = o.sign(user, id, signature) || changed
			}
		}
		if !changed {
			return nil
		}
	}
	o.only(u.userID)
	if err := tx.Insert(deviceKeysPut, []any{u.userID, u.deviceID, o.encode(), nil}); err != nil {
		return err
	}
	return u.s.localChange(tx, pos, u.userID, []string{u.deviceID}, done)
}

// readDeviceKeys reads the identity keys of a device; nil when it has none.
func readDeviceKeys(tx *sqldb.Tx, userID, deviceID string) (*signed, error) {
	var raw []byte
	err := tx.QueryRow(deviceKeysRow, userID, deviceID).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	o, err := parseSigned(raw, "The stored key")
	return &o, err
}

// batch is an upload of one-time keys of one algorithm.
type batch struct {
	nid              int64
	userID, deviceID string
	algorithm        string
	total, used      int64
}

// newKeys leaves out keys that are stored already, or were: uploads that are given out completely are kept until the
// next one, so that a request that is repeated brings no key back. spent are those that can go now.
func (u *uploading) newKeys(tx *sqldb.Tx) (fresh map[string][]oneTimeKey, spent []int64, err error) {
	if len(u.oneTime) == 0 {
		return nil, nil, nil
	}
	stored, err := sqldb.Collect(tx, batchesOf, func(r *sqldb.Rows) (b batch, err error) {
		var algorithm []byte
		err = r.Scan(&b.nid, &algorithm, &b.total, &b.used)
		b.algorithm = string(algorithm)
		return b, err
	}, u.userID, u.deviceID)
	if err != nil {
		return nil, nil, err
	}
	known, left, err := u.storedKeys(tx, stored)
	if err != nil {
		return nil, nil, err
	}
	fresh = map[string][]oneTimeKey{}
	for algorithm, keys := range u.oneTime {
		for _, k := range keys {
			was, ok := known[algorithm+":"+k.id]
			switch {
			case !ok:
				fresh[algorithm] = append(fresh[algorithm], k)
				left++
			case !sameJSON(was, k.key):
				return nil, nil, matrixerr.InvalidParam(fmt.Sprintf(
					"One time key %s:%s already exists. Old key: %s; new key: %s", algorithm, k.id, was, k.key))
			}
		}
	}
	if left > maxStoredKeys {
		return nil, nil, matrixerr.InvalidParam("A device can have at most 5000 one-time keys")
	}
	for _, b := range stored {
		if b.used >= b.total && len(fresh) > 0 {
			spent = append(spent, b.nid)
		}
	}
	return fresh, spent, nil
}

// storedKeys reads those keys of the upload that are in stored uploads, and how many keys are left there.
func (u *uploading) storedKeys(tx *sqldb.Tx, stored []batch) (known map[string]json.RawMessage, left int64, err error) {
	nids := make([]int64, len(stored))
	for i, b := range stored {
		nids[i] = b.nid
		left += b.total - b.used
	}
	data, err := u.s.batchData(tx, nids, nil)
	if err != nil {
		return nil, 0, err
	}
	asked := map[string]bool{}
	for algorithm, keys := range u.oneTime {
		for _, k := range keys {
			asked[algorithm+":"+k.id] = true
		}
	}
	known = map[string]json.RawMessage{}
	for _, b := range stored {
		err := eachKey(data[b.nid], func(id []byte, form byte, value []byte) bool {
			if name := b.algorithm + ":" + string(id); asked[name] {
				known[name] = decodeKey(form, value, u.userID, u.deviceID)
			}
			return true
		})
		if err != nil {
			return nil, 0, err
		}
	}
	return known, left, nil
}

// writeOneTime stores one row for each algorithm, under a position of its own.
func (u *uploading) writeOneTime(tx *sqldb.Tx, pos int64, fresh map[string][]oneTimeKey) error {
	for _, algorithm := range keysOf(fresh) {
		keys := fresh[algorithm]
		err := tx.Insert(batchInsert, []any{pos, u.userID, u.deviceID, algorithm, len(keys), 0})
		if err == nil {
			err = tx.Insert(batchKeysInsert, []any{pos, packKeys(keys)})
		}
		if err != nil {
			return err
		}
		pos++
	}
	return nil
}

func (s *Service) deleteBatches(tx *sqldb.Tx, nids []int64) error {
	if len(nids) == 0 {
		return nil
	}
	if _, err := tx.Exec(batchesDelete, nids); err != nil {
		return err
	}
	_, err := tx.Exec(batchKeysDelete, nids)
	return err
}

// writeFallback replaces fallback keys. The same key again stays used if it was.
func (u *uploading) writeFallback(tx *sqldb.Tx) error {
	if len(u.fallback) == 0 {
		return nil
	}
	stored, err := sqldb.Collect(tx, fallbackOf, func(r *sqldb.Rows) (f fallback, err error) {
		return f, r.Scan(&f.algorithm, &f.id, &f.key, &f.used)
	}, u.userID, u.deviceID)
	if err != nil {
		return err
	}
	was := map[string]fallback{}
	for _, f := range stored {
		was[string(f.algorithm)] = f
	}
	for _, algorithm := range keysOf(u.fallback) {
		k := u.fallback[algorithm]
		if f, ok := was[algorithm]; ok && string(f.id) == k.id && sameJSON(f.key, k.key) {
			continue
		}
		if _, err := tx.Exec(fallbackPut, u.userID, u.deviceID, algorithm, k.id, k.key, 0); err != nil {
			return err
		}
	}
	return nil
}

// fallback is a stored fallback key.
type fallback struct {
	user, device, algorithm, id, key []byte
	used                             bool
}
