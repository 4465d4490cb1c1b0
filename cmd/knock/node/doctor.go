package node

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"knock/federationapi/client"
	"knock/federationapi/keys"
)

// Check is one finding of the doctor.
type Check struct {
	Name   string `json:"name"`
	Result string `json:"result"` // "ok", "warning" or "failed"
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"` // what to do about it
}

// Bounds and limits of an examination.
const (
	doctorTime  = 50 * time.Second // the command waits a minute
	doctorRooms = 50
	skewWarns   = 30 * time.Second
	certWarns   = 14 * 24 * time.Hour
	repairGaps  = 50
)

// doctor examines one server.
type doctor struct {
	n      *Node
	server string
	checks []Check
}

func (d *doctor) ok(name, text string, args ...any) {
	d.checks = append(d.checks, Check{Name: name, Result: "ok", Text: fmt.Sprintf(text, args...)})
}

func (d *doctor) warn(name, advice, text string, args ...any) {
	d.checks = append(d.checks, Check{name, "warning", fmt.Sprintf(text, args...), advice})
}

func (d *doctor) fail(name, advice, text string, args ...any) {
	d.checks = append(d.checks, Check{name, "failed", fmt.Sprintf(text, args...), advice})
}

// examine looks at everything that lies between this server and another one, or at what others find when they look for
// this one. room is repaired first where it is given.
func (n *Node) examine(ctx context.Context, server, room string) ([]Check, error) {
	if n.parts.remote == nil {
		return nil, errors.New("federation.enabled is off: there are no other servers")
	}
	ctx, cancel := context.WithTimeout(ctx, doctorTime)
	defer cancel()
	d := &doctor{n: n, server: server}
	if server == "" {
		d.server = n.cfg.ServerName
	}
	located := d.place(ctx)
	if d.server == n.cfg.ServerName {
		return d.checks, nil
	}
	if !n.federatesWith(server) {
		d.fail("configuration", "Change federation.allow_domains or deny_domains", "this server is told not to talk to it")
		return d.checks, nil
	}
	if located {
		d.answers(ctx)
	}
	if n.opts.Offline {
		d.warn("queue", "Start the node, and ask again", "the node does not run: queues and rooms are not looked at")
		return d.checks, nil
	}
	if room != "" {
		d.repair(ctx, room)
	}
	d.queue(ctx)
	d.rooms(ctx)
	return d.checks, nil
}

// place finds the server and looks at its certificate; false when there is no use in calling it.
func (d *doctor) place(ctx context.Context) bool {
	l, err := d.n.parts.remote.Locate(ctx, d.server)
	if err != nil {
		d.fail("name", "Check the spelling: a server name is what follows the colon in user ids", "%v", err)
		return false
	}
	d.ok("name", "%s; so it is at %s", strings.Join(l.Steps, "; "), strings.Join(l.Endpoints, ", "))
	cert, invalid, err := d.n.parts.remote.Certificate(ctx, l)
	switch {
	case err != nil:
		d.fail("connection", "Check the address, firewalls on both sides, and federation.allow_networks if the address is private", "%v", err)
		return false
	case invalid != nil:
		d.fail("certificate", "Its operator must install a certificate for "+l.TLSName+" with the whole chain; a private authority belongs in federation.ca_file here",
			"%v (names %s, until %s)", invalid, strings.Join(cert.DNSNames, ", "), cert.NotAfter.Format(time.DateOnly))
		return false
	case time.Until(cert.NotAfter) < certWarns:
		d.warn("certificate", "It must be renewed", "valid for %s, but only until %s", l.TLSName, cert.NotAfter.Format(time.DateTime))
	default:
		d.ok("certificate", "valid for %s until %s, by %s", l.TLSName, cert.NotAfter.Format(time.DateOnly), cert.Issuer)
	}
	return true
}

