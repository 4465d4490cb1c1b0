package pushers

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"knock/internal/mail"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver/store"
)

// Mailer sends e-mails; mail.Sender does.
type Mailer interface {
	Send(ctx context.Context, m mail.Message) error
}

// UnsubscribePath is the page where a link in an e-mail leads that ends such e-mails.
const UnsubscribePath = "/_matrix/client/unstable/email/unsubscribe"

// Bounds of an e-mail.
const (
	maxGap       = 12 * time.Hour // between e-mails while nothing is read
	maxMailRooms = 20
	maxMailLines = 10  // of one room
	maxMailText  = 300 // characters of one message
)

// mailStep sends what is unread once it has lain for long enough. It returns how long to wait before the next step.
func (l *lane) mailStep(ctx context.Context, p *Pusher) time.Duration {
	notices, wait := l.ripe()
	if wait > 0 {
		return wait
	}
	sending, cancel := lingering(ctx)
	defer cancel()
	sent, err := l.s.digest(sending, p, notices)
	if ctx.Err() != nil && err != nil {
		return time.Hour // the pause ends at once
	}
	if errors.Is(err, errNotTheirs) || errors.Is(err, mail.ErrAddress) {
		return l.s.reject(ctx, l)
	}
	return l.settleMail(notices, sent, err)
}

// ripe returns all that waits, or how long the first of it has to lie yet.
func (l *lane) ripe() ([]notice, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) == 0 {
		return nil, 0
	}
	due := max(l.pending[0].ts+l.s.o.MailDelay.Milliseconds(), l.mailed+l.gap.Milliseconds())
	return slices.Clone(l.pending), time.Duration(due-l.s.o.Clock.Millis()) * time.Millisecond
}

// settleMail drops what was told of or was read. While nothing is read, e-mails come ever more seldom.
func (l *lane) settleMail(told []notice, sent bool, err error) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failing++
		l.s.metrics.failed.Inc()
		l.s.o.Log.WithError(err).WithField("user", l.user).WithField("failures", l.failing).Warn("An e-mail about unread messages could not be sent; it is tried again")
		return min(max(l.s.o.Retry, time.Minute)<<min(l.failing-1, 20), maxPause)
	}
	l.failing = 0
	for i := len(l.pending) - 1; i >= 0; i-- {
		if slices.ContainsFunc(told, func(n notice) bool { return n.pos == l.pending[i].pos }) {
			l.doneLocked(i)
		}
	}
	if !sent {
		l.gap = 0
		return 0
	}
	l.s.metrics.sent.Inc()
	l.mailed, l.gap = l.s.o.Clock.Millis(), min(max(2*l.gap, l.s.o.MailDelay), maxGap)
	return 0
}

var errNotTheirs = errors.New("the address does not belong to the account any more")

// digest sends one e-mail about those notices that are still unread. sent is false when none is.
func (s *Service) digest(ctx context.Context, p *Pusher, notices []notice) (sent bool, err error) {
	if s.o.Mail == nil {
		return false, errors.New("there is no mail server any more")
	}
	if owned, err := s.o.OwnsEmail(ctx, p.user, p.PushKey); err != nil || !owned {
		return false, errors.Join(err, notTheirs(owned))
	}
	rooms, err := s.unreadOf(ctx, p, notices)
	if err != nil || len(rooms) == 0 {
		return false, err
	}
	link := s.o.BaseURL + UnsubscribePath + "?" + url.Values{"token": {p.secret}}.Encode()
	return true, s.o.Mail.Send(ctx, digestMail(s.o.ServerName, p, rooms, link))
}

func notTheirs(owned bool) error {
	if owned {
		return nil
	}
	return errNotTheirs
}

// mailRoom is what an e-mail says of one room.
type mailRoom struct {
	id, name string
	lines    []string // newest last
	more     int      // that are not among them
}

// unreadOf groups the notices that are still unread by room, in the order of their rooms' first.
func (s *Service) unreadOf(ctx context.Context, p *Pusher, notices []notice) ([]*mailRoom, error) {
	u, err := s.unread(ctx, p.user)
	if err != nil {
		return nil, err
	}
	var rooms []*mailRoom
	left := map[string]int64{}
	for _, n := range slices.Backward(notices) { // the newest are those that are unread
		e, id, err := s.event(ctx, n.event)
		if errors.Is(err, store.ErrNotFound) {
			continue // purged
		}
		if err != nil {
			return nil, err
		}
		if _, known := left[id]; !known {
			left[id] = u.rooms[id].All().Notification
			if !s.o.Hub.IsJoined(p.user, id) && e.Event.IsState("m.room.member", p.user) && e.Event.ContentString("membership") == "invite" {
				left[id] = 1
			}
		}
		if left[id]--; left[id] < 0 {
			continue
		}
		if rooms, err = s.addLine(ctx, p, rooms, e, id); err != nil {
			return nil, err
		}
	}
	slices.Reverse(rooms)
	return rooms, nil
}

