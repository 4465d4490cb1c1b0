// Package mailtest is a small SMTP server for tests.
package mailtest

import (
	"bufio"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"net"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Options say what a Server demands.
type Options struct {
	Security       string // "tls" speaks TLS from the first byte
	StartTLS       bool   // offered
	User, Password string
	Mechanism      string // "" is PLAIN
	Refuse         bool   // every recipient
}

// Server is a small SMTP server: as much of RFC 5321, 3207 and 4954 as one message needs.
type Server struct {
	Options
	Port        int
	Roots       *x509.CertPool
	Mails       chan Received // what it took
	Connections *atomic.Int32

	tls *tls.Config
}

// Received is a message with its envelope, and how it came.
type Received struct {
	Helo, From               string
	To                       []string
	Data                     string
	Encrypted, Authenticated bool
	UTF8                     bool
}

// Serve listens on an address of this machine until the test ends.
func Serve(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{Options: o}
	s.tls, s.Roots = certificate(t)
	s.Mails, s.Connections = make(chan Received, 100), new(atomic.Int32)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Port = listener.Addr().(*net.TCPAddr).Port
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.Connections.Add(1)
			s.talk(conn)
		}
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return s
}

// Taken is the next message, which must be there.
func (s *Server) Taken(t testing.TB) Received {
	t.Helper()
	select {
	case m := <-s.Mails:
		return m
	default:
		t.Fatal("the server has no message")
		return Received{}
	}
}

// NothingTaken fails the test when the server has a message.
func (s *Server) NothingTaken(t testing.TB) {
	t.Helper()
	if len(s.Mails) != 0 {
		t.Errorf("the server has %+v", <-s.Mails)
	}
}

func (s *Server) talk(conn net.Conn) {
	defer func() { conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return
	}
	var m Received
	if s.Security == "tls" {
		conn, m.Encrypted = tls.Server(conn, s.tls), true
	}
	text := textproto.NewConn(conn)
	say := func(line string) { _ = text.PrintfLine("%s", line) }
	say("220 test")
	for {
		line, err := text.ReadLine()
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			m.Helo = rest
			s.extensions(say, m.Encrypted)
		case "STARTTLS":
			say("220 go ahead")
			conn, m.Encrypted = tls.Server(conn, s.tls), true
			text = textproto.NewConn(conn)
		case "AUTH":
			if m.Authenticated, err = s.authenticate(text, rest); err != nil {
				return
			}
			if !m.Authenticated {
				say("535 no")
				continue
			}
			say("235 welcome")
		case "MAIL":
			m.From, m.UTF8 = path(rest), strings.Contains(rest, "SMTPUTF8")
			say("250 fine")
		case "RCPT":
			if s.Refuse {
				say("550 nobody here")
				continue
			}
			m.To = append(m.To, path(rest))
			say("250 fine")
		case "DATA":
			say("354 speak")
			if m.Data, err = readData(text.R); err != nil {
				return
			}
			s.Mails <- m
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default: // NOOP, RSET
			say("250 fine")
		}
	}
}

func (s *Server) authenticate(text *textproto.Conn, rest string) (bool, error) {
	if s.Mechanism != "LOGIN" {
		return rest == "PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+s.User+"\x00"+s.Password)), nil
	}
	good := rest == "LOGIN"
	for _, step := range [][2]string{{"Username:", s.User}, {"Password:", s.Password}} {
		if err := text.PrintfLine("334 %s", base64.StdEncoding.EncodeToString([]byte(step[0]))); err != nil {
			return false, err
		}
		line, err := text.ReadLine()
		if err != nil {
			return false, err
		}
		good = good && line == base64.StdEncoding.EncodeToString([]byte(step[1]))
	}
	return good, nil
}

func (s *Server) extensions(say func(string), encrypted bool) {
	say("250-test")
	say("250-8BITMIME")
	if s.StartTLS && !encrypted {
		say("250-STARTTLS")
	}
	if s.User != "" {
		say("250-AUTH " + cmp.Or(s.Mechanism, "PLAIN"))
	}
	say("250 SMTPUTF8")
}

// readData keeps line ends, which textproto's own reader does not.
func readData(r *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil || line == ".\r\n" {
			return b.String(), err
		}
		b.WriteString(strings.TrimPrefix(line, "."))
	}
}

func path(s string) string {
	_, s, _ = strings.Cut(s, "<")
	s, _, _ = strings.Cut(s, ">")
	return s
}

func certificate(t testing.TB) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, roots
}
