package prepare

import (
	"database/sql"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

// scans are the statements that may go through a whole table, by why that is no harm.
var scans = map[string]string{
	"the table has few rows": `sqldb.takePosition sqldb.position sqldb.versions account.regList account.loginTokenDelete account.sessionTokens
		account.sessionTokenUsers account.openIDDelete
		sso.flowCount sso.flowTrim inbound.rooms notices.jobs notices.nextJob pushers.queue search_segments.all search_queue.next
		directory_queue.next directory_rooms.all redemptions.count followUps.all e2ee.outboxServers e2ee.outboxListsPrune
		outbound.destinations outbound.waiting`,
	"the whole table is wanted, once a start": `account.dataOfType account.usersErased account.userStandings pushrules.indexed aliases.all
		membership.localJoined room_servers.all rooms.resident published.states published.all appservices.localStays appservices.rooms
		pushers.all pushers.orphans partial_joins.all sticky.active sticky.recent`,
	"it is asked now and then, in the background": `delayed.richest e2ee.usersWaiting e2ee.devicesWithKeys e2ee.remoteStale
		media.cached media.previewBytes inbound.sweep`,
	"an administrator asks": `reports.newest reports.oldest reports.total`,
}

// TestScans looks at the plans of all statements on SQLite: none goes through a table that grows, but for those above. Views
// made in the statement itself are not meant.
func TestScans(t *testing.T) {
	url := sqldbtest.URL(t, sqldb.SQLite)
	sqldbtest.OpenURL(t, url) // migrates it
	file, _, _ := strings.Cut(strings.TrimPrefix(url, "sqlite:"), "?")
	db, err := sql.Open("sqlite3", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tables := tablesOf(t, db)
	allowed := map[string]bool{}
	for _, names := range scans {
		for _, name := range strings.Fields(names) {
			allowed[name] = true
		}
	}
	for _, s := range sqldb.All(sqldb.SQLite) {
		text := s.Text(sqldb.SQLite)
		through := ""
		for _, step := range plan(t, db, text) {
			words := strings.Fields(step)
			if words[0] == "SCAN" && slices.Contains(tables, tableOf(text, words[1])) {
				through = step
			}
		}
		switch {
		case through != "" && !allowed[s.Name()]:
			t.Errorf("%s goes through a whole table (%s): give it an index, or say in scans why that is no harm:\n%s", s.Name(), through, text)
		case through == "" && allowed[s.Name()]:
			t.Errorf("%s goes through no table: take it out of scans", s.Name())
		}
	}
}

func tablesOf(t *testing.T, db *sql.DB) (names []string) {
	rows, err := db.Query("SELECT name FROM sqlite_schema WHERE type = 'table'")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}

// tableOf is the table that a statement calls by a name of its own.
func tableOf(text, name string) string {
	if m := regexp.MustCompile(`(?i)\b(?:FROM|JOIN)\s+(\w+)\s+(?:AS\s+)?` + regexp.QuoteMeta(name) + `\b`).FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return name
}

var parameter = regexp.MustCompile(`\?(\d+)`)

func plan(t *testing.T, db *sql.DB, text string) (steps []string) {
	var args []any
	for _, m := range parameter.FindAllStringSubmatch(text, -1) {
		for n, _ := strconv.Atoi(m[1]); len(args) < n; {
			args = append(args, 1)
		}
	}
	rows, err := db.Query("EXPLAIN QUERY PLAN "+text, args...)
	if err != nil {
		t.Fatalf("%v in: %s", err, text)
	}
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, step)
	}
	return steps
}
