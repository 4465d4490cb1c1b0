package relations

import (
	"cmp"
	"encoding/json"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/store"
)

// Bounds of what is bundled with one event.
const (
	maxReferences = 100
	candidates    = 8 // newest children looked at before older ones are searched
)

// bundle is the m.relations of one event.
type bundle struct {
	Thread    *thread         `json:"m.thread,omitempty"`
	Replace   json.RawMessage `json:"m.replace,omitempty"`
	Reference *references     `json:"m.reference,omitempty"`

	latest, edit *store.Stored
}

type thread struct {
	Latest       json.RawMessage `json:"latest_event"`
	Count        int64           `json:"count"`
	Participated bool            `json:"current_user_participated"`
}

type references struct {
	Chunk []reference `json:"chunk"`
}

type reference struct {
	ID string `json:"event_id"`
}

// Bundle returns the m.relations of those of the events that have something to aggregate, by their numbers, as the
// viewer may see it (Client-Server API, "Aggregations of child events"). It takes a few statements for each room that
// the events are of, however many they are. State events have none.
func (r *Reader) Bundle(tx *sqldb.Tx, v roomserver.Viewer, events []*store.Stored) (map[int64]json.RawMessage, error) {
	w, err := r.viewer(tx, v)
	if err != nil {
		return nil, err
	}
	byRoom := map[int64][]*store.Stored{}
	for _, e := range events {
		if e.Tuple == 0 && e.HasOrd {
			byRoom[e.Room] = append(byRoom[e.Room], e)
		}
	}
	out := map[int64]json.RawMessage{}
	for _, list := range byRoom {
		bundles, err := r.bundleRoom(tx, w, list, false)
		if err != nil {
			return nil, err
		}
		for nid, b := range bundles {
			raw, err := encode(b)
			if err != nil {
				return nil, err
			}
			if raw != nil {
				out[nid] = raw
			}
		}
	}
	return out, nil
}

// page is one room's events whose bundles are made.
type page struct {
	r       *Reader
	tx      *sqldb.Tx
	w       *viewer
	room    store.RoomKey
	joined  bool // the viewer is in the room
	parents map[string]*store.Stored
	bundles map[int64]*bundle

	everything bool // there is no viewer: all children count
}

