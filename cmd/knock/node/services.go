package node

import (
	"context"

	"knock/internal/account"
	"knock/internal/appservice"
)

func (n *Node) newServices() (*appservice.Services, error) {
	registrations, err := appservice.Load(n.cfg.AppServices, n.cfg.ServerName)
	if err != nil {
		return nil, err
	}
	return appservice.New(appservice.Options{ServerName: n.cfg.ServerName, Registrations: registrations, DB: n.db, Hub: n.hub,
		Log: n.logs.Component("services"), Registerer: n.metrics}), nil
}

// makeSenders makes the users that application services act as.
func (n *Node) makeSenders(ctx context.Context) error {
	for service, user := range n.parts.services.Senders() {
		exists, err := n.parts.account.Exists(ctx, user)
		if err != nil {
			return err
		}
		if local, ok := n.parts.account.Localpart(user); ok && !exists {
			if _, err := n.parts.account.CreateUser(ctx, account.NewUser{Username: local, Service: service}); err != nil {
				return err
			}
		}
	}
	return nil
}
