package sqldb

import (
	"database/sql/driver"
	"encoding/hex"
	"fmt"
	"reflect"
	"strconv"
)

// bindValue turns an argument into what both drivers bind alike: nil, int64, float64, []byte; arrays become the text that
// json_each reads (SQLite) or stay slices (PostgreSQL).
func bindValue(d Dialect, v any) (any, error) {
	switch v := v.(type) {
	case nil, int64, float64:
		return v, nil
	case []byte:
		if v == nil {
			return nil, nil
		}
		return v, nil
	case string:
		return []byte(v), nil
	case int:
		return int64(v), nil
	case bool:
		if v {
			return int64(1), nil
		}
		return int64(0), nil
	case []int64:
		return bindInts(d, v), nil
	case [][]byte:
		return bindBytes(d, v), nil
	case []string:
		return bindStrings(d, v), nil
	case driver.Valuer:
		return bindValuer(d, v)
	}
	return bindReflect(d, reflect.ValueOf(v))
}

func bindValuer(d Dialect, v driver.Valuer) (any, error) {
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Pointer && rv.IsNil() {
		return nil, nil
	}
	val, err := v.Value()
	if err != nil {
		return nil, err
	}
	if _, again := val.(driver.Valuer); again {
		return nil, fmt.Errorf("cannot bind a %T", v)
	}
	return bindValue(d, val)
}

func bindReflect(d Dialect, v reflect.Value) (any, error) {
	switch v.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if u := v.Uint(); u <= 1<<63-1 {
			return int64(u), nil
		}
		return nil, fmt.Errorf("cannot bind %d: it does not fit a BIGINT", v.Uint())
	case reflect.Float32:
		return v.Float(), nil
	case reflect.Float64:
		return v.Float(), nil
	case reflect.Bool:
		return bindValue(d, v.Bool())
	case reflect.String:
		return []byte(v.String()), nil
	case reflect.Pointer:
		if v.IsNil() {
			return nil, nil
		}
		return bindValue(d, v.Elem().Interface())
	case reflect.Slice, reflect.Array:
		return bindByteKind(v)
	}
	return nil, fmt.Errorf("cannot bind a %s", v.Type())
}

// bindByteKind binds named byte slices (json.RawMessage) and byte arrays ([32]byte).
func bindByteKind(v reflect.Value) (any, error) {
	if v.Type().Elem().Kind() != reflect.Uint8 {
		return nil, fmt.Errorf("cannot bind a %s", v.Type())
	}
	if v.Kind() == reflect.Slice {
		if v.IsNil() {
			return nil, nil
		}
		return v.Bytes(), nil
	}
	b := make([]byte, v.Len())
	reflect.Copy(reflect.ValueOf(b), v)
	return b, nil
}

func bindInts(d Dialect, v []int64) any {
	if d == Postgres {
		if v == nil {
			return []int64{}
		}
		return v
	}
	b := make([]byte, 1, 2+8*len(v))
	b[0] = '['
	for i, n := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return string(append(b, ']'))
}

func bindBytes(d Dialect, v [][]byte) any {
	if d == Postgres {
		if v == nil {
			return [][]byte{}
		}
		return v
	}
	size := 2
	for _, e := range v {
		size += 3 + 2*len(e)
	}
	b := make([]byte, 1, size)
	b[0] = '['
	for i, e := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = hex.AppendEncode(b, e)
		b = append(b, '"')
	}
	return string(append(b, ']'))
}

func bindStrings(d Dialect, v []string) any {
	out := make([][]byte, len(v))
	for i, s := range v {
		out[i] = []byte(s)
	}
	return bindBytes(d, out)
}
