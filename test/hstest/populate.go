package hstest

import (
	"context"
	"errors"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"knock/cmd/knock/node"
	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/store"
)

// Inside opens the rooms of a node that is down and calls fn with them, for what would take too long through its doors.
func (n *Node) Inside(ctx context.Context, fn func(*roomserver.Server) error) error {
	if n.target() != "" {
		return errors.New(n.Name + " is up")
	}
	keys, err := node.LoadKeys(filepath.Join(n.dir, n.Name, "signing.key"))
	if err != nil {
		return err
	}
	db, err := sqldb.Open(ctx, sqldb.Options{URL: n.DatabaseURL})
	if err != nil {
		return err
	}
	pos, err := db.Position(ctx)
	if err != nil {
		return errors.Join(err, db.Close())
	}
	hub := stream.New(pos)
	db.OnPublish(hub.Advance)
	db.Start(ctx)
	rooms := roomserver.New(roomserver.Options{ServerName: n.Name, Signer: keys.Signer(n.Name), Hub: hub, Store: store.New(store.Options{DB: db})})
	if err = rooms.Start(ctx); err == nil {
		err = fn(rooms)
	}
	return errors.Join(err, db.Close())
}

// joiners is how many users enter a room at once.
const joiners = 64

// Populate lets users, who need no accounts, join a public room of a node that is down.
func (n *Node) Populate(ctx context.Context, room string, users []string) error {
	return n.Inside(ctx, func(rooms *roomserver.Server) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(joiners)
		for _, user := range users {
			g.Go(func() error {
				_, err := rooms.Join(ctx, roomserver.JoinRequest{RoomIDOrAlias: room, User: user})
				return err
			})
		}
		return g.Wait()
	})
}
