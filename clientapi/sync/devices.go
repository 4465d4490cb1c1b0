package sync

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"knock/clientapi/syncread"
	"knock/internal/e2ee"
	"knock/internal/sqldb"
	"knock/roomserver/event"
)

// deviceNews is what an answer says of end-to-end encryption.
type deviceNews struct {
	moves         e2ee.Moves
	changed, left []string // device lists
	messages      []json.RawMessage
	keys          map[string]int // one-time keys
	fallback      []string       // unused fallback keys
}

// maxMessages bounds the messages to the device in one answer.
const maxMessages = 100

// countKeys reads from memory, mostly.
func (a *answer) countKeys(ctx context.Context) (err error) {
	if a.o.Keys != nil {
		a.keys, a.fallback, err = a.o.Keys.KeyCounts(ctx, a.q.user, a.q.device)
	}
	return err
}

// findMoves finds who came and went, in rooms that the filter leaves out too.
func (a *answer) findMoves(ctx context.Context, changed []string, moved map[string]bool) (err error) {
	if a.o.Keys == nil || a.from == 0 {
		return nil
	}
	rooms := slices.DeleteFunc(slices.Clone(changed), func(id string) bool { return moved[id] })
	for id := range moved {
		rooms = append(rooms, id)
	}
	a.moves, err = a.reader.Moves(ctx, a.q.user, rooms, a.from, a.at.pos)
	return err
}

// readDeviceNews reads the messages to the device, and whose devices changed: a
// client that begins fetches all lists anyway.
func (a *answer) readDeviceNews(tx *sqldb.Tx) (err error) {
	if a.o.Keys == nil {
		return nil
	}
	if a.from > 0 {
		if a.deviceNews.changed, a.deviceNews.left, err = a.o.Keys.DeviceLists(tx, a.q.user, a.from, a.at.pos, a.moves); err != nil {
			return err
		}
	}
	if a.q.device == "" {
		return nil
	}
	events, next, more, err := a.o.Keys.ToDevice(tx, a.q.user, a.q.device, a.q.since.messages(), a.at.pos, maxMessages)
	if more {
		a.at.toDevice = next
	}
	a.messages = events
	return err
}

func (a *answer) appendDeviceNews(b []byte) []byte {
	d := &a.deviceNews
	if len(d.messages) > 0 {
		b = appendEvents(append(b, `"to_device":`...), d.messages)
	}
	if len(d.changed) > 0 || len(d.left) > 0 {
		b = syncread.AppendStrings(append(b, `"device_lists":{"changed":`...), d.changed)
		b = append(syncread.AppendStrings(append(b, `,"left":`...), d.left), "},"...)
	}
	return b
}

// appendKeys appends what a device must know of its keys. Every answer has it.
func (a *answer) appendKeys(b []byte) []byte {
	b = append(b, `"device_one_time_keys_count":{`...)
	if len(a.keys) == 0 {
		b = append(b, `"signed_curve25519":0`...)
	}
	for alg, n := range a.keys {
		b = append(strconv.AppendInt(append(event.AppendString(b, alg), ':'), int64(n), 10), ',')
	}
	b = append(syncread.Closed(b, '}'), `,"device_unused_fallback_key_types":[`...)
	for _, alg := range a.fallback {
		b = append(event.AppendString(b, alg), ',')
	}
	return syncread.Closed(b, ']')
}
