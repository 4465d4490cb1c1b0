package sync

import (
	"encoding/json"
	"fmt"

	"knock/internal/glob"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/relations"
	"knock/roomserver/event"
)

// Bounds of filters.
const (
	maxFilter     = 64 << 10 // bytes of JSON
	maxList       = 1000     // entries of one list
	defaultEvents = 10       // of a timeline
	maxEvents     = 500      // of a timeline
)

// filter says what a client wants (Client-Server API, "Filtering"). The zero
// value, with a limit for the timeline, wants everything.
type filter struct {
	fields       *fields // nil: all
	federation   bool    // events as other servers get them
	presence     eventFilter
	accountData  eventFilter
	rooms        idFilter
	includeLeave bool
	ephemeral    roomFilter
	state        roomFilter
	timeline     roomFilter
	roomData     roomFilter
	limit        int
	profiles     []string // fields of profiles that the client wants to be told of (MSC4429)
	cost         int64
}

// eventFilter picks events by type and sender.
type eventFilter struct {
	types, notTypes []string // globs; a nil types is all
	senders         idFilter
}

// idFilter picks ids. A nil only is all.
type idFilter struct{ only, not map[string]struct{} }

func (f *idFilter) has(id string) bool {
	if _, no := f.not[id]; no {
		return false
	}
	if f.only == nil {
		return true
	}
	_, yes := f.only[id]
	return yes
}

// nothing reports whether the filter cannot take any event.
func (f *eventFilter) nothing() bool { return f.types != nil && len(f.types) == 0 }

func (f *eventFilter) hasType(typ string) bool {
	for _, g := range f.notTypes {
		if glob.Type(g, typ) {
			return false
		}
	}
	if f.types == nil {
		return true
	}
	for _, g := range f.types {
		if glob.Type(g, typ) {
			return true
		}
	}
	return false
}

// roomFilter picks events of rooms.
type roomFilter struct {
	eventFilter
	rooms     idFilter
	url       *bool // whether content must have, or must not have, a url
	lazy      bool
	redundant bool
	threads   bool

	relTypes, notRelTypes        []string  // the rel_type that events have (MSC3874); a nil relTypes is all
	relatedTypes, relatedSenders *[]string // what their children have (MSC3440); nil is all
}

func (f *roomFilter) hasEvent(e *event.Event) bool {
	if f.url != nil && *f.url != e.ContentGet("url").Exists() {
		return false
	}
	return f.senders.has(e.Sender()) && f.hasType(e.Type()) && relations.HasType(e, f.relTypes, f.notRelTypes)
}

// The wire format of filters. Lists are pointers: an empty one is not an absent one.
type (
	wireFilter struct {
		Fields      *[]string  `json:"event_fields"`
		Format      string     `json:"event_format"`
		Presence    wireEvents `json:"presence"`
		AccountData wireEvents `json:"account_data"`
		Profiles    struct {
			IDs *[]string `json:"ids"`
		} `json:"org.matrix.msc4429.profile_fields"`
		Room struct {
			wireRooms
			IncludeLeave bool           `json:"include_leave"`
			Ephemeral    wireRoomEvents `json:"ephemeral"`
			State        wireRoomEvents `json:"state"`
			Timeline     wireRoomEvents `json:"timeline"`
			AccountData  wireRoomEvents `json:"account_data"`
		} `json:"room"`
	}
	wireRooms struct {
		Rooms    *[]string `json:"rooms"`
		NotRooms *[]string `json:"not_rooms"`
	}
	wireEvents struct {
		Limit      *int      `json:"limit"`
		Types      *[]string `json:"types"`
		NotTypes   *[]string `json:"not_types"`
		Senders    *[]string `json:"senders"`
		NotSenders *[]string `json:"not_senders"`
	}
	wireRoomEvents struct {
		wireEvents
		wireRooms
		URL       *bool `json:"contains_url"`
		Lazy      bool  `json:"lazy_load_members"`
		Redundant bool  `json:"include_redundant_members"`
		Threads   bool  `json:"unread_thread_notifications"`

		RelTypes       *[]string `json:"org.matrix.msc3874.rel_types"`
		NotRelTypes    *[]string `json:"org.matrix.msc3874.not_rel_types"`
		RelatedTypes   *[]string `json:"related_by_rel_types"`
		RelatedSenders *[]string `json:"related_by_senders"`
	}
)

