package client

import (
	"context"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	mediaTimeout = time.Minute      // until something arrives
	mediaTotal   = 30 * time.Minute // of one file
	mediaWait    = 20 * time.Second // how long the server may wait for an upload
	mediaMeta    = 64 << 10         // of the metadata before a file
	mediaHops    = 3
)

// Media is a file of another server. Body ends with an error when the file is larger than was allowed.
type Media struct {
	ContentType        string // as the server says, "" when it does not
	ContentDisposition string
	Size               int64 // -1 when not known beforehand
	Body               io.ReadCloser
}

// ThumbnailQuery asks for a thumbnail.
type ThumbnailQuery struct {
	Width, Height int
	Method        string // "crop" or "scale"
	Animated      bool
}

// Download fetches a file of at most limit bytes. Servers without the authenticated endpoint are asked through the
// older one.
func (c *Client) Download(ctx context.Context, server, mediaID string, limit int64) (*Media, error) {
	query := url.Values{"timeout_ms": {strconv.FormatInt(mediaWait.Milliseconds(), 10)}}
	m, err := c.media(ctx, server, "media_download", path("/_matrix/federation/v1/media/download/", mediaID), query, limit)
	if !unsupported(err) {
		return m, err
	}
	query.Set("allow_remote", "false")
	return c.legacyMedia(ctx, server, path("/_matrix/media/v3/download/", server, "/", mediaID), query, limit)
}

// Thumbnail fetches a thumbnail of at most limit bytes.
func (c *Client) Thumbnail(ctx context.Context, server, mediaID string, q ThumbnailQuery, limit int64) (*Media, error) {
	query := url.Values{
		"width": {strconv.Itoa(q.Width)}, "height": {strconv.Itoa(q.Height)}, "method": {q.Method},
		"timeout_ms": {strconv.FormatInt(mediaWait.Milliseconds(), 10)}, "animated": {strconv.FormatBool(q.Animated)},
	}
	m, err := c.media(ctx, server, "media_thumbnail", path("/_matrix/federation/v1/media/thumbnail/", mediaID), query, limit)
	if !unsupported(err) {
		return m, err
	}
	query.Set("allow_remote", "false")
	return c.legacyMedia(ctx, server, path("/_matrix/media/v3/thumbnail/", server, "/", mediaID), query, limit)
}

func (c *Client) media(ctx context.Context, server, name, p string, query url.Values, limit int64) (*Media, error) {
	resp, err := c.do(ctx, server, call{
		name: name, path: p + "?" + query.Encode(), hurry: true,
		limit: limit + 2*mediaMeta, timeout: mediaTimeout, total: mediaTotal,
	})
	if err != nil {
		return nil, err
	}
	m, location, err := multipartMedia(resp, limit)
	if err == nil && location == "" {
		return m, nil
	}
	_ = resp.Body.Close()
	if err == nil {
		m, err = c.redirected(ctx, location, limit)
	}
	if err != nil {
		return nil, fail(ctx, server, err)
	}
	return m, nil
}

// multipartMedia reads an answer up to the file itself (Server-Server API, Content Repository): metadata, then the
// file or where it is.
func multipartMedia(resp *http.Response, limit int64) (m *Media, location string, err error) {
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" || params["boundary"] == "" {
		return nil, "", badBody("not a multipart/mixed answer")
	}
	parts := multipart.NewReader(resp.Body, params["boundary"])
	meta, err := parts.NextRawPart()
	if err != nil {
		return nil, "", brokenPart(err)
	}
	if _, err := readAll(meta, mediaMeta); err != nil {
		return nil, "", brokenPart(err)
	}
	file, err := parts.NextRawPart()
	if err != nil {
		return nil, "", brokenPart(err)
	}
	if location := file.Header.Get("Location"); location != "" {
		return nil, location, nil
	}
	return &Media{
		ContentType:        file.Header.Get("Content-Type"),
		ContentDisposition: file.Header.Get("Content-Disposition"),
		Size:               -1,
		Body:               &capped{Reader: file, Closer: resp.Body, left: limit},
	}, "", nil
}

// brokenPart keeps errors of the connection and calls the rest a bad answer.
func brokenPart(err error) error {
	if errors.Is(err, errTooLarge) || errors.Is(err, errTimeout) {
		return err
	}
	return badBody("broken multipart answer: %v", err)
}

func (c *Client) legacyMedia(ctx context.Context, server, p string, query url.Values, limit int64) (*Media, error) {
	resp, err := c.do(ctx, server, call{
		name: "media_legacy", path: p + "?" + query.Encode(), hurry: true, unsigned: true,
		limit: limit, timeout: mediaTimeout, total: mediaTotal,
	})
	if err != nil {
		return nil, err
	}
	return plainMedia(resp, resp.Body), nil
}

func plainMedia(resp *http.Response, body io.ReadCloser) *Media {
	return &Media{
		ContentType:        resp.Header.Get("Content-Type"),
		ContentDisposition: resp.Header.Get("Content-Disposition"),
		Size:               resp.ContentLength,
		Body:               body,
	}
}

// redirected fetches a file from where a server says it is: HTTPS only, guarded like every connection, unsigned.
func (c *Client) redirected(ctx context.Context, location string, limit int64) (*Media, error) {
	u, err := url.Parse(location)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, badBody("the file is said to be at a place that is no https URL")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, mediaTotal, errTimeout)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("User-Agent", c.o.UserAgent)
	web := &http.Client{Transport: c.web, CheckRedirect: followHTTPS(mediaHops)}
	header := time.AfterFunc(mediaTimeout, cancel)
	resp, err := web.Do(req)
	if !header.Stop() || err != nil {
		cancel()
		if err == nil {
			_ = resp.Body.Close()
			err = errTimeout
		}
		return nil, err
	}
	body := &capped{Reader: resp.Body, Closer: closers{resp.Body.Close, cancel}, left: limit}
	if resp.StatusCode != http.StatusOK {
		_ = body.Close()
		return nil, badBody("the place of the file answered %d", resp.StatusCode)
	}
	return plainMedia(resp, body), nil
}

// closers closes a body and ends its context.
type closers struct {
	body func() error
	end  func()
}

func (c closers) Close() error {
	defer c.end()
	return c.body()
}

// capped is a body of at most left bytes.
type capped struct {
	io.Reader
	io.Closer
	left int64
}

func (c *capped) Read(p []byte) (int, error) {
	if c.left < 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > c.left+1 {
		p = p[:c.left+1]
	}
	n, err := c.Reader.Read(p)
	if c.left -= int64(n); c.left < 0 {
		return n + int(c.left), errTooLarge
	}
	return n, err
}

// IsTooLarge tells whether reading a Media failed because the file is larger than was allowed.
func IsTooLarge(err error) bool { return errors.Is(err, errTooLarge) }
