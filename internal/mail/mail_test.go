package mail

import (
	"context"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"strings"
	"testing"
	"time"

	"knock/internal/mail/mailtest"
)

func sender(t *testing.T, s *mailtest.Server, change func(*Options)) *Sender {
	t.Helper()
	o := Options{Host: "127.0.0.1", Port: s.Port, Security: s.Security, From: "Knock 服务器 <matrix@example.org>",
		Timeout: 20 * time.Second, RootCAs: s.Roots}
	if change != nil {
		change(&o)
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSend(t *testing.T) {
	for _, security := range []string{StartTLS, TLS, None} {
		t.Run(security, func(t *testing.T) {
			s := mailtest.Serve(t, mailtest.Options{Security: security, User: "knock", Password: "correct horse", StartTLS: security == StartTLS})
			m := sender(t, s, func(o *Options) {
				if security != None {
					o.User, o.Password = "knock", "correct horse"
				}
			})
			in := Message{To: "alice@example.com", Subject: "确认您的电子邮件地址", Text: "点击链接。\n.\nend", HTML: "<p>点击</p>"}
			if err := m.Send(context.Background(), in); err != nil {
				t.Fatal(err)
			}
			got := s.Taken(t)
			if got.Encrypted != (security != None) || got.Authenticated != (security != None) {
				t.Errorf("encrypted %v, authenticated %v", got.Encrypted, got.Authenticated)
			}
			if got.Helo != "example.org" || got.From != "matrix@example.org" || len(got.To) != 1 || got.To[0] != in.To {
				t.Errorf("envelope %q %q %q", got.Helo, got.From, got.To)
			}
			compare(t, got.Data, in)
		})
	}
}

// compare reads a message as a mail program does.
func compare(t *testing.T, data string, want Message) {
	t.Helper()
	for _, c := range []byte(data[:strings.Index(data, "\r\n\r\n")]) {
		if c > 126 {
			t.Fatalf("raw %#x in the header", c)
		}
	}
	msg, err := mail.ReadMessage(strings.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject"))
	if err != nil || subject != want.Subject {
		t.Errorf("subject %q, %v", subject, err)
	}
	from, err := msg.Header.AddressList("From")
	if err != nil || from[0].Name != "Knock 服务器" {
		t.Errorf("from %v, %v", from, err)
	}
	if id := msg.Header.Get("Message-Id"); !strings.HasSuffix(id, "@example.org>") {
		t.Errorf("message id %q", id)
	}
	if msg.Header.Get("Auto-Submitted") != "auto-generated" || msg.Header.Get("Date") == "" {
		t.Errorf("header %v", msg.Header)
	}
	kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("type %q, %v", kind, err)
	}
	parts := multipart.NewReader(msg.Body, params["boundary"])
	for _, text := range []string{want.Text, want.HTML} {
		part, err := parts.NextRawPart()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(quotedprintable.NewReader(part))
		if got := strings.ReplaceAll(string(body), "\r\n", "\n"); err != nil || got != text {
			t.Errorf("body %q, %v; want %q", got, err, text)
		}
	}
}

func TestUTF8Address(t *testing.T) {
	s := mailtest.Serve(t, mailtest.Options{Security: None})
	in := Message{To: "用户@example.com", Subject: "s", Text: "t"}
	if err := sender(t, s, nil).Send(context.Background(), in); err != nil {
		t.Fatal(err)
	}
	if got := s.Taken(t); got.To[0] != in.To || !got.UTF8 {
		t.Errorf("to %q, SMTPUTF8 %v", got.To, got.UTF8)
	}
}

// TestLogin is for servers that know nothing but LOGIN.
func TestLogin(t *testing.T) {
	s := mailtest.Serve(t, mailtest.Options{Security: TLS, User: "knock", Password: "correct horse", Mechanism: "LOGIN"})
	m := sender(t, s, func(o *Options) { o.User, o.Password = "knock", "correct horse" })
	for range 2 {
		if err := m.Send(context.Background(), Message{To: "alice@example.com", Subject: "s", Text: "t"}); err != nil {
			t.Fatal(err)
		}
		if !s.Taken(t).Authenticated {
			t.Error("not authenticated")
		}
	}
}

func TestInjection(t *testing.T) {
	s := mailtest.Serve(t, mailtest.Options{Security: None})
	m := sender(t, s, nil)
	for _, to := range []string{"", "alice", "alice@example.com\r\nBcc: eve@example.net", "alice@example.com, eve@example.net",
		"Alice <alice@example.com>", "<alice@example.com>", "alice@example.com\nRCPT TO:<eve@example.net>", " alice@example.com",
		"alice@example.com\x00", "alice(eve)@example.com", strings.Repeat("a", 250) + "@example.com", "alice\xff@example.com"} {
		if err := m.Send(context.Background(), Message{To: to, Subject: "s", Text: "t"}); !errors.Is(err, ErrAddress) {
			t.Errorf("to %q: %v", to, err)
		}
	}
	for _, subject := range []string{"a\r\nBcc: eve@example.net", "a\nb", "a\rb", "a\x00b", "a\u2028b", "a\u0085b", strings.Repeat("字", 256), "\xff"} {
		if err := m.Send(context.Background(), Message{To: "alice@example.com", Subject: subject, Text: "t"}); err == nil {
			t.Errorf("subject %q was sent", subject)
		}
	}
	if err := m.Send(context.Background(), Message{To: "alice@example.com", Subject: "s", Text: strings.Repeat("a", maxBody+1)}); err == nil {
		t.Error("a text above the limit was sent")
	}
	if n := s.Connections.Load(); n != 0 {
		t.Errorf("%d connections for messages that are never sent", n)
	}
}

func TestRefused(t *testing.T) {
	in := Message{To: "alice@example.com", Subject: "s", Text: "t"}
	for name, c := range map[string]struct {
		server mailtest.Options
		change func(*Options)
	}{
		"no STARTTLS offered":  {mailtest.Options{Security: StartTLS}, nil},
		"unknown certificate":  {mailtest.Options{Security: TLS}, func(o *Options) { o.RootCAs = nil }},
		"wrong password":       {mailtest.Options{Security: TLS, User: "knock", Password: "right"}, func(o *Options) { o.User, o.Password = "knock", "wrong" }},
		"recipient is refused": {mailtest.Options{Security: None, Refuse: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := mailtest.Serve(t, c.server)
			err := sender(t, s, c.change).Send(context.Background(), in)
			if err == nil {
				t.Fatal("sent")
			}
			if strings.Contains(err.Error(), "wrong") {
				t.Errorf("the password is in %q", err)
			}
			s.NothingTaken(t)
		})
	}
}

// TestSilent holds that a server which never speaks holds nobody: the timeout ends it, and the caller can.
func TestSilent(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := &mailtest.Server{Options: mailtest.Options{Security: None}, Port: listener.Addr().(*net.TCPAddr).Port}
	in := Message{To: "alice@example.com", Subject: "s", Text: "t"}
	short := sender(t, s, func(o *Options) { o.Timeout = 50 * time.Millisecond })
	if err := short.Send(context.Background(), in); err == nil {
		t.Error("sent")
	}
	if conn, err := listener.Accept(); err != nil {
		t.Fatal(err)
	} else {
		conn.Close()
	}

	long := sender(t, s, func(o *Options) { o.Timeout = time.Hour })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- long.Send(ctx, in) }()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	if err := <-done; err == nil {
		t.Error("sent")
	}
}

func TestNew(t *testing.T) {
	good := Options{Host: "localhost", Port: 25, Security: None, From: "matrix@example.org", Timeout: time.Second}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"no sender":                 func(o *Options) { o.From = "" },
		"no host":                   func(o *Options) { o.Host = "" },
		"no port":                   func(o *Options) { o.Port = 0 },
		"no timeout":                func(o *Options) { o.Timeout = 0 },
		"unknown protection":        func(o *Options) { o.Security = "ssl" },
		"a password without secret": func(o *Options) { o.User, o.Password = "knock", "secret" },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
