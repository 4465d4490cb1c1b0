package relations

import "knock/internal/sqldb"

// A child counts when it has a place in the history of the parent's room and is not redacted.
// "e.room + 0" keeps the planners from the index of a room's history: children are few, a room's events are many.
const counts = ` e.ord IS NOT NULL AND e.redacted_by = 0 `

var (
	insertRelation = sqldb.RegisterInsert("relations.insert", `INSERT INTO relations (parent, rel, mark, child) VALUES`, 4, `ON CONFLICT DO NOTHING`)
	insertThread   = sqldb.RegisterInsert("threads.insert", `INSERT INTO threads (room, root) VALUES`, 2, `ON CONFLICT DO NOTHING`)

	annotations = sqldb.Register("relations.annotations", `SELECT r.child FROM relations r JOIN events e ON e.nid = r.child
		WHERE r.parent = $1 AND r.rel = $2 AND r.mark = $3 AND e.room + 0 = $4 AND`+counts+`LIMIT 10`)

	// anyOf tells whether there is anything to aggregate for the parents $1. (The order makes PostgreSQL use the key.)
	anyOf = sqldb.Register("relations.any", `SELECT r.child FROM relations r WHERE r.parent = ANY($1::bytea[]) AND r.rel = ANY($2::bigint[]) ORDER BY r.parent LIMIT 1`)

	// relatedBy gives those of the parents $1 that have a child of the rel_types $4 (any if $3 is 0) and the senders $6
	// (any if $5 is 0).
	relatedBy = sqldb.Register("relations.relatedBy", `SELECT DISTINCT r.parent FROM relations r JOIN events e ON e.nid = r.child
		WHERE r.parent = ANY($1::bytea[]) AND e.room + 0 = $2 AND ($3::bigint = 0 OR r.rel = ANY($4::bigint[]))
			AND ($5::bigint = 0 OR e.sender = ANY($6::bigint[])) AND`+counts)

	// threadsOf gives the newest $6 replies of each thread, with how many there are and whether the user $5 wrote one.
	threadsOf = sqldb.Register("relations.threadsOf", `SELECT x.parent, x.child, x.total, x.mine FROM (
			SELECT r.parent AS parent, r.child AS child,
				row_number() OVER (PARTITION BY r.parent ORDER BY e.ord DESC) AS place,
				count(*) OVER (PARTITION BY r.parent) AS total,
				max(CASE WHEN e.sender = $5 THEN 1 ELSE 0 END) OVER (PARTITION BY r.parent) AS mine
			FROM relations r JOIN events e ON e.nid = r.child
			WHERE r.parent = ANY($1::bytea[]) AND r.rel = $2 AND e.room + 0 = $3 AND e.sender <> ALL($4::bigint[]) AND`+counts+`
		) AS x WHERE x.place <= $6 ORDER BY x.parent, x.place`)

	// editsOf gives the newest $5 edits of each event that its own sender made.
	editsOf = sqldb.Register("relations.editsOf", `SELECT x.parent, x.child FROM (
			SELECT r.parent AS parent, r.child AS child,
				row_number() OVER (PARTITION BY r.parent ORDER BY e.ts DESC, e.nid DESC) AS place
			FROM relations r JOIN events p ON p.id = r.parent JOIN events e ON e.nid = r.child
			WHERE r.parent = ANY($1::bytea[]) AND r.rel = $2 AND p.room + 0 = $3 AND e.room + 0 = $3 AND e.sender <> ALL($4::bigint[])
				AND e.sender = p.sender AND e.type = p.type AND e.tuple = 0 AND p.tuple = 0 AND p.redacted_by = 0 AND`+counts+`
		) AS x WHERE x.place <= $5`)

	// referencesOf gives the newest $5 references to each event, oldest first.
	referencesOf = sqldb.Register("relations.referencesOf", `SELECT x.parent, x.child, x.id FROM (
			SELECT r.parent AS parent, r.child AS child, e.id AS id, e.ord AS ord,
				row_number() OVER (PARTITION BY r.parent ORDER BY e.ord DESC) AS place
			FROM relations r JOIN events e ON e.nid = r.child
			WHERE r.parent = ANY($1::bytea[]) AND r.rel = $2 AND e.room + 0 = $3 AND e.sender <> ALL($4::bigint[]) AND`+counts+`
		) AS x WHERE x.place <= $5 ORDER BY x.ord`)
)

// In these the rel_type $2 and the event type $4 are 0 for any.
const (
	matches = ` ($2::bigint = 0 OR r.rel = $2) AND e.room + 0 = $3 AND ($4::bigint = 0 OR e.type = $4) AND` + counts
	within  = ` e.ord >= $5 AND e.ord < $6 `

	direct = `SELECT e.nid FROM relations r JOIN events e ON e.nid = r.child
		WHERE r.parent = $1 AND` + matches + `AND` + within + `ORDER BY e.ord `

	// A child of a child that does not match is left out, though it matches itself.
	recursive = `WITH RECURSIVE tree (child, depth) AS (
			SELECT r.child, 1::bigint FROM relations r JOIN events e ON e.nid = r.child WHERE r.parent = $1 AND` + matches + `
			UNION
			SELECT r.child, t.depth + 1 FROM tree t JOIN events p ON p.nid = t.child JOIN relations r ON r.parent = p.id
				JOIN events e ON e.nid = r.child WHERE t.depth < $8 AND` + matches + `
		) SELECT e.nid FROM events e WHERE e.nid IN (SELECT tree.child FROM tree) AND` + within + `ORDER BY e.ord `

	newest = `DESC LIMIT $7`
	oldest = `LIMIT $7`
)

// childrenOf are by recursion and direction (back first).
var childrenOf = [2][2]*sqldb.Stmt{
	{sqldb.Register("relations.childrenBack", direct+newest), sqldb.Register("relations.children", direct+oldest)},
	{sqldb.Register("relations.treeBack", recursive+newest), sqldb.Register("relations.tree", recursive+oldest)},
}

// threadsOfRoom gives roots of a room by their newest reply, of which the user $4 took part in if $5 is 1.
var threadsOfRoom = sqldb.Register("threads.ofRoom", `SELECT x.root, x.latest FROM (
		SELECT p.nid AS root, max(e.ord) AS latest, max(CASE WHEN e.sender = $4 OR p.sender = $4 THEN 1 ELSE 0 END) AS mine
		FROM threads t JOIN events p ON p.id = t.root AND p.room = t.room
			JOIN relations r ON r.parent = t.root AND r.rel = $2 JOIN events e ON e.nid = r.child AND e.room = t.room
		WHERE t.room = $1 AND p.ord IS NOT NULL AND e.sender <> ALL($3::bigint[]) AND`+counts+`GROUP BY p.nid
	) AS x WHERE x.mine >= $5 AND x.latest < $6 ORDER BY x.latest DESC LIMIT $7`)

func scanNID(rows *sqldb.Rows) (nid int64, err error) {
	err = rows.Scan(&nid)
	return nid, err
}
