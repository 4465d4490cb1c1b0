package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Location is where a server is, and how that was found.
type Location struct {
	Steps     []string // in plain words, in the order of the specification
	TLSName   string   // what the certificate must be valid for
	Endpoints []string // host:port, in the order in which they are tried
	target    target
}

// Locate looks anew where a server is and says how it came to that. It may be our own.
func (c *Client) Locate(ctx context.Context, server string) (Location, error) {
	name, err := parseServerName(server)
	if err != nil {
		return Location{}, err
	}
	c.resolve.forget(server)
	l := Location{}
	r := c.resolve
	if name.literal || name.port != 0 {
		l.Steps = append(l.Steps, "the name has an address or a port of its own")
		return l.at(direct(name)), nil
	}
	to, _, err := r.wellKnown.fetch(name.host)
	if err != nil {
		l.Steps = append(l.Steps, "https://"+name.host+"/.well-known/matrix/server says nothing ("+err.Error()+")")
		to = name
	} else {
		l.Steps = append(l.Steps, "https://"+name.host+"/.well-known/matrix/server delegates to "+to.full)
		if to.literal || to.port != 0 {
			return l.at(direct(to)), nil
		}
	}
	t, _ := r.services(ctx, to)
	if plain := direct(to); sameEndpoints(t.endpoints, plain.endpoints) {
		l.Steps = append(l.Steps, "no SRV record of "+to.host+"; port "+strconv.Itoa(defaultPort)+" of it")
	} else {
		l.Steps = append(l.Steps, "an SRV record of "+to.host+" names hosts and ports")
	}
	return l.at(t), ctx.Err()
}

func (l Location) at(t target) Location {
	l.target, l.TLSName = t, t.tlsName
	for _, ep := range t.endpoints {
		l.Endpoints = append(l.Endpoints, net.JoinHostPort(ep.host, strconv.Itoa(int(ep.port))))
	}
	return l
}

// Certificate connects to a located server and returns the certificate that it shows, whether or not that holds; invalid
// says why it does not. The connection is not used for anything else.
func (c *Client) Certificate(ctx context.Context, l Location) (leaf *x509.Certificate, invalid, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, errTimeout)
	defer cancel()
	err = errNoAddr
	for _, ep := range l.target.endpoints {
		var raw net.Conn
		if raw, err = c.dialer.connect(ctx, ep); err != nil {
			continue
		}
		leaf, invalid, err = c.handshake(ctx, raw, l.TLSName)
		_ = raw.Close()
		if err == nil {
			return leaf, invalid, nil
		}
	}
	return nil, nil, err
}

// handshake judges the certificate only after it was shown, so that one that does not hold can be described.
func (c *Client) handshake(ctx context.Context, raw net.Conn, name string) (leaf *x509.Certificate, invalid, err error) {
	config := c.tlsConfig(name)
	config.ClientSessionCache = nil
	config.InsecureSkipVerify = true // verified below
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	chain := conn.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return nil, nil, errors.New("the server shows no certificate")
	}
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	_, invalid = chain[0].Verify(x509.VerifyOptions{DNSName: name, Roots: c.o.RootCAs, Intermediates: between, CurrentTime: time.Now()})
	return chain[0], invalid, nil
}

// Answer is how a server answered a simple question.
type Answer struct {
	Software string        // name and version
	Date     time.Time     // its clock, to the second; zero when it does not say
	Took     time.Duration // there and back
}

// Ask asks for a server's version, whatever it failed at before.
func (c *Client) Ask(ctx context.Context, server string) (Answer, error) {
	c.Alive(server)
	began := time.Now()
	resp, err := c.do(ctx, server, call{name: "version", path: "/_matrix/federation/v1/version", hurry: true, unsigned: true})
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	a := Answer{Took: time.Since(began)}
	a.Date, _ = http.ParseTime(resp.Header.Get("Date")) // not everybody says
	var out struct {
		Server struct{ Name, Version string }
	}
	body, err := readAll(resp.Body, defaultLimit)
	if err != nil {
		return a, fail(ctx, server, err)
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return a, &Error{Server: server, Kind: KindBadBody, Cause: err}
	}
	a.Software = fmt.Sprintf("%.100s %.100s", out.Server.Name, out.Server.Version)
	return a, nil
}
