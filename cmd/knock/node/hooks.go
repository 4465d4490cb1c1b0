package node

import (
	"context"
	"net/netip"
	"strings"

	"knock/clientapi"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

// hooks are what a router asks of the parts.
func (n *Node) hooks(proxies []netip.Prefix) httpx.Hooks {
	h := httpx.Hooks{
		Authenticate:        clientapi.Authenticate(n.parts.account, n.parts.services),
		AuthenticateService: clientapi.AuthenticateService(n.parts.services),
		RateLimit:           clientapi.RateLimit(n.parts.limiter, n.parts.services),
		Watch:               n.parts.account.Watch,
		TrustedProxies:      proxies,
		Closing:             n.closing,
		Log:                 n.logs.Component("http"),
		Registerer:          n.metrics,
	}
	if n.parts.federation != nil {
		h.AuthenticateServer = n.authenticateServer
	}
	return h
}

// authenticateServer verifies who signed a request of federation.
func (n *Node) authenticateServer(ctx context.Context, r *httpx.Request) (string, error) {
	origin, err := n.parts.federation.AuthenticateServer(ctx, r)
	if err == nil && !n.federatesWith(origin) {
		err = matrixerr.Forbidden("This server does not talk to " + origin)
	}
	return origin, err
}

// federatesWith applies federation.allow_domains and deny_domains.
func (n *Node) federatesWith(server string) bool {
	f := n.cfg.Federation
	return !matchesAny(f.DenyDomains, server) && (len(f.AllowDomains) == 0 || matchesAny(f.AllowDomains, server))
}

// matchesAny says whether a server name, its port left aside unless the pattern has one, is one of patterns.
func matchesAny(patterns []string, server string) bool {
	host := server
	if i := strings.LastIndexByte(server, ':'); i > strings.LastIndexByte(server, ']') {
		host = server[:i]
	}
	for _, p := range patterns {
		suffix, wild := strings.CutPrefix(p, "*")
		if p == server || p == host || wild && strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return false
}