func (s *Service) addLine(ctx context.Context, p *Pusher, rooms []*mailRoom, e *store.Stored, id string) ([]*mailRoom, error) {
	msg := &notification{RoomID: id}
	if err := s.describe(ctx, msg, e, p.user); err != nil {
		return rooms, err
	}
	at := slices.IndexFunc(rooms, func(r *mailRoom) bool { return r.id == id })
	if at < 0 {
		at = len(rooms)
		rooms = append(rooms, &mailRoom{id: id, name: firstOf(msg.RoomName, msg.RoomAlias, "A conversation")})
	}
	r := rooms[at]
	if len(r.lines) >= maxMailLines {
		r.more++
		return rooms, nil
	}
	r.lines = slices.Insert(r.lines, 0, firstOf(msg.SenderName, msg.Sender)+": "+lineOf(msg))
	return rooms, nil
}

// firstOf is the first text that is not empty, fit for one line.
func firstOf(texts ...string) string {
	for _, t := range texts {
		if t = oneLine(t, maxMailText); t != "" {
			return t
		}
	}
	return ""
}

// lineOf is what an event says in one line.
func lineOf(msg *notification) string {
	switch {
	case msg.IsTarget:
		return "invites you"
	case msg.Type == "m.room.encrypted":
		return "an encrypted message"
	}
	var content struct {
		Body string `json:"body"`
	}
	if json.Unmarshal(msg.Content, &content) != nil || oneLine(content.Body, maxMailText) == "" {
		return "something that your app can show"
	}
	return oneLine(content.Body, maxMailText)
}

// oneLine makes text of strangers one line of bounded length without characters that change how others look.
func oneLine(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r), r == unicode.ReplacementChar:
			return -1
		}
		return r
	}, s)
	runes := []rune(strings.TrimSpace(s))
	if len(runes) > limit {
		return string(runes[:limit-1]) + "…"
	}
	return string(runes)
}

// digestMail writes the e-mail.
func digestMail(server string, p *Pusher, rooms []*mailRoom, link string) mail.Message {
	m := mail.Message{To: p.PushKey, Subject: "Unread messages on " + server, Unsubscribe: link}
	if len(rooms) == 1 {
		m.Subject = "Unread messages in " + oneLine(rooms[0].name, 100)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "There are unread messages for %s.\n", p.user)
	for i, r := range rooms {
		if i == maxMailRooms {
			fmt.Fprintf(&b, "\nAnd in %d more conversations.\n", len(rooms)-i)
			break
		}
		fmt.Fprintf(&b, "\n%s\n", r.name)
		if r.more > 0 {
			fmt.Fprintf(&b, "  (%d earlier)\n", r.more)
		}
		for _, line := range r.lines {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	fmt.Fprintf(&b, "\nTo get no more such e-mails:\n%s\n", link)
	m.Text = b.String()
	return m
}

func errUnsubscribed() error {
	return matrixerr.NotFound("This link is not the newest one, or these e-mails have been ended already")
}

// Subscribed is the address to which e-mails go that carry a secret; M_NOT_FOUND when there are none.
func (s *Service) Subscribed(ctx context.Context, secret string) (address string, err error) {
	err = s.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		err := tx.QueryRow(unsubscribeKey, secret).Scan(&address)
		if errors.Is(err, sql.ErrNoRows) {
			return errUnsubscribed()
		}
		return err
	})
	return address, err
}

// Unsubscribe deletes the pusher whose e-mails carry a secret; M_NOT_FOUND when there is none.
func (s *Service) Unsubscribe(ctx context.Context, secret string) error {
	found := false
	err := s.delete(ctx, "pushers.unsubscribe", func(tx *sqldb.Tx) ([]int64, error) {
		gone, err := sqldb.Collect(tx, deleteUnsubscribe, scanNumber, secret)
		found = len(gone) > 0
		return gone, err
	})
	if err == nil && !found {
		err = errUnsubscribed()
	}
	return err
}
