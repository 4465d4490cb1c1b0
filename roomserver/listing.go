package roomserver

import (
	"cmp"
	"context"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"knock/internal/cache"
	"knock/internal/sqldb"
	"knock/roomserver/store"
)

var (
	publishedStates = sqldb.Register("published.states", `SELECT r.nid, r.state FROM published p JOIN rooms r ON r.nid = p.room WHERE r.resident = $1`)
	residentStates  = sqldb.Register("published.residents", `SELECT nid, state FROM rooms WHERE nid = ANY($1::bigint[]) AND resident = $2`)
	joinedCounts    = sqldb.Register("membership.joinedCounts", `SELECT room, count(*) FROM membership WHERE state = $1 AND room = ANY($2::bigint[]) GROUP BY room`)
)

// Listing is the directory of published rooms. It keeps what it knows of a room
// until the room's state changes.
type Listing struct {
	s     *Server
	known *cache.Cache[int64, listed]
}

type listed struct {
	state int64 // the state set that it describes
	sum   RoomSummary
	text  string // what a search looks in, folded
}

// listedRooms bounds the summaries that are kept.
const listedRooms = 20_000

// NewListing returns the directory of a server.
func NewListing(s *Server, reg prometheus.Registerer) *Listing {
	return &Listing{s: s, known: cache.New(cache.Options[int64, listed]{Name: "listed_rooms", Entries: listedRooms, Registerer: reg})}
}

// ListingQuery asks for a part of the directory.
type ListingQuery struct {
	Term  string    // words that must all occur in name, topic or alias
	Types []*string // room types, nil for those without; a nil list is all
	Since string    // a token of a page
	Limit int
	// Networks tells of rooms in directories of application services; nil: none are wanted. With NetworksOnly, they alone
	// are.
	Networks     func(tx *sqldb.Tx) (rooms []int64, err error)
	NetworksOnly bool
}

// ListingPage is a part of the directory, largest rooms first.
type ListingPage struct {
	Rooms      []RoomSummary
	Next, Prev string // tokens, "" at the ends
	Total      int
}

// Search returns a page of the published rooms that others can get into or read.
func (l *Listing) Search(ctx context.Context, q ListingQuery) (ListingPage, error) {
	since, err := parseListingToken(q.Since)
	if err != nil {
		return ListingPage{}, err
	}
	rooms, err := l.rooms(ctx, q)
	if err != nil {
		return ListingPage{}, err
	}
	words := strings.Fields(fold(q.Term))
	rooms = slices.DeleteFunc(rooms, func(r listed) bool { return !r.matches(words, q.Types) })
	slices.SortFunc(rooms, func(a, b listed) int { return listingOrder(a.sum, b.sum.Joined, b.sum.RoomID) })
	from, to := since.bounds(rooms, q.Limit)
	page := ListingPage{Total: len(rooms), Rooms: make([]RoomSummary, 0, to-from)}
	for _, r := range rooms[from:to] {
		page.Rooms = append(page.Rooms, r.sum)
	}
	if to < len(rooms) && to > from {
		page.Next = listingToken{false, rooms[to-1].sum.Joined, rooms[to-1].sum.RoomID}.String()
	}
	if from > 0 && from < len(rooms) {
		page.Prev = listingToken{true, rooms[from].sum.Joined, rooms[from].sum.RoomID}.String()
	}
	return page, nil
}

func (r *listed) matches(words []string, types []*string) bool {
	if r.sum.Joined == 0 || !r.sum.Open() && r.sum.JoinRule != "restricted" {
		return false
	}
	for _, word := range words {
		if !strings.Contains(r.text, word) {
			return false
		}
	}
	return types == nil || slices.ContainsFunc(types, func(t *string) bool {
		return t == nil && r.sum.RoomType == "" || t != nil && *t == r.sum.RoomType
	})
}

// fold makes texts comparable without regard to case and to forms of the same character.
func fold(s string) string { return cases.Fold().String(norm.NFKC.String(s)) }

