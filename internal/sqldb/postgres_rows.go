package sqldb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// pgRows reads the wire format itself, so that both engines give the same values.
type pgRows struct {
	conn  *pgConn
	r     pgx.Rows
	batch pgx.BatchResults // that r is part of; nil when it came alone
}

func (r *pgRows) next() bool { return r.r.Next() }

func (r *pgRows) close() error {
	r.r.Close()
	err := r.r.Err()
	if r.batch != nil {
		err = errors.Join(err, r.batch.Close())
		r.batch = nil
	}
	return err
}

func (r *pgRows) scan(dest []any) error {
	raw, fields := r.r.RawValues(), r.r.FieldDescriptions()
	if len(dest) != len(raw) {
		return fmt.Errorf("%d columns for %d destinations", len(raw), len(dest))
	}
	for i, d := range dest {
		if p, ok := d.(*int64); ok && fields[i].DataTypeOID == pgtype.Int8OID && len(raw[i]) == 8 && fields[i].Format == 1 {
			*p = int64(binary.BigEndian.Uint64(raw[i]))
			continue
		}
		v, err := r.decode(fields[i].DataTypeOID, fields[i].Format, raw[i])
		if err == nil {
			err = assign(d, v)
		}
		if err != nil {
			return columnErr(i, err)
		}
	}
	return nil
}

// decode turns a column into one of the values that SQLite gives for it.
func (r *pgRows) decode(oid uint32, format int16, raw []byte) (any, error) {
	if raw == nil {
		return nil, nil
	}
	if format != pgtype.BinaryFormatCode {
		return r.decodeOther(oid, format, raw)
	}
	switch {
	case oid == pgtype.Int8OID && len(raw) == 8:
		return int64(binary.BigEndian.Uint64(raw)), nil
	case oid == pgtype.Int4OID && len(raw) == 4:
		return int64(int32(binary.BigEndian.Uint32(raw))), nil
	case oid == pgtype.Int2OID && len(raw) == 2:
		return int64(int16(binary.BigEndian.Uint16(raw))), nil
	case oid == pgtype.BoolOID && len(raw) == 1:
		return int64(raw[0]), nil
	case oid == pgtype.Float8OID && len(raw) == 8:
		return math.Float64frombits(binary.BigEndian.Uint64(raw)), nil
	case oid == pgtype.ByteaOID, oid == pgtype.TextOID, oid == pgtype.VarcharOID, oid == pgtype.NameOID:
		return append(make([]byte, 0, len(raw)), raw...), nil
	}
	return r.decodeOther(oid, format, raw)
}

func (r *pgRows) decodeOther(oid uint32, format int16, raw []byte) (any, error) {
	m := r.conn.c.TypeMap()
	typ, ok := m.TypeForOID(oid)
	if !ok {
		return nil, fmt.Errorf("type %d of PostgreSQL is not supported", oid)
	}
	v, err := typ.Codec.DecodeValue(m, oid, format, raw)
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case pgtype.Numeric: // sum of a BIGINT
		if n, err := v.Int64Value(); err == nil {
			return n.Int64, nil
		}
		f, err := v.Float64Value()
		return f.Float64, err
	case int16:
		return int64(v), nil
	case int32:
		return int64(v), nil
	case bool:
		if v {
			return int64(1), nil
		}
		return int64(0), nil
	}
	return v, nil
}
