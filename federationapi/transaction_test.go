package federationapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"knock/internal/matrixerr"
)

// FuzzTransaction reads any body; what is accepted keeps the bounds.
func FuzzTransaction(f *testing.F) {
	for _, seed := range []string{
		`{"origin":"a","origin_server_ts":1,"pdus":[],"edus":[]}`,
		`{"pdus":[{"room_id":"!x"},7,null,"x"],"edus":[{"edu_type":"m.typing","content":{"room_id":"!x","user_id":"@a:b","typing":true}}]}`,
		`{"pdus":{}}`, `{"edus":[null,1,{"edu_type":null},{"edu_type":""}]}`, `{"pdus":null,"edus":null}`, `[]`, ``, `{"pdus":[[[[]]]]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		tr, err := parseTransaction(body)
		if err != nil {
			if e := matrixerr.From(err); e.HTTP != 400 {
				t.Fatalf("%v is not the sender's error", err)
			}
			return
		}
		if len(tr.PDUs) > maxPDUs || len(tr.EDUs) > maxEDUs {
			t.Fatalf("%d PDUs, %d EDUs", len(tr.PDUs), len(tr.EDUs))
		}
		var plain struct {
			PDUs []json.RawMessage `json:"pdus"`
		}
		if exactKeys(body) && json.Unmarshal(body, &plain) == nil && !slices.EqualFunc(plain.PDUs, tr.PDUs, func(x, y json.RawMessage) bool { return bytes.Equal(x, y) }) {
			t.Fatalf("%q, not %q", tr.PDUs, plain.PDUs)
		}
		for _, e := range tr.EDUs {
			if e.Type == "" {
				t.Fatal("an EDU without a type")
			}
		}
	})
}

// exactKeys: encoding/json takes "PDUS" for "pdus" too, and one of two lists after the other into the same slice.
func exactKeys(body []byte) bool {
	return strings.Count(strings.ToLower(string(body)), "pdu") == bytes.Count(body, []byte(`"pdus"`)) && bytes.Count(body, []byte(`"pdus"`)) < 2 &&
		!bytes.Contains(body, []byte(`\u`)) && utf8.Valid(body)
}

// TestSplitTransaction reads bodies that encoding/json refuses, and refuses what has no parts.
func TestSplitTransaction(t *testing.T) {
	deep := strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20)
	for _, c := range []struct {
		body string
		pdus []string
		ok   bool
	}{
		{`{"pdus":[]}`, nil, true},
		{` { "pdus" : [ 1 , {"a":"]}"} , "\\\"]" ] , "x":{} } `, []string{"1", `{"a":"]}"}`, `"\\\"]"`}, true},
		{`{"pdus":[` + deep + `,{"b":1}]}`, []string{deep, `{"b":1}`}, true},
		{"{\"pdus\":[{\"\xff\":NaN},2]}", []string{"{\"\xff\":NaN}", "2"}, true},
		{`{"pdus":[1],"pdus":[2]}`, []string{"2"}, true},
		{`{"\u0070dus":[1]}`, []string{"1"}, true},
		{`{"PDUS":[1]}`, nil, true},
		{`{}`, nil, true}, {`{"pdus":null}`, nil, true},
		{`{"pdus":{}}`, nil, false}, {`{"pdus":"[]"}`, nil, false}, {`[]`, nil, false}, {``, nil, false}, {`{`, nil, false}, {`{"pdus":[}`, nil, false},
		{`{"pdus":[{"a":[}]}]}`, nil, false}, {`{"pdus":[1,]}`, nil, false}, {`{"pdus":[]}x`, nil, false}, {`{"pdus":["]}`, nil, false}, {`{"pdus":["\`, nil, false},
		{`{pdus:[]}`, nil, false}, {`{"pdus"}`, nil, false}, {`{"pdus":[1 2]}`, nil, false}, {`{"pdus":[:]}`, nil, false}, {`{"pdus":[]]}`, nil, false},
	} {
		pdus, _, err := splitTransaction([]byte(c.body))
		if (err == nil) != c.ok || err == nil && !slices.EqualFunc(pdus, c.pdus, func(x json.RawMessage, y string) bool { return string(x) == y }) {
			t.Errorf("%.80s: %d, %v", c.body, len(pdus), err)
		}
	}
}

func TestSlots(t *testing.T) {
	s := newSlots()
	leave, err := s.enter(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.enter(t.Context(), "b")
	if err != nil {
		t.Fatal("another origin has to wait")
	}
	other()
	var inside, most atomic.Int64
	var wg sync.WaitGroup
	for range maxWaiting {
		wg.Go(func() {
			leave, err := s.enter(context.Background(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			most.Store(max(most.Load(), inside.Add(1)))
			inside.Add(-1)
			leave()
		})
	}
	for {
		s.mu.Lock()
		n := s.origins["a"].users
		s.mu.Unlock()
		if n == maxWaiting+1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	var e *matrixerr.Error
	if _, err := s.enter(t.Context(), "a"); !errors.As(err, &e) || e.Code != "M_LIMIT_EXCEEDED" {
		t.Errorf("one too many: %v", err)
	}
	leave()
	wg.Wait()
	if most.Load() != 1 || len(s.origins) != 0 {
		t.Errorf("%d at once, %d origins remembered", most.Load(), len(s.origins))
	}
	leave, err = s.enter(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.enter(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("who gives up: %v", err)
	}
	leave()
	if len(s.origins) != 0 {
		t.Error("an origin is remembered for ever")
	}
}
