package state

import (
	"encoding/binary"
	"errors"
)

// ErrCorruptDelta is returned for bytes that AppendDelta did not write.
var ErrCorruptDelta = errors.New("state: corrupt delta")

// AppendDelta appends the changes in their stored form: uvarint count, then by ascending tuple the uvarint step from the
// previous tuple and the event, 0 for a removal, else 1 + the zigzag step from the previous event. Of changes to one
// tuple the last one is kept. A whole set is stored as the changes that make it from nothing.
func AppendDelta(dst []byte, changes []Entry) []byte {
	sorted := sortedLast(changes)
	dst = binary.AppendUvarint(dst, uint64(len(sorted)))
	var tuple, event int64
	for _, c := range sorted {
		dst = binary.AppendUvarint(dst, uint64(c.Tuple)-uint64(tuple))
		tuple = c.Tuple
		if c.Event <= 0 {
			dst = append(dst, 0)
			continue
		}
		dst = binary.AppendUvarint(dst, 1+zigzag(c.Event-event))
		event = c.Event
	}
	return dst
}

func zigzag(n int64) uint64   { return uint64(n<<1) ^ uint64(n>>63) }
func unzigzag(n uint64) int64 { return int64(n>>1) ^ -int64(n&1) }

// DecodeDelta reads what AppendDelta wrote, ascending by tuple. Memory is bounded by the input's length; anything else
// than exactly one well-formed delta is ErrCorruptDelta.
func DecodeDelta(data []byte) ([]Entry, error) {
	count, data, ok := uvarint(data)
	if !ok || count > uint64(len(data))/2 {
		return nil, ErrCorruptDelta
	}
	changes := make([]Entry, 0, count)
	var tuple, event int64
	for i := range count {
		step, rest, ok := uvarint(data)
		code, rest, ok2 := uvarint(rest)
		next := int64(uint64(tuple) + step)
		if !ok || !ok2 || i > 0 && next <= tuple {
			return nil, ErrCorruptDelta
		}
		tuple, data = next, rest
		if code == 0 {
			changes = append(changes, Entry{Tuple: tuple})
			continue
		}
		if event += unzigzag(code - 1); event <= 0 {
			return nil, ErrCorruptDelta
		}
		changes = append(changes, Entry{tuple, event})
	}
	if len(data) != 0 {
		return nil, ErrCorruptDelta
	}
	return changes, nil
}

func uvarint(data []byte) (uint64, []byte, bool) {
	v, n := binary.Uvarint(data)
	if n <= 0 {
		return 0, nil, false
	}
	return v, data[n:], true
}
