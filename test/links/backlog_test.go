package links

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

const (
	backlogMessages = 60 // of each server while it is cut off; more than a transaction holds
	backlogNotes    = 30 // to the devices of each user of another server
)

// patience is how long a backlog may take over a bad link: attempts that fail are followed by pauses.
const patience = 3 * time.Minute

// foul is a link over which about every third request fails.
var foul = hstest.Weather{Refuse: 0.2, Lose: 0.06, Silence: 0.03, Delay: 20 * time.Millisecond}

// household is a server with those who live there.
type household struct {
	name   string
	node   *hstest.Node
	head   *lab.Client // stays in the room and is looked at
	leaver *lab.Client
	comer  *lab.Client
	device string // a second one of the head's, new in the outage
	last   string // the head's last message, which it has read
}

// outage is a room of some servers, one of which, the second, is cut off from the others for a while.
type outage struct {
	*testing.T
	ctx    context.Context
	site   *hstest.Site
	room   string
	houses []*household
}

// newOutage has the servers' heads and leavers in one room, and tells all of the heads' devices.
func newOutage(t *testing.T, ctx context.Context, s *hstest.Site, start func(*hstest.Node) error, servers ...string) *outage {
	o := &outage{T: t, ctx: ctx, site: s}
	for _, name := range servers {
		o.houses = append(o.houses, &household{name: name, node: s.Add(name + ".test")})
	}
	for _, h := range o.houses {
		must(t, start(h.node))
		h.head, h.leaver, h.comer = h.node.MustRegister("head"), h.node.MustRegister("leaver"), h.node.MustRegister("comer")
	}
	first := o.houses[0]
	var err error
	o.room, err = first.head.CreateRoom(ctx, map[string]any{"preset": "public_chat", "power_level_content_override": map[string]any{"users_default": 50}})
	must(t, err)
	for _, h := range o.houses {
		must(t, giveKeys(ctx, h.head))
		for _, c := range []*lab.Client{h.head, h.leaver} {
			if c == first.head {
				continue
			}
			_, err := c.Join(ctx, o.room, first.node.Name)
			must(t, err)
			must(t, first.head.Until(ctx, func(v *lab.View) error { // who joins through it next learns of it
				if got := v.Room(o.room).Member(c.UserID); got != "join" {
					return fmt.Errorf("%s is %q where the room was made", c.UserID, got)
				}
				return nil
			}))
		}
	}
	for _, h := range o.houses {
		must(t, h.head.Until(ctx, func(v *lab.View) error {
			for _, other := range o.houses {
				for _, c := range []*lab.Client{other.head, other.leaver} {
					if got := v.Room(o.room).Member(c.UserID); got != "join" {
						return fmt.Errorf("%s sees %s as %q", h.name, c.UserID, got)
					}
				}
			}
			return nil
		}))
		for _, other := range o.houses {
			_, err := deviceKeys(ctx, h.head, other.head.UserID)
			must(t, err)
		}
	}
	return o
}

// giveKeys uploads keys of a device.
func giveKeys(ctx context.Context, c *lab.Client) error {
	key := "ed25519:" + c.DeviceID
	return c.Call(ctx, http.MethodPost, lab.V3("keys", "upload"), map[string]any{"device_keys": map[string]any{
		"user_id": c.UserID, "device_id": c.DeviceID, "algorithms": []string{}, "keys": map[string]string{key: "key of " + c.DeviceID},
		"signatures": map[string]any{c.UserID: map[string]string{key: "signature"}}}}, nil)
}

// deviceKeys are the devices of a user that another one is told of.
func deviceKeys(ctx context.Context, c *lab.Client, user string) (devices map[string]any, err error) {
	var answer struct {
		Keys map[string]map[string]any `json:"device_keys"`
	}
	err = c.Call(ctx, http.MethodPost, lab.V3("keys", "query"), map[string]any{"device_keys": map[string][]string{user: {}}}, &answer)
	return answer.Keys[user], err
}

