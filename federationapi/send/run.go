package send

import (
	"context"
	"sync"
	"time"
)

// Run sends until ctx ends, and then writes down how far it came.
func (s *Sender) Run(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		if ctx.Err() != nil { // told to stop while starting
			return nil
		}
		return err
	}
	var loops sync.WaitGroup
	loops.Go(func() { s.spreadEDUs(ctx) })
	loops.Go(func() { s.keepSaved(ctx) })
	loops.Go(func() { s.pruneRetired(ctx) })
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

// begin lets workers start, and looks what waits for every server that shares a room with us or had something waiting
// when we stopped.
func (s *Sender) begin(ctx context.Context) error {
	known, err := s.loadServers(ctx)
	if err != nil {
		return err
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
	here := map[string]bool{s.o.ServerName: true}
	for _, server := range known.here {
		here[server] = true
		s.destination(server).start(true)
	}
	for _, server := range known.waiting {
		if !here[server] {
			s.destination(server).start(false)
		}
	}
	return nil
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
