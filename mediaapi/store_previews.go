package mediaapi

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"

	"knock/internal/sqldb"
)

var (
	insertPreview = sqldb.Register("media.insertPreview", `INSERT INTO url_previews (url_hash, fetched, body, media_id, size)
		VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`)
	selectPreview = sqldb.Register("media.preview",
		`SELECT fetched, body FROM url_previews WHERE url_hash = $1 AND fetched <= $2 ORDER BY fetched DESC LIMIT 1`)
	selectOldPreviews = sqldb.Register("media.oldPreviews",
		`SELECT url_hash, fetched, media_id, size FROM url_previews WHERE fetched < $1 ORDER BY fetched LIMIT $2`)
	selectPreviewBytes = sqldb.Register("media.previewBytes", `SELECT COALESCE(SUM(size), $1::bigint)::bigint FROM url_previews`)
	deletePreview      = sqldb.Register("media.deletePreview", `DELETE FROM url_previews WHERE url_hash = $1 AND fetched = $2`)
)

// seen is a preview as it was when the page was fetched.
type seen struct {
	page    [sha256.Size]byte // hash of its address
	fetched int64
	body    []byte
	image   *medium // nil for none
}

func (s *seen) size() int64 {
	if s.image == nil {
		return int64(len(s.body))
	}
	return int64(len(s.body)) + s.image.size
}

// insertPreview adds a preview together with its image, so that neither is there alone.
func (s store) insertPreview(ctx context.Context, p *seen) error {
	imageID := ""
	if p.image != nil {
		imageID = p.image.id
	}
	return s.db.Do(context.WithoutCancel(ctx), &sqldb.Op{Name: "media_preview", Write: func(tx *sqldb.Tx, _ int64) error {
		n, err := tx.Exec(insertPreview, p.page[:], p.fetched, p.body, imageID, p.size())
		if err != nil || n == 0 || p.image == nil {
			return err
		}
		return insertRow(tx, p.image)
	}})
}

// preview returns the newest preview of a page that was fetched until a time; nil when there is none.
func (s store) preview(ctx context.Context, page [sha256.Size]byte, until int64) (*seen, error) {
	p := &seen{page: page}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.QueryRow(selectPreview, page[:], until).Scan(&p.fetched, &p.body)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return p, err
}

// oldPreview is a preview that may go.
type oldPreview struct {
	page    []byte
	fetched int64
	image   string // media id, "" for none
	size    int64
}

// oldPreviews lists previews fetched before a time, longest ago first.
func (s store) oldPreviews(ctx context.Context, before int64, limit int) (list []oldPreview, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		list, err = sqldb.Collect(tx, selectOldPreviews, func(r *sqldb.Rows) (v oldPreview, err error) {
			err = r.Scan(&v.page, &v.fetched, &v.image, &v.size)
			return v, err
		}, before, limit)
		return err
	})
	return list, err
}

// previewBytes is the size of all previews.
func (s store) previewBytes(ctx context.Context) (size int64, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error { return tx.QueryRow(selectPreviewBytes, 0).Scan(&size) })
	return size, err
}

// deletePreviews removes previews and their images, which are media of this server. The files go with the next sweep.
func (s store) deletePreviews(ctx context.Context, local string, list []oldPreview) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "media_delete", Write: func(tx *sqldb.Tx, _ int64) error {
		for _, v := range list {
			if _, err := tx.Exec(deletePreview, v.page, v.fetched); err != nil {
				return err
			}
			if v.image == "" {
				continue
			}
			if _, err := tx.Exec(deleteMedium, local, v.image); err != nil {
				return err
			}
		}
		return nil
	}})
}
