package mediaapi

import (
	"context"
	"database/sql"
	"errors"

	"knock/internal/sqldb"
	"knock/mediaapi/files"
	"knock/mediaapi/thumb"
)

var (
	insertImage = sqldb.Register("media.insertImage", `INSERT INTO media_images
		(hash, content_type, width, height, orientation, animated, memory)
		VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`)
	selectImage = sqldb.Register("media.image",
		`SELECT content_type, width, height, orientation, animated, memory FROM media_images WHERE hash = $1`)
	spoilImage  = sqldb.Register("media.spoilImage", `UPDATE media_images SET content_type = $2 WHERE hash = $1`)
	deleteImage = sqldb.Register("media.deleteImage", `DELETE FROM media_images WHERE hash = $1`)
	insertThumb = sqldb.Register("media.insertThumbnail", `INSERT INTO media_thumbnails
		(hash, width, height, crop, thumb, size, content_type)
		VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`)
	selectThumbs = sqldb.Register("media.thumbnails",
		`SELECT width, height, crop, thumb, content_type FROM media_thumbnails WHERE hash = $1`)
	deleteThumbs = sqldb.Register("media.deleteThumbnails", `DELETE FROM media_thumbnails WHERE hash = $1`)
)

// Forget removes what is known about an image whose content goes (files.References). Its thumbnails are then named
// by nobody.
func (s store) Forget(ctx context.Context, h files.Hash) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "media_forget", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := tx.Exec(deleteThumbs, h[:])
		if err == nil {
			_, err = tx.Exec(deleteImage, h[:])
		}
		return err
	}})
}

// picture is what is known about a content as an image.
type picture struct {
	thumb.Info
	thumbs map[thumb.Size]contentRef
}

// contentRef names a content and its type.
type contentRef struct {
	hash        files.Hash
	contentType string
}

// picture returns what is known about a content as an image; nil when nobody has looked yet.
func (s store) picture(ctx context.Context, h files.Hash) (*picture, error) {
	p := &picture{thumbs: map[thumb.Size]contentRef{}}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		err := tx.QueryRow(selectImage, h[:]).
			Scan(&p.Type, &p.Width, &p.Height, &p.Orientation, &p.Animated, &p.Memory)
		if err != nil {
			return err
		}
		rows, err := tx.Query(selectThumbs, h[:])
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var size thumb.Size
			var ref contentRef
			if err := rows.Scan(&size.Width, &size.Height, &size.Crop, &ref.hash, &ref.contentType); err != nil {
				return err
			}
			p.thumbs[size] = ref
		}
		return rows.Close()
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return p, err
}

func (s store) insertImage(ctx context.Context, h files.Hash, i thumb.Info) error {
	_, err := s.write(ctx, "media_image", insertImage, h[:], i.Type, i.Width, i.Height, i.Orientation, i.Animated, i.Memory)
	return err
}

// spoilImage remembers that an image could not be decoded after all.
func (s store) spoilImage(ctx context.Context, h files.Hash) error {
	_, err := s.write(ctx, "media_image", spoilImage, h[:], "")
	return err
}

func (s store) insertThumb(ctx context.Context, h files.Hash, size thumb.Size, ref contentRef, bytes int64) error {
	_, err := s.write(ctx, "media_thumbnail", insertThumb, h[:], size.Width, size.Height, size.Crop, ref.hash[:], bytes, ref.contentType)
	return err
}