// parseFilter reads a filter. Errors are for the client.
func parseFilter(data []byte) (*filter, error) {
	if len(data) > maxFilter {
		return nil, matrixerr.TooLarge(fmt.Sprintf("A filter may have at most %d bytes", maxFilter))
	}
	if !json.Valid(data) {
		return nil, matrixerr.NotJSON("The filter is not valid JSON")
	}
	var w wireFilter
	if err := httpx.Unmarshal(data, &w); err != nil {
		return nil, err
	}
	f := &filter{limit: defaultEvents, includeLeave: w.Room.IncludeLeave, cost: int64(4 * len(data))}
	switch w.Format {
	case "", "client":
	case "federation":
		f.federation = true
	default:
		return nil, matrixerr.InvalidParam("event_format must be client or federation")
	}
	c := &compiler{}
	f.presence, f.accountData = c.events(&w.Presence), c.events(&w.AccountData)
	f.rooms = c.rooms(&w.Room.wireRooms)
	f.ephemeral, f.state = c.roomEvents(&w.Room.Ephemeral), c.roomEvents(&w.Room.State)
	f.timeline, f.roomData = c.roomEvents(&w.Room.Timeline), c.roomEvents(&w.Room.AccountData)
	f.profiles = c.list(w.Profiles.IDs)
	if n := w.Room.Timeline.Limit; n != nil {
		f.limit = min(*n, maxEvents)
	}
	if w.Fields != nil {
		f.fields = c.fields(*w.Fields)
	}
	return f, c.err
}

// compiler turns the wire format into what is quick to ask, and keeps the first error.
type compiler struct{ err error }

func (c *compiler) fail(msg string) {
	if c.err == nil {
		c.err = matrixerr.InvalidParam(msg)
	}
}

func (c *compiler) list(p *[]string) []string {
	switch {
	case p == nil:
		return nil
	case len(*p) > maxList:
		c.fail(fmt.Sprintf("A list in a filter may have at most %d entries", maxList))
	case *p == nil:
		return []string{}
	}
	return *p
}

func (c *compiler) short(p *[]string) *[]string {
	if p != nil && len(*p) > relations.MaxNamed {
		c.fail(fmt.Sprintf("A list about related events in a filter may have at most %d entries", relations.MaxNamed))
	}
	return p
}

func (c *compiler) ids(only, not *[]string, sigil byte) (f idFilter) {
	set := func(p *[]string) map[string]struct{} {
		if p == nil {
			return nil
		}
		m := map[string]struct{}{}
		for _, id := range c.list(p) {
			if id == "" || id[0] != sigil {
				c.fail(fmt.Sprintf("An id in the filter must start with %c", sigil))
			}
			m[id] = struct{}{}
		}
		return m
	}
	f.only, f.not = set(only), set(not)
	return f
}

func (c *compiler) events(w *wireEvents) eventFilter {
	if w.Limit != nil && *w.Limit < 0 {
		c.fail("limit must not be negative")
	}
	return eventFilter{types: c.list(w.Types), notTypes: c.list(w.NotTypes), senders: c.ids(w.Senders, w.NotSenders, '@')}
}

func (c *compiler) rooms(w *wireRooms) idFilter { return c.ids(w.Rooms, w.NotRooms, '!') }

func (c *compiler) roomEvents(w *wireRoomEvents) roomFilter {
	return roomFilter{eventFilter: c.events(&w.wireEvents), rooms: c.rooms(&w.wireRooms), url: w.URL,
		lazy: w.Lazy, redundant: w.Redundant, threads: w.Threads,
		relTypes: c.list(w.RelTypes), notRelTypes: c.list(w.NotRelTypes),
		relatedTypes: c.short(w.RelatedTypes), relatedSenders: c.short(w.RelatedSenders)}
}
