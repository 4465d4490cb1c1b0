package appservice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Bounds of requests to services. Their addresses come from the operator's own files, so private ones are fine.
const (
	transactionTime = time.Minute
	queryTime       = 5 * time.Second
	maxAnswer       = 1 << 20 // bytes
	maxQuoted       = 4 << 10 // bytes of an answer that a ping quotes
)

const (
	stableAPI   = "/_matrix/app/v1"
	unstableAPI = "/_matrix/app/unstable" // of third-party lookups
)

func transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 4
	t.ResponseHeaderTimeout = 0 // the context ends a request
	return t
}

// client calls services.
type client struct{ http *http.Client }

// statusError is an answer that is not 200.
type statusError struct {
	code int
	body string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the application service answered %d", e.code)
}

// call does one request and returns the body of a 200. When the service does not know the path it is asked under the
// one of old drafts, with the token in the query as they have it (Application Service API, "Legacy routes").
func (c *client) call(ctx context.Context, v *Service, method, path, legacy string, query url.Values, body []byte) ([]byte, error) {
	answer, err := c.do(ctx, v, method, stableAPI+path, query, body)
	var status *statusError
	if legacy == "" || !errors.As(err, &status) || status.code != http.StatusNotFound && status.code != http.StatusMethodNotAllowed && status.code != http.StatusNotImplemented {
		return answer, err
	}
	old := url.Values{"access_token": {v.HSToken}}
	for key, values := range query {
		old[key] = values
	}
	answer, oldErr := c.do(ctx, v, method, legacy, old, body)
	if oldErr != nil {
		return nil, err // what the current path says is nearer to the truth
	}
	return answer, nil
}

func (c *client) do(ctx context.Context, v *Service, method, path string, query url.Values, body []byte) ([]byte, error) {
	target := v.URL + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, reader)
	if err != nil {
		return nil, errors.New("the request cannot be made")
	}
	req.Header.Set("Authorization", "Bearer "+v.HSToken)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var e *url.Error
		if errors.As(err, &e) { // its text has the URL, and so perhaps the token
			err = e.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, &statusError{resp.StatusCode, strings.ToValidUTF8(string(answer[:min(len(answer), maxQuoted)]), "")}
	case len(answer) > maxAnswer:
		return nil, errors.New("the answer is too large")
	}
	return answer, nil
}

func (c *client) transaction(ctx context.Context, v *Service, id string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, transactionTime)
	defer cancel()
	path := "/transactions/" + url.PathEscape(id)
	_, err := c.call(ctx, v, http.MethodPut, path, path, nil, body)
	return err
}
