package slidingsync

import (
	"fmt"
	"strings"
	"time"

	"knock/internal/matrixerr"
)

// The parts of requests that both forms have.
type (
	wireExtension struct {
		Enabled bool      `json:"enabled"`
		Lists   *[]string `json:"lists"`
		Rooms   *[]string `json:"rooms"`
	}
	wireExtensions struct {
		ToDevice struct {
			Enabled bool   `json:"enabled"`
			Limit   *int64 `json:"limit"`
			Since   string `json:"since"`
		} `json:"to_device"`
		E2EE struct {
			Enabled bool `json:"enabled"`
		} `json:"e2ee"`
		AccountData wireExtension `json:"account_data"`
		Receipts    wireExtension `json:"receipts"`
		Typing      wireExtension `json:"typing"`
		Threads     struct {
			Enabled bool   `json:"enabled"`
			Limit   *int64 `json:"limit"`
		} `json:"io.element.msc4308.thread_subscriptions"`
		Sticky struct {
			Enabled bool   `json:"enabled"`
			Limit   *int64 `json:"limit"`
			Since   string `json:"since"`
		} `json:"org.matrix.msc4354.sticky_events"`
		Profiles struct {
			wireExtension
			Fields *[]string `json:"fields"`
		} `json:"org.matrix.msc4262.profiles"`
	}
	wireFilter struct {
		DM        *bool      `json:"is_dm"`
		Spaces    *[]string  `json:"spaces"`
		Encrypted *bool      `json:"is_encrypted"`
		Invite    *bool      `json:"is_invite"`  // unstable
		Invited   *bool      `json:"is_invited"` // v4
		Types     *[]*string `json:"room_types"`
		NotTypes  *[]*string `json:"not_room_types"`
		Tags      *[]string  `json:"tags"`
		NotTags   *[]string  `json:"not_tags"`
		Name      string     `json:"room_name_like"`
	}
	wireCommon struct {
		Conn       string         `json:"conn_id"`
		Extensions wireExtensions `json:"extensions"`
	}
)

// parser turns wire formats into requests and keeps the first mistake.
type parser struct{ err error }

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = matrixerr.InvalidParam(fmt.Sprintf(format, args...))
	}
}

func (p *parser) failMissing(what string) {
	if p.err == nil {
		p.err = matrixerr.MissingParam(what + " is missing")
	}
}

// name bounds a string that is kept.
func (p *parser) name(s, what string) string {
	if len(s) > maxName {
		p.fail("%s may have at most %d bytes", what, maxName)
		return ""
	}
	return s
}

func (p *parser) limit(n *int64) int {
	switch {
	case n == nil:
		p.failMissing("timeline_limit")
		return 0
	case *n < 0:
		p.fail("timeline_limit must not be negative")
		return 0
	}
	return int(min(*n, maxEvents))
}

func bounded[T any](p *parser, list *[]T, what string) *[]T {
	if list != nil && len(*list) > maxValues {
		p.fail("%s may have at most %d entries", what, maxValues)
		return nil
	}
	return list
}

func (p *parser) timeout(ms int64) time.Duration {
	if ms < 0 {
		p.fail("timeout must not be negative")
		return 0
	}
	return min(maxTimeout, time.Duration(min(ms, int64(maxTimeout/time.Millisecond)))*time.Millisecond)
}

func (p *parser) since(q *request, pos string) {
	if pos == "" {
		q.initial, q.timeout = true, 0
		return
	}
	t, ok := parseToken(pos)
	if !ok && p.err == nil {
		p.err = errUnknownPos()
	}
	q.since = t
}

func (p *parser) window(r [2]int64) [2]int64 {
	if r[0] < 0 || r[1] < r[0] {
		p.fail("A range must be two indices, neither negative nor falling")
	}
	return r
}

func (p *parser) filter(w *wireFilter, invited *bool) (f filter) {
	if w == nil {
		return f
	}
	f = filter{dm: w.DM, encrypted: w.Encrypted, invited: invited, spaces: bounded(p, w.Spaces, "spaces"),
		types: bounded(p, w.Types, "room_types"), notTypes: bounded(p, w.NotTypes, "not_room_types"),
		tags: bounded(p, w.Tags, "tags"), notTags: bounded(p, w.NotTags, "not_tags"),
		name: strings.ToLower(p.name(w.Name, "room_name_like"))}
	return f
}

func (p *parser) count(lists, subs int) {
	if lists > maxLists {
		p.fail("There may be at most %d lists", maxLists)
	}
	if subs > maxSubs {
		p.fail("There may be at most %d room subscriptions", maxSubs)
	}
}

const (
	defaultDeviceMessages = 100
	maxDeviceMessages     = 1000
	defaultThreads        = 100
	maxThreads            = 500
	defaultSticky         = 100
	maxSticky             = 500
)

func (p *parser) extensions(w *wireExtensions) (x extensions) {
	read := func(e *wireExtension) extension {
		return extension{enabled: e.Enabled, lists: bounded(p, e.Lists, "lists"), rooms: bounded(p, e.Rooms, "rooms")}
	}
	x.accountData, x.receipts, x.typing = read(&w.AccountData), read(&w.Receipts), read(&w.Typing)
	x.profiles.extension = read(&w.Profiles.wireExtension)
	if f := bounded(p, w.Profiles.Fields, "fields"); f != nil {
		x.profiles.fields = append([]string{}, *f...)
	}
	x.e2ee, x.toDevice.enabled = w.E2EE.Enabled, w.ToDevice.Enabled
	x.toDevice.limit, x.toDevice.since = defaultDeviceMessages, w.ToDevice.Since
	if n := w.ToDevice.Limit; n != nil {
		if *n < 1 {
			p.fail("The limit of to_device must be at least 1")
		}
		x.toDevice.limit = int(min(*n, maxDeviceMessages))
	}
	x.threads.enabled, x.threads.limit = w.Threads.Enabled, defaultThreads
	if n := w.Threads.Limit; n != nil {
		if *n < 1 {
			p.fail("The limit of thread subscriptions must be at least 1")
		}
		x.threads.limit = int(min(*n, maxThreads))
	}
	x.sticky.enabled, x.sticky.limit, x.sticky.since = w.Sticky.Enabled, defaultSticky, w.Sticky.Since
	if n := w.Sticky.Limit; n != nil {
		if *n < 1 {
			p.fail("The limit of sticky events must be at least 1")
		}
		x.sticky.limit = int(min(*n, maxSticky))
	}
	return x
}

func errUnknownPos() error {
	return matrixerr.New(400, "M_UNKNOWN_POS", "The connection is not known any more; start again without pos")
}
