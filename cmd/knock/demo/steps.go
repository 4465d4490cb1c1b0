package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"knock/cmd/knock/demo/lab"
)

func (d *demo) steps() []step {
	p, m := &d.platform, &d.merchant
	return []step{
		{"start " + p.name + " and " + m.name + ", each on a database of its own", d.startBoth},
		{"make the users alice on " + p.name + " and bob on " + m.name, d.makeUsers},
		{"alice creates the merchant's room", d.createRoom},
		{"alice invites bob, who sees it on " + m.name, d.invite},
		{"bob joins through " + p.name + ", and both list the same members", d.join},
		{"alice writes, bob reads it on " + m.name, func(ctx context.Context) error { return d.talk(ctx, p, m, "Welcome to the platform!") }},
		{"bob answers, alice reads it on " + p.name, func(ctx context.Context) error { return d.talk(ctx, m, p, "Thank you. Our catalogue follows.") }},
		{"bob shares a file, alice downloads the same bytes from " + p.name, func(ctx context.Context) error { return d.share(ctx, m, p, "catalogue.bin", 3<<20) }},
		{"alice shares a file, bob downloads the same bytes from " + m.name, func(ctx context.Context) error { return d.share(ctx, p, m, "contract.bin", 200<<10) }},
		{"stop " + m.name, func(context.Context) error { return m.stop() }},
		{"alice goes on: 50 messages and a new topic", d.goOn},
		{"start " + m.name + " again; bob reads all of it, in order", d.catchUp},
		{"bob answers, alice reads it on " + p.name, func(ctx context.Context) error { return d.talk(ctx, m, p, "I was away; now I have read it all.") }},
		{"both nodes have the same state of the room", d.same},
	}
}

func (d *demo) startBoth(ctx context.Context) (err error) {
	if d.lab, err = lab.New(d.dir); err != nil {
		return err
	}
	for _, s := range []*site{&d.platform, &d.merchant} {
		if s.settings, err = d.lab.Settings(s.name); err != nil {
			return err
		}
		if s.log, err = os.Create(filepath.Join(d.dir, s.name+".log")); err != nil {
			return err
		}
		if err := s.start(ctx, &d.names); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) makeUsers(ctx context.Context) error {
	d.platform.user = lab.NewClient(d.platform.node.ClientURL())
	d.merchant.user = lab.NewClient(d.merchant.node.ClientURL())
	password := strings.ToLower(rand.Text()[:12])
	if err := d.platform.user.Register(ctx, "alice", password); err != nil {
		return err
	}
	return d.merchant.user.Register(ctx, "bob", password)
}

func (d *demo) createRoom(ctx context.Context) (err error) {
	d.room, err = d.platform.user.CreateRoom(ctx, map[string]string{"preset": "private_chat", "name": "Merchant onboarding", "topic": "From contract to first sale"})
	return err
}

func (d *demo) invite(ctx context.Context) error {
	bob := d.merchant.user
	if err := d.platform.user.Act(ctx, d.room, "invite", map[string]string{"user_id": bob.UserID}); err != nil {
		return err
	}
	return d.until(ctx, bob, func(r *lab.Room) error { return wantMembership(r.Membership, "invite") })
}

func (d *demo) join(ctx context.Context) error {
	if _, err := d.merchant.user.Join(ctx, d.room, d.platform.name); err != nil {
		return err
	}
	for _, c := range []*lab.Client{d.platform.user, d.merchant.user} {
		for _, member := range []*lab.Client{d.platform.user, d.merchant.user} {
			if err := d.until(ctx, c, func(r *lab.Room) error { return wantMembership(r.Member(member.UserID), "join") }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *demo) talk(ctx context.Context, from, to *site, text string) error {
	if _, err := from.user.Say(ctx, d.room, text); err != nil {
		return err
	}
	_, err := d.read(ctx, to, text)
	return err
}

// read waits for a message and answers it.
func (d *demo) read(ctx context.Context, s *site, text string) (found lab.Event, err error) {
	err = d.until(ctx, s.user, func(r *lab.Room) error {
		e, ok := r.Message(text)
		if found = e; !ok {
			return fmt.Errorf("the message %q is not there", text)
		}
		return nil
	})
	return found, err
}

func (d *demo) share(ctx context.Context, from, to *site, name string, size int) error {
	file := make([]byte, size)
	if _, err := rand.Read(file); err != nil {
		return err
	}
	uri, err := from.user.Upload(ctx, name, "application/octet-stream", file)
	if err != nil {
		return err
	}
	_, err = from.user.Send(ctx, d.room, "m.room.message", map[string]any{"msgtype": "m.file", "body": name, "filename": name, "url": uri,
		"info": map[string]any{"size": size, "mimetype": "application/octet-stream"}})
	if err != nil {
		return err
	}
	message, err := d.read(ctx, to, name)
	if err != nil {
		return err
	}
	got, _, err := to.user.Download(ctx, message.Text("url"))
	if err == nil && !bytes.Equal(got, file) {
		err = fmt.Errorf("%d bytes arrived that are not the %d that were sent", len(got), size)
	}
	return err
}

// absent are the messages that are sent while the merchant's node is down.
const absent = 50

func absentText(i int) string { return fmt.Sprintf("Note %d of %d while you are away", i+1, absent) }

const newTopic = "First sale made"

func (d *demo) goOn(ctx context.Context) error {
	for i := range absent {
		if _, err := d.platform.user.Say(ctx, d.room, absentText(i)); err != nil {
			return err
		}
	}
	_, err := d.platform.user.SetState(ctx, d.room, "m.room.topic", "", map[string]string{"topic": newTopic})
	return err
}

// catchUp goes on with the token and the sync position from before.
func (d *demo) catchUp(ctx context.Context) error {
	if err := d.merchant.start(ctx, &d.names); err != nil {
		return err
	}
	return d.until(ctx, d.merchant.user, func(r *lab.Room) error {
		if topic := r.State[lab.Key{Type: "m.room.topic"}].Text("topic"); topic != newTopic {
			return fmt.Errorf("the topic is still %q", topic)
		}
		return wantInOrder(r)
	})
}

func wantInOrder(r *lab.Room) error {
	next := 0
	for _, e := range r.Timeline {
		if next < absent && e.Text("body") == absentText(next) {
			next++
		}
	}
	if next < absent {
		return fmt.Errorf("of %d messages, %d are there in order", absent, next)
	}
	return nil
}

func (d *demo) same(ctx context.Context) error {
	return lab.Poll(ctx, func() error {
		ours, err := stateIDs(ctx, d.platform.user, d.room)
		if err != nil {
			return err
		}
		theirs, err := stateIDs(ctx, d.merchant.user, d.room)
		if err == nil && !slices.Equal(ours, theirs) {
			err = fmt.Errorf("%d state events on one side, %d on the other, and not the same", len(ours), len(theirs))
		}
		return err
	})
}

func stateIDs(ctx context.Context, c *lab.Client, room string) ([]string, error) {
	state, err := c.State(ctx, room)
	ids := map[string]bool{}
	for _, e := range state {
		ids[e.ID] = true
	}
	return slices.Sorted(maps.Keys(ids)), err
}

func (d *demo) until(ctx context.Context, c *lab.Client, seen func(*lab.Room) error) error {
	return c.Until(ctx, func(v *lab.View) error { return seen(v.Room(d.room)) })
}

func wantMembership(got, want string) error {
	if got != want {
		return fmt.Errorf("the membership is %q, not %q", got, want)
	}
	return nil
}
