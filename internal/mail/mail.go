// Package mail owns the e-mails that the server sends: one message to one person, handed to one SMTP server. It knows
// nothing of what the messages say, and keeps no queue: who sends hears whether the SMTP server took the message.
package mail

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"
	"golang.org/x/text/cases"
)

// How the connection to the SMTP server is protected.
const (
	StartTLS = "starttls" // plain at first; a server without STARTTLS is refused
	TLS      = "tls"      // TLS from the first byte
	None     = "none"     // never protected
)

const (
	maxAddress = 254 // octets; what fits in SMTP's path (RFC 5321, 4.5.3.1.3)
	maxSubject = 255 // characters
	maxBody    = 1 << 20
)

// ErrAddress is returned for a recipient that is not one plain address, such as alice@example.org.
var ErrAddress = errors.New("not an e-mail address")

// Options say through which server messages go.
type Options struct {
	Host     string
	Port     int
	Security string // StartTLS, TLS or None
	User     string // "" is no authentication
	Password string
	From     string         // such as "Example <matrix@example.org>"
	Timeout  time.Duration  // for a whole message, connection included
	RootCAs  *x509.CertPool // nil is the system's
}

// Message is an e-mail to one person.
type Message struct {
	To      string // one plain address
	Subject string // one line
	Text    string
	HTML    string // "" is a message of text alone
	// Unsubscribe is the URL of a page where the recipient can end such e-mails; a POST to it does at once (RFC 8058).
	// "" is for e-mails that somebody asked for.
	Unsubscribe string
}

// Sender sends e-mails. It may be used by many at once; each message has a connection of its own.
type Sender struct {
	options  []gomail.Option
	tls      *tls.Config // nil: not from the first byte
	host     string
	user     string
	password string
	from     *mail.Address
	domain   string // of from
	timeout  time.Duration
}

// New makes a sender. It does not connect.
func New(o Options) (*Sender, error) {
	from, err := mail.ParseAddress(o.From)
	if err != nil {
		return nil, fmt.Errorf("the sender %q is no e-mail address: %w", o.From, err)
	}
	if o.Timeout <= 0 {
		return nil, errors.New("sending mail needs a timeout")
	}
	s := &Sender{host: o.Host, user: o.User, password: o.Password, from: from, domain: domain(from.Address), timeout: o.Timeout}
	if s.options, err = s.clientOptions(o); err != nil {
		return nil, err
	}
	if _, err := gomail.NewClient(s.host, s.options...); err != nil {
		return nil, fmt.Errorf("settings of the SMTP server: %w", err)
	}
	return s, nil
}

func (s *Sender) clientOptions(o Options) ([]gomail.Option, error) {
	secure := &tls.Config{ServerName: o.Host, RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12}
	all := []gomail.Option{
		gomail.WithTimeout(o.Timeout),
		// The machine's own name, which is the library's choice, is nobody's business.
		gomail.WithHELO(s.domain),
		gomail.WithTLSConfig(secure),
	}
	switch o.Security {
	case StartTLS:
		all = append(all, gomail.WithTLSPolicy(gomail.TLSMandatory))
	case TLS:
		s.tls = secure
		all = append(all, gomail.WithSSL())
	case None:
		if o.User != "" {
			return nil, errors.New("a password is not sent to an SMTP server without TLS")
		}
		all = append(all, gomail.WithTLSPolicy(gomail.NoTLS))
	default:
		return nil, fmt.Errorf("unknown protection %q of the connection to the SMTP server", o.Security)
	}
	// The last, so that no choice of protection changes it.
	return append(all, gomail.WithPort(o.Port)), nil
}

