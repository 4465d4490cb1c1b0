package slidingsync

import (
	"time"

	"knock/clientapi/syncread"
	"knock/internal/ephemeral"
	"knock/internal/matrixerr"
)

// Bounds of requests.
const (
	maxLists    = 100
	maxSubs     = 100
	maxPatterns = 100
	maxName     = 255 // bytes of keys, types and state keys
	maxEvents   = 100 // of a timeline
	maxValues   = 100 // of a list in a filter or an extension
	maxRanges   = 10
	maxRequired = 64 << 10 // bytes of all different required_state
)

// form is how answers look on the wire.
type form uint8

const (
	unstable form = iota // org.matrix.simplified_msc3575
	v4
)

// request is a sync of either form.
type request struct {
	form               form
	user, device, conn string
	txn                string
	presence           string
	timeout            time.Duration
	initial            bool
	lists              []list
	subs               map[string]config
	ext                extensions
	ignored            map[string]struct{}

	given *syncread.Given[token]
	own   *connection
	kept  *connState // what the client has, by its token
	// What it would have after the answers that told nothing are counted too.
	state *connState
	since token
	stale bool // since is of another start of this node
}

// list is a window on the rooms that pass a filter.
type list struct {
	key    string
	all    bool
	ranges [][2]int64 // inclusive
	filter filter
	config
}

func (l *list) has(index int64) bool {
	if l.all {
		return true
	}
	for _, r := range l.ranges {
		if r[0] <= index && index <= r[1] {
			return true
		}
	}
	return false
}

// config says what to tell of a room.
type config struct {
	limit    int
	required required
	text     string // canonical, of required
}

// filter picks rooms for a list. Nil parts take all.
type filter struct {
	dm, encrypted, invited *bool
	spaces                 *[]string
	types, notTypes        *[]*string // a nil type is that of rooms without
	tags, notTags          *[]string
	name                   string // folded
}

// extension says for which rooms an extension is wanted.
type extension struct {
	enabled bool
	lists   *[]string // nil: all
	rooms   *[]string // nil: all subscriptions
}

// extensions are those that a request asks for.
type extensions struct {
	accountData, receipts, typing extension
	e2ee                          bool
	profiles                      struct {
		extension
		fields []string // nil: all
	}
	toDevice struct {
		enabled bool
		limit   int
		since   string
	}
	threads struct {
		enabled bool
		limit   int
	}
	sticky struct {
		enabled bool
		limit   int
		since   string
	}
}

// check finishes a request that was read from either form.
func (q *request) check() error {
	switch q.presence {
	case "", ephemeral.Online, ephemeral.Offline, ephemeral.Unavailable:
	default:
		return matrixerr.InvalidParam("set_presence must be online, unavailable or offline")
	}
	if len(q.conn) > maxName {
		return matrixerr.InvalidParam("conn_id may have at most 255 bytes")
	}
	texts := map[string]bool{}
	size := 0
	count := func(c *config) {
		c.text = c.required.canonical()
		if !texts[c.text] {
			texts[c.text] = true
			size += len(c.text)
		}
	}
	for i := range q.lists {
		count(&q.lists[i].config)
	}
	for id, c := range q.subs {
		count(&c)
		q.subs[id] = c
	}
	if size > maxRequired {
		return matrixerr.InvalidParam("The request asks for too many different pieces of state; use a wildcard")
	}
	return nil
}

func (q *request) ignores(user string) bool {
	_, yes := q.ignored[user]
	return yes
}