// cut parts the second server from the others.
func (o *outage) cut() {
	for _, h := range o.others(o.houses[1]) {
		o.site.Cut(h.node.Name, o.houses[1].node.Name)
	}
}

func (o *outage) heal(w hstest.Weather) {
	for _, h := range o.others(o.houses[1]) {
		o.site.Weather(h.node.Name, o.houses[1].node.Name, w)
		o.site.Heal(h.node.Name, o.houses[1].node.Name)
	}
}

func (o *outage) others(than *household) (list []*household) {
	for _, h := range o.houses {
		if h != than {
			list = append(list, h)
		}
	}
	return list
}

// goOn has everybody do something of everything, all servers at once.
func (o *outage) goOn() {
	o.Helper()
	var all errgroup.Group
	for _, h := range o.houses {
		all.Go(func() error { return o.live(h) })
	}
	must(o.T, all.Wait())
}

func (o *outage) live(h *household) error {
	for i := range backlogMessages {
		id, err := h.head.Say(o.ctx, o.room, fmt.Sprintf("%s says %d", h.name, i))
		if err != nil {
			return err
		}
		h.last = id
	}
	errs := []error{
		h.leaver.Act(o.ctx, o.room, "leave", struct{}{}),
		h.head.Call(o.ctx, http.MethodPut, lab.V3("profile", h.head.UserID, "displayname"), map[string]string{"displayname": "Head of " + h.name}, nil),
		h.head.Call(o.ctx, http.MethodPost, lab.V3("rooms", o.room, "receipt", "m.read", h.last), struct{}{}, nil),
		o.renew(h),
	}
	_, err := h.comer.Join(o.ctx, o.room)
	errs = append(errs, err)
	for _, state := range []struct{ typ, key string }{{"m.room.topic", ""}, {"org.example.note", h.name}, {"org.example.note", "of all"}} {
		_, err := h.head.SetState(o.ctx, o.room, state.typ, state.key, map[string]string{"topic": "by " + h.name})
		errs = append(errs, err)
	}
	for _, other := range o.others(h) {
		for i := range backlogNotes {
			errs = append(errs, post(o.ctx, h.head, other.head.UserID, fmt.Sprintf("%s notes %d for %s", h.name, i, other.name)))
		}
	}
	return errors.Join(errs...)
}

// renew gives the head of a house a second device.
func (o *outage) renew(h *household) error {
	c := h.node.Client()
	if err := c.Login(o.ctx, "head", "password of head"); err != nil {
		return err
	}
	h.device = c.DeviceID
	return giveKeys(o.ctx, c)
}

// arrived waits until the head of a house has everything that was done elsewhere.
func (o *outage) arrived(h *household) {
	o.Helper()
	var complaint error
	err := lab.Poll(o.ctx, func() error {
		if err := h.head.Sync(o.ctx, time.Second); err != nil {
			return err
		}
		return h.head.Look(func(v *lab.View) error {
			complaint = o.complete(h, v)
			return complaint
		})
	})
	if err != nil {
		o.Fatalf("%s: %v", h.name, complaint)
	}
	for _, other := range o.others(h) {
		must(o.T, lab.Poll(o.ctx, func() error {
			devices, err := deviceKeys(o.ctx, h.head, other.head.UserID)
			if err == nil && devices[other.device] == nil {
				err = fmt.Errorf("%s does not know the new device of %s: %v", h.name, other.name, devices)
			}
			return err
		}))
	}
}