// Send hands a message to the SMTP server; nil says that the server took it. ErrAddress says that m.To can never work.
func (s *Sender) Send(ctx context.Context, m Message) error {
	msg, err := s.build(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	c := &connection{ctx: ctx, tls: s.tls}
	defer c.close()
	options := append(slices.Clip(s.options), gomail.WithDialContextFunc(c.dial))
	if s.user != "" {
		options = append(options, gomail.WithSMTPAuthCustom(&login{user: s.user, password: s.password, host: s.host}))
	}
	client, err := gomail.NewClient(s.host, options...)
	if err != nil {
		return fmt.Errorf("settings of the SMTP server: %w", err)
	}
	if err := client.DialAndSendWithContext(ctx, msg); err != nil {
		return fmt.Errorf("sending mail: %w", err)
	}
	return nil
}

// connection is that of one message. The library does not close it when it gives up half-way, and does not look at the
// context after dialling.
type connection struct {
	ctx  context.Context // of the message; the one given to dial ends with dialling
	tls  *tls.Config
	conn net.Conn
	stop func() bool
}

func (c *connection) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.conn, c.stop = conn, context.AfterFunc(c.ctx, func() { _ = conn.Close() })
	if c.tls == nil {
		return conn, nil
	}
	secure := tls.Client(conn, c.tls)
	return secure, secure.HandshakeContext(ctx)
}

func (c *connection) close() {
	if c.conn != nil {
		c.stop()
		_ = c.conn.Close() // mostly closed already
	}
}

// login authenticates by PLAIN, or by LOGIN where that is all there is. The library's own choice between them does not
// know that a connection which it did not open has TLS.
type login struct {
	user, password, host string
	smtp.Auth            // chosen by Start
}

// Start refuses a connection without TLS, as the chosen mechanism does.
func (l *login) Start(server *smtp.ServerInfo) (string, []byte, error) {
	l.Auth = smtp.PlainAuth("", l.user, l.password, l.host, false)
	if !slices.Contains(server.Auth, "PLAIN") && slices.Contains(server.Auth, "LOGIN") {
		l.Auth = smtp.LoginAuth(l.user, l.password, l.host, false)
	}
	return l.Auth.Start(server)
}

func (s *Sender) build(m Message) (*gomail.Msg, error) {
	to, err := plainAddress(m.To)
	if err != nil {
		return nil, err
	}
	if err := checkContent(m); err != nil {
		return nil, err
	}
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(s.from)
	msg.ToMailAddress(to)
	msg.Subject(m.Subject)
	msg.SetDate()
	msg.SetMessageIDWithValue(rand.Text() + "@" + s.domain)
	// Automatic answers, such as those of people on holiday, are not wanted (RFC 3834).
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	if m.Unsubscribe != "" {
		msg.SetGenHeader("List-Unsubscribe", "<"+m.Unsubscribe+">")
		msg.SetGenHeader("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")
	}
	msg.SetBodyString(gomail.TypeTextPlain, m.Text)
	if m.HTML != "" {
		msg.AddAlternativeString(gomail.TypeTextHTML, m.HTML)
	}
	return msg, nil
}

// plainAddress takes alice@example.org and nothing that a parser makes an address of: no names, comments, lists.
func plainAddress(s string) (*mail.Address, error) {
	if len(s) > maxAddress || !oneLine(s) {
		return nil, ErrAddress
	}
	a, err := mail.ParseAddress(s)
	if err != nil || a.Address != s {
		return nil, ErrAddress
	}
	return a, nil
}

// Canonical checks that s is one plain address and returns it in the only form that counts, the same for all ways of
// writing it (Appendices, "3PID Types"). The error is ErrAddress.
func Canonical(s string) (string, error) {
	if _, err := plainAddress(s); err != nil {
		return "", err
	}
	if s = cases.Fold().String(s); len(s) > maxAddress {
		return "", ErrAddress
	}
	return s, nil
}

func checkContent(m Message) error {
	switch {
	case !oneLine(m.Subject):
		return errors.New("the subject of an e-mail is one line of text")
	case utf8.RuneCountInString(m.Subject) > maxSubject:
		return fmt.Errorf("the subject of an e-mail has at most %d characters", maxSubject)
	case !oneLine(m.Unsubscribe):
		return errors.New("a URL to unsubscribe is one line")
	case len(m.Text) > maxBody || len(m.HTML) > maxBody:
		return fmt.Errorf("the text of an e-mail has at most %d bytes", maxBody)
	}
	return nil
}

// oneLine tells whether s can stand in a header: what ends a line there, or is not text, could begin another header.
func oneLine(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || r == '\u2028' || r == '\u2029'
	})
}

func domain(address string) string { return address[strings.LastIndexByte(address, '@')+1:] }
