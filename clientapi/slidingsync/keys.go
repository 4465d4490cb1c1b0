package slidingsync

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"knock/clientapi/syncread"
	"knock/internal/sqldb"
	"knock/roomserver/event"
)

// tellMessages tells messages for the device (MSC3885). What the client comes
// back with acknowledges them; a token of a database before a restore stands for
// nothing.
func (a *answer) tellMessages(ctx context.Context) error {
	x := &a.q.ext.toDevice
	if !x.enabled {
		return nil
	}
	from, epoch, ok := parseDeviceToken(x.since)
	if !ok || epoch != a.at.epoch || from > a.at.pos {
		from = 0
	} else {
		a.o.Keys.AckToDevice(a.q.user, a.q.device, from)
	}
	next := a.at.pos
	var events []json.RawMessage
	if from == 0 || a.o.Hub.LastPersonal(a.q.user) > from {
		err := a.read(ctx, func(tx *sqldb.Tx) (err error) {
			events, next, _, err = a.o.Keys.ToDevice(tx, a.q.user, a.q.device, from, a.at.pos, x.limit)
			return err
		})
		if err != nil {
			return err
		}
	}
	a.some = a.some || len(events) > 0
	b := event.AppendString([]byte(`{"next_batch":`), deviceToken(next, a.at.epoch))
	if len(events) > 0 {
		b = syncread.AppendArray(append(b, `,"events":`...), events)
	}
	a.appendPart("to_device", append(b, '}'))
	return nil
}

// tellKeys tells whose devices changed, and which keys the device has left
// (MSC3884). Counts are in every answer, and make one when they changed.
func (a *answer) tellKeys(ctx context.Context) error {
	if !a.q.ext.e2ee {
		return nil
	}
	b := []byte{'{'}
	if !a.q.initial && a.o.Hub.LastUser(a.q.user) > a.q.since.pos {
		lists, err := a.deviceLists(ctx)
		if err != nil {
			return err
		}
		b = append(b, lists...)
	}
	oneTime, unused, err := a.o.Keys.KeyCounts(ctx, a.q.user, a.q.device)
	if err != nil {
		return err
	}
	counts := appendCounts(nil, oneTime, unused)
	a.keyText = string(counts)
	a.some = a.some || a.keyText != a.q.own.keys[0]
	a.appendPart("e2ee", append(append(b, counts...), '}'))
	return nil
}

func (a *answer) deviceLists(ctx context.Context) ([]byte, error) {
	from, to := a.q.since.pos, a.at.pos
	moves, err := a.o.Reader.MovesSince(ctx, a.q.user, from, to)
	if err != nil {
		return nil, err
	}
	var changed, left []string
	err = a.read(ctx, func(tx *sqldb.Tx) (err error) {
		changed, left, err = a.o.Keys.DeviceLists(tx, a.q.user, from, to, moves)
		return err
	})
	if err != nil || len(changed)+len(left) == 0 {
		return nil, err
	}
	a.some = true
	b := syncread.AppendStrings([]byte(`"device_lists":{"changed":`), changed)
	return append(syncread.AppendStrings(append(b, `,"left":`...), left), "},"...), nil
}

// appendCounts appends the counts as members of an object.
func appendCounts(b []byte, oneTime map[string]int, unused []string) []byte {
	b = append(b, `"device_one_time_keys_count":{`...)
	for _, alg := range slices.Sorted(maps.Keys(oneTime)) {
		b = append(strconv.AppendInt(append(event.AppendString(b, alg), ':'), int64(oneTime[alg]), 10), ',')
	}
	if len(oneTime) == 0 {
		b = append(b, `"signed_curve25519":0`...)
	}
	b = append(syncread.Closed(b, '}'), `,"device_unused_fallback_key_types":`...)
	return syncread.AppendStrings(b, unused)
}
