package node

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"knock/config"
	"knock/internal/sqldb"
)

// The database remembers whose it is.
const (
	metaServerName = "server_name"
	metaSigningKey = "signing_key" // id and fingerprint of the public key
)

// fingerprint names a key without telling it.
func fingerprint(id string, public []byte) string {
	sum := sha256.Sum256(public)
	return id + " " + hex.EncodeToString(sum[:8])
}

// identity makes sure that the name, the key file and the database belong together, and makes the key when all is
// new. A wrong key would sign events that nobody can verify later; a wrong name would orphan every user.
func identity(ctx context.Context, cfg *config.Config, db *sqldb.DB) (*Keys, error) {
	name, err := db.Meta(ctx, metaServerName)
	if err != nil {
		return nil, err
	}
	if name != nil && string(name) != cfg.ServerName {
		return nil, fmt.Errorf("the database belongs to server_name %q, but the configuration says %q: change the configuration back, or use another database", name, cfg.ServerName)
	}
	known, err := db.Meta(ctx, metaSigningKey)
	if err != nil {
		return nil, err
	}
	keys, err := loadOrMakeKeys(cfg.KeyFile(), known)
	if err != nil {
		return nil, err
	}
	current := fingerprint(keys.ID, keys.Public())
	if known != nil && string(known) != current && !keys.replaced(string(known)) {
		return nil, fmt.Errorf("the signing key in %s is %s, but the database was used with %s: put the right key file back (knock keys rotate replaces a key)", cfg.KeyFile(), keys.ID, strings.Fields(string(known))[0])
	}
	return keys, remember(ctx, db, map[string]string{metaServerName: cfg.ServerName, metaSigningKey: current})
}

func loadOrMakeKeys(path string, known []byte) (*Keys, error) {
	if !missing(path) {
		return LoadKeys(path)
	}
	if known != nil {
		return nil, fmt.Errorf("the signing key file %s is missing, but the database was used with key %s: restore the file from a backup; a new key is never made in its place", path, strings.Fields(string(known))[0])
	}
	keys, err := NewKeys()
	if err != nil {
		return nil, err
	}
	return keys, keys.Save(path)
}

// policySigningKey reads or makes the key of the policy server; nil where this is none.
func policySigningKey(cfg *config.Config) (ed25519.PrivateKey, error) {
	if !cfg.PolicyServer.Enabled || !cfg.Federation.Enabled {
		return nil, nil
	}
	keys, err := loadOrMakeKeys(cfg.PolicyKeyFile(), nil)
	if err != nil {
		return nil, fmt.Errorf("policy_server.key: %w", err)
	}
	return keys.Key, nil
}

// replaced says whether the key with this fingerprint is among the old ones.
func (k *Keys) replaced(known string) bool {
	for _, o := range k.Old {
		if fingerprint(o.ID, o.Public) == known {
			return true
		}
	}
	return false
}

func remember(ctx context.Context, db *sqldb.DB, facts map[string]string) error {
	for key, value := range facts {
		old, err := db.Meta(ctx, key)
		if err == nil && string(old) != value {
			err = db.SetMeta(ctx, key, []byte(value))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
