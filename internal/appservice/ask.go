package appservice

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"knock/internal/matrixerr"
	"knock/roomserver"
)

var viewer roomserver.Viewer // a service sees events as nobody in particular

const (
	maxTries    = 3
	refusedFor  = 10 * time.Second // an answer that something does not exist is believed so long
	maxRefusals = 5000
)

// questions asks once for many who want to know the same.
type questions struct {
	flight singleflight.Group
	mu     sync.Mutex
	no     map[string]time.Time
}

func newQuestions() *questions { return &questions{no: map[string]time.Time{}} }

func (q *questions) refused(key string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return time.Since(q.no[key]) < refusedFor
}

func (q *questions) refuse(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.no) >= maxRefusals {
		clear(q.no)
	}
	q.no[key] = time.Now()
}

// AskUser asks the services in whose namespaces a user is that does not exist here; true says that one of them has made
// it (Application Service API, "Querying").
func (s *Services) AskUser(ctx context.Context, userID string) bool {
	return s != nil && s.ask(ctx, s.reg.user(userID).in, "/users/"+url.PathEscape(userID))
}

// AskAlias is AskUser for a room alias.
func (s *Services) AskAlias(ctx context.Context, alias string) bool {
	return s != nil && s.ask(ctx, s.reg.alias(alias).in, "/rooms/"+url.PathEscape(alias))
}

func (s *Services) ask(ctx context.Context, in set, path string) bool {
	if in == 0 || s.asked.refused(path) {
		return false
	}
	yes, _, _ := s.asked.flight.Do(path, func() (any, error) {
		ctx := context.WithoutCancel(ctx)
		yes := false
		s.reg.each(in, func(v *Service) { yes = yes || v.URL != "" && s.exists(ctx, v, path) })
		if !yes {
			s.asked.refuse(path)
		}
		return yes, nil
	})
	return yes.(bool)
}

// exists asks one service, some times when it does not answer.
func (s *Services) exists(ctx context.Context, v *Service, path string) bool {
	for range maxTries {
		asking, cancel := context.WithTimeout(ctx, queryTime)
		_, err := s.client.call(asking, v, http.MethodGet, path, path, nil, nil)
		cancel()
		var status *statusError
		if err == nil {
			return true
		}
		if errors.As(err, &status) && status.code < 500 {
			return false
		}
		s.o.Log.WithError(err).WithField("service", v.ID).Info("An application service could not be asked")
	}
	return false
}

// Ping has the node call a service, so that it learns whether it is reached, and returns how long that took
// (Application Service API, "Pinging"). Errors: M_URL_NOT_SET, M_BAD_STATUS, M_CONNECTION_FAILED, M_CONNECTION_TIMEOUT.
func (s *Services) Ping(ctx context.Context, v *Service, txnID string) (time.Duration, error) {
	if v.URL == "" {
		return 0, matrixerr.New(http.StatusBadRequest, "M_URL_NOT_SET", "The registration of the application service has no url")
	}
	body := map[string]string{}
	if txnID != "" {
		body["transaction_id"] = txnID
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, transactionTime)
	defer cancel()
	began := time.Now()
	_, err = s.client.call(ctx, v, http.MethodPost, "/ping", "", nil, encoded)
	took := time.Since(began)
	var status *statusError
	switch {
	case err == nil:
		return took, nil
	case errors.As(err, &status):
		return took, matrixerr.New(http.StatusBadGateway, "M_BAD_STATUS", status.Error()).
			WithField("status", status.code).WithField("body", status.body)
	case ctx.Err() != nil:
		return took, matrixerr.New(http.StatusGatewayTimeout, "M_CONNECTION_TIMEOUT", "The application service did not answer in time").With(err)
	}
	return took, matrixerr.New(http.StatusBadGateway, "M_CONNECTION_FAILED", "The application service could not be reached").With(err)
}
