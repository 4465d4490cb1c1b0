package sqldb

import (
	"database/sql"
	"fmt"
	"reflect"
	"strconv"
)

// assign puts a column's value (nil, int64, float64, []byte, string) into dest, a pointer.
func assign(dest, v any) error {
	switch d := dest.(type) {
	case *int64:
		return assignInt64(d, v)
	case *[]byte:
		b, err := asBytes(v)
		*d = b
		return err
	case *string:
		b, err := asBytes(v)
		if v == nil {
			err = errNull
		}
		*d = string(b)
		return err
	case *bool:
		var n int64
		err := assignInt64(&n, v)
		*d = n != 0
		return err
	case *any:
		*d = v
		return nil
	case sql.Scanner:
		return d.Scan(v)
	}
	rv := reflect.ValueOf(dest)
	if rv.Kind() != reflect.Pointer || rv.IsNil() {
		return fmt.Errorf("destination %T is not a pointer", dest)
	}
	return assignReflect(rv.Elem(), v)
}

var errNull = fmt.Errorf("the value is NULL")

func assignInt64(d *int64, v any) error {
	switch v := v.(type) {
	case int64:
		*d = v
		return nil
	case nil:
		return errNull
	case float64:
		if n := int64(v); float64(n) == v {
			*d = n
			return nil
		}
	}
	return fmt.Errorf("a value of type %T is not an integer", v)
}

func asBytes(v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case []byte:
		return v, nil
	case string:
		return []byte(v), nil
	case int64:
		return strconv.AppendInt(nil, v, 10), nil
	}
	return nil, fmt.Errorf("a value of type %T is not bytes", v)
}

func assignReflect(d reflect.Value, v any) error {
	switch d.Kind() {
	case reflect.Pointer:
		if v == nil {
			d.SetZero()
			return nil
		}
		d.Set(reflect.New(d.Type().Elem()))
		return assign(d.Interface(), v)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		var n int64
		if err := assignInt64(&n, v); err != nil {
			return err
		}
		if d.OverflowInt(n) {
			return fmt.Errorf("%d does not fit a %s", n, d.Type())
		}
		d.SetInt(n)
		return nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var n int64
		if err := assignInt64(&n, v); err != nil {
			return err
		}
		if n < 0 || d.OverflowUint(uint64(n)) {
			return fmt.Errorf("%d does not fit a %s", n, d.Type())
		}
		d.SetUint(uint64(n))
		return nil
	case reflect.Float32, reflect.Float64:
		return assignFloat(d, v)
	case reflect.Bool:
		var n int64
		err := assignInt64(&n, v)
		d.SetBool(n != 0)
		return err
	}
	return assignBytesKind(d, v)
}

func assignFloat(d reflect.Value, v any) error {
	switch v := v.(type) {
	case float64:
		d.SetFloat(v)
	case int64:
		d.SetFloat(float64(v))
	case nil:
		return errNull
	default:
		return fmt.Errorf("a value of type %T is not a number", v)
	}
	return nil
}

// assignBytesKind fills named strings and byte slices, and byte arrays of exactly the value's length.
func assignBytesKind(d reflect.Value, v any) error {
	b, err := asBytes(v)
	if err != nil {
		return err
	}
	switch {
	case d.Kind() == reflect.String:
		if v == nil {
			return errNull
		}
		d.SetString(string(b))
	case d.Kind() == reflect.Slice && d.Type().Elem().Kind() == reflect.Uint8:
		d.SetBytes(b)
	case d.Kind() == reflect.Array && d.Type().Elem().Kind() == reflect.Uint8:
		if len(b) != d.Len() {
			return fmt.Errorf("%d bytes do not fit a %s", len(b), d.Type())
		}
		reflect.Copy(d, reflect.ValueOf(b))
	default:
		return fmt.Errorf("cannot scan into a %s", d.Type())
	}
	return nil
}
