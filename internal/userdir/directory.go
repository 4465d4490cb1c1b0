package userdir

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"knock/internal/fold"
	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Options are what a Directory needs.
type Options struct {
	Rooms *roomserver.Server
	// Profile returns the profile of a local user; nil: their member events are used.
	Profile func(ctx context.Context, userID string) (name, avatar string, err error)
	Log     *logrus.Entry // nil: the standard logger
}

// Directory is the user directory.
type Directory struct {
	o     Options
	db    *sqldb.DB
	store *store.Store
	hub   *stream.Hub
	sub   *stream.Subscription
	mu    sync.Mutex // one looks at the queue at a time
}

// New makes a Directory.
func New(o Options) *Directory {
	if o.Log == nil {
		o.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	return &Directory{o: o, db: o.Rooms.Store.DB, store: o.Rooms.Store, hub: o.Rooms.Hub, sub: o.Rooms.Hub.Subscribe(1)}
}

// settle is how long Run lets changes gather.
const settle = 2 * time.Second

// Run keeps the directory up to date until ctx ends.
func (d *Directory) Run(ctx context.Context) error {
	for {
		if err := d.CatchUp(ctx); err != nil && ctx.Err() == nil {
			d.o.Log.WithError(err).Warn("The user directory could not be brought up to date")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.sub.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settle):
		}
	}
}

var (
	queued  = sqldb.Register("directory_queue.next", `SELECT event, room FROM directory_queue ORDER BY event LIMIT $1`)
	dequeue = sqldb.Register("directory_queue.delete", `DELETE FROM directory_queue WHERE event = ANY($1::bigint[])`)
	putUser = sqldb.RegisterInsert("directory_users.put", `INSERT INTO directory_users (user_nid, user_id, name, avatar, folded, source) VALUES`, 6,
		`ON CONFLICT (user_nid) DO UPDATE SET name = excluded.name, avatar = excluded.avatar, folded = excluded.folded, source = excluded.source
			WHERE excluded.source >= directory_users.source`)
	openRoom  = sqldb.Register("directory_rooms.insert", `INSERT INTO directory_rooms (room) VALUES ($1) ON CONFLICT DO NOTHING`)
	closeRoom = sqldb.Register("directory_rooms.delete", `DELETE FROM directory_rooms WHERE room = $1`)
)

const (
	batchSize = 200
	chunk     = 500 // members of a whole room at once
)

type item struct{ event, room int64 }

// CatchUp looks at everything that is queued.
func (d *Directory) CatchUp(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		var items []item
		err := d.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
			items, err = sqldb.Collect(tx, queued, func(rows *sqldb.Rows) (i item, err error) {
				err = rows.Scan(&i.event, &i.room)
				return i, err
			}, batchSize)
			return err
		})
		if err != nil || len(items) == 0 {
			return err
		}
		if err := d.take(ctx, items); err != nil {
			return err
		}
	}
}

// take looks at a batch of the queue and removes it.
func (d *Directory) take(ctx context.Context, items []item) error {
	var nids, done []int64
	rooms := map[int64]bool{} // those that may be open to all, or no longer
	for _, i := range items {
		done = append(done, i.event)
		if i.event > 0 {
			nids = append(nids, i.event)
			continue
		}
		rooms[i.room] = true
		if err := d.wholeRoom(ctx, i.room); err != nil {
			return err
		}
	}
	events, err := d.load(ctx, nids)
	if err != nil {
		return err
	}
	for _, e := range events {
		if e.Event.Type() != typeMember {
			rooms[e.Room] = true
		}
	}
	open, err := d.areOpen(ctx, rooms)
	if err != nil {
		return err
	}
	users, err := d.rows(ctx, events)
	if err != nil {
		return err
	}
	return d.write(ctx, users, open, done)
}

// load returns those of the events that are here.
func (d *Directory) load(ctx context.Context, nids []int64) (events []*store.Stored, err error) {
	err = d.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, err := d.store.Load(tx, nids)
		for _, e := range found {
			events = append(events, e)
		}
		return err
	})
	return events, err
}

