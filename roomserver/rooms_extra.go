package roomserver

import (
	"cmp"
	"context"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/gjson"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"knock/internal/cache"
	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Point is a place in a room's history: just before the event with that ord.
// Its text, "t" and the number, is the pagination token that clients get.
type Point int64

// String returns the pagination token.
func (p Point) String() string { return "t" + strconv.FormatInt(int64(p), 10) }

// ParsePoint reads a pagination token that String made.
func ParsePoint(token string) (Point, bool) {
	text, ok := strings.CutPrefix(token, "t")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return Point(n), err == nil
}

// After returns the point just after an event.
func After(e *store.Stored) Point { return Point(e.Ord + 1) }

// PointAt returns the point that follows everything that was delivered to a
// room up to a position.
func (s *Server) PointAt(ctx context.Context, roomID string, pos int64) (p Point, err error) {
	key, err := s.Room(ctx, roomID)
	if err != nil {
		return 0, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		ord, ok, err := s.Store.OrdAt(tx, key.NID, pos)
		p = Point(ord + 1)
		if !ok {
			p = Point(-maxPos)
		}
		return err
	})
	return p, err
}

// HistoryRequest asks for events of a room in the order of history.
type HistoryRequest struct {
	RoomID, User string
	From         *Point // nil: the newest end when going back, else the oldest
	To           *Point // where to stop; nil: nowhere
	Back         bool
	Limit        int
	Keep         func(*store.Stored) bool // nil: all
}

// History is a run of events that a user may see, in the direction asked.
type History struct {
	Events    []*store.Stored
	From, End Point
	// More says that there may be more to see beyond End.
	More bool
}

// Bounds of one walk through a history.
const (
	maxWalk   = 3000 // events looked at
	maxFills  = 3    // gaps filled from other servers
	fillLimit = 100  // events fetched for a gap
)

// History reads a piece of a room's history. A gap in it is filled from other
// servers first. Events may be few or none although there are more.
func (s *Server) History(ctx context.Context, q HistoryRequest) (History, error) {
	key, err := s.Room(ctx, q.RoomID)
	if err != nil {
		return History{}, err
	}
	w := &walk{s: s, q: q, room: key.NID, tried: map[int64]bool{}}
	for {
		gap, err := w.read(ctx)
		if err != nil || !gap {
			return w.h, err
		}
		if len(w.tried) == maxFills {
			w.h.More = true
			return w.h, nil
		}
		w.tried[w.at] = true
		if _, err := s.Backfill(ctx, q.RoomID, w.at, fillLimit); err != nil {
			return w.h, err
		}
	}
}

// walk is one way through a history.
type walk struct {
	s       *Server
	q       HistoryRequest
	room    int64
	started bool
	at      int64 // between the events with ord < at and the others
	looked  int
	open    map[int64]bool // ords of events with a gap before them
	tried   map[int64]bool // gaps that were asked for
	h       History
}

// read goes on in one snapshot. It stops at the end, when it has enough, or,
// reporting true, before a gap that is to be filled.
func (w *walk) read(ctx context.Context) (gap bool, err error) {
	err = w.s.db.Read(ctx, func(tx *sqldb.Tx) error {
		if err := w.start(tx); err != nil {
			return err
		}
		for w.h.More = true; len(w.h.Events) < w.q.Limit && w.looked < maxWalk; {
			if w.atGap() {
				gap = true
				return nil
			}
			on, err := w.page(tx)
			if err != nil || !on {
				return err
			}
		}
		return w.peek(tx)
	})
	w.h.End = Point(w.at)
	return gap, err
}

func (w *walk) start(tx *sqldb.Tx) error {
	if w.q.Back {
		gaps, err := w.s.Store.Gaps(tx, w.room, gapsLooked)
		if err != nil {
			return err
		}
		w.open = make(map[int64]bool, len(gaps))
		for _, g := range gaps {
			w.open[g.Ord] = true
		}
	}
	if w.started {
		return nil
	}
	w.started = true
	if w.q.From != nil {
		w.at = int64(*w.q.From)
	} else {
		highest, lowest, _, err := w.s.Store.Ords(tx, w.room)
		if err != nil {
			return err
		}
		if w.at = lowest; w.q.Back {
			w.at = highest + 1
		}
	}
	w.h.From = Point(w.at)
	return nil
}

func (w *walk) atGap() bool { return w.open[w.at] && !w.tried[w.at] }

// page takes the next events; it reports false at the end of the history.
func (w *walk) page(tx *sqldb.Tx) (on bool, err error) {
	want := min(max(w.q.Limit-len(w.h.Events), 16), 256)
	events, err := w.next(tx, want)
	if err != nil {
		return false, err
	}
	visible, err := w.s.Visible(tx, w.q.User, events)
	if err != nil {
		return false, err
	}
	for _, e := range events {
		seen := len(visible) > 0 && visible[0] == e
		if seen {
			visible = visible[1:]
		}
		if w.pastEnd(e) {
			w.h.More = false
			return false, nil
		}
		w.looked++
		w.at = w.past(e)
		if seen && (w.q.Keep == nil || w.q.Keep(e)) {
			w.h.Events = append(w.h.Events, e)
		}
		if len(w.h.Events) == w.q.Limit || w.atGap() {
			return true, nil
		}
	}
	w.h.More = len(events) == want || w.open[w.at] && len(w.h.Events) > 0
	return len(events) == want, nil
}

