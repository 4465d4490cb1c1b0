// Package sqldb owns the databases: SQLite (mattn/go-sqlite3, the embedded default) and PostgreSQL (pgx) behind one
// API, one SQL text, one writer and short read snapshots. It knows no Matrix.
//
// # Statements
//
// Every statement is registered once in a package-level variable, in PostgreSQL dialect, and rewritten for SQLite:
// parameters ($1 → ?1), arrays (x = ANY($1::bigint[]), x = ANY($1::bytea[]), x <> ALL(…)), casts (x::bigint is
// dropped), FOR UPDATE (dropped), GREATEST and LEAST (MAX and MIN; mind that SQLite answers NULL when one argument is
// NULL). PrepareAll prepares all of them, so that a test finds a mistake before a user does.
//
// One text works on both engines when it has no now(), no RETURNING in a CTE, no DELETE … USING, no literals, names its
// columns, and gives parameters inside an expression a cast ("pos < $1::bigint + $2::bigint": PostgreSQL would guess
// int4). An INSERT … SELECT … ON CONFLICT needs a WHERE clause in the SELECT (SQLite's grammar).
//
// Arguments: integers, bool (stored as 0 or 1), []byte, string (bound as bytes: there are no TEXT columns), float64,
// nil, pointers and named types of these, driver.Valuer, and []int64, []string or [][]byte for arrays. A nil []byte is
// NULL, an empty one is not. Destinations of Scan: pointers to the same types, to pointers of them (NULL → nil), and
// sql.Scanner. Bytes are always the caller's own copy. One result is open at a time in a Tx.
//
// # Writing
//
// One goroutine writes. It takes what is queued into one transaction: all Checks, then the positions in one statement,
// then all Writes in the order of queueing, the BeforeCommit functions, the buffered rows as multi-row INSERTs, COMMIT,
// and after that the AfterCommit functions, the Committed callbacks in order and OnPublish. When anything after the Checks fails, the batch is
// rolled back and run again operation by operation, so only the culprit gets the error; Check and Write may therefore
// run more than once and must keep what they remember in Scratch or reset it in Check. They never call Do or NextID, which
// would wait for themselves. An operation that panics fails like one that returns an error. When PostgreSQL's connection
// breaks, a transaction whose COMMIT was under way is looked up before anything is run again.
//
// # Schema files
//
// Files are NNNN_name.sql, each applied in one transaction. Use BYTEA (BLOB on SQLite) for every string from outside
// and BIGINT (INTEGER on SQLite) for numbers, times and booleans. "nid BIGINT PRIMARY KEY" is the rowid on SQLite,
// which is what a table looked up by its number wants; always insert the number (SQLite would make one up for NULL,
// PostgreSQL refuses). For a composite or BYTEA primary key write the table WITHOUT ROWID when its rows are small:
//
//	CREATE TABLE members (
//	    room BIGINT NOT NULL,
//	    name BYTEA  NOT NULL,
//	    PRIMARY KEY (room, name)
//	)
//	-- sqlite: WITHOUT ROWID
//	;
//
// "-- sqlite: text" and "-- postgres: text" give text to one engine; a line ending in "-- only: sqlite" or
// "-- only: postgres" is left out on the other. BYTEA columns have no DEFAULT.
package sqldb