func (d *Directory) write(ctx context.Context, users [][]any, open map[int64]bool, done []int64) error {
	return d.db.Do(ctx, &sqldb.Op{Name: "directory", Write: func(tx *sqldb.Tx, _ int64) error {
		if err := tx.Insert(putUser, users...); err != nil {
			return err
		}
		for room, is := range open {
			q := closeRoom
			if is {
				q = openRoom
			}
			if _, err := tx.Exec(q, room); err != nil {
				return err
			}
		}
		_, err := tx.Exec(dequeue, done)
		return err
	}})
}

// wholeRoom takes in everybody who is in a room.
func (d *Directory) wholeRoom(ctx context.Context, room int64) error {
	var nids []int64
	err := d.db.Read(ctx, func(tx *sqldb.Tx) error {
		members, err := d.store.Members(tx, room)
		for _, m := range members {
			if m.State == store.Join {
				nids = append(nids, m.Event)
			}
		}
		return err
	})
	for err == nil && len(nids) > 0 {
		n := min(chunk, len(nids))
		var events []*store.Stored
		if events, err = d.load(ctx, nids[:n]); err != nil {
			return err
		}
		users, failed := d.rows(ctx, events)
		if failed != nil {
			return failed
		}
		err = d.write(ctx, users, nil, []int64{})
		nids = nids[n:]
	}
	return err
}

// rows are what is written of the users whose join the events are: the newest of each.
func (d *Directory) rows(ctx context.Context, events []*store.Stored) ([][]any, error) {
	newest := map[string]*store.Stored{}
	var names []string
	for _, e := range events {
		user, _ := e.Event.Key()
		if e.Event.Type() != typeMember || auth.Membership(e.Event) != auth.Join {
			continue
		}
		if newest[user] == nil {
			names = append(names, user)
		}
		if last := newest[user]; last == nil || last.NID < e.NID {
			newest[user] = e
		}
	}
	nids, err := d.store.Intern(ctx, names...)
	if err != nil {
		return nil, err
	}
	rows := make([][]any, len(names))
	for i, user := range names {
		name, avatar, err := d.profile(ctx, user, newest[user].Event)
		if err != nil {
			return nil, err
		}
		folded := fold.Text(user) + "\n" + fold.Text(name)
		rows[i] = []any{nids[i], []byte(user), []byte(name), []byte(avatar), []byte(folded), newest[user].NID}
	}
	return rows, nil
}

const (
	maxName   = 512 // bytes kept of a display name
	maxAvatar = 512
)

func (d *Directory) profile(ctx context.Context, user string, member *event.Event) (name, avatar string, err error) {
	if d.o.Profile != nil && d.o.Rooms.IsLocal(user) {
		name, avatar, err = d.o.Profile(ctx, user)
	} else {
		name, avatar = member.ContentString("displayname"), member.ContentString("avatar_url")
	}
	if len(avatar) > maxAvatar {
		avatar = ""
	}
	return cut(name), avatar, err
}

// cut shortens a name to whole characters.
func cut(name string) string {
	for i := range name {
		if i > maxName {
			return name[:i]
		}
	}
	return name
}

// areOpen tells of rooms whether their members may be found by everybody: those that anybody may join or read.
func (d *Directory) areOpen(ctx context.Context, rooms map[int64]bool) (map[int64]bool, error) {
	for room := range rooms {
		is, err := d.isOpen(ctx, room)
		if err != nil {
			return nil, err
		}
		rooms[room] = is
	}
	return rooms, nil
}

func (d *Directory) isOpen(ctx context.Context, room int64) (bool, error) {
	var key store.RoomKey
	err := d.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		key, err = d.store.RoomByNID(tx, room)
		return err
	})
	if err != nil {
		return false, err
	}
	rules, err := d.o.Rooms.CurrentState(ctx, key.ID, typeJoinRules, "")
	if err != nil || rules != nil && auth.JoinRule(rules.Event) == "public" {
		return err == nil, ignoreUnknown(err)
	}
	vis, err := d.o.Rooms.CurrentState(ctx, key.ID, typeVisibility, "")
	return err == nil && vis != nil && auth.HistoryVisibility(vis.Event) == auth.WorldReadable, ignoreUnknown(err)
}

func ignoreUnknown(err error) error {
	if errors.Is(err, roomserver.ErrUnknownRoom) {
		return nil
	}
	return err
}