// answers asks the server something, for its keys, and whether it accepts ours.
func (d *doctor) answers(ctx context.Context) {
	remote := d.n.parts.remote
	a, err := remote.Ask(ctx, d.server)
	if err != nil {
		d.fail("version", "Something answers there that is no Matrix server, or its reverse proxy does not pass /_matrix/federation on", "%v", err)
		return
	}
	d.ok("version", "%s, there and back in %d ms", a.Software, a.Took.Milliseconds())
	if skew := time.Since(a.Date).Round(time.Second); a.Date.IsZero() {
		d.warn("clock", "", "it does not say what time it is")
	} else if skew.Abs() > skewWarns {
		d.warn("clock", "Set the clocks of both machines by NTP", "its clock is %s off ours", skew.Abs())
	} else {
		d.ok("clock", "within %s of ours", max(skew.Abs(), time.Second))
	}
	d.keys(ctx)
	txn := "doctor-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	t := &client.Transaction{Origin: d.n.cfg.ServerName, TS: time.Now().UnixMilli()}
	if _, err := remote.SendTransaction(ctx, d.server, txn, t); err != nil {
		d.fail("signed request", "It must reach this server to fetch its key: run knock doctor federation without a name, here and from outside", "it does not accept an empty transaction: %v", err)
		return
	}
	d.ok("signed request", "it accepts ours")
}

func (d *doctor) keys(ctx context.Context) {
	raw, err := d.n.parts.remote.ServerKeys(ctx, d.server)
	if err != nil {
		d.fail("keys", "Its reverse proxy must pass /_matrix/key on", "%v", err)
		return
	}
	ids, until, err := keys.Inspect(raw, d.server)
	switch {
	case err != nil:
		d.fail("keys", "Its operator must look after its signing keys", "%v", err)
	case time.Until(until) < 0:
		d.fail("keys", "Its operator must look after its clock or its proxy's cache", "they were valid until %s", until.Format(time.DateTime))
	default:
		d.ok("keys", "%s, signed by itself, valid until %s", strings.Join(ids, ", "), until.Format(time.DateTime))
	}
}

func (d *doctor) queue(ctx context.Context) {
	r, ok, err := d.n.parts.sender.Destination(ctx, d.server)
	advice := "What waits is sent by itself once the checks above pass"
	switch {
	case err != nil:
		d.fail("queue", "", "%v", err)
	case !ok:
		d.ok("queue", "nothing was ever sent to it")
	case r.State == "retired":
		d.warn("queue", "It comes back when it calls; POST /_knock/admin/v1/destinations/"+d.server+"/retry tries it now", "it counts as gone since it was silent for so long")
	case r.Waiting > 0:
		d.warn("queue", advice, "%d events wait, the first for %s (%s)", r.Waiting, time.Since(time.UnixMilli(r.Oldest)).Round(time.Second), r.State)
	case r.State == "down" || r.WaitingEDUs:
		d.warn("queue", advice, "%s; messages to devices wait: %v; last error: %s", r.State, r.WaitingEDUs, r.LastError)
	default:
		d.ok("queue", "empty")
	}
}

// rooms compares the rooms that both are in.
func (d *doctor) rooms(ctx context.Context) {
	list, _, err := d.n.parts.rooms.SharedWith(ctx, d.server, 0, doctorRooms)
	if err != nil {
		d.fail("rooms", "", "%v", err)
		return
	}
	same := 0
	for _, room := range list {
		c, err := d.n.parts.rooms.Compare(ctx, d.server, room)
		switch {
		case err != nil:
			d.warn("room "+room, "", "it could not be compared: %v", err)
		case c.Same():
			same++
		case len(c.Missing) > 0:
			d.warn("room "+room, "knock doctor federation "+d.server+" --repair '"+room+"'", "%d of its newest events are not here", len(c.Missing))
		default:
			d.warn("room "+room, "It fetches them with the next event; if it is a Knock, sooner", "it does not have all of our newest events")
		}
	}
	d.ok("rooms", "%d looked at, %d with the same end on both sides", len(list), same)
}

// repair fetches what is missing in a room.
func (d *doctor) repair(ctx context.Context, room string) {
	c, err := d.n.parts.rooms.Reconcile(ctx, d.server, room)
	if err != nil {
		d.fail("repair", "Check the room's id, and that both servers are in it", "%v", err)
		return
	}
	n, err := d.n.parts.rooms.FillGaps(ctx, room, repairGaps)
	if err != nil {
		d.fail("repair", "Ask again", "%v", err)
		return
	}
	d.ok("repair", "%d of its newest events were fetched, and history for %d gaps", len(c.Missing), n)
}
