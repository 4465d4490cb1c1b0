package mediaapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/mediaapi/files"
)

// upload is POST /_matrix/media/v3/upload.
func (m *Media) upload(ctx context.Context, r *httpx.Request) (any, error) {
	med, in, err := m.receive(ctx, r)
	if err != nil {
		return nil, err
	}
	med.id = newID()
	if err := m.o.Files.Keep(in, func() error { return m.store.insert(ctx, med) }); err != nil {
		return nil, err
	}
	m.metrics.uploaded(med.size)
	return map[string]string{"content_uri": mxc{med.origin, med.id}.String()}, nil
}

// receive reads an upload into a temporary file. What it returns lacks an id.
func (m *Media) receive(ctx context.Context, r *httpx.Request) (*medium, *files.Incoming, error) {
	name := r.Query("filename")
	if len(name) > maxNameBytes {
		return nil, nil, matrixerr.InvalidParam(fmt.Sprintf("The filename may have at most %d bytes", maxNameBytes))
	}
	if r.ContentLength > m.o.MaxUpload {
		return nil, nil, m.tooLarge()
	}
	if err := m.quota(ctx, r.Caller.UserID, max(r.ContentLength, 0)); err != nil {
		return nil, nil, err
	}
	in, err := m.o.Files.Receive(r.Request.Body, m.o.MaxUpload)
	if err != nil {
		return nil, nil, m.receiveError(err)
	}
	if r.ContentLength < 0 {
		if err := m.quota(ctx, r.Caller.UserID, in.Size); err != nil {
			m.o.Files.Discard(in)
			return nil, nil, err
		}
	}
	now := m.now()
	return &medium{origin: m.o.ServerName, hash: &in.Hash, size: in.Size, user: r.Caller.UserID, created: now,
		lastAccess: now, contentType: cleanType(r.Header.Get("Content-Type")), name: cleanName(name)}, in, nil
}

func (m *Media) quota(ctx context.Context, user string, size int64) error {
	if m.o.Quota == nil {
		return nil
	}
	return m.o.Quota(ctx, user, size)
}

func (m *Media) tooLarge() *matrixerr.Error {
	return matrixerr.TooLarge(fmt.Sprintf("This server takes files of at most %d bytes", m.o.MaxUpload))
}

func (m *Media) receiveError(err error) error {
	var read *files.ReadError
	switch {
	case errors.Is(err, files.ErrTooLarge):
		return m.tooLarge()
	case errors.As(err, &read):
		return matrixerr.Unknown(http.StatusBadRequest, "The upload broke off; send the whole file again").With(err)
	}
	return err
}

// create is POST /_matrix/media/v1/create: a URI now, its content later.
func (m *Media) create(ctx context.Context, r *httpx.Request) (any, error) {
	if err := m.quota(ctx, r.Caller.UserID, 0); err != nil {
		return nil, err
	}
	now := m.now()
	med := &medium{origin: m.o.ServerName, id: newID(), user: r.Caller.UserID, created: now,
		expires: now + m.o.PendingExpiry.Milliseconds()}
	created, err := m.store.create(ctx, med, m.o.PendingPerUser)
	if err != nil {
		return nil, err
	}
	if !created {
		return nil, m.tooManyPending(ctx, med.user, now)
	}
	return map[string]any{"content_uri": mxc{med.origin, med.id}.String(), "unused_expires_at": med.expires}, nil
}

func (m *Media) tooManyPending(ctx context.Context, user string, now int64) error {
	at, err := m.store.firstExpiry(ctx, user, now)
	if err != nil {
		return err
	}
	e := matrixerr.LimitExceeded(time.Duration(at-now) * time.Millisecond)
	e.Msg = "You have created too many media without uploading their content; upload it first"
	return e
}

// fill is PUT /_matrix/media/v3/upload/{serverName}/{mediaId}.
func (m *Media) fill(ctx context.Context, r *httpx.Request) (any, error) {
	uri := mxc{r.Vars["serverName"], r.Vars["mediaId"]}
	if err := m.mayFill(ctx, uri, r.Caller.UserID); err != nil {
		return nil, err
	}
	med, in, err := m.receive(ctx, r)
	if err != nil {
		return nil, err
	}
	med.id = uri.id
	filled := false
	err = m.o.Files.Keep(in, func() (err error) {
		filled, err = m.store.fill(ctx, med)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !filled { // another upload was faster, or the time ran out
		if err := m.mayFill(ctx, uri, r.Caller.UserID); err != nil {
			return nil, err
		}
		return nil, matrixerr.CannotOverwriteMedia()
	}
	m.arrivals.announce(uri)
	m.metrics.uploaded(med.size)
	return nil, nil
}

// mayFill says why a user may not upload the content of a URI.
func (m *Media) mayFill(ctx context.Context, uri mxc, user string) error {
	unknown := matrixerr.NotFound("This media id was not created here, or has expired; create a new one")
	if uri.origin != m.o.ServerName || !uri.valid() {
		return unknown
	}
	med, err := m.store.get(ctx, uri.origin, uri.id)
	switch {
	case err != nil:
		return err
	case med == nil:
		return unknown
	case med.user != user:
		return matrixerr.Forbidden("This media id was created by somebody else; create one of your own")
	case med.hash != nil:
		return matrixerr.CannotOverwriteMedia()
	case med.expires <= m.now():
		return unknown
	}
	return nil
}

// config is GET …/media/config.
func (m *Media) config(context.Context, *httpx.Request) (any, error) {
	return map[string]int64{"m.upload.size": m.o.MaxUpload}, nil
}