// next returns the next n events.
func (w *walk) next(tx *sqldb.Tx, n int) ([]*store.Stored, error) {
	ord := w.at
	if !w.q.Back {
		ord--
	}
	nids, err := w.s.Store.Page(tx, w.room, ord, w.q.Back, n)
	if err != nil {
		return nil, err
	}
	return w.s.Store.InOrder(tx, nids)
}

func (w *walk) past(e *store.Stored) int64 {
	if w.q.Back {
		return e.Ord
	}
	return e.Ord + 1
}

func (w *walk) pastEnd(e *store.Stored) bool {
	return w.q.To != nil && (w.q.Back && e.Ord < int64(*w.q.To) || !w.q.Back && e.Ord >= int64(*w.q.To))
}

// peek finds out whether there is anything beyond the point where a walk has
// enough.
func (w *walk) peek(tx *sqldb.Tx) error {
	if w.open[w.at] {
		return nil
	}
	events, err := w.next(tx, 1)
	w.h.More = len(events) == 1 && !w.pastEnd(events[0])
	return err
}

// StateAfter returns the state after an event.
func (s *Server) StateAfter(tx *sqldb.Tx, e *store.Stored) (*store.Ref, error) {
	before, err := s.Store.Set(tx, e.State)
	if err != nil || e.Tuple == 0 || e.Flags&store.Rejected != 0 {
		return before, err
	}
	return &store.Ref{NID: before.NID, Height: before.Height, Set: before.Set.With(e.Tuple, e.NID)}, nil
}

// StateAtPoint returns the state at a point, that after the nearest event of the
// history before it, and an event that says who may see it; nil in a room
// without events.
func (s *Server) StateAtPoint(tx *sqldb.Tx, room int64, p Point) (*store.Ref, *store.Stored, error) {
	nids, err := s.Store.Page(tx, room, int64(p), true, 1)
	if err != nil {
		return nil, nil, err
	}
	if len(nids) == 0 {
		return s.firstState(tx, room, p)
	}
	e, err := s.Store.Event(tx, nids[0])
	if err != nil {
		return nil, nil, err
	}
	ref, err := s.StateAfter(tx, e)
	return ref, e, err
}

// firstState returns the oldest state after a point that no event precedes: what
// the room was when this server came in, or, of a room that began here, what it
// was once its creator had joined.
func (s *Server) firstState(tx *sqldb.Tx, room int64, p Point) (*store.Ref, *store.Stored, error) {
	nids, err := s.Store.Page(tx, room, int64(p)-1, false, 2)
	if err != nil || len(nids) == 0 {
		return store.EmptyState(), nil, err
	}
	events, err := s.Store.InOrder(tx, nids)
	if err != nil {
		return nil, nil, err
	}
	ref, err := s.Store.Set(tx, events[0].State)
	if err == nil && ref.Set.Len() == 0 {
		ref, err = s.StateAfter(tx, events[len(events)-1])
	}
	return ref, events[0], err
}

// SenderMembers returns the member events of the senders of events, each as it
// was before the first of theirs in the list.
func (s *Server) SenderMembers(tx *sqldb.Tx, events []*store.Stored) ([]*store.Stored, error) {
	var members []*store.Stored
	seen := make(map[string]bool, len(events))
	for _, e := range events {
		sender := e.Event.Sender()
		if seen[sender] {
			continue
		}
		seen[sender] = true
		before, err := s.Store.Set(tx, e.State)
		if err != nil {
			return nil, err
		}
		member, err := s.stateEvent(tx, before, "m.room.member", sender)
		if err != nil {
			return nil, err
		}
		if member != nil {
			members = append(members, member)
		}
	}
	return members, nil
}

// RoomSummary is what those outside a room may learn of it (client-server API,
// PublishedRoomsChunk and RoomSummary).
type RoomSummary struct {
	RoomID         string `json:"room_id"`
	Name           string `json:"name,omitempty"`
	Topic          string `json:"topic,omitempty"`
	CanonicalAlias string `json:"canonical_alias,omitempty"`
	AvatarURL      string `json:"avatar_url,omitempty"`
	JoinRule       string `json:"join_rule,omitempty"`
	RoomType       string `json:"room_type,omitempty"`
	Joined         int    `json:"num_joined_members"`
	WorldReadable  bool   `json:"world_readable"`
	GuestCanJoin   bool   `json:"guest_can_join"`

	Encryption string   `json:"-"`
	Version    string   `json:"-"`
	Allowed    []string `json:"-"` // rooms whose members a restricted room admits
}

