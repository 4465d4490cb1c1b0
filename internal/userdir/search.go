package userdir

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"knock/internal/fold"
	"knock/internal/sqldb"
	"knock/roomserver/store"
)

// User is a user who was found. Name and Avatar may be empty.
type User struct {
	ID, Name, Avatar string

	rank int
}

// Bounds of a search.
const (
	maxWords = 8
	maxTerm  = 256  // bytes
	enough   = 500  // users who are ranked
	pageSize = 500  // users looked at in one statement
	maxPages = 40   // of these
	maxOpen  = 5000 // rooms that are open to all
)

// candidates are users whose folded id or name contains $2, in the order of their numbers from $1, with whether one of
// the rooms $3 has them as a member of state $4.
const (
	candidatesHead = `SELECT d.user_nid, d.user_id, d.name, d.avatar, d.folded,
		CASE WHEN EXISTS (SELECT 1 FROM membership m WHERE m.user_nid = d.user_nid AND m.state = `
	sqliteCandidates = candidatesHead + `?4 AND m.room IN (SELECT value FROM json_each(?3))) THEN 1 ELSE 0 END
		FROM directory_users d WHERE d.user_nid > ?1 AND instr(d.folded, ?2) > 0 ORDER BY d.user_nid LIMIT ?5`
	postgresCandidates = candidatesHead + `$4 AND m.room = ANY($3::bigint[])) THEN 1 ELSE 0 END
		FROM directory_users d WHERE d.user_nid > $1 AND position($2::bytea in d.folded) > 0 ORDER BY d.user_nid LIMIT $5`
)

var (
	candidates = [2]*sqldb.Stmt{
		sqldb.SQLite:   sqldb.RegisterFor(sqldb.SQLite, "directory_users.candidatesSQLite", sqliteCandidates),
		sqldb.Postgres: sqldb.RegisterFor(sqldb.Postgres, "directory_users.candidatesPostgres", postgresCandidates),
	}
	openRooms = sqldb.Register("directory_rooms.all", `SELECT room FROM directory_rooms ORDER BY room LIMIT $1`)
)

// Search returns up to limit users whose id or display name contains every word of the term, the best matches first, of
// those whom the searcher may find. limited says that there are more.
func (d *Directory) Search(ctx context.Context, searcher, term string, limit int) (found []User, limited bool, err error) {
	words := strings.Fields(fold.Text(strings.ToValidUTF8(term[:min(len(term), maxTerm)], "")))
	if len(words) == 0 {
		return nil, false, nil
	}
	words = words[:min(len(words), maxWords)]
	if err := d.CatchUp(ctx); err != nil {
		return nil, false, err
	}
	err = d.db.Read(ctx, func(tx *sqldb.Tx) error {
		rooms, err := d.roomsFor(tx, searcher)
		if err != nil || len(rooms) == 0 {
			return err
		}
		found, limited, err = d.search(tx, rooms, words)
		return err
	})
	found = slices.DeleteFunc(found, func(u User) bool { return u.ID == searcher })
	slices.SortFunc(found, better)
	if len(found) > limit {
		found, limited = found[:limit], true
	}
	return found, limited, err
}

// better ranks matches: how good they are, then whether anything is known of the user.
func better(a, b User) int {
	return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(min(len(b.Name), 1), min(len(a.Name), 1)), cmp.Compare(a.ID, b.ID))
}

// roomsFor are the rooms whose members a user may find: their own and those that are open to all. Of rooms that this
// server has left nothing is known any more.
func (d *Directory) roomsFor(tx *sqldb.Tx, user string) ([]int64, error) {
	var rooms []int64
	for _, id := range d.hub.JoinedRooms(user) {
		key, err := d.store.RoomTx(tx, id)
		if err != nil {
			return nil, err
		}
		rooms = append(rooms, key.NID)
	}
	open, err := sqldb.Collect(tx, openRooms, func(rows *sqldb.Rows) (nid int64, err error) {
		err = rows.Scan(&nid)
		return nid, err
	}, maxOpen)
	if err != nil {
		return nil, err
	}
	for _, nid := range open {
		key, err := d.store.RoomByNID(tx, nid)
		if err != nil {
			return nil, err
		}
		if d.hub.JoinedCount(key.ID) > 0 {
			rooms = append(rooms, nid)
		}
	}
	slices.Sort(rooms)
	return slices.Compact(rooms), nil
}

type candidate struct {
	nid              int64
	id, name, avatar []byte
	folded           []byte
	visible          int64
}

func scanCandidate(rows *sqldb.Rows) (c candidate, err error) {
	err = rows.Scan(&c.nid, &c.id, &c.name, &c.avatar, &c.folded, &c.visible)
	return c, err
}

func (d *Directory) search(tx *sqldb.Tx, rooms []int64, words []string) (found []User, cut bool, err error) {
	longest := slices.MaxFunc(words, func(a, b string) int { return cmp.Compare(len(a), len(b)) })
	after := int64(0)
	for range maxPages {
		page, err := sqldb.Collect(tx, candidates[d.db.Dialect()], scanCandidate, after, []byte(longest), rooms, int64(store.Join), pageSize)
		if err != nil {
			return nil, false, err
		}
		for _, c := range page {
			if c.visible != 0 && containsAll(string(c.folded), words) {
				found = append(found, c.user(words))
			}
		}
		if len(page) < pageSize {
			return found, false, nil
		}
		if len(found) >= enough {
			break
		}
		after = page[len(page)-1].nid
	}
	return found, true, nil
}

func (c candidate) user(words []string) User {
	id, name, _ := strings.Cut(string(c.folded), "\n")
	return User{ID: string(c.id), Name: string(c.name), Avatar: string(c.avatar), rank: rank(id, name, words)}
}
