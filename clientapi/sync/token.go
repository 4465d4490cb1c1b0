package sync

import (
	"strconv"
	"strings"

	"knock/internal/matrixerr"
)

// token is a point in time: "s<pos>_<to-device>_<eph>_<boot>_<epoch>", and "_<sticky>"
// while some sticky events are left over. Its first part is all that other
// endpoints need.
type token struct {
	pos      int64
	toDevice int64  // the position of messages to the device, when it is behind pos; else 0. noMessages: it has none
	eph      int64  // of the ephemeral sequence of the start named boot
	boot     string // of the node
	epoch    string // of the database
	sticky   int64  // the position of sticky events, when it is behind pos; else 0
}

// messages is the position up to which the device has its messages.
func (t token) messages() int64 {
	switch t.toDevice {
	case 0:
		return t.pos
	case noMessages:
		return 0
	}
	return t.toDevice
}

// noMessages stands in tokens of who was told of no messages to the device: with such a token /sync begins with the first.
const noMessages = -1

const maxToken = 128 // bytes

func (t token) String() string {
	b := make([]byte, 0, 64)
	b = strconv.AppendInt(append(b, 's'), t.pos, 10)
	b = strconv.AppendInt(append(b, '_'), t.toDevice, 10)
	b = strconv.AppendInt(append(b, '_'), t.eph, 10)
	b = append(append(b, '_'), t.boot...)
	b = append(append(b, '_'), t.epoch...)
	if t.sticky > 0 {
		b = strconv.AppendInt(append(b, '_'), t.sticky, 10)
	}
	return string(b)
}

func parseToken(text string) (t token, err error) {
	rest, ok := strings.CutPrefix(text, "s")
	parts := strings.Split(rest, "_")
	if !ok || len(text) > maxToken || len(parts) != 5 && len(parts) != 6 {
		return t, errToken()
	}
	for i, n := range []*int64{&t.pos, &t.toDevice, &t.eph} {
		if *n, err = strconv.ParseInt(parts[i], 10, 64); err != nil || *n < 0 && (n != &t.toDevice || *n != noMessages) || parts[i][0] == '+' {
			return t, errToken()
		}
	}
	if len(parts) == 6 {
		if t.sticky, err = strconv.ParseInt(parts[5], 10, 64); err != nil || t.sticky <= 0 || t.sticky > t.pos || parts[5][0] == '+' {
			return t, errToken()
		}
	}
	if t.boot, t.epoch = parts[3], parts[4]; t.boot == "" || t.epoch == "" {
		return t, errToken()
	}
	return t, nil
}

func errToken() error {
	return matrixerr.InvalidParam("since must be the next_batch of an earlier answer; leave it out to start again")
}
