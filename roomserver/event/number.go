package event

import (
	"bytes"
	"math"
	"strconv"
)

// maxInteger is the largest integer of canonical JSON, 2^53 − 1.
const maxInteger = 1<<53 - 1

// scanNumber checks the number at i and returns the offset after it.
func scanNumber(b []byte, i int, strict bool) (end int, canonical bool, err error) {
	start := i
	if b[i] == '-' {
		i++
	}
	digits := i
	if i = skipDigits(b, i); i == digits || i > digits+1 && b[digits] == '0' {
		return 0, false, ErrSyntax
	}
	if i < len(b) && (b[i] == '.' || b[i]|0x20 == 'e') {
		return scanFloat(b, start, i, strict)
	}
	minusZero := digits > start && b[digits] == '0'
	if strict && (minusZero || !safeInteger(b[digits:i])) {
		return 0, false, ErrNumber
	}
	return i, !minusZero, nil
}

// scanFloat goes on after the integer part. Rooms before version 6 may hold such
// numbers if a double can.
func scanFloat(b []byte, start, i int, strict bool) (end int, canonical bool, err error) {
	if b[i] == '.' {
		if i = skipDigits(b, i+1); b[i-1] == '.' {
			return 0, false, ErrSyntax
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if i = skipDigits(b, i); !digit(b[i-1]) {
			return 0, false, ErrSyntax
		}
	}
	if strict {
		return 0, false, ErrNumber
	}
	if _, err := strconv.ParseFloat(view(b[start:i]), 64); err != nil {
		return 0, false, ErrNumber
	}
	return i, false, nil
}

func skipDigits(b []byte, i int) int {
	for i < len(b) && digit(b[i]) {
		i++
	}
	return i
}

func safeInteger(digits []byte) bool {
	if len(digits) < 16 {
		return true
	}
	n, err := strconv.ParseInt(view(digits), 10, 64)
	return err == nil && n <= maxInteger
}

// appendNumber writes a number as the network hashes it. Integers stay as they
// are. A number with a fraction is written as Python does it, which is what events
// of old rooms were hashed with. A whole number with an exponent becomes an
// integer, as in the specification's example (1e10), as long as Python would not
// use an exponent for it too.
func appendNumber(dst, raw []byte) []byte {
	if !bytes.ContainsAny(raw, ".eE") {
		if string(raw) == "-0" {
			raw = raw[1:]
		}
		return append(dst, raw...)
	}
	f, _ := strconv.ParseFloat(view(raw), 64)
	abs := math.Abs(f)
	if abs != 0 && (abs < 1e-4 || abs >= 1e16) {
		return strconv.AppendFloat(dst, f, 'e', -1, 64)
	}
	if f != math.Trunc(f) {
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	if bytes.ContainsAny(raw, "eE") {
		return strconv.AppendInt(dst, int64(f), 10)
	}
	return append(strconv.AppendFloat(dst, f, 'f', -1, 64), ".0"...)
}