// Summary describes a room as its state has it now.
func (s *Server) Summary(ctx context.Context, roomID string) (sum RoomSummary, err error) {
	key, err := s.Room(ctx, roomID)
	if err != nil {
		return sum, err
	}
	v, err := s.Current(ctx, roomID)
	if err != nil {
		return sum, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		sum, err = s.summarise(tx, key, v.State, v.Joined)
		return err
	})
	return sum, err
}

func (s *Server) summarise(tx *sqldb.Tx, key store.RoomKey, ref *store.Ref, joined int) (RoomSummary, error) {
	sum := RoomSummary{RoomID: key.ID, Version: key.Version.ID, Joined: joined, JoinRule: "invite"}
	for typ, take := range summaryFields {
		e, err := s.stateEvent(tx, ref, typ, "")
		if err != nil {
			return sum, err
		}
		if e != nil {
			take(&sum, e.Event)
		}
	}
	return sum, nil
}

// summaryFields is the state that a summary is made of.
var summaryFields = map[string]func(*RoomSummary, *event.Event){
	"m.room.create":          func(s *RoomSummary, e *event.Event) { s.RoomType = e.ContentString("type") },
	"m.room.name":            func(s *RoomSummary, e *event.Event) { s.Name = e.ContentString("name") },
	"m.room.topic":           func(s *RoomSummary, e *event.Event) { s.Topic = e.ContentString("topic") },
	"m.room.canonical_alias": func(s *RoomSummary, e *event.Event) { s.CanonicalAlias = e.ContentString("alias") },
	"m.room.avatar":          func(s *RoomSummary, e *event.Event) { s.AvatarURL = e.ContentString("url") },
	"m.room.encryption":      func(s *RoomSummary, e *event.Event) { s.Encryption = e.ContentString("algorithm") },
	"m.room.guest_access": func(s *RoomSummary, e *event.Event) {
		s.GuestCanJoin = e.ContentString("guest_access") == "can_join"
	},
	"m.room.history_visibility": func(s *RoomSummary, e *event.Event) {
		s.WorldReadable = auth.HistoryVisibility(e) == auth.WorldReadable
	},
	"m.room.join_rules": func(s *RoomSummary, e *event.Event) {
		s.JoinRule = auth.JoinRule(e)
		if s.JoinRule != "restricted" && s.JoinRule != "knock_restricted" {
			return
		}
		for _, allow := range e.ContentGet("allow").Array() {
			if room := allow.Get("room_id"); room.Type == gjson.String && len(s.Allowed) < maxAllowRooms {
				s.Allowed = append(s.Allowed, room.Str)
			}
		}
	},
}

// Open reports whether anybody may learn of the room: it lets people in, or ask
// to be, or is readable by all.
func (s RoomSummary) Open() bool {
	return s.WorldReadable || s.JoinRule == "public" || s.JoinRule == "knock" || s.JoinRule == "knock_restricted"
}

var (
	publishedStates = sqldb.Register("published.states", `SELECT r.nid, r.state FROM published p JOIN rooms r ON r.nid = p.room WHERE r.resident = $1`)
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
	rooms, err := l.rooms(ctx)
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

// rooms returns what is published.
func (l *Listing) rooms(ctx context.Context) (rooms []listed, err error) {
	err = l.s.db.Read(ctx, func(tx *sqldb.Tx) error {
		var stale []int64
		states := map[int64]int64{}
		_, err := sqldb.Collect(tx, publishedStates, func(rows *sqldb.Rows) (_ struct{}, err error) {
			var room, set int64
			err = rows.Scan(&room, &set)
			if r, ok := l.known.Get(room); ok && r.state == set {
				rooms = append(rooms, r)
			} else {
				states[room] = set
				stale = append(stale, room)
			}
			return struct{}{}, err
		}, 1)
		if err != nil || len(stale) == 0 {
			return err
		}
		fresh, err := l.describe(tx, stale, states)
		rooms = append(rooms, fresh...)
		return err
	})
	return rooms, err
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

func (t listingToken) String() string {
	side := "a"
	if t.before {
		side = "b"
	}
	return base64.RawURLEncoding.EncodeToString([]byte(side + strconv.Itoa(t.joined) + t.room))
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

// MoveAliases makes the local aliases of one room point to another.
func (s *Server) MoveAliases(ctx context.Context, from, to string) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "alias", Write: func(tx *sqldb.Tx, _ int64) error {
		aliases, err := s.Store.AliasesOf(tx, from)
		if err != nil {
			return err
		}
		for _, a := range aliases {
			if err := s.Store.DeleteAlias(tx, a.Alias); err != nil {
				return err
			}
			a.RoomID = to
			if _, err := s.Store.InsertAlias(tx, a); err != nil {
				return err
			}
		}
		return nil
	}})
}
