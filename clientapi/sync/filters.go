package sync

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// maxFilters bounds the filters of a user; the oldest make room for new ones.
const maxFilters = 500

var (
	selectFilter = sqldb.Register("sync.filter", `SELECT data FROM sync_filters WHERE user_id = $1 AND id = $2`)
	insertFilter = sqldb.Register("sync.putFilter",
		`INSERT INTO sync_filters (user_id, id, data, created) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, id) DO UPDATE SET created = excluded.created`)
	pruneFilters = sqldb.Register("sync.pruneFilters",
		`DELETE FROM sync_filters WHERE user_id = $1 AND created < (
			SELECT min(f.created) FROM (
				SELECT created FROM sync_filters WHERE user_id = $1 ORDER BY created DESC LIMIT $2) f)`)
)

// everything is the filter of who sends none.
var everything = &filter{limit: defaultEvents}

// putFilter is POST /user/{userId}/filter. Equal filters have equal ids.
func (s *Sync) putFilter(ctx context.Context, r *httpx.Request) (any, error) {
	if err := own(r); err != nil {
		return nil, err
	}
	body, err := r.ObjectBytes()
	if err != nil {
		return nil, err
	}
	if _, err := parseFilter(body); err != nil {
		return nil, err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, body); err != nil {
		return nil, matrixerr.NotJSON("The filter is not valid JSON").With(err)
	}
	hash := sha256.Sum256(compact.Bytes())
	id := base64.RawURLEncoding.EncodeToString(hash[:12])
	err = s.o.DB.Do(ctx, &sqldb.Op{Name: "sync.filter", Write: func(tx *sqldb.Tx, _ int64) error {
		if _, err := tx.Exec(insertFilter, r.Caller.UserID, id, compact.Bytes(), s.o.Clock.Millis()); err != nil {
			return err
		}
		_, err := tx.Exec(pruneFilters, r.Caller.UserID, maxFilters)
		return err
	}})
	if err != nil {
		return nil, err
	}
	return struct {
		ID string `json:"filter_id"`
	}{id}, nil
}

// getFilter is GET /user/{userId}/filter/{filterId}.
func (s *Sync) getFilter(ctx context.Context, r *httpx.Request) (any, error) {
	if err := own(r); err != nil {
		return nil, err
	}
	data, err := s.readFilter(ctx, r.Caller.UserID, r.Vars["filterId"])
	return httpx.Raw(data), err
}

func own(r *httpx.Request) error {
	if r.Vars["userId"] != r.Caller.UserID {
		return matrixerr.Forbidden("You have access to your own filters only")
	}
	return nil
}

func (s *Sync) readFilter(ctx context.Context, user, id string) (data []byte, err error) {
	err = s.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.QueryRow(selectFilter, user, id).Scan(&data)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, matrixerr.NotFound("You have no filter with this id; upload it again")
	}
	return data, err
}

// findFilter returns the filter that the query parameter names or holds.
func (s *Sync) findFilter(ctx context.Context, user, text string) (*filter, error) {
	if text == "" {
		return everything, nil
	}
	inline, key := text[0] == '{', text
	if !inline {
		key = user + " " + text
	}
	if f, ok := s.filters.Get(key); ok {
		return f, nil
	}
	data := []byte(text)
	if !inline {
		var err error
		if data, err = s.readFilter(ctx, user, text); err != nil {
			return nil, unknownFilter(err)
		}
	}
	f, err := parseFilter(data)
	if err != nil {
		return nil, err
	}
	s.filters.Put(key, f)
	return f, nil
}

// unknownFilter says that an id in a query parameter is wrong: the page is there.
func unknownFilter(err error) error {
	if e := matrixerr.From(err); e.Code == "M_NOT_FOUND" {
		return matrixerr.InvalidParam(e.Msg)
	}
	return err
}
