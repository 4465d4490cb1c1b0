package threads

import (
	"strconv"
	"strings"

	"knock/internal/sqldb"
)

// Page is a page of changes as clients get it.
type Page struct {
	// Subscribed and Unsubscribed are by room and root.
	Subscribed   map[string]map[string]Subscribed   `json:"subscribed,omitempty"`
	Unsubscribed map[string]map[string]Unsubscribed `json:"unsubscribed,omitempty"`
	// Prev is the token of the older changes; "" when there are none.
	Prev string `json:"prev_batch,omitempty"`
}

// Subscribed is a thread that the user follows.
type Subscribed struct {
	Automatic bool  `json:"automatic"`
	Bump      int64 `json:"bump_stamp"`
}

// Unsubscribed is a thread that the user follows no more.
type Unsubscribed struct {
	Bump int64 `json:"bump_stamp"`
}

// Empty reports whether nothing changed.
func (p *Page) Empty() bool { return len(p.Subscribed)+len(p.Unsubscribed) == 0 && p.Prev == "" }

// Page returns what changed with from < position ≤ to as clients get it: the newest first and at most limit; from 0
// without threads that are not followed any more.
func (s *Subscriptions) Page(tx *sqldb.Tx, user string, from, to int64, limit int) (Page, error) {
	p := Page{Subscribed: map[string]map[string]Subscribed{}, Unsubscribed: map[string]map[string]Unsubscribed{}}
	list, lowest, err := s.changes(tx, user, from, to, limit)
	if err != nil {
		return p, err
	}
	for _, c := range list {
		if c.state == Unfollowed {
			add(p.Unsubscribed, c, Unsubscribed{c.pos})
		} else {
			add(p.Subscribed, c, Subscribed{c.state == Automatic, c.pos})
		}
	}
	if lowest > 0 {
		p.Prev = token(lowest - 1)
	}
	return p, nil
}

func add[T any](rooms map[string]map[string]T, c change, v T) {
	if rooms[c.room] == nil {
		rooms[c.room] = map[string]T{}
	}
	rooms[c.room][c.root] = v
}

// token is the text of a position; ParseToken reads it.
func token(pos int64) string { return "n" + strconv.FormatInt(pos, 10) }

// ParseToken reads the token of a page: the position of the newest change that is in it.
func ParseToken(text string) (pos int64, ok bool) {
	digits, ok := strings.CutPrefix(text, "n")
	if !ok {
		return 0, false
	}
	pos, err := strconv.ParseInt(digits, 10, 64)
	return pos, err == nil && pos >= 0
}
