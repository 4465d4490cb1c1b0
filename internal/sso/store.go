package sso

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

const (
	// Lifetime is how long a person may take for each step.
	Lifetime = 10 * time.Minute
	textSize = 43 // of what newText makes
)

var (
	flowInsert = sqldb.Register("sso.flowInsert",
		`INSERT INTO sso_flows (hash, browser, kind, data, expires) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`)
	flowTake = sqldb.Register("sso.flowTake", `DELETE FROM sso_flows
		WHERE hash = $1 AND browser = $2 AND kind = $3 RETURNING data, expires`)
	flowExpires = sqldb.Register("sso.flowExpires", `SELECT expires FROM sso_flows WHERE hash = $1`)
	flowPrune   = sqldb.Register("sso.flowPrune", `DELETE FROM sso_flows WHERE expires <= $1`)
	flowCount   = sqldb.Register("sso.flowCount", `SELECT count(*) FROM sso_flows`)
	flowTrim    = sqldb.Register("sso.flowTrim",
		`DELETE FROM sso_flows WHERE hash IN (SELECT hash FROM sso_flows ORDER BY expires, hash LIMIT $1)`)
)

// newText is 256 random bits, as base64url.
func newText() string {
	var secret [32]byte
	_, _ = rand.Read(secret[:])
	return base64.RawURLEncoding.EncodeToString(secret[:])
}

// Browser is the secret of a browser's cookie: the one that it has, or a new one.
func Browser(cookie string) string {
	if isText(cookie) {
		return cookie
	}
	return newText()
}

func isText(s string) bool {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(s) == textSize && len(raw) == 32
}

// derive makes a further secret of one flow, which need not be stored: it comes from what the browser alone has.
func derive(browser, state, what string) string {
	h := hmac.New(sha256.New, []byte(browser))
	h.Write([]byte(what + "\x00" + state))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func errEnded() error {
	return matrixerr.Unknown(http.StatusBadRequest, "This page was opened before, is too old, or belongs to another browser. "+
		"Go back to your app and sign in again, and allow this site to set cookies")
}

// Hold writes v down for one browser. The ticket finds it again with Take, once, as what it is written down for.
func (s *Service) Hold(ctx context.Context, browser, kind string, v any) (ticket string, err error) {
	data, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	ticket = newText()
	hash, owner := sha256.Sum256([]byte(ticket)), sha256.Sum256([]byte(browser))
	return ticket, s.put(ctx, "sso.hold", hash[:], owner[:], kind, data, s.o.Now().Add(Lifetime).UnixMilli())
}

// put writes a row; without a browser for none.
func (s *Service) put(ctx context.Context, name string, hash, browser []byte, kind string, data []byte, expires int64) error {
	if browser == nil {
		browser = []byte{}
	}
	return s.o.DB.Do(ctx, &sqldb.Op{Name: name, Write: func(tx *sqldb.Tx, _ int64) error {
		if err := s.trim(tx, s.o.Now().UnixMilli()); err != nil {
			return err
		}
		_, err := tx.Exec(flowInsert, hash, browser, kind, data, expires)
		return err
	}})
}

// trim makes room for one row.
func (s *Service) trim(tx *sqldb.Tx, now int64) error {
	if _, err := tx.Exec(flowPrune, now); err != nil {
		return err
	}
	var n int64
	if err := tx.QueryRow(flowCount).Scan(&n); err != nil || n < s.o.MaxFlows {
		return err
	}
	_, err := tx.Exec(flowTrim, n-s.o.MaxFlows+1)
	return err
}

// Run removes what is too old, until ctx ends: it names people.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(Lifetime)
	defer tick.Stop()
	for {
		if err := s.prune(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.WithError(err).Warn("Sign-ins that nobody finished could not be removed")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Service) prune(ctx context.Context) error {
	return s.o.DB.Do(ctx, &sqldb.Op{Name: "sso.prune", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := tx.Exec(flowPrune, s.o.Now().UnixMilli())
		return err
	}})
}

// Take reads what Hold wrote into v and uses the ticket up. Errors are for people.
func (s *Service) Take(ctx context.Context, browser, kind, ticket string, v any) error {
	if !isText(browser) || !isText(ticket) {
		return errEnded()
	}
	hash, owner := sha256.Sum256([]byte(ticket)), sha256.Sum256([]byte(browser))
	var data []byte
	var expires int64
	err := s.o.DB.Do(ctx, &sqldb.Op{Name: "sso.take", Write: func(tx *sqldb.Tx, _ int64) error {
		data = nil
		err := tx.QueryRow(flowTake, hash[:], owner[:], kind).Scan(&data, &expires)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	}})
	switch {
	case err != nil:
		return err
	case data == nil || s.o.Now().UnixMilli() >= expires:
		return errEnded()
	}
	return json.Unmarshal(data, v)
}
