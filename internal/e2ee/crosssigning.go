package e2ee

import (
	"context"
	"encoding/json"
	"net/http"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// CrossSigning are cross-signing keys; absent ones are nil.
type CrossSigning struct {
	Master, SelfSigning, UserSigning json.RawMessage
}

func (c CrossSigning) byUsage() map[usage]json.RawMessage {
	return map[usage]json.RawMessage{master: c.Master, selfSigning: c.SelfSigning, userSigning: c.UserSigning}
}

// parseCrossKeys reads the keys that are given.
func parseCrossKeys(userID string, raw map[usage]json.RawMessage) (map[usage]crossKey, error) {
	out := map[usage]crossKey{}
	for use, r := range raw {
		if !isGiven(r) {
			continue
		}
		k, err := parseCrossKey(r, userID, use)
		if err != nil {
			return nil, err
		}
		out[use] = k
	}
	return out, nil
}

func putCrossKeys(tx *sqldb.Tx, userID string, keys map[usage]crossKey) error {
	for use, k := range keys {
		if _, err := tx.Exec(crossKeyPut, userID, int64(use), k.public, k.encode()); err != nil {
			return err
		}
		if use != master {
			continue
		}
		if _, err := tx.Exec(signaturesOnDelete, userID, k.public); err != nil {
			return err
		}
	}
	return nil
}

// storedCross reads the cross-signing keys of a user.
func storedCross(tx *sqldb.Tx, userID string) (map[usage]crossKey, error) {
	raw, err := readCross(tx, []string{userID})
	if err != nil {
		return nil, err
	}
	return parseCrossKeys(userID, raw[userID])
}

func errInvalidSignature(msg string) *matrixerr.Error {
	return matrixerr.New(http.StatusBadRequest, "M_INVALID_SIGNATURE", msg)
}

// NeedsAuth reports whether an upload of cross-signing keys changes or adds to keys that exist: then the user must
// authenticate again (Client-Server API, POST /keys/device_signing/upload). Errors: M_INVALID_PARAM.
func (s *Service) NeedsAuth(ctx context.Context, userID string, c CrossSigning) (bool, error) {
	keys, err := parseCrossKeys(userID, c.byUsage())
	if err != nil {
		return false, err
	}
	var was map[usage]crossKey
	err = s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		was, err = storedCross(tx, userID)
		return err
	})
	return replaces(was, keys), err
}

// replaces reports whether there is a master key and the upload has anything that is not stored as it is.
func replaces(was, keys map[usage]crossKey) bool {
	if _, ok := was[master]; !ok {
		return false
	}
	for use, k := range keys {
		if w, ok := was[use]; !ok || !w.same(k.signed) {
			return true
		}
	}
	return false
}

// UploadCrossSigning stores cross-signing keys of a local user. authorised says that the user has authenticated again,
// without which nothing that exists is changed. Errors: M_INVALID_PARAM, M_BAD_JSON, M_INVALID_SIGNATURE,
// M_MISSING_PARAM (no master key), M_FORBIDDEN (a key is a device's id, or keys came into being meanwhile).
func (s *Service) UploadCrossSigning(ctx context.Context, userID string, c CrossSigning, authorised bool) error {
	keys, err := parseCrossKeys(userID, c.byUsage())
	if err != nil || len(keys) == 0 {
		return err
	}
	return s.do(ctx, "e2ee.crossSigning", 1, func(tx *sqldb.Tx, pos int64, done *after) error {
		was, err := storedCross(tx, userID)
		if err != nil {
			return err
		}
		if replaces(was, keys) && !authorised {
			return matrixerr.Forbidden("Cross-signing keys have been uploaded meanwhile; authenticate to replace them")
		}
		if err := s.checkCrossKeys(tx, userID, was, keys); err != nil {
			return err
		}
		return s.writeCrossKeys(tx, pos, userID, was, keys, done)
	})
}

// checkCrossKeys verifies that the master key has signed the others, and that no key is a device's id.
func (s *Service) checkCrossKeys(tx *sqldb.Tx, userID string, was, keys map[usage]crossKey) error {
	root, ok := keys[master]
	if !ok {
		if root, ok = was[master]; !ok {
			return matrixerr.MissingParam("There is no master key; upload one with the other keys")
		}
	}
	for use, k := range keys {
		if use != master && !s.signedBy(k.signed, userID, root.public) {
			return errInvalidSignature("The " + use.String() + " key must be signed by the master key")
		}
	}
	names, err := s.o.Accounts.DeviceNames(tx, []string{userID})
	if err != nil {
		return err
	}
	for _, k := range keys {
		if _, ok := names[userID][k.public]; ok {
			return matrixerr.Forbidden("Key ID in use: one of your devices has this id")
		}
	}
	return nil
}

// signedBy verifies the signature of an ed25519 key on an object.
func (s *Service) signedBy(o signed, userID, public string) bool {
	return s.verified(o, userID, ed25519ID(public), public)
}

func (s *Service) verified(o signed, userID, keyID, public string) bool {
	key, ok := publicKey(public)
	return ok && o.signatures[userID][keyID] != "" && s.o.Verify(o.encode(), userID, keyID, key) == nil
}

// writeCrossKeys stores what changes. With another master key the old other keys, and all that they signed, go.
func (s *Service) writeCrossKeys(tx *sqldb.Tx, pos int64, userID string, was, keys map[usage]crossKey, done *after) error {
	writes := map[usage]crossKey{}
	for use, k := range keys {
		if w, ok := was[use]; !ok || !w.same(k.signed) {
			writes[use] = k
		}
	}
	if len(writes) == 0 {
		return nil
	}
	if _, reset := writes[master]; reset {
		if _, err := tx.Exec(crossKeysDelete, userID); err != nil {
			return err
		}
		for use, k := range keys {
			writes[use] = k
		}
	}
	_, resetMaster := writes[master]
	if _, resetUser := writes[userSigning]; resetUser || resetMaster {
		if _, err := tx.Exec(signaturesByDelete, userID); err != nil {
			return err
		}
	}
	for use, k := range writes {
		k.only(userID)
		writes[use] = k
	}
	if err := putCrossKeys(tx, userID, writes); err != nil {
		return err
	}
	return s.localChange(tx, pos, userID, []string{crossSigning}, done)
}
