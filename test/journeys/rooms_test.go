package journeys

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"knock/cmd/knock/demo/lab"
)

func sharedCommands() map[string]command {
	return map[string]command{
		// versions has two users live through a room of each version.
		"versions": {"user other [version…]", func(ctx context.Context, s *story, args []string) error {
			a, err := must("user", s.users, args[0])
			if err != nil {
				return err
			}
			b, err := must("user", s.users, args[1])
			if err != nil {
				return err
			}
			for _, version := range args[2:] {
				if err := shareRoom(ctx, a, b, version); err != nil {
					return fmt.Errorf("room version %s: %w", version, err)
				}
			}
			return nil
		}},
		// flap cuts and heals the wires between two nodes again and again while two users each send a flood that is
		// called like them.
		"flap": {"node node room user other count", func(ctx context.Context, s *story, args []string) error {
			count, err := strconv.Atoi(args[5])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			var all errgroup.Group
			all.Go(func() error { return s.flap(ctx, args[0]+".test", args[1]+".test") })
			var floods errgroup.Group
			for _, name := range args[3:5] {
				floods.Go(func() error { return slowFlood(ctx, s.users[name], s.room(args[2]), name, count) })
			}
			err = floods.Wait()
			cancel()
			if flapErr := all.Wait(); err == nil {
				err = flapErr
			}
			return err
		}},
	}
}

// shareRoom invites b to a new room of a; both write, a redacts, and both have the same.
func shareRoom(ctx context.Context, a, b *user, version string) error {
	room, err := a.CreateRoom(ctx, map[string]string{"preset": "private_chat", "room_version": version})
	if err != nil {
		return err
	}
	if err := a.Act(ctx, room, "invite", map[string]string{"user_id": b.UserID}); err != nil {
		return err
	}
	if err := until(ctx, b, room, func(r *lab.Room) error { return want("the own membership", r.Membership, "invite") }); err != nil {
		return err
	}
	if _, err := b.Join(ctx, room); err != nil {
		return err
	}
	for _, w := range []struct{ from, to *user }{{a, b}, {b, a}} {
		text := "from " + w.from.UserID
		if _, err := w.from.Say(ctx, room, text); err != nil {
			return err
		}
		if err := until(ctx, w.to, room, func(r *lab.Room) error { return seeTexts(r, []string{text}) }); err != nil {
			return err
		}
	}
	return lab.Poll(ctx, func() error { return same(ctx, a, b, room) })
}

func until(ctx context.Context, u *user, room string, seen func(*lab.Room) error) error {
	return u.Until(ctx, func(v *lab.View) error { return seen(v.Room(room)) })
}

// flap leaves the wires whole when ctx ends.
func (s *story) flap(ctx context.Context, a, b string) error {
	defer s.site.Heal(a, b)
	for ctx.Err() == nil {
		s.site.Cut(a, b)
		time.Sleep(5 * time.Millisecond)
		s.site.Heal(a, b)
		time.Sleep(15 * time.Millisecond)
	}
	return nil
}

// slowFlood leaves time for transactions to be cut.
func slowFlood(ctx context.Context, u *user, room, text string, count int) error {
	for i := range count {
		if _, err := u.Say(ctx, room, fmt.Sprintf("%s %d", text, i+1)); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}
