package send

import (
	"encoding/json"

	"knock/federationapi/client"
	"knock/internal/ephemeral"
)

// Bounds of EDUs.
const (
	maxEDUs        = 100 // in a transaction
	maxWaitingEDUs = 1000
)

// eduQueue is what waits for one server: the newest word about each thing.
type eduQueue struct {
	typing   map[typingKey]bool
	receipts map[receiptKey]receipt
	presence map[string]presence
}

func newEDUQueue() eduQueue {
	return eduQueue{map[typingKey]bool{}, map[receiptKey]receipt{}, map[string]presence{}}
}

func (q *eduQueue) len() int    { return len(q.typing) + len(q.receipts) + len(q.presence) }
func (q *eduQueue) empty() bool { return q.len() == 0 }

func (q *eduQueue) clear() {
	clear(q.typing)
	clear(q.receipts)
	clear(q.presence)
}

// take removes up to maxEDUs of what waits and encodes it: one EDU for each who types, and receipts and presence
// gathered in as few as possible.
func (q *eduQueue) take(now int64) []client.EDU {
	if q.empty() {
		return nil
	}
	n := maxEDUs
	var out []client.EDU
	for k, typing := range q.typing {
		if n--; n < 0 {
			return out
		}
		delete(q.typing, k)
		out = append(out, encodeEDU("m.typing", map[string]any{"room_id": k.room, "user_id": k.user, "typing": typing}))
	}
	var receipts receiptEDUs
	for k, r := range q.receipts {
		if n--; n < 0 {
			break
		}
		delete(q.receipts, k)
		receipts.add(r)
	}
	for _, content := range receipts {
		out = append(out, encodeEDU("m.receipt", content))
	}
	var push []any
	for user, p := range q.presence {
		if n--; n < 0 {
			break
		}
		delete(q.presence, user)
		push = append(push, struct {
			User string `json:"user_id"`
			ephemeral.Content
		}{user, p.Content(now)})
	}
	if push != nil {
		out = append(out, encodeEDU("m.presence", map[string]any{"push": push}))
	}
	return out
}

func encodeEDU(kind string, content any) client.EDU {
	raw, err := json.Marshal(content)
	if err != nil {
		panic("send: " + kind + " cannot be encoded: " + err.Error()) // only maps and structs of plain values come here
	}
	return client.EDU{Type: kind, Content: raw}
}

// receiptEDUs are contents of m.receipt: room → type → user → receipt. A user's receipts for several threads of a room
// need one EDU each.
type receiptEDUs []map[string]map[string]map[string]receiptContent

type receiptContent struct {
	Events []string    `json:"event_ids"`
	Data   receiptData `json:"data"`
}

type receiptData struct {
	TS     int64  `json:"ts"`
	Thread string `json:"thread_id,omitempty"`
}

func (list *receiptEDUs) add(r receipt) {
	content := receiptContent{[]string{r.Event}, receiptData{r.TS, r.Thread}}
	for _, rooms := range *list {
		if _, taken := rooms[r.Room][r.Type][r.User]; !taken {
			if rooms[r.Room] == nil {
				rooms[r.Room] = map[string]map[string]receiptContent{r.Type: {}}
			}
			rooms[r.Room][r.Type][r.User] = content
			return
		}
	}
	*list = append(*list, map[string]map[string]map[string]receiptContent{r.Room: {r.Type: {r.User: content}}})
}
