package e2ee

import (
	"context"
	"encoding/json"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// maxTargets bounds the objects in one upload of signatures.
const maxTargets = 1000

// Objects are signed objects: user id → key id → object. The id is a device's, or the key itself for master keys.
type Objects map[string]map[string]json.RawMessage

// SignatureFailures are the objects whose signatures were not taken: user id → key id → why.
type SignatureFailures map[string]map[string]*matrixerr.Error

func (f SignatureFailures) add(user, id string, err *matrixerr.Error) {
	if f[user] == nil {
		f[user] = map[string]*matrixerr.Error{}
	}
	f[user][id] = err
}

// UploadSignatures stores signatures of a local user: by their self-signing key on their own devices, by their devices
// on their own master key, by their user-signing key on others' master keys (Client-Server API, "Cross-signing").
func (s *Service) UploadSignatures(ctx context.Context, userID string, objects Objects) (SignatureFailures, error) {
	n := 0
	for _, byID := range objects {
		n += len(byID)
	}
	if n > maxTargets {
		return nil, matrixerr.InvalidParam("At most 1000 objects can be signed at once")
	}
	others, err := s.othersMasters(ctx, userID, objects)
	if err != nil {
		return nil, err
	}
	var u *signing
	err = s.do(ctx, "e2ee.signatures", 1, func(tx *sqldb.Tx, pos int64, done *after) error {
		u = &signing{s: s, userID: userID, others: others, failures: SignatureFailures{}}
		return u.write(tx, pos, objects, done)
	})
	if err != nil {
		return nil, err
	}
	return u.failures, nil
}

// othersMasters fetches the master keys of other users that are to be signed.
func (s *Service) othersMasters(ctx context.Context, userID string, objects Objects) (map[string]crossKey, error) {
	want := map[string][]string{}
	for user := range objects {
		if user != userID {
			want[user] = []string{}
		}
	}
	if len(want) == 0 {
		return nil, nil
	}
	a, err := s.Query(ctx, userID, want, 0)
	if err != nil {
		return nil, err
	}
	out := map[string]crossKey{}
	for user := range want {
		if k, err := parseCrossKey(a.Master[user], user, master); err == nil {
			out[user] = k
		}
	}
	return out, nil
}

// signing is an upload of signatures on its way into the database.
type signing struct {
	s        *Service
	userID   string
	others   map[string]crossKey
	cross    map[usage]crossKey
	failures SignatureFailures
	changed  []string // own devices, and crossSigning
	signed   []string // other users
}

func (u *signing) write(tx *sqldb.Tx, pos int64, objects Objects, done *after) (err error) {
	if u.cross, err = storedCross(tx, u.userID); err != nil {
		return err
	}
	for _, user := range keysOf(objects) {
		for _, id := range keysOf(objects[user]) {
			refused, err := u.one(tx, pos, user, id, objects[user][id])
			if err != nil {
				return err
			}
			if refused != nil {
				u.failures.add(user, id, refused)
			}
		}
	}
	if len(u.signed) > 0 {
		done.add(func() {
			for _, user := range u.signed {
				u.s.recent.add(change{pos: pos, user: user, only: u.userID})
			}
			u.s.o.Hub.TouchUser(u.userID, pos)
		})
	}
	if len(u.changed) == 0 {
		return nil
	}
	return u.s.localChange(tx, pos, u.userID, u.changed, done)
}

func (u *signing) one(tx *sqldb.Tx, pos int64, user, id string, raw json.RawMessage) (refused *matrixerr.Error, err error) {
	o, bad := parseSigned(raw, "The object")
	switch {
	case bad != nil:
		return matrixerr.From(bad), nil
	case user != u.userID:
		return u.other(tx, pos, user, id, o)
	case u.cross[master].public == id:
		return u.ownMaster(tx, o)
	}
	return u.ownDevice(tx, id, o)
}

func errNoKey() *matrixerr.Error {
	return matrixerr.NotFound("There is no such key; upload it before its signatures")
}

func errOtherObject() *matrixerr.Error {
	return errInvalidSignature("The object is not the one that was uploaded under this id")
}

// ownDevice takes the self-signing key's signature on a device.
func (u *signing) ownDevice(tx *sqldb.Tx, id string, o signed) (*matrixerr.Error, error) {
	was, err := readDeviceKeys(tx, u.userID, id)
	if err != nil {
		return nil, err
	}
	key, ok := u.cross[selfSigning]
	switch {
	case was == nil || !ok:
		return errNoKey(), nil
	case !was.same(o):
		return errOtherObject(), nil
	case !u.s.signedBy(o, u.userID, key.public):
		return errInvalidSignature("The device must be signed by your self-signing key"), nil
	}
	keyID := ed25519ID(key.public)
	if !was.sign(u.userID, keyID, o.signatures[u.userID][keyID]) {
		return nil, nil
	}
	u.changed = append(u.changed, id)
	return nil, tx.Insert(deviceKeysPut, []any{u.userID, id, was.encode(), nil})
}

// ownMaster takes signatures of the user's devices on the master key.
func (u *signing) ownMaster(tx *sqldb.Tx, o signed) (*matrixerr.Error, error) {
	key := u.cross[master]
	if !key.same(o) {
		return errOtherObject(), nil
	}
	valid, fresh := false, false
	for keyID, signature := range o.signatures[u.userID] {
		public, err := u.deviceKey(tx, keyID)
		if err != nil {
			return nil, err
		}
		if public == "" || !u.s.verified(o, u.userID, keyID, public) {
			continue
		}
		valid = true
		fresh = key.sign(u.userID, keyID, signature) || fresh
	}
	switch {
	case !valid:
		return errInvalidSignature("The master key must be signed by one of your devices"), nil
	case !fresh:
		return nil, nil
	}
	u.cross[master] = key
	u.changed = append(u.changed, crossSigning)
	_, err := tx.Exec(crossKeyPut, u.userID, int64(master), key.public, key.encode())
	return nil, err
}

// deviceKey finds the ed25519 key "ed25519:device" of one of the user's devices; "" when there is none.
func (u *signing) deviceKey(tx *sqldb.Tx, keyID string) (string, error) {
	const prefix = "ed25519:"
	if len(keyID) <= len(prefix) || keyID[:len(prefix)] != prefix {
		return "", nil
	}
	o, err := readDeviceKeys(tx, u.userID, keyID[len(prefix):])
	if err != nil || o == nil {
		return "", err
	}
	keys, _ := o.publics()
	return keys[keyID], nil
}

// other takes the user-signing key's signature on somebody else's master key.
func (u *signing) other(tx *sqldb.Tx, pos int64, user, id string, o signed) (*matrixerr.Error, error) {
	target, known := u.others[user]
	key, ok := u.cross[userSigning]
	switch {
	case !known || !ok || target.public != id:
		return errNoKey(), nil
	case !target.same(o):
		return errOtherObject(), nil
	case !u.s.signedBy(o, u.userID, key.public):
		return errInvalidSignature("Another user's master key must be signed by your user-signing key"), nil
	}
	keyID := ed25519ID(key.public)
	u.signed = append(u.signed, user)
	_, err := tx.Exec(signaturePut, u.userID, user, id, keyID, o.signatures[u.userID][keyID], pos)
	return nil, err
}
