package slidingsync

import (
	"context"
	"encoding/json"

	"knock/internal/sqldb"
	"knock/internal/threads"
)

// tellThreads tells which threads the user follows (MSC4308), all of them first.
func (a *answer) tellThreads(ctx context.Context) error {
	x := &a.q.ext.threads
	if a.o.Threads == nil {
		return nil
	}
	if a.draft.follow = x.enabled; !x.enabled {
		return nil
	}
	from := a.q.since.pos
	if !a.draft.base.follow {
		from = 0
	} else if a.o.Hub.LastPersonal(a.q.user) <= from {
		return nil
	}
	var page threads.Page
	err := a.read(ctx, func(tx *sqldb.Tx) (err error) {
		page, err = a.o.Threads.Page(tx, a.q.user, from, a.at.pos, x.limit)
		return err
	})
	if err != nil || page.Empty() {
		return err
	}
	content, err := json.Marshal(page)
	if err != nil {
		return err
	}
	a.some = true
	a.appendPart("io.element.msc4308.thread_subscriptions", content)
	return nil
}
