package rooms

import (
	"encoding/json"
	"fmt"
	"slices"

	"knock/internal/glob"
	"knock/internal/matrixerr"
	"knock/internal/relations"
	"knock/internal/sqldb"
	"knock/roomserver/store"
)

// eventFilter is a RoomEventFilter (client-server API, "Filtering"). A nil list
// lets everything pass, an empty one nothing.
type eventFilter struct {
	Limit       *int      `json:"limit"`
	Types       *[]string `json:"types"`
	NotTypes    []string  `json:"not_types"`
	Senders     *[]string `json:"senders"`
	NotSenders  []string  `json:"not_senders"`
	Rooms       *[]string `json:"rooms"`
	NotRooms    []string  `json:"not_rooms"`
	ContainsURL *bool     `json:"contains_url"`
	LazyMembers bool      `json:"lazy_load_members"`

	// The rel_type that events have (MSC3874).
	RelTypes    *[]string `json:"org.matrix.msc3874.rel_types"`
	NotRelTypes []string  `json:"org.matrix.msc3874.not_rel_types"`

	// The rel_type and the senders that events have among their children (MSC3440).
	RelatedTypes   *[]string `json:"related_by_rel_types"`
	RelatedSenders *[]string `json:"related_by_senders"`
}

func parseFilter(text string) (f eventFilter, err error) {
	if text == "" {
		return f, nil
	}
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return f, matrixerr.InvalidParam(`"filter" must be a RoomEventFilter as JSON`).With(err)
	}
	if f.Limit != nil && *f.Limit <= 0 {
		return f, matrixerr.InvalidParam(`"limit" of a filter must be greater than 0`)
	}
	for _, list := range []*[]string{f.RelatedTypes, f.RelatedSenders} {
		if list != nil && len(*list) > relations.MaxNamed {
			return f, matrixerr.InvalidParam(fmt.Sprintf("A list of rel_types or senders of related events in a filter may have at most %d entries", relations.MaxNamed))
		}
	}
	return f, nil
}

// cut applies the filter's limit.
func (f *eventFilter) cut(limit int) int {
	if f.Limit != nil {
		limit = min(limit, *f.Limit)
	}
	return limit
}

// room says whether any event of a room can pass.
func (f *eventFilter) room(id string) bool {
	return !slices.Contains(f.NotRooms, id) && (f.Rooms == nil || slices.Contains(*f.Rooms, id))
}

// keep returns the test of single events, nil when all pass.
func (f *eventFilter) keep() func(*store.Stored) bool {
	if f.Types == nil && len(f.NotTypes) == 0 && f.Senders == nil && len(f.NotSenders) == 0 && f.ContainsURL == nil &&
		f.RelTypes == nil && len(f.NotRelTypes) == 0 {
		return nil
	}
	return f.passes
}

func (f *eventFilter) passes(e *store.Stored) bool {
	sender, typ := e.Event.Sender(), e.Event.Type()
	switch {
	case slices.Contains(f.NotSenders, sender), f.Senders != nil && !slices.Contains(*f.Senders, sender):
		return false
	case anyType(f.NotTypes, typ), f.Types != nil && !anyType(*f.Types, typ):
		return false
	}
	if !relations.HasType(e.Event, list(f.RelTypes), f.NotRelTypes) {
		return false
	}
	return f.ContainsURL == nil || *f.ContainsURL == (e.Event.ContentField("url") != nil)
}

// pick returns the test of events by what relates to them, nil when all pass.
func (a *API) pick(f *eventFilter) func(*sqldb.Tx, []*store.Stored) ([]*store.Stored, error) {
	if f.RelatedTypes == nil && f.RelatedSenders == nil || a.o.Related == nil {
		return nil
	}
	return func(tx *sqldb.Tx, events []*store.Stored) ([]*store.Stored, error) {
		return a.o.Related(tx, events, f.RelatedTypes, f.RelatedSenders)
	}
}

// list is nil only when there is none.
func list(p *[]string) []string {
	if p == nil {
		return nil
	}
	return *p
}

func anyType(patterns []string, typ string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return glob.Type(p, typ) })
}
