package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"knock/config"
	"knock/federationapi/client"
	"knock/internal/account"
	"knock/internal/sso"
)

// newSSO is nil where there are no identity providers. It calls none of them: one that is down keeps nothing from starting.
func (n *Node) newSSO() (*sso.Service, error) {
	if len(n.cfg.SSO.Providers) == 0 {
		return nil, nil
	}
	roots, err := rootCAs(n.cfg.Federation.CAFile)
	if err != nil {
		return nil, err
	}
	o := sso.Options{DB: n.db, HTTP: client.GuardedClient(n.cfg.SSO.AllowNetworks, n.opts.Lookup, roots),
		BaseURL: strings.TrimSuffix(n.cfg.PublicBaseURL, "/"), Trusted: n.cfg.SSO.TrustedClients, Log: n.logs.Component("sso")}
	for _, p := range n.cfg.SSO.Providers {
		provider, err := identityProvider(p)
		if err != nil {
			return nil, err
		}
		o.Providers = append(o.Providers, provider)
	}
	s, err := sso.New(o)
	if err != nil {
		return nil, fmt.Errorf("sso.trusted_clients: %w", err)
	}
	return s, nil
}

// connections does a command about what a user is at identity providers.
func (n *Node) connections(ctx context.Context, c Command) (Result, error) {
	user := n.userID(c.User)
	switch c.Do {
	case "user connect":
		if len(c.Subject) == 0 {
			return Result{}, errors.New("name the person at the provider: the sub of its ID tokens")
		}
		issuer, err := n.issuer(c.Provider)
		if err != nil {
			return Result{}, err
		}
		return Result{Made: user}, n.parts.account.LinkExternal(ctx, user, account.External{Issuer: issuer, Subject: c.Subject})
	case "user disconnect":
		issuer, err := n.issuer(c.Provider)
		if err != nil {
			return Result{}, err
		}
		return Result{Made: user}, n.parts.account.UnlinkExternal(ctx, user, issuer)
	}
	list, err := n.parts.account.Externals(ctx, user)
	lines := make([]string, len(list))
	for i, e := range list {
		lines[i] = e.Issuer + " " + e.Subject
	}
	return Result{Made: strings.Join(lines, "\n")}, err
}

// issuer is that of a provider, which may be gone from the configuration when it is named by its issuer.
func (n *Node) issuer(provider string) (string, error) {
	for _, p := range n.cfg.SSO.Providers {
		if p.ID == provider {
			return p.Issuer, nil
		}
	}
	if strings.Contains(provider, "://") {
		return provider, nil
	}
	return "", fmt.Errorf("sso.providers has no %q: write the id of a provider, or an issuer's URL", provider)
}

func identityProvider(p config.Provider) (sso.Provider, error) {
	out := sso.Provider{ID: p.ID, Name: p.Name, Brand: p.Brand, Icon: p.Icon, Issuer: p.Issuer, ClientID: p.ClientID, ClientSecret: p.ClientSecret,
		Scopes: p.Scopes, ExistingOnly: p.ExistingOnly, SkipReauthenticate: p.SkipReauth, Backchannel: p.Backchannel, NoPasswords: p.NoPasswords,
		Claims: sso.ClaimNames{Localpart: cmp.Or(p.LocalpartClaim, "preferred_username"), DisplayName: cmp.Or(p.DisplayNameClaim, "name"),
			Email: cmp.Or(p.EmailClaim, "email"), StripDomain: p.StripDomain}}
	if p.Adopt != "none" {
		out.Adopt = sso.Adopt(p.Adopt)
	}
	if len(p.Scopes) == 0 {
		out.Scopes = []string{"profile", "email"}
	}
	if p.ClientSecretFile == "" {
		return out, nil
	}
	secret, err := os.ReadFile(p.ClientSecretFile)
	if err != nil {
		return out, fmt.Errorf("sso: the secret of %s: %w", p.ID, err)
	}
	if out.ClientSecret = strings.TrimSpace(string(secret)); out.ClientSecret == "" {
		return out, fmt.Errorf("sso: the secret of %s: %s is empty", p.ID, p.ClientSecretFile)
	}
	return out, nil
}
