package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"sync"
	"sync/atomic"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// Identity is who holds an access token.
type Identity struct {
	UserID   string
	DeviceID string
	Session  int64 // number of the device, never used again for another one
	Admin    bool
	Guest    bool
	Standing
	Expired bool // the account has ended until it is renewed
}

// Caller is the identity as a request carries it.
func (id Identity) Caller() httpx.Caller {
	return httpx.Caller{UserID: id.UserID, DeviceID: id.DeviceID, Session: id.Session, Guest: id.Guest, Admin: id.Admin,
		Locked: id.Locked, Suspended: id.Suspended, Expired: id.Expired}
}

// session is an access token in memory. It does not change, but for seen.
type session struct {
	Identity
	expires int64
	ends    int64        // of the account
	seen    atomic.Int64 // when the device was last noted as seen
}

// The prefixes make tokens easy to find where they should not be.
const (
	accessPrefix   = "knk_"
	refreshPrefix  = "knr_"
	openIDPrefix   = "kno_"
	loginPrefix    = "knl_"
	maxTokenLength = 512
)

// newToken makes a token of 256 random bits and the hash under which it is stored.
func newToken(prefix string) (token string, hash [sha256.Size]byte) {
	var secret [32]byte
	_, _ = rand.Read(secret[:])
	token = prefix + base64.RawURLEncoding.EncodeToString(secret[:])
	return token, hashToken(token)
}

func hashToken(token string) [sha256.Size]byte {
	var onStack [64]byte
	return sha256.Sum256(append(onStack[:0], token...))
}

func errUnknownToken() error {
	return matrixerr.UnknownToken("This access token is not known here; log in again", false)
}

func errExpiredToken() error {
	return matrixerr.UnknownToken("This access token has expired; refresh it or log in again", true)
}

// Authenticate finds the holder of an access token and notes the address that used it. Errors: M_UNKNOWN_TOKEN,
// with soft_logout where the token has expired. A token that was used lately costs no SQL.
func (s *Service) Authenticate(ctx context.Context, token, ip string) (Identity, error) {
	if len(token) > maxTokenLength {
		return Identity{}, errUnknownToken()
	}
	hash := hashToken(token)
	sess := s.tokens.get(hash)
	if sess == nil {
		var err error
		if sess, err = s.loadSession(ctx, hash); err != nil {
			return Identity{}, err
		}
	}
	now := s.now()
	if sess.expires != 0 && now >= sess.expires {
		return Identity{}, errExpiredToken()
	}
	s.seen.note(sess, ip, now)
	id := sess.Identity
	id.Standing = s.standings.of(id.UserID)
	id.Expired = s.expired(sess.ends, id.Admin)
	return id, nil
}

// Caller is Authenticate as the router's hook.
func (s *Service) Caller(ctx context.Context, token string, r *httpx.Request) (httpx.Caller, error) {
	id, err := s.Authenticate(ctx, token, r.ClientIP())
	return id.Caller(), err
}

// loadSession reads a token's row. The first use of a refreshed token revokes the one that it replaces.
func (s *Service) loadSession(ctx context.Context, hash [sha256.Size]byte) (*session, error) {
	before := s.tokens.epoch.Load()
	var nid, parent int64
	var local []byte
	sess := &session{}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.QueryRow(tokenByAccess, hash[:]).Scan(&nid, &sess.Session, &sess.expires, &parent, &sess.DeviceID,
			&local, &sess.Admin, &sess.Guest, &sess.ends)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		s.metrics.tokens.WithLabelValues("unknown").Inc()
		return nil, errUnknownToken()
	case err != nil:
		return nil, err
	case sess.expires != 0 && s.now() >= sess.expires:
		s.metrics.tokens.WithLabelValues("expired").Inc()
		return nil, errExpiredToken()
	}
	sess.UserID = s.userID(string(local))
	if parent != 0 {
		if err := s.settle(ctx, nid, sess.Session); err != nil {
			return nil, err
		}
		return s.loadSession(ctx, hash) // settled or gone: it does not come here again
	}
	s.metrics.tokens.WithLabelValues("good").Inc()
	s.tokens.put(hash, sess, before)
	return sess, nil
}

// settle ends the time in which both the refreshed pair of tokens and its predecessor are good.
func (s *Service) settle(ctx context.Context, nid, device int64) error {
	var dropped [][]byte
	return s.db.Do(ctx, &sqldb.Op{Name: "account.settle",
		Write: func(tx *sqldb.Tx, _ int64) (err error) {
			dropped = nil
			n, err := tx.Exec(tokenSettle, nid, 0)
			if n == 0 || err != nil {
				return err // gone meanwhile; whoever asks next is told so
			}
			dropped, err = sqldb.Collect(tx, tokenOthers, scanBytes, device, nid)
			return err
		},
		Committed: func(int64) { s.tokens.drop(dropped) },
	})
}

// tokenCache is what Authenticate looks at first.
type tokenCache struct {
	epoch epoch
	mu    sync.RWMutex
	m     generations[[sha256.Size]byte, *session]
}

func newTokenCache(limit int) *tokenCache {
	return &tokenCache{m: newGenerations[[sha256.Size]byte, *session](limit)}
}

func (c *tokenCache) get(hash [sha256.Size]byte) *session {
	c.mu.RLock()
	sess, aged, _ := c.m.get(hash)
	at := c.epoch.Load()
	c.mu.RUnlock()
	if aged {
		c.put(hash, sess, at)
	}
	return sess
}

// put keeps a session that was read when the epoch was at, unless something has been dropped since.
func (c *tokenCache) put(hash [sha256.Size]byte, sess *session, at uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch.Load() == at {
		c.m.put(hash, sess)
	}
}

// drop forgets tokens, by their stored hashes.
func (c *tokenCache) drop(hashes [][]byte) {
	if len(hashes) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch.Add(1)
	for _, h := range hashes {
		if len(h) == sha256.Size {
			c.m.drop([sha256.Size]byte(h))
		}
	}
}
