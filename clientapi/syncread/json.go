package syncread

import (
	"encoding/json"

	"knock/roomserver/event"
)

// Closed replaces a comma at the end by the closing character.
func Closed(dst []byte, c byte) []byte {
	if n := len(dst) - 1; dst[n] == ',' {
		dst[n] = c
		return dst
	}
	return append(dst, c)
}

// AppendArray appends an array of encoded values.
func AppendArray(dst []byte, values []json.RawMessage) []byte {
	dst = append(dst, '[')
	for _, v := range values {
		dst = append(append(dst, v...), ',')
	}
	return Closed(dst, ']')
}

// AppendStrings appends an array of strings.
func AppendStrings(dst []byte, values []string) []byte {
	dst = append(dst, '[')
	for _, v := range values {
		dst = append(event.AppendString(dst, v), ',')
	}
	return Closed(dst, ']')
}

// Typed is an event of a type and a content alone.
func Typed(typ string, content json.RawMessage) json.RawMessage {
	b := append(make([]byte, 0, len(typ)+len(content)+24), `{"content":`...)
	b = append(append(b, content...), `,"type":`...)
	return append(event.AppendString(b, typ), '}')
}

// Typing is an m.typing event.
func Typing(users []string) json.RawMessage {
	return Typed("m.typing", append(AppendStrings([]byte(`{"user_ids":`), users), '}'))
}
