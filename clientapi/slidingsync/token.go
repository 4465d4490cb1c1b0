package slidingsync

import (
	"strconv"
	"strings"
)

// token is a point in time of a connection: "p<pos>_<gen>_<eph>_<boot>_<epoch>".
type token struct {
	pos   int64
	gen   int64  // of the connection's state
	eph   int64  // of the ephemeral sequence of the start named boot
	boot  string // of the node
	epoch string // of the database
}

const maxToken = 128 // bytes

func (t token) String() string {
	b := make([]byte, 0, 64)
	b = strconv.AppendInt(append(b, 'p'), t.pos, 10)
	b = strconv.AppendInt(append(b, '_'), t.gen, 10)
	b = strconv.AppendInt(append(b, '_'), t.eph, 10)
	b = append(append(b, '_'), t.boot...)
	return string(append(append(b, '_'), t.epoch...))
}

func parseToken(text string) (t token, ok bool) {
	rest, ok := strings.CutPrefix(text, "p")
	parts := strings.Split(rest, "_")
	if !ok || len(text) > maxToken || len(parts) != 5 {
		return t, false
	}
	for i, n := range []*int64{&t.pos, &t.gen, &t.eph} {
		var err error
		if *n, err = strconv.ParseInt(parts[i], 10, 64); err != nil || *n < 0 || parts[i][0] == '+' {
			return t, false
		}
	}
	t.boot, t.epoch = parts[3], parts[4]
	return t, t.boot != "" && t.epoch != ""
}

// deviceToken is the since of the to_device extension, "d<pos>_<epoch>". It is
// independent of the connection, so that messages are not lost with one.
func deviceToken(pos int64, epoch string) string {
	return "d" + strconv.FormatInt(pos, 10) + "_" + epoch
}

func parseDeviceToken(text string) (pos int64, epoch string, ok bool) {
	rest, ok := strings.CutPrefix(text, "d")
	number, epoch, found := strings.Cut(rest, "_")
	pos, err := strconv.ParseInt(number, 10, 64)
	return pos, epoch, ok && found && err == nil && pos >= 0 && number[0] != '+' && len(text) <= maxToken
}
