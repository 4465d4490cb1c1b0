package search

import (
	"database/sql"
	"errors"

	"knock/internal/sqldb"
)

var (
	insertSegment = sqldb.RegisterInsert("search_segments.insert", `INSERT INTO search_segments (seg, age, docs, rooms) VALUES`, 4, ``)
	insertBlock   = sqldb.RegisterInsert("search_blocks.insert", `INSERT INTO search_blocks (seg, term, doc, data) VALUES`, 4, ``)
	insertDocs    = sqldb.RegisterInsert("search_docs.insert", `INSERT INTO search_docs (seg, doc, data) VALUES`, 3, ``)

	segments      = sqldb.Register("search_segments.all", `SELECT seg, age, docs, rooms FROM search_segments ORDER BY age DESC`)
	isSegment     = sqldb.Register("search_segments.is", `SELECT seg FROM search_segments WHERE seg = $1`)
	deleteSegment = sqldb.Register("search_segments.delete", `DELETE FROM search_segments WHERE seg = ANY($1::bigint[])`)

	// The blocks that have the term $1 in the segments $2, if any block does.
	findBlocks = sqldb.Register("search_blocks.find", `SELECT b.seg, b.data FROM search_segments s JOIN search_blocks b ON b.seg = s.seg
		AND b.term = (SELECT x.term FROM search_blocks x WHERE x.seg = s.seg AND x.term <= $1 ORDER BY x.term DESC LIMIT 1)
		WHERE s.seg = ANY($2::bigint[]) ORDER BY b.seg, b.doc`)
	// The blocks that have terms from $1 to before $3 in the segments $2, if any block does.
	findPrefix = sqldb.Register("search_blocks.prefix", `SELECT b.seg, b.data FROM search_segments s JOIN search_blocks b ON b.seg = s.seg
		AND b.term >= COALESCE((SELECT x.term FROM search_blocks x WHERE x.seg = s.seg AND x.term <= $1 ORDER BY x.term DESC LIMIT 1), $1)
		AND b.term < $3 WHERE s.seg = ANY($2::bigint[]) ORDER BY b.seg, b.term, b.doc`)
	nextBlocks = sqldb.Register("search_blocks.next", `SELECT term, doc, data FROM search_blocks WHERE seg = $1 AND (term, doc) > ($2, $3::bigint) ORDER BY term, doc LIMIT $4`)
	someDocs   = sqldb.Register("search_docs.some", `SELECT doc, data FROM search_docs WHERE seg = $1 AND doc = ANY($2::bigint[]) ORDER BY doc`)

	// Left-overs of segments that are gone.
	blocksAfter  = sqldb.Register("search_blocks.after", `SELECT seg FROM search_blocks WHERE seg > $1 ORDER BY seg LIMIT 1`)
	docsAfter    = sqldb.Register("search_docs.after", `SELECT seg FROM search_docs WHERE seg > $1 ORDER BY seg LIMIT 1`)
	deleteBlocks = sqldb.Register("search_blocks.delete", `DELETE FROM search_blocks WHERE seg = $1 AND term IN (SELECT x.term FROM search_blocks x WHERE x.seg = $1 ORDER BY x.term LIMIT $2)`)
	deleteDocs   = sqldb.Register("search_docs.delete", `DELETE FROM search_docs WHERE seg = $1 AND doc IN (SELECT x.doc FROM search_docs x WHERE x.seg = $1 ORDER BY x.doc LIMIT $2)`)

	getState = sqldb.Register("search_state.get", `SELECT pos, until, room, at, version FROM search_state WHERE nid = $1`)
	putState = sqldb.Register("search_state.put", `INSERT INTO search_state (nid, pos, until, room, at, version, removed, cleaned) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (nid) DO UPDATE SET pos = excluded.pos, until = excluded.until, room = excluded.room, at = excluded.at, version = excluded.version`)
	forget     = sqldb.Register("search_state.delete", `DELETE FROM search_state WHERE nid = $1`)
	getRemoved = sqldb.Register("search_state.removed", `SELECT removed, cleaned FROM search_state WHERE nid = $1`)
	addRemoved = sqldb.Register("search_state.addRemoved", `UPDATE search_state SET removed = removed + $2::bigint WHERE nid = $1`)
	setCleaned = sqldb.Register("search_state.cleaned", `UPDATE search_state SET removed = removed - $2::bigint, cleaned = $3 WHERE nid = $1`)

	enqueue = sqldb.RegisterInsert("search_queue.insert", `INSERT INTO search_queue (event) VALUES`, 1, `ON CONFLICT DO NOTHING`)
	queued  = sqldb.Register("search_queue.next", `SELECT event FROM search_queue ORDER BY event LIMIT $1`)
	dequeue = sqldb.Register("search_queue.delete", `DELETE FROM search_queue WHERE event = ANY($1::bigint[])`)

	changedRooms = sqldb.Register("search.changedRooms", `SELECT r.nid FROM rooms r WHERE r.nid > $1 AND EXISTS (SELECT e.nid FROM events e WHERE e.room = r.nid AND e.pos > $2) ORDER BY r.nid LIMIT $3`)
	allRooms     = sqldb.Register("search.allRooms", `SELECT r.nid FROM rooms r WHERE r.nid > $1 ORDER BY r.nid LIMIT $2`)
	delivered    = sqldb.Register("search.delivered", `SELECT nid, pos FROM events WHERE room = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`)
	history      = sqldb.Register("search.history", `SELECT nid, ord FROM events WHERE room = $1 AND ord > $2 ORDER BY ord LIMIT $3`)
	living       = sqldb.Register("search.living", `SELECT nid FROM events WHERE nid = ANY($1::bigint[]) AND redacted_by = $2 AND ord IS NOT NULL`)
)

