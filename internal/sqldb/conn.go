package sqldb

import (
	"context"
	"errors"
	"fmt"
)

// conn is one database connection, used by one goroutine at a time.
type conn interface {
	// begin starts a transaction: the writer's, or a read-only snapshot.
	begin(ctx context.Context, write bool) error
	exec(ctx context.Context, s *Stmt, args []any) (int64, error)
	query(ctx context.Context, s *Stmt, args []any) (rows, error)
	// position takes n stream positions and returns the last of them.
	position(ctx context.Context, n int64) (int64, error)
	// insert runs multi-row inserts.
	insert(ctx context.Context, chunks []chunk) error
	// commit runs the buffered inserts and commits.
	commit(ctx context.Context, chunks []chunk) error
	rollback()
	// prepare checks that the engine accepts a statement.
	prepare(ctx context.Context, s *Stmt) error
	// script runs several statements without parameters.
	script(ctx context.Context, sql string) error
	// usable reports whether the connection can be kept.
	usable() bool
	close() error
}

// rows is an open result.
type rows interface {
	next() bool
	scan(dest []any) error
	// close ends the result and returns the error that stopped it, if one did.
	close() error
}

// chunk is one multi-row INSERT with its bound arguments.
type chunk struct {
	stmt *Stmt
	args []any
}

// Errors of the package.
var (
	// ErrClosed is the answer to an operation queued after Close.
	ErrClosed = errors.New("the database is closed")
	// ErrNewerSchema says that a newer version of the program has migrated this database.
	ErrNewerSchema = errors.New("the database was written by a newer version")
)

func columnErr(i int, err error) error { return fmt.Errorf("column %d: %w", i+1, err) }

func stmtErr(s *Stmt, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", s.name, err)
}
