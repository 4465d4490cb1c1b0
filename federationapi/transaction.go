package federationapi

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver/event"
)

// Bounds of transactions (Server-Server API, "Transactions").
const (
	maxPDUs         = 50
	maxEDUs         = 100
	maxTxnID        = 255
	answersKept     = 4096
	transactionTime = 2 * time.Minute
)

// transactionKey names a transaction: ids are the origin's own.
type transactionKey struct{ origin, id string }

// transaction is the body of PUT /send/{txnId}, bounded. PDUs may be malformed.
type transaction struct {
	PDUs []json.RawMessage
	EDUs []edu
}

type edu struct {
	Type    string          `json:"edu_type"`
	Content json.RawMessage `json:"content"`
}

// parseTransaction reads the body of a transaction. What is wrong with a part must not cost the others: PDUs are left
// to those who parse events, an EDU that is none is left out.
func parseTransaction(body []byte) (*transaction, error) {
	pdus, edus, err := splitTransaction(body)
	if err != nil {
		return nil, err
	}
	t := &transaction{PDUs: pdus}
	for _, item := range edus {
		var e edu
		item, err := event.CanonicalLoose(nil, item)
		if err == nil && json.Unmarshal(item, &e) == nil && e.Type != "" {
			t.EDUs = append(t.EDUs, e)
		}
	}
	return t, nil
}

// sendTransaction takes a transaction. One of an origin is worked on at a time; one that was answered is answered the
// same again. After a restart that is so because events that are here are not taken twice.
func (a *API) sendTransaction(ctx context.Context, r *httpx.Request) (any, error) {
	key := transactionKey{r.Caller.Origin, r.Vars["txnId"]}
	if len(key.id) > maxTxnID {
		return nil, matrixerr.InvalidParam(fmt.Sprintf("A transaction id may have at most %d bytes", maxTxnID))
	}
	body, err := r.Bytes()
	if err != nil {
		return nil, err
	}
	t, err := parseTransaction(body)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, transactionTime)
	defer cancel()
	leave, err := a.slots.enter(ctx, key.origin)
	if err != nil {
		a.metrics.transactions.WithLabelValues("refused").Inc()
		a.metrics.refused.WithLabelValues(tooWaiting).Inc()
		return nil, err
	}
	defer leave()
	if answer, ok := a.answers.Get(key); ok {
		a.metrics.transactions.WithLabelValues("repeated").Inc()
		return answer, nil
	}
	answer, err := a.take(ctx, key.origin, t)
	if err != nil {
		a.metrics.transactions.WithLabelValues("failed").Inc()
		return nil, err
	}
	a.answers.Put(key, answer)
	a.metrics.transactions.WithLabelValues("taken").Inc()
	return answer, nil
}

// take hands a transaction's parts to their owners: messages to devices first, then the other EDUs that must arrive,
// for without them nobody can read the events; then events, for receipts may name them. Where events fail, the
// transaction comes again; what was taken of it is then known by its message or stream id.
func (a *API) take(ctx context.Context, origin string, t *transaction) (httpx.Raw, error) {
	a.sort(t)
	first := a.passing(t)
	if err := a.takeEDUs(ctx, origin, t.EDUs[:first]); err != nil {
		return nil, err
	}
	results, err := a.o.Rooms.Receive(ctx, origin, t.PDUs)
	if err != nil {
		return nil, domainError(err)
	}
	a.metrics.pdus.Add(float64(len(t.PDUs)))
	if err := a.takeEDUs(ctx, origin, t.EDUs[first:]); err != nil {
		return nil, err
	}
	type result struct {
		Error string `json:"error,omitempty"`
	}
	answer := struct {
		PDUs map[string]result `json:"pdus"`
	}{make(map[string]result, len(results))}
	for id, reason := range results {
		answer.PDUs[id] = result{reason}
	}
	return json.Marshal(answer)
}
