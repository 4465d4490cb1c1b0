package send

import (
	"context"
	"sync"
	"time"
)

// Run sends until ctx ends, and then writes down how far it came.
func (s *Sender) Run(ctx context.Context) error {
	greetings, err := s.begin(ctx)
	if err != nil {
		if ctx.Err() != nil { // told to stop while starting
			return nil
		}
		return err
	}
	var loops sync.WaitGroup
	loops.Go(func() { s.spreadEDUs(ctx) })
	loops.Go(func() { s.keepSaved(ctx) })
	loops.Go(func() { s.pruneRetired(ctx) })
	loops.Go(func() { s.greet(ctx, greetings) })
	for ctx.Err() == nil {
		select {
		case <-s.in.wake:
			s.handOut()
		case <-ctx.Done():
		}
	}
	loops.Wait()
	s.end()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	s.handOut()
	s.saveLogged(ctx, true)
	return nil
}

// stopTime bounds the last writing of cursors.
const stopTime = 10 * time.Second

// greeting is a server that is to be looked after when the work begins; hello has it told that we are back.
type greeting struct {
	d     *destination
	hello bool
}

// begin lets workers start, and returns the servers that share a room with us or had something waiting when we stopped,
// those that failed then last.
func (s *Sender) begin(ctx context.Context) ([]greeting, error) {
	known, err := s.loadServers(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range known.rows {
		s.destination(k.name).load(k)
	}
	s.mu.Lock()
	s.ctx, s.stopping = ctx, false
	early := s.early
	s.early = nil
	s.mu.Unlock()
	for _, d := range early {
		s.spawn(d)
	}
	if err := s.giveAllSticky(ctx); err != nil {
		return nil, err
	}
	seen := map[string]bool{s.o.ServerName: true}
	var well, failing []greeting
	for i, servers := range [][]string{known.here, known.waiting} {
		for _, server := range servers {
			if seen[server] {
				continue
			}
			seen[server] = true
			g := greeting{s.destination(server), i == 0}
			if g.d.begin(g.hello) {
				failing = append(failing, g)
			} else {
				well = append(well, g)
			}
		}
	}
	return append(well, failing...), nil
}

// maxGreetings bounds the servers that are called at once only because we started. Those for which something new comes
// meanwhile do not wait.
const maxGreetings = 32

// greet looks what waits for servers, a few at a time.
func (s *Sender) greet(ctx context.Context, list []greeting) {
	turns := make(chan struct{}, maxGreetings)
	for _, g := range list {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			return
		}
		g.d.start(g.hello, func() { <-turns })
	}
}

// end waits for the workers.
func (s *Sender) end() {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	for _, d := range s.all() {
		d.disarm()
	}
	s.workers.Wait()
}

// keepSaved writes cursors now and then.
func (s *Sender) keepSaved(ctx context.Context) {
	tick := time.NewTicker(saveInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.marks.note(s.o.Hub.Published())
			s.saveLogged(ctx, false)
			s.measure()
		case <-ctx.Done():
			return
		}
	}
}

func (s *Sender) saveLogged(ctx context.Context, last bool) {
	if err := s.save(ctx, last); err != nil && (last || ctx.Err() == nil) {
		s.o.Log.WithError(err).Warn("How far other servers got what is for them could not be written down; some of it may be sent twice")
	}
}
