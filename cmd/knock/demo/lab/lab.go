// Package lab owns small networks of nodes on one machine, for the demonstration and for tests: a certificate
// authority, the names that its nodes find each other by, nodes that start and stop, and a client that remembers what
// it was told as a real one does.
package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync"

	"knock/config"
	"knock/federationapi/client"
)

// Lab is a network under one directory.
type Lab struct {
	dir       string
	authority *authority
}

// New makes a network in dir, which must exist.
func New(dir string) (*Lab, error) {
	ca, err := newAuthority(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	return &Lab{dir: dir, authority: ca}, nil
}

// Settings are those of a node of this network, as --set takes them: SQLite, free ports on loopback, TLS between
// nodes with certificates of the network's authority, registration open.
func (l *Lab) Settings(name string) ([]string, error) {
	dir := filepath.Join(l.dir, name)
	cert, key, err := l.authority.issue(name, dir)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", name, err)
	}
	return []string{
		"server_name=" + name,
		"data_dir=" + dir,
		"listeners.client.address=localhost:0",
		"listeners.federation.address=127.0.0.1:0",
		"listeners.federation.tls_cert=" + cert,
		"listeners.federation.tls_key=" + key,
		"listeners.metrics.address=",
		"federation.ca_file=" + l.authority.file,
		"federation.allow_networks=[127.0.0.0/8]",
		"registration.mode=open",
	}, nil
}

// Certificate is for a server of this network that is no node.
func (l *Lab) Certificate(name string) (tls.Certificate, error) {
	cert, key, err := l.authority.issue(name, filepath.Join(l.dir, name))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate of %s: %w", name, err)
	}
	return tls.LoadX509KeyPair(cert, key)
}

// Configure reads settings.
func Configure(settings []string) (*config.Config, error) {
	return config.Load(config.Source{Set: settings})
}

// Names finds nodes by name, all on loopback; their ports may change. It is a client.Lookup.
type Names struct {
	mu    sync.RWMutex
	ports map[string]uint16
}

var _ client.Lookup = (*Names)(nil)

// Set says at which port of loopback the server answers other servers.
func (n *Names) Set(server string, port uint16) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ports == nil {
		n.ports = map[string]uint16{}
	}
	n.ports[server] = port
}

// LookupNetIP implements client.Lookup.
func (n *Names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if _, err := n.port(host); err != nil {
		return nil, err
	}
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
}

// LookupSRV implements client.Lookup: the service record is what tells the port.
func (n *Names) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	full := "_" + service + "._" + proto + "." + name
	port, err := n.port(name)
	if err != nil {
		return "", nil, err
	}
	return full, []*net.SRV{{Target: name + ".", Port: port}}, nil
}

func (n *Names) port(host string) (uint16, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	port, ok := n.ports[host]
	if !ok {
		return 0, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return port, nil
}
