package mediaapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"knock/internal/matrixerr"
	"knock/mediaapi/files"
)

// How long failures to get a medium from its server are remembered.
const (
	rememberMissing  = 2 * time.Minute
	rememberTooLarge = 10 * time.Minute
	rememberDown     = 30 * time.Second
)

// remote gets another server's medium that is not here yet: once, however many ask.
func (m *Media) remote(ctx context.Context, l lookup) (*medium, error) {
	if !l.fetch || m.o.Remote == nil {
		return nil, errUnknownMedia
	}
	key := l.mxc.String()
	if err := m.failed.get(key, m.now()); err != nil {
		return nil, err
	}
	err := m.fetches.do(ctx, key, m.o.RemoteTimeout, func(ctx context.Context) error { return m.fetch(ctx, l.mxc) })
	if err != nil {
		return nil, err
	}
	med, err := m.store.get(ctx, l.origin, l.id)
	if err == nil && med == nil {
		return nil, errUnknownMedia
	}
	return med, err
}

// fetch gets a medium from its server and caches it.
func (m *Media) fetch(ctx context.Context, uri mxc) error {
	if med, err := m.store.get(ctx, uri.origin, uri.id); err != nil || med != nil {
		return err // somebody else has just fetched it
	}
	if err := m.fetching.Acquire(ctx, 1); err != nil {
		return matrixerr.LimitExceeded(10 * time.Second).With(err)
	}
	defer m.fetching.Release(1)
	med, in, err := m.receiveRemote(ctx, uri)
	if err != nil {
		return m.fetchFailed(uri, err)
	}
	if err := m.o.Files.Keep(in, func() error { return m.store.insert(ctx, med) }); err != nil {
		return err
	}
	m.metrics.fetched("ok")
	return nil
}

func (m *Media) receiveRemote(ctx context.Context, uri mxc) (*medium, *files.Incoming, error) {
	// One byte more than is taken, so that it is Receive that finds a body too large, whoever else cuts it.
	answer, err := m.o.Remote.FetchMedia(ctx, uri.origin, uri.id, m.o.MaxRemote+1)
	if err != nil {
		return nil, nil, &files.ReadError{Err: err}
	}
	defer answer.Body.Close()
	in, err := m.o.Files.Receive(answer.Body, m.o.MaxRemote)
	if err != nil {
		return nil, nil, err
	}
	now := m.now()
	name := cleanName(answer.Filename)
	if len(name) > maxNameBytes {
		name = ""
	}
	return &medium{origin: uri.origin, id: uri.id, hash: &in.Hash, size: in.Size, created: now, lastAccess: now,
		contentType: cleanType(answer.ContentType), name: name}, in, nil
}

// fetchFailed says what an error of another server means for who asked us, and remembers it.
func (m *Media) fetchFailed(uri mxc, err error) error {
	var read *files.ReadError
	if !errors.As(err, &read) && !errors.Is(err, files.ErrTooLarge) {
		return err // our own disk's
	}
	code := ""
	var known *matrixerr.Error
	if errors.As(err, &known) {
		code = known.Code
	}
	var outcome string
	var answer *matrixerr.Error
	var keep time.Duration
	switch {
	case code == "M_TOO_LARGE" || errors.Is(err, files.ErrTooLarge):
		outcome, keep = "too_large", rememberTooLarge
		answer = matrixerr.New(http.StatusBadGateway, "M_TOO_LARGE", "This media is larger than this server takes from others")
	case code == "M_NOT_YET_UPLOADED":
		outcome, answer = "not_yet_uploaded", matrixerr.NotYetUploaded()
	case code == "M_NOT_FOUND":
		outcome, keep, answer = "not_found", rememberMissing, matrixerr.NotFound("The media's server does not have it")
	default:
		outcome, keep = "failed", rememberDown
		answer = matrixerr.Unknown(http.StatusBadGateway, "The media could not be fetched from its server; try again later")
	}
	m.metrics.fetched(outcome)
	if keep > 0 {
		m.failed.put(uri.String(), answer, m.now(), keep)
	}
	return answer.With(err)
}
