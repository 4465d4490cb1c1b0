package ephemeral

import (
	"encoding/json"

	"knock/internal/matrixerr"
)

// Types of receipts and the fully-read marker.
const (
	Read        = "m.read"
	ReadPrivate = "m.read.private"
	FullyRead   = "m.fully_read"
)

// unthreaded is stored for receipts without a thread; no event id is like it.
const unthreaded = "*"

// mainThread is the thread of events that are in no other.
const mainThread = "main"

// Receipt says that a user has read a room, or one of its threads, up to an
// event (Client-Server API, "Receipts").
type Receipt struct {
	Room   string
	User   string
	Type   string // Read or ReadPrivate
	Event  string
	Thread string // root's event id, "main", or "" for an unthreaded receipt
	TS     int64  // milliseconds
}

// storedThread is the thread as a key.
func (r *Receipt) storedThread() string {
	if r.Thread == "" {
		return unthreaded
	}
	return r.Thread
}

// checkThread refuses what cannot name a thread.
func checkThread(thread string) error {
	if thread != "" && thread != mainThread && (thread[0] != '$' || len(thread) > maxID) {
		return matrixerr.InvalidParam("thread_id must be \"main\" or the event id of a thread's root")
	}
	return nil
}

// Contents returns the contents of m.receipt events for receipts of one room,
// one event for each thread, so that no receipt hides another of the same user.
func Contents(receipts []Receipt) ([]json.RawMessage, error) {
	type data struct {
		TS     int64  `json:"ts"`
		Thread string `json:"thread_id,omitempty"`
	}
	type users map[string]data
	threads := map[string]map[string]map[string]users{} // thread, event, type
	for _, r := range receipts {
		events := threads[r.Thread]
		if events == nil {
			events = map[string]map[string]users{}
			threads[r.Thread] = events
		}
		if events[r.Event] == nil {
			events[r.Event] = map[string]users{}
		}
		if events[r.Event][r.Type] == nil {
			events[r.Event][r.Type] = users{}
		}
		events[r.Event][r.Type][r.User] = data{r.TS, r.Thread}
	}
	out := make([]json.RawMessage, 0, len(threads))
	for _, events := range threads {
		content, err := json.Marshal(events)
		if err != nil {
			return nil, err
		}
		out = append(out, content)
	}
	return out, nil
}
