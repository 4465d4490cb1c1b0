package send

import (
	"context"

	"knock/federationapi/client"
	"knock/internal/e2ee"
	"knock/internal/sqldb"
)

// Durable keeps EDUs that must arrive: messages to devices, and what changes in device lists. e2ee.Service does.
type Durable interface {
	PendingServers(tx *sqldb.Tx) ([]string, error)
	// PendingEDUs returns the oldest EDUs for a server: about limit of them, all EDUs of a position together.
	PendingEDUs(tx *sqldb.Tx, server string, limit int) ([]e2ee.EDU, error)
	// Delivered forgets what a server was told, up to a position.
	Delivered(ctx context.Context, server string, upTo int64) error
	// ForgetMessages drops the messages that wait for a server that is gone.
	ForgetMessages(ctx context.Context, server string) error
}

// durable are the EDUs that must arrive at one server and were read, and what is known of those that were not.
type durable struct {
	unread bool // there may be more than was read
	edus   []client.EDU
	upTo   int64 // position of the last
}

func (d *durable) waits() bool { return d.unread || len(d.edus) > 0 }

// Carry sets who keeps EDUs that must arrive. Call it before Run.
func (s *Sender) Carry(d Durable) { s.durable = d }

// Notify says, after the commit, that EDUs that must arrive wait for servers. It does not block.
func (s *Sender) Notify(servers []string) {
	for _, server := range servers {
		if server != s.o.ServerName {
			s.destination(server).notify()
		}
	}
}

func (d *destination) notify() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.durable.unread = true
	d.kick()
}

// fromDurable makes a transaction of EDUs that must arrive; nil when there are none. They go before events: these may
// be encrypted with keys that those bring.
func (d *destination) fromDurable(ctx context.Context) (*outgoing, error) {
	if out, read := d.durableTransaction(); out != nil || !read {
		return out, nil
	}
	var list []e2ee.EDU
	err := d.s.o.Store.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		list, err = d.s.durable.PendingEDUs(tx, d.name, maxEDUs)
		return err
	})
	d.keepDurable(list, err)
	if err != nil || len(list) == 0 { // word of more that came meanwhile is for the next look
		return nil, err
	}
	out, _ := d.durableTransaction()
	return out, nil
}

// durableTransaction makes a transaction of what was read. read says that nothing is left and more must be read first.
func (d *destination) durableTransaction() (out *outgoing, read bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.durable.edus
	if len(all) == 0 {
		read = d.durable.unread && d.s.durable != nil
		d.durable.unread = false // what comes from now on sets it again
		return nil, read
	}
	n := min(len(all), maxEDUs*d.limit/maxPDUs)
	if d.limit == 1 {
		n = 1
	}
	out = d.empty()
	out.t.EDUs, out.durable = all[:n], n
	if n == len(all) {
		out.told = d.durable.upTo
	}
	return out, false
}

func (d *destination) keepDurable(list []e2ee.EDU, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil || len(list) > 0 {
		d.durable.unread = true
	}
	for _, e := range list {
		d.durable.edus = append(d.durable.edus, client.EDU{Type: e.Type, Content: e.Content})
		d.durable.upTo = e.Pos
	}
}

// told forgets EDUs that arrived. What is told again because this failed is known to the other server.
func (d *destination) told(ctx context.Context, out *outgoing) error {
	if out.told == 0 {
		return nil
	}
	return d.s.durable.Delivered(ctx, d.name, out.told)
}
