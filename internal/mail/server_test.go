package mail

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

// server is a small SMTP server: as much of RFC 5321, 3207 and 4954 as one message needs.
type server struct {
	security       string
	startTLS       bool // offered
	user, password string
	mechanism      string // "" is PLAIN
	refuse         bool   // every recipient

	port        int
	roots       *x509.CertPool
	tls         *tls.Config
	mails       chan received
	connections *atomic.Int32
}

// received is a message with its envelope, and how it came.
type received struct {
	helo, from               string
	to                       []string
	data                     string
	encrypted, authenticated bool
	utf8                     bool
}

func serve(t *testing.T, s server) *server {
	t.Helper()
	s.tls, s.roots = certificate(t)
	s.mails, s.connections = make(chan received, 10), new(atomic.Int32)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.port = listener.Addr().(*net.TCPAddr).Port
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.connections.Add(1)
			s.talk(conn)
		}
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return &s
}

func (s *server) taken(t *testing.T) received {
	t.Helper()
	select {
	case m := <-s.mails:
		return m
	default:
		t.Fatal("Send returned before the server had the message")
		return received{}
	}
}

func (s *server) nothingTaken(t *testing.T) {
	t.Helper()
	if len(s.mails) != 0 {
		t.Errorf("the server has %+v", <-s.mails)
	}
}

func (s *server) talk(conn net.Conn) {
	defer func() { conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return
	}
	var m received
	if s.security == TLS {
		conn, m.encrypted = tls.Server(conn, s.tls), true
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
			m.helo = rest
			s.extensions(say, m.encrypted)
		case "STARTTLS":
			say("220 go ahead")
			conn, m.encrypted = tls.Server(conn, s.tls), true
			text = textproto.NewConn(conn)
		case "AUTH":
			if m.authenticated, err = s.authenticate(text, rest); err != nil {
				return
			}
			if !m.authenticated {
				say("535 no")
				continue
			}
			say("235 welcome")
		case "MAIL":
			m.from, m.utf8 = path(rest), strings.Contains(rest, "SMTPUTF8")
			say("250 fine")
		case "RCPT":
			if s.refuse {
				say("550 nobody here")
				continue
			}
			m.to = append(m.to, path(rest))
			say("250 fine")
		case "DATA":
			say("354 speak")
			if m.data, err = readData(text.R); err != nil {
				return
			}
			s.mails <- m
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default: // NOOP, RSET
			say("250 fine")
		}
	}
}

func (s *server) authenticate(text *textproto.Conn, rest string) (bool, error) {
	if s.mechanism != "LOGIN" {
		return rest == "PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+s.user+"\x00"+s.password)), nil
	}
	good := rest == "LOGIN"
	for _, step := range [][2]string{{"Username:", s.user}, {"Password:", s.password}} {
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

func (s *server) extensions(say func(string), encrypted bool) {
	say("250-test")
	say("250-8BITMIME")
	if s.startTLS && !encrypted {
		say("250-STARTTLS")
	}
	if s.user != "" {
		say("250-AUTH " + cmp.Or(s.mechanism, "PLAIN"))
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

func certificate(t *testing.T) (*tls.Config, *x509.CertPool) {
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
