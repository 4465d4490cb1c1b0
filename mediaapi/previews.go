package mediaapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/mediaapi/files"
	"knock/mediaapi/preview"
	"knock/mediaapi/thumb"
)

const (
	// previewFresh is how long a page is taken to be as it was seen.
	previewFresh = time.Hour
	// answerTime is how long a page, and each of its images, may take to arrive; previewTime is for all of it, waiting
	// for its turn too.
	answerTime  = 10 * time.Second
	previewTime = 40 * time.Second
	// maxPreviews bounds how many pages are fetched at once, maxPreviewsOfOne how many of them for one user.
	maxPreviews      = 32
	maxPreviewsOfOne = 4
	// Images with a side below minPreviewSide show nothing: they count visitors.
	minPreviewSide = 16
	// How long pages that could not be fetched are not tried again.
	rememberRefused = 2 * time.Minute
)

var (
	errNoPreviews  = matrixerr.Forbidden("This server makes no previews of web pages; its administrator can turn them on (media.url_previews)")
	errNoPage      = matrixerr.InvalidParam("Query parameter url must be the address of a web page, such as https://example.org/page, without a password")
	errDeniedPage  = matrixerr.Forbidden("This server makes no previews of pages at this address")
	errUnreachable = matrixerr.Unknown(http.StatusBadGateway, "The page could not be fetched; try again later")
	errBusy        = errors.New("too many pages are being fetched")
)

// previewURL is GET …/preview_url.
func (m *Media) previewURL(ctx context.Context, r *httpx.Request) (any, error) {
	if m.o.Pages == nil {
		return nil, errNoPreviews
	}
	if r.Query("url") == "" {
		return nil, matrixerr.MissingParam("Query parameter url is missing")
	}
	page, err := preview.Parse(r.Query("url"))
	if err != nil {
		return nil, errNoPage.With(err)
	}
	at, err := m.pointInTime(r)
	if err != nil {
		return nil, err
	}
	v := visit{page: page, hash: sha256.Sum256([]byte(page.String())), user: r.Caller.UserID}
	p, err := m.recall(ctx, v.hash, at)
	if err == nil && p == nil {
		p, err = m.visit(ctx, v)
	}
	if err != nil {
		return nil, err
	}
	return httpx.Raw(p.body), nil
}

// pointInTime is for when a preview is asked: now, unless the client says an earlier time.
func (m *Media) pointInTime(r *httpx.Request) (int64, error) {
	now := m.now()
	if r.Query("ts") == "" {
		return now, nil
	}
	ts, err := strconv.ParseInt(r.Query("ts"), 10, 64)
	if err != nil {
		return 0, matrixerr.InvalidParam("Query parameter ts must be a time in milliseconds since 1970")
	}
	return min(ts, now), nil
}

// recall returns how a page was at a time, or else how it is now, if that is known; nil when it is not.
func (m *Media) recall(ctx context.Context, page [sha256.Size]byte, at int64) (*seen, error) {
	now := m.now()
	p, err := m.store.preview(ctx, page, at)
	if err == nil && at != now && !fresh(p, at) {
		at = now
		p, err = m.store.preview(ctx, page, now)
	}
	if err != nil || !fresh(p, at) {
		return nil, err
	}
	return p, nil
}

func fresh(p *seen, at int64) bool { return p != nil && at-p.fetched < previewFresh.Milliseconds() }

// visit is a page to be seen for a user.
type visit struct {
	page *url.URL
	hash [sha256.Size]byte
	user string
}

// visit has a page seen: once, however many ask.
func (m *Media) visit(ctx context.Context, v visit) (*seen, error) {
	key := "page " + string(v.hash[:])
	if err := m.failed.get(key, m.now()); err != nil {
		return nil, err
	}
	err := m.previews.do(ctx, key, previewTime, func(ctx context.Context) error {
		leave, err := m.visitors.enter(ctx, v.user)
		if err != nil {
			return matrixerr.LimitExceeded(answerTime).With(errBusy)
		}
		defer leave()
		return m.see(ctx, key, v)
	})
	if err != nil {
		return nil, err
	}
	p, err := m.store.preview(ctx, v.hash, m.now())
	if err == nil && p == nil {
		err = errUnreachable
	}
	return p, err
}

// see fetches a page and writes down what it says about itself.
func (m *Media) see(ctx context.Context, key string, v visit) error {
	if p, err := m.recall(ctx, v.hash, m.now()); err != nil || p != nil {
		return err // somebody else has just seen it
	}
	card, shot, err := m.look(ctx, v.page)
	if err != nil {
		return m.notSeen(key, err)
	}
	if shot == nil && len(card.Images) > 0 {
		if shot, err = m.firstImage(ctx, card.Images); err != nil {
			return err
		}
	}
	p := &seen{page: v.hash, fetched: m.now()}
	if shot == nil {
		p.body, err = encode(card, nil)
		if err == nil {
			err = m.store.insertPreview(ctx, p)
		}
	} else {
		err = m.keepShot(ctx, p, card, shot)
	}
	if err == nil {
		m.metrics.previewed("ok")
	}
	return err
}

