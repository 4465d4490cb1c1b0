package httpx

import (
	"net/http"
	"net/netip"
	"strings"
)

// proxies are the peers whose X-Forwarded-For is believed.
type proxies []netip.Prefix

// clientIP walks X-Forwarded-For from the right: each listed proxy vouches for the entry before it. The first
// address that is not a listed proxy is the client, and nothing to its left can be trusted.
func (p proxies) clientIP(r *http.Request) string {
	ip := peerIP(r)
	if !p.contain(ip) {
		return ip
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		addr, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			return ip
		}
		if ip = addr.Unmap().String(); !p.contain(ip) {
			return ip
		}
	}
	return ip
}

func (p proxies) contain(ip string) bool {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return false
	}
	for _, prefix := range p {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// peerIP is the address at the other end of the connection, without its port and zone.
func peerIP(r *http.Request) string {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return ap.Addr().Unmap().WithZone("").String()
}
