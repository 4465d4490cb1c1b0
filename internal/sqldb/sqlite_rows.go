package sqldb

import (
	"database/sql/driver"
	"fmt"
	"io"
)

type sqliteRows struct {
	conn *sqliteConn
	r    driver.Rows
	vals []driver.Value
	err  error
}

func (r *sqliteRows) open(dr driver.Rows) {
	n := len(dr.Columns())
	r.r, r.err = dr, nil
	if cap(r.vals) < n {
		r.vals = make([]driver.Value, n)
	}
	r.vals = r.vals[:n]
}

func (r *sqliteRows) next() bool {
	err := r.r.Next(r.vals)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return err == nil
}

func (r *sqliteRows) scan(dest []any) error {
	if len(dest) != len(r.vals) {
		return fmt.Errorf("%d columns for %d destinations", len(r.vals), len(dest))
	}
	for i, d := range dest {
		if err := assign(d, r.vals[i]); err != nil {
			return columnErr(i, err)
		}
	}
	return nil
}

func (r *sqliteRows) close() error {
	clear(r.vals)
	cerr := r.r.Close()
	if r.err != nil {
		return r.err
	}
	return cerr
}