// complete complains of what the head of a house has not got, or has twice, and of an event of a server that only one
// link leads to, which came before the messages to devices that waited with it.
func (o *outage) complete(h *household, v *lab.View) error {
	r := v.Room(o.room)
	said, notes := map[string]int{}, map[string]int{}
	timeline := r.Timeline
	if r.Gaps > 0 { // more came at once than a sync tells
		var err error
		if timeline, err = hstest.History(o.ctx, h.head, o.room); err != nil {
			return err
		}
	}
	for _, e := range timeline {
		said[e.Text("body")]++
	}
	for _, e := range v.ToDevice {
		notes[e.Text("text")]++
	}
	var missing []string
	for _, other := range o.others(h) {
		late := 0
		for i := range backlogNotes {
			late += 1 - once(o.T, notes, fmt.Sprintf("%s notes %d for %s", other.name, i, h.name), &missing)
		}
		for i := range backlogMessages {
			if once(o.T, said, fmt.Sprintf("%s says %d", other.name, i), &missing) == 1 && late > 0 && len(o.houses) == 2 {
				o.Fatalf("%s has a message of %s and not %d notes to its devices", h.name, other.name, late)
			}
		}
		for what, c := range map[*lab.Client]string{other.leaver: "leave", other.comer: "join"} {
			if r.Member(what.UserID) != c {
				missing = append(missing, what.UserID+" is "+r.Member(what.UserID))
			}
		}
		if got := r.State[lab.Key{Type: "m.room.member", StateKey: other.head.UserID}].Text("displayname"); got != "Head of "+other.name {
			missing = append(missing, other.name+"'s name")
		}
		if r.Receipts[other.head.UserID] != other.last {
			missing = append(missing, other.name+"'s receipt")
		}
		if v.Changed[other.head.UserID] == 0 {
			missing = append(missing, other.name+"'s device list")
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%d things are missing: %s", len(missing), strings.Join(missing[:min(len(missing), 5)], ", "))
	}
	return nil
}

// once is 1 when something came once and 0, with a note, when it did not.
func once(t *testing.T, got map[string]int, what string, missing *[]string) int {
	switch got[what] {
	case 0:
		*missing = append(*missing, what)
	case 1:
		return 1
	default:
		t.Fatalf("%q came %d times", what, got[what])
	}
	return 0
}

// agree waits until all servers have the same of the room.
func (o *outage) agree() {
	o.Helper()
	first := hstest.Witness{Client: o.houses[0].head, Node: o.houses[0].node}
	for _, h := range o.houses[1:] {
		must(o.T, lab.Poll(o.ctx, func() error {
			return hstest.Same(o.ctx, o.room, first, hstest.Witness{Client: h.head, Node: h.node})
		}))
	}
}

// TestBacklog has both sides of a link that is gone go on, and the link come back, good or bad, with nodes that die or
// start again while the backlog passes.
func TestBacklog(t *testing.T) {
	for name, c := range map[string]struct {
		servers []string
		weather hstest.Weather
		start   func(*hstest.Node) error
		midway  func(o *outage) error // once some of the backlog has passed
	}{
		"two":        {[]string{"a", "b"}, hstest.Weather{}, (*hstest.Node).Start, nil},
		"two foul":   {[]string{"a", "b"}, foul, (*hstest.Node).Start, nil},
		"three":      {[]string{"a", "b", "c"}, hstest.Weather{}, (*hstest.Node).Start, nil},
		"three foul": {[]string{"a", "b", "c"}, foul, (*hstest.Node).Start, nil},
		"restarts": {[]string{"a", "b"}, foul, (*hstest.Node).Start, func(o *outage) error {
			return errors.Join(o.houses[0].node.Stop(), o.houses[0].node.Start(), o.houses[1].node.Stop(), o.houses[1].node.Start())
		}},
		"killed": {[]string{"a", "b"}, foul, (*hstest.Node).StartProcess, func(o *outage) error {
			return errors.Join(o.houses[1].node.Kill(), o.houses[1].node.StartProcess(), o.houses[0].node.Kill(), o.houses[0].node.StartProcess())
		}},
	} {
		t.Run(name, func(t *testing.T) {
			hstest.Each(t, func(t *testing.T, s *hstest.Site) {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				o := newOutage(t, ctx, s, c.start, c.servers...)
				o.cut()
				o.goOn()
				o.heal(c.weather)
				if c.midway != nil {
					must(t, o.houses[0].head.Until(ctx, func(v *lab.View) error {
						if len(v.ToDevice) == 0 {
							return errNotYet
						}
						return nil
					}))
					must(t, c.midway(o))
				}
				for _, h := range o.houses {
					o.arrived(h)
				}
				o.agree()
			})
		})
	}
}