// meta is a segment's row.
type meta struct {
	seg, age, docs int64
	rooms          []roomDocs
}

func (m *meta) scan(rows *sqldb.Rows) error {
	var packed []byte
	err := rows.Scan(&m.seg, &m.age, &m.docs, &packed)
	if err == nil {
		m.rooms, err = decodeRooms(packed)
	}
	return err
}

// listSegments returns the segments, the newest first.
func listSegments(tx *sqldb.Tx) ([]meta, error) {
	return sqldb.Collect(tx, segments, func(rows *sqldb.Rows) (m meta, err error) {
		err = m.scan(rows)
		return m, err
	})
}

// state says how far the index has come: columns of the row of search_state.
type state struct{ pos, until, room, at, version int64 }

const stateRow = 1

func readState(tx *sqldb.Tx) (s state, err error) {
	err = tx.QueryRow(getState, stateRow).Scan(&s.pos, &s.until, &s.room, &s.at, &s.version)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return s, err
}

func (s state) write(tx *sqldb.Tx) error {
	_, err := tx.Exec(putState, stateRow, s.pos, s.until, s.room, s.at, tokenVersion, 0, 0)
	return err
}

// readRemoved returns how many redactions there were since the index was last cleaned of them, and when that was in
// milliseconds.
func readRemoved(tx *sqldb.Tx) (removed, cleaned int64, err error) {
	err = tx.QueryRow(getRemoved, stateRow).Scan(&removed, &cleaned)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return removed, cleaned, err
}

func scanOne(rows *sqldb.Rows) (n int64, err error) {
	err = rows.Scan(&n)
	return n, err
}

type pair struct{ nid, at int64 }

func scanPair(rows *sqldb.Rows) (p pair, err error) {
	err = rows.Scan(&p.nid, &p.at)
	return p, err
}

// readChunks returns the docs of a segment in the rows that begin at the given places.
func readChunks(tx *sqldb.Tx, seg int64, from []int64) (map[int64][]doc, error) {
	out := make(map[int64][]doc, len(from))
	rows, err := tx.Query(someDocs, seg, from)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var place int64
		var data []byte
		if err := rows.Scan(&place, &data); err != nil {
			return nil, err
		}
		if out[place], err = decodeDocs(data); err != nil {
			return nil, err
		}
	}
	return out, rows.Err()
}

// writeDocs inserts the docs of a segment that begin at a place.
func writeDocs(tx *sqldb.Tx, seg, from int64, docs []doc) error {
	var rows [][]any
	for len(docs) > 0 {
		n := min(len(docs), docChunk)
		rows = append(rows, []any{seg, from, encodeDocs(docs[:n])})
		docs, from = docs[n:], from+int64(n)
	}
	return tx.Insert(insertDocs, rows...)
}

func writeBlocks(tx *sqldb.Tx, seg int64, blocks []block) error {
	rows := make([][]any, len(blocks))
	for i, b := range blocks {
		rows[i] = []any{seg, b.term, b.doc, b.data}
	}
	return tx.Insert(insertBlock, rows...)
}
