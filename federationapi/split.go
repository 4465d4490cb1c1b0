package federationapi

import (
	"encoding/json"
	"fmt"

	"knock/internal/matrixerr"
)

var (
	errSplit = matrixerr.NotJSON("The request body is not valid JSON")
	errLists = matrixerr.BadJSON(`"pdus" and "edus" must be lists`)
)

// splitTransaction cuts the body of a transaction into its items without looking into them, so that what cannot be
// parsed, however deep it is, stays within its item. Where a key comes twice the last one counts.
func splitTransaction(body []byte) (pdus, edus []json.RawMessage, err error) {
	s := splitter(body)
	i := s.space(0)
	if s.at(i) != '{' {
		return nil, nil, errSplit
	}
	lists := map[string]json.RawMessage{}
	end, err := s.items(i, '}', func(from int) (int, error) {
		to, err := s.value(from)
		if err != nil || s.at(from) != '"' {
			return 0, errSplit
		}
		colon := s.space(to)
		if s.at(colon) != ':' {
			return 0, errSplit
		}
		start := s.space(colon + 1)
		end, err := s.value(start)
		var key string
		if err == nil && json.Unmarshal(body[from:to], &key) == nil && (key == "pdus" || key == "edus") {
			lists[key] = body[start:end]
		}
		return end, err
	})
	if err != nil || s.space(end) != len(body) {
		return nil, nil, errSplit
	}
	if pdus, err = splitList(lists["pdus"], maxPDUs); err != nil {
		return nil, nil, err
	}
	edus, err = splitList(lists["edus"], maxEDUs)
	return pdus, edus, err
}

// splitList cuts a list, which may be absent or null, into its items.
func splitList(raw []byte, most int) (list []json.RawMessage, err error) {
	s := splitter(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if s.at(0) != '[' {
		return nil, errLists
	}
	_, err = s.items(0, ']', func(from int) (int, error) {
		to, err := s.value(from)
		if err != nil {
			return 0, err
		}
		if len(list) == most {
			return 0, matrixerr.InvalidParam(fmt.Sprintf("A transaction may hold at most %d PDUs and %d EDUs", maxPDUs, maxEDUs))
		}
		list = append(list, raw[from:to])
		return to, nil
	})
	return list, err
}

// splitter finds where values end. It never recurses.
type splitter []byte

// at is the byte at i, 0 behind the end.
func (s splitter) at(i int) byte {
	if i < len(s) {
		return s[i]
	}
	return 0
}

func (s splitter) space(i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\t' || s[i] == '\n' || s[i] == '\r') {
		i++
	}
	return i
}

// items calls item at the start of each item of the object or list at i, which returns its end, and returns the
// offset behind the closing bracket.
func (s splitter) items(i int, closing byte, item func(from int) (to int, err error)) (int, error) {
	if i = s.space(i + 1); s.at(i) == closing {
		return i + 1, nil
	}
	for {
		to, err := item(i)
		if err != nil {
			return 0, err
		}
		switch i = s.space(to); s.at(i) {
		case ',':
			i = s.space(i + 1)
		case closing:
			return i + 1, nil
		default:
			return 0, errSplit
		}
	}
}

// value returns the end of the value at i: of a string, of what stands between brackets, or of a word.
func (s splitter) value(i int) (int, error) {
	start, depth := i, 0
	for i < len(s) {
		switch s[i] {
		case '"':
			if i = s.text(i + 1); i > len(s) {
				return 0, errSplit
			}
		case '{', '[':
			depth++
			i++
		case '}', ']':
			if depth--; depth < 0 {
				return 0, errSplit
			}
			i++
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return 0, errSplit
			}
			i++
			continue
		default:
			i = s.word(i)
		}
		if depth == 0 && i > start {
			return i, nil
		}
	}
	return 0, errSplit
}

// text returns the offset behind the closing quote, one too far when there is none.
func (s splitter) text(i int) int {
	for ; i < len(s); i++ {
		switch s[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return len(s) + 1
}

func (s splitter) word(i int) int {
	for i < len(s) {
		switch s[i] {
		case '"', '{', '[', '}', ']', ',', ':', ' ', '\t', '\n', '\r':
			return i
		}
		i++
	}
	return i
}