// bundleRoom makes the bundles of events of one room. nested ones are within another's and have no threads.
func (r *Reader) bundleRoom(tx *sqldb.Tx, w *viewer, events []*store.Stored, nested bool) (map[int64]*bundle, error) {
	room, err := r.store.RoomByNID(tx, events[0].Room)
	if err != nil {
		return nil, err
	}
	p := &page{r: r, tx: tx, w: w, room: room, joined: r.rooms.Hub.IsJoined(w.User, room.ID),
		parents: map[string]*store.Stored{}, bundles: map[int64]*bundle{}}
	for _, e := range events {
		if key := keyOf(room.Version, e.ID); key != nil {
			p.parents[string(key)] = e
		}
	}
	if any, err := p.any(); err != nil || !any {
		return nil, err
	}
	steps := []func() error{p.edits, p.references, p.threads, p.renderEdits, p.renderLatest}
	if nested {
		steps = []func() error{p.edits, p.references, p.renderEdits}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return p.bundles, nil
}

func (p *page) of(parent []byte) *bundle {
	e := p.parents[string(parent)]
	b := p.bundles[e.NID]
	if b == nil {
		b = &bundle{}
		p.bundles[e.NID] = b
	}
	return b
}

// keys are the parents that keep passes.
func (p *page) keys(keep func(*store.Stored) bool) [][]byte {
	keys := make([][]byte, 0, len(p.parents))
	for key, e := range p.parents {
		if keep(e) {
			keys = append(keys, []byte(key))
		}
	}
	return keys
}

func all(*store.Stored) bool { return true }

// any spares most pages the other statements.
func (p *page) any() (bool, error) {
	var rels []int64
	for _, name := range []string{Replace, Reference, Thread} {
		nid, err := p.r.store.FindName(p.tx, name)
		if err != nil {
			return false, err
		}
		if nid != 0 {
			rels = append(rels, nid)
		}
	}
	if len(rels) == 0 {
		return false, nil
	}
	found, err := sqldb.Collect(p.tx, anyOf, scanNID, p.keys(all), rels)
	return len(found) > 0, err
}

// child is a row of the statements that aggregate.
type child struct {
	parent      []byte
	nid         int64
	total, mine int64
	id          []byte
}

// children runs a statement on the parents that keep passes.
func (p *page) children(s *sqldb.Stmt, rel string, keep func(*store.Stored) bool, scan func(*sqldb.Rows) (child, error), more ...any) ([]child, error) {
	nid, err := p.r.store.FindName(p.tx, rel)
	keys := p.keys(keep)
	if err != nil || nid == 0 || len(keys) == 0 {
		return nil, err
	}
	return sqldb.Collect(p.tx, s, scan, append([]any{keys, nid, p.room.NID, p.w.ignored}, more...)...)
}

// load returns the events of children that the viewer may see.
func (p *page) load(list []child) (map[int64]*store.Stored, error) {
	nids := make([]int64, len(list))
	for i, c := range list {
		nids[i] = c.nid
	}
	visible, err := p.r.store.InOrder(p.tx, nids)
	if err == nil && !p.everything {
		visible, err = p.r.rooms.Visible(p.tx, p.w.User, visible)
	}
	if err != nil {
		return nil, err
	}
	out := make(map[int64]*store.Stored, len(visible))
	for _, e := range visible {
		out[e.NID] = e
	}
	return out, nil
}

func (p *page) edits() error {
	list, err := p.children(editsOf, Replace, mayBeEdited, func(rows *sqldb.Rows) (c child, err error) {
		err = rows.Scan(&c.parent, &c.nid)
		return c, err
	}, candidates)
	if err != nil || len(list) == 0 {
		return err
	}
	events, err := p.load(list)
	if err != nil {
		return err
	}
	for _, c := range list {
		if e := events[c.nid]; e != nil && isEdit(e) {
			if b := p.of(c.parent); b.edit == nil || newerEdit(e, b.edit) {
				b.edit = e
			}
		}
	}
	return nil
}

// mayBeEdited reports whether replacements of an event can be valid (Client-Server API, "Validity of replacement
// events").
func mayBeEdited(e *store.Stored) bool {
	own, related := Of(e.Event)
	return e.RedactedBy == 0 && !(related && own.Type == Replace)
}

// isEdit reports whether a replacement says what with; that of an encrypted one cannot be seen.
func isEdit(e *store.Stored) bool {
	content := e.Event.ContentField("m.new_content")
	return e.Event.Type() == "m.room.encrypted" || len(content) > 0 && content[0] == '{'
}

func newerEdit(a, b *store.Stored) bool {
	return cmp.Or(cmp.Compare(a.TS, b.TS), cmp.Compare(a.ID, b.ID)) > 0
}

func (p *page) references() error {
	list, err := p.children(referencesOf, Reference, all, func(rows *sqldb.Rows) (c child, err error) {
		err = rows.Scan(&c.parent, &c.nid, &c.id)
		return c, err
	}, maxReferences)
	if err != nil || len(list) == 0 {
		return err
	}
	if !p.joined {
		visible, err := p.load(list)
		if err != nil {
			return err
		}
		list = slices.DeleteFunc(list, func(c child) bool { return visible[c.nid] == nil })
	}
	for _, c := range list {
		b := p.of(c.parent)
		if b.Reference == nil {
			b.Reference = &references{}
		}
		b.Reference.Chunk = append(b.Reference.Chunk, reference{idOf(p.room.Version, c.id)})
	}
	return nil
}

func (p *page) threads() error {
	list, err := p.children(threadsOf, Thread, isRoot, func(rows *sqldb.Rows) (c child, err error) {
		err = rows.Scan(&c.parent, &c.nid, &c.total, &c.mine)
		return c, err
	}, p.w.nid, candidates)
	if err != nil || len(list) == 0 {
		return err
	}
	visible, err := p.load(list)
	if err != nil {
		return err
	}
	for _, c := range list {
		b := p.of(c.parent)
		if b.Thread == nil {
			b.Thread = &thread{Count: c.total, Participated: c.mine != 0 || p.parents[string(c.parent)].Sender == p.w.nid}
		}
		if e := visible[c.nid]; e != nil && b.latest == nil {
			b.latest = e
		}
	}
	return p.olderReplies(list)
}

// isRoot reports whether an event may have a thread: one that relates to another may not.
func isRoot(e *store.Stored) bool {
	_, related := Of(e.Event)
	return !related
}

// olderReplies finds the newest reply that the viewer may see of threads that went on without them. A thread of which
// they may see nothing is not shown.
func (p *page) olderReplies(list []child) error {
	for _, c := range list {
		e := p.parents[string(c.parent)]
		b := p.bundles[e.NID]
		if b.Thread == nil || b.latest != nil {
			continue
		}
		found, err := p.r.children(p.tx, p.w, p.room, Query{Parent: e, Type: Thread, Back: true, Limit: 1, Depth: 1})
		if err != nil {
			return err
		}
		if len(found.Events) == 0 {
			b.Thread = nil
			continue
		}
		b.latest = found.Events[0]
	}
	return nil
}

func (p *page) renderEdits() error {
	return p.render(func(b *bundle) *store.Stored { return b.edit }, func(b *bundle, e json.RawMessage) { b.Replace = e }, nil)
}

func (p *page) renderLatest() error {
	var latest []*store.Stored
	for _, b := range p.bundles {
		if b.latest != nil {
			latest = append(latest, b.latest)
		}
	}
	if len(latest) == 0 {
		return nil
	}
	nested, err := p.r.bundleRoom(p.tx, p.w, latest, true)
	if err != nil {
		return err
	}
	return p.render(func(b *bundle) *store.Stored { return b.latest }, func(b *bundle, e json.RawMessage) { b.Thread.Latest = e }, nested)
}

// render encodes one event of each bundle that has it.
func (p *page) render(get func(*bundle) *store.Stored, set func(*bundle, json.RawMessage), nested map[int64]*bundle) error {
	for nid, b := range p.bundles {
		e := get(b)
		if e == nil {
			continue
		}
		relations, err := encode(nested[e.NID])
		if err != nil {
			return err
		}
		out, err := p.r.rooms.Render(p.tx, p.w.Viewer, []*store.Stored{e}, true, with(relations))
		if err != nil {
			return err
		}
		set(p.bundles[nid], out[0])
	}
	return nil
}

func encode(b *bundle) (json.RawMessage, error) {
	if b == nil || b.empty() {
		return nil, nil
	}
	return json.Marshal(b)
}

func (b *bundle) empty() bool { return b.Thread == nil && b.Replace == nil && b.Reference == nil }

// Edits returns the newest valid replacement of each of the events that has one, by the event's number: of those that
// the viewer may see, or of all if v is nil.
func (r *Reader) Edits(tx *sqldb.Tx, v *roomserver.Viewer, events []*store.Stored) (map[int64]*store.Stored, error) {
	byRoom := map[int64][]*store.Stored{}
	for _, e := range events {
		if e.Tuple == 0 && e.HasOrd {
			byRoom[e.Room] = append(byRoom[e.Room], e)
		}
	}
	out := map[int64]*store.Stored{}
	for _, list := range byRoom {
		p, err := r.editPage(tx, v, list)
		if err != nil {
			return nil, err
		}
		if err := p.edits(); err != nil {
			return nil, err
		}
		for nid, b := range p.bundles {
			out[nid] = b.edit
		}
	}
	return out, nil
}

// editPage is a page of one room's events that is good for their edits only. Edits are
// by the author of their event, so it does not matter whom the viewer ignores.
func (r *Reader) editPage(tx *sqldb.Tx, v *roomserver.Viewer, events []*store.Stored) (*page, error) {
	room, err := r.store.RoomByNID(tx, events[0].Room)
	if err != nil {
		return nil, err
	}
	p := &page{r: r, tx: tx, w: &viewer{ignored: []int64{}}, room: room, everything: v == nil,
		parents: map[string]*store.Stored{}, bundles: map[int64]*bundle{}}
	if v != nil {
		p.w.Viewer = *v
	}
	for _, e := range events {
		if key := keyOf(room.Version, e.ID); key != nil {
			p.parents[string(key)] = e
		}
	}
	return p, nil
}
