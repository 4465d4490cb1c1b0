package sqldb

import (
	"database/sql"
	"errors"
)

// Rows is an open result.
type Rows struct {
	tx   *Tx
	rows rows
	stmt *Stmt
	err  error
}

// Next moves to the next row and reports whether there is one. After false, look at Err.
func (r *Rows) Next() bool {
	if r.rows == nil {
		return false
	}
	if r.rows.next() {
		return true
	}
	r.Close()
	return false
}

// Scan copies the columns of the current row into dest.
func (r *Rows) Scan(dest ...any) error {
	if r.rows == nil {
		return stmtErr(r.stmt, errors.New("Scan without a row"))
	}
	return stmtErr(r.stmt, r.rows.scan(dest))
}

// Err is the error that ended the rows early.
func (r *Rows) Err() error { return r.err }

// Close ends the result; it may be called twice. It returns Err.
func (r *Rows) Close() error {
	if r.rows == nil {
		return r.err
	}
	r.err = r.tx.failed(r.stmt, r.rows.close())
	r.rows = nil
	r.tx.open = nil
	return r.err
}

// Row is the answer of QueryRow.
type Row struct {
	rows *Rows
	err  error
}

// Scan copies the row's columns into dest. It returns sql.ErrNoRows when there is no row.
func (r *Row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	if !r.rows.Next() {
		if r.rows.err != nil {
			return r.rows.err
		}
		return sql.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		r.rows.Close()
		return err
	}
	return r.rows.Close()
}