// rooms returns what is published where the query looks.
func (l *Listing) rooms(ctx context.Context, q ListingQuery) (rooms []listed, err error) {
	err = l.s.db.Read(ctx, func(tx *sqldb.Tx) error {
		states, err := l.states(tx, q)
		if err != nil {
			return err
		}
		var stale []int64
		for room, set := range states {
			if r, ok := l.known.Get(room); ok && r.state == set {
				rooms = append(rooms, r)
			} else {
				stale = append(stale, room)
			}
		}
		if len(stale) == 0 {
			return err
		}
		fresh, err := l.describe(tx, stale, states)
		rooms = append(rooms, fresh...)
		return err
	})
	return rooms, err
}

// states are the rooms that a query is about, with their state sets.
func (l *Listing) states(tx *sqldb.Tx, q ListingQuery) (map[int64]int64, error) {
	states := map[int64]int64{}
	add := func(rows *sqldb.Rows) (_ struct{}, err error) {
		var room, set int64
		err = rows.Scan(&room, &set)
		states[room] = set
		return struct{}{}, err
	}
	if !q.NetworksOnly {
		if _, err := sqldb.Collect(tx, publishedStates, add, 1); err != nil {
			return nil, err
		}
	}
	if q.Networks == nil {
		return states, nil
	}
	nids, err := q.Networks(tx)
	if err == nil && len(nids) > 0 {
		_, err = sqldb.Collect(tx, residentStates, add, nids, 1)
	}
	return states, err
}

func (l *Listing) describe(tx *sqldb.Tx, nids []int64, states map[int64]int64) ([]listed, error) {
	joined := make(map[int64]int, len(nids))
	_, err := sqldb.Collect(tx, joinedCounts, func(rows *sqldb.Rows) (_ struct{}, err error) {
		var room int64
		var n int
		err = rows.Scan(&room, &n)
		joined[room] = n
		return struct{}{}, err
	}, int64(store.Join), nids)
	if err != nil {
		return nil, err
	}
	out := make([]listed, 0, len(nids))
	for _, nid := range nids {
		key, err := l.s.Store.RoomByNID(tx, nid)
		if err != nil {
			return nil, err
		}
		ref, err := l.s.Store.Set(tx, states[nid])
		if err != nil {
			return nil, err
		}
		r := listed{state: states[nid]}
		if r.sum, err = l.s.summarise(tx, key, ref, joined[nid]); err != nil {
			return nil, err
		}
		r.text = fold(strings.Join([]string{r.sum.Name, r.sum.Topic, r.sum.CanonicalAlias}, "\n"))
		l.known.Put(nid, r)
		out = append(out, r)
	}
	return out, nil
}

// listingToken is a place in the directory: before or after a room of so many
// members.
type listingToken struct {
	before bool
	joined int
	room   string
}

func parseListingToken(text string) (t *listingToken, err error) {
	if text == "" {
		return nil, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	number, id, ok := strings.Cut(string(raw), "!")
	if err != nil || !ok || len(number) < 2 || number[0] != 'a' && number[0] != 'b' {
		return nil, ErrBadRequest
	}
	t = &listingToken{before: number[0] == 'b', room: "!" + id}
	if t.joined, err = strconv.Atoi(number[1:]); err != nil {
		return nil, ErrBadRequest
	}
	return t, nil
}

// bounds returns which of the sorted rooms make the page.
func (t *listingToken) bounds(rooms []listed, limit int) (from, to int) {
	if t == nil {
		return 0, min(limit, len(rooms))
	}
	i, found := slices.BinarySearchFunc(rooms, t, func(r listed, t *listingToken) int { return listingOrder(r.sum, t.joined, t.room) })
	if t.before {
		return max(0, i-limit), i
	}
	if found {
		i++
	}
	return i, min(i+limit, len(rooms))
}

// listingOrder sorts by members, most first, then by id.
func listingOrder(s RoomSummary, joined int, room string) int {
	return cmp.Or(cmp.Compare(joined, s.Joined), cmp.Compare(s.RoomID, room))
}
