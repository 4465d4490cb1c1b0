package client

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
)

// scanner reads a large JSON object piece by piece. It finds where values begin and end; whether a value itself is
// valid JSON is for whoever parses it. Memory is bounded by the largest value that is asked for.
type scanner struct {
	r   *bufio.Reader
	buf []byte // the value being read
}

const (
	scanKey   = 1 << 10 // bytes of a key
	scanDepth = 1 << 10
	scanKeys  = 256 // members of the object
)

var errSyntax = badBody("not valid JSON")

func newScanner(r io.Reader) *scanner { return &scanner{r: bufio.NewReaderSize(r, 32<<10)} }

// object calls member for each member of the object; member must read the value. A key that comes twice is refused.
func (s *scanner) object(member func(key string) error) error {
	if err := s.expect('{'); err != nil {
		return err
	}
	seen := map[string]bool{}
	return s.list('}', func() error {
		raw, err := s.value(scanKey)
		if err != nil {
			return err
		}
		var key string
		if json.Unmarshal(raw, &key) != nil {
			return errSyntax
		}
		if seen[key] || len(seen) == scanKeys {
			return badBody("repeated or too many keys")
		}
		seen[key] = true
		if err := s.expect(':'); err != nil {
			return err
		}
		return member(key)
	})
}

// array calls item with each raw value of an array. The slice is the caller's to keep.
func (s *scanner) array(maxItem int, item func(raw json.RawMessage) error) error {
	if err := s.expect('['); err != nil {
		return err
	}
	return s.list(']', func() error {
		raw, err := s.value(maxItem)
		if err != nil {
			return err
		}
		return item(append(json.RawMessage(nil), raw...))
	})
}

// list reads what stands between an opening bracket, which was read, and its closing one.
func (s *scanner) list(closing byte, item func() error) error {
	for first := true; ; first = false {
		c, err := s.peek()
		if err != nil {
			return err
		}
		if c == closing && first {
			_, err = s.r.Discard(1)
			return err
		}
		if err := item(); err != nil {
			return err
		}
		if c, err = s.peek(); err != nil {
			return err
		}
		_, _ = s.r.Discard(1) // was peeked
		if c == closing {
			return nil
		}
		if c != ',' {
			return errSyntax
		}
	}
}

// value reads one value of at most limit bytes. The slice is valid until the next value.
func (s *scanner) value(limit int) ([]byte, error) {
	s.buf = s.buf[:0]
	err := s.walk(limit)
	return s.buf, err
}

// skip reads over one value of any size.
func (s *scanner) skip() error { return s.walk(-1) }

// walk reads one value, into buf unless limit is below zero.
func (s *scanner) walk(limit int) error {
	c, err := s.peek()
	if err != nil {
		return err
	}
	switch c {
	case '{', '[':
		return s.nested(limit)
	case '"':
		_, _ = s.r.Discard(1) // was peeked
		if err := s.keep(limit, '"'); err != nil {
			return err
		}
		return s.text(limit)
	}
	return s.scalar(limit)
}

// nested reads an object or array up to its closing bracket.
func (s *scanner) nested(limit int) error {
	for depth := 0; ; {
		c, err := s.r.ReadByte()
		if err != nil {
			return unexpected(err)
		}
		if err := s.keep(limit, c); err != nil {
			return err
		}
		switch c {
		case '{', '[':
			if depth++; depth > scanDepth {
				return badBody("nested too deeply")
			}
		case '}', ']':
			if depth--; depth == 0 {
				return nil
			}
		case '"':
			if err := s.text(limit); err != nil {
				return err
			}
		}
	}
}

// text reads the rest of a string after its opening quote.
func (s *scanner) text(limit int) error {
	for escaped := false; ; {
		c, err := s.r.ReadByte()
		if err != nil {
			return unexpected(err)
		}
		if err := s.keep(limit, c); err != nil {
			return err
		}
		switch {
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"':
			return nil
		}
	}
}

// scalar reads a number or a literal: up to what ends it.
func (s *scanner) scalar(limit int) error {
	for n := 0; ; n++ {
		c, err := s.r.ReadByte()
		if err != nil {
			return unexpected(err)
		}
		switch c {
		case ',', ']', '}', ' ', '\t', '\n', '\r':
			if n == 0 {
				return errSyntax
			}
			return s.r.UnreadByte()
		}
		if n > 64 {
			return errSyntax
		}
		if err := s.keep(limit, c); err != nil {
			return err
		}
	}
}

func (s *scanner) keep(limit int, c byte) error {
	if limit < 0 {
		return nil
	}
	if len(s.buf) >= limit {
		return errTooLarge
	}
	s.buf = append(s.buf, c)
	return nil
}

// peek looks at the next byte that is not white space.
func (s *scanner) peek() (byte, error) {
	for {
		c, err := s.r.ReadByte()
		if err != nil {
			return 0, unexpected(err)
		}
		switch c {
		case ' ', '\t', '\n', '\r':
		default:
			return c, s.r.UnreadByte()
		}
	}
}

func (s *scanner) expect(c byte) error {
	got, err := s.peek()
	if err != nil {
		return err
	}
	if got != c {
		return errSyntax
	}
	_, err = s.r.Discard(1)
	return err
}

// unexpected says that an answer was cut off.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
