package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"golang.org/x/sync/errgroup"
)

// Run serves until ctx ends or a part fails. Then it stops in order: no new requests, accepted ones finish and
// waiting syncs end; the parts put down what they hold; the writer drains and the database closes.
func (n *Node) Run(ctx context.Context) (err error) {
	defer func() {
		if closeErr := n.Close(); err == nil {
			err = closeErr
		}
	}()
	if err := n.startParts(ctx); err != nil {
		if ctx.Err() != nil { // told to stop while starting: nothing failed
			return nil
		}
		return err
	}
	background, stopParts := context.WithCancel(context.WithoutCancel(ctx))
	defer stopParts()
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	var parts, doors errgroup.Group
	for _, c := range n.components() {
		parts.Go(func() error { return guard(background, fail, c) })
	}
	for _, c := range n.doors() {
		doors.Go(func() error { return guard(failed, fail, c) })
	}
	n.ready.Store(true)
	n.log.WithField("server_name", n.cfg.ServerName).WithField("client", n.ClientAddress()).
		WithField("federation", n.FederationAddress()).WithField("metrics", n.OperatorsAddress()).Info("serving")

	if n.cfg.Registration.Mode == "open" && n.clients.public() {
		n.log.Warn("registration.mode is open on an address that others can reach: anybody can make accounts here")
	}

	<-failed.Done()
	n.ready.Store(false)
	n.log.Info("stopping")
	n.close()
	doorErr := doors.Wait()
	stopParts()
	if err := parts.Wait(); err != nil {
		return err
	}
	return doorErr
}

// guard runs a component; when it ends before its time, the node stops.
func guard(ctx context.Context, fail context.CancelCauseFunc, c component) error {
	err := c.run(ctx)
	if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("ended without a reason")
	}
	err = fmt.Errorf("%s: %w", c.name, err)
	fail(err)
	return err
}

// doors are the listeners.
func (n *Node) doors() []component {
	var list []component
	log := n.logs.Component("http")
	add := func(s *server, handler func() http.Handler) {
		if s != nil {
			h := handler()
			list = append(list, component{s.name, func(ctx context.Context) error { return s.serve(ctx, h, log) }})
		}
	}
	add(n.clients, n.clientHandler)
	add(n.federation, n.federationHandler)
	add(n.operators, n.operatorsHandler)
	add(n.commands, func() http.Handler { return http.HandlerFunc(n.serveCommand) })
	return list
}