// notSeen says what it means that a page was not fetched, and remembers it. The cause is written down without the
// address: what people read is not for the log.
func (m *Media) notSeen(key string, err error) error {
	var ours *diskError
	if errors.As(err, &ours) {
		return ours.error
	}
	var where *url.Error
	if errors.As(err, &where) {
		err = where.Err
	}
	var status *preview.StatusError
	answer, outcome, keep := errUnreachable, "failed", rememberDown
	switch {
	case errors.Is(err, preview.ErrDenied):
		answer, outcome, keep = errDeniedPage, "denied", rememberRefused
	case errors.As(err, &status):
		keep = rememberRefused
	}
	m.metrics.previewed(outcome)
	m.failed.put(key, answer, m.now(), keep)
	return answer.With(err)
}

// shot is an image of a page that has arrived and is not kept yet.
type shot struct {
	*files.Incoming
	thumb.Info
}

// diskError is a failure that is not the page's.
type diskError struct{ error }

// look fetches a page. Where it is an image, that is the shot.
func (m *Media) look(ctx context.Context, page *url.URL) (preview.Card, *shot, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	a, err := m.o.Pages.Get(ctx, page)
	if err != nil {
		return preview.Card{}, nil, err
	}
	defer a.Close()
	switch t := a.MediaType(); {
	case t == "text/html", t == "application/xhtml+xml":
		return preview.Read(io.LimitReader(a.Body, m.o.MaxPage), a.ContentType, a.URL), nil, nil
	case strings.HasPrefix(t, "image/"):
		s, err := m.receiveShot(a)
		return preview.Card{Properties: map[string]string{"og:title": preview.FileTitle(a.URL)}}, s, err
	}
	return preview.Card{}, nil, nil // something else, of which nothing can be said
}

// firstImage fetches the first of some images that is one.
func (m *Media) firstImage(ctx context.Context, where []*url.URL) (*shot, error) {
	for _, u := range where {
		s, err := m.fetchImage(ctx, u)
		var ours *diskError
		if errors.As(err, &ours) {
			return nil, ours.error
		}
		if s != nil {
			return s, nil
		}
	}
	return nil, nil
}

func (m *Media) fetchImage(ctx context.Context, u *url.URL) (*shot, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	a, err := m.o.Pages.Get(ctx, u)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	return m.receiveShot(a)
}

// receiveShot takes an image to the disk. It is nil when it is none, by its content, or is too large or too small, or
// today's share of the disk is used up. An error of ours is a *diskError.
func (m *Media) receiveShot(a *preview.Answer) (*shot, error) {
	body := bufio.NewReaderSize(a.Body, thumb.HeadBytes)
	head, _ := body.Peek(thumb.HeadBytes) // what fails here fails again below
	info, err := thumb.Inspect(bytes.NewReader(head))
	if err != nil || min(info.Width, info.Height) < minPreviewSide {
		return nil, nil
	}
	in, err := m.o.Files.Receive(body, m.o.MaxPageImage)
	var read *files.ReadError
	switch {
	case errors.Is(err, files.ErrTooLarge), errors.As(err, &read):
		return nil, nil
	case err != nil:
		return nil, &diskError{err}
	case !m.allowance.AllowN(m.o.Clock(), int(in.Size)):
		m.o.Files.Discard(in)
		m.metrics.previewed("full")
		return nil, nil
	}
	return &shot{in, info}, nil
}

// keepShot keeps an image and writes down the preview that it belongs to.
func (m *Media) keepShot(ctx context.Context, p *seen, card preview.Card, s *shot) (err error) {
	p.image = &medium{origin: m.o.ServerName, id: newID(), hash: &s.Hash, size: s.Size, contentType: s.Type, created: p.fetched, lastAccess: p.fetched}
	if p.body, err = encode(card, map[string]any{
		"og:image": mxc{p.image.origin, p.image.id}.String(), "og:image:type": s.Type,
		"og:image:width": s.Width, "og:image:height": s.Height, "matrix:image:size": s.Size,
	}); err != nil {
		m.o.Files.Discard(s.Incoming)
		return err
	}
	return m.o.Files.Keep(s.Incoming, func() error { return m.store.insertPreview(ctx, p) })
}

// encode makes the answer to clients.
func encode(card preview.Card, more map[string]any) ([]byte, error) {
	all := make(map[string]any, len(card.Properties)+len(more))
	for name, text := range card.Properties {
		if text != "" {
			all[name] = text
		}
	}
	for name, v := range more {
		all[name] = v
	}
	return json.Marshal(all)
}

// forget removes previews that are too old or too many, with their images.
func (m *Media) forget(ctx context.Context) error {
	size, err := m.store.previewBytes(ctx)
	if err != nil {
		return err
	}
	old := m.now() - m.o.PreviewAge.Milliseconds()
	for {
		before := old
		if size > m.o.PreviewCache {
			before = m.now() + 1
		}
		list, err := m.store.oldPreviews(ctx, before, batch)
		if err != nil {
			return err
		}
		n := 0
		for ; n < len(list) && (list[n].fetched < old || size > m.o.PreviewCache); n++ {
			size -= list[n].size
		}
		if n == 0 {
			return nil
		}
		if err := m.store.deletePreviews(ctx, m.o.ServerName, list[:n]); err != nil {
			return err
		}
	}
}
