package node

import (
	"net/netip"

	"knock/clientapi"
	"knock/internal/httpx"
)

// hooks are what a router asks of the parts.
func (n *Node) hooks(proxies []netip.Prefix) httpx.Hooks {
	return httpx.Hooks{
		Authenticate:   clientapi.Authenticate(n.parts.account),
		RateLimit:      clientapi.RateLimit(n.parts.limiter),
		TrustedProxies: proxies,
		Closing:        n.closing,
		Log:            n.logs.Component("http"),
		Registerer:     n.metrics,
	}
}
