package pushers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"knock/internal/sqldb"
	"knock/roomserver/store"
)

// notification is what a gateway is told (Push Gateway API, POST /notify).
type notification struct {
	EventID    string          `json:"event_id,omitempty"`
	RoomID     string          `json:"room_id,omitempty"`
	Type       string          `json:"type,omitempty"`
	Sender     string          `json:"sender,omitempty"`
	SenderName string          `json:"sender_display_name,omitempty"`
	RoomName   string          `json:"room_name,omitempty"`
	RoomAlias  string          `json:"room_alias,omitempty"`
	IsTarget   bool            `json:"user_is_target,omitempty"`
	Prio       string          `json:"prio,omitempty"`
	Content    json.RawMessage `json:"content,omitempty"`
	Counts     *counts         `json:"counts,omitempty"`
	Devices    []device        `json:"devices"`
}

// counts has no zero values but one that says that there is nothing unread:
// gateways clear an icon's number with it.
type counts struct {
	Unread int64 `json:"unread"`
	Calls  int64 `json:"missed_calls,omitempty"`
}

type device struct {
	AppID   string                     `json:"app_id"`
	PushKey string                     `json:"pushkey"`
	TS      int64                      `json:"pushkey_ts"` // seconds
	Data    map[string]json.RawMessage `json:"data"`
	Tweaks  json.RawMessage            `json:"tweaks,omitempty"`
}

// delivery is how a notification went.
type delivery struct {
	sent       bool // the gateway has it; else nobody wants it any more
	rejected   bool // the gateway does not know the pushkey
	badge      int64
	retryAfter time.Duration
}

func (p *Pusher) target(tweaks []byte) device {
	d := device{AppID: p.AppID, PushKey: p.PushKey, TS: p.ts / 1000, Data: map[string]json.RawMessage{}, Tweaks: tweaks}
	for k, v := range p.Data {
		if k != "url" {
			d.Data[k] = v
		}
	}
	return d
}

// push notifies of an event. late is set when that may not be news any more: what
// was read meanwhile is not sent.
func (s *Service) push(ctx context.Context, p *Pusher, n *notice, late bool) (delivery, error) {
	e, room, err := s.event(ctx, n.event)
	if errors.Is(err, store.ErrNotFound) {
		return delivery{}, nil // purged
	}
	if err != nil {
		return delivery{}, err
	}
	u, err := s.unread(ctx, p.user)
	if err != nil {
		return delivery{}, err
	}
	if late && s.o.Hub.IsJoined(p.user, room) && u.rooms[room].All().Notification == 0 {
		return delivery{}, nil
	}
	msg := &notification{EventID: e.Event.EventID(), RoomID: room, Prio: prio(e, n.tweaks), Devices: []device{p.target(n.tweaks)}}
	if !p.noBadge() {
		msg.Counts = &counts{u.badge, u.calls}
	}
	if !p.idsOnly() {
		if err := s.describe(ctx, msg, e, p.user); err != nil {
			return delivery{}, err
		}
	}
	d, err := s.post(ctx, p, msg)
	d.badge = u.badge
	return d, err
}

// pushBadge tells how much is unread.
func (s *Service) pushBadge(ctx context.Context, p *Pusher, badge int64) (delivery, error) {
	d, err := s.post(ctx, p, &notification{Prio: "low", Counts: &counts{Unread: badge}, Devices: []device{p.target(nil)}})
	d.badge = badge
	return d, err
}

func (s *Service) event(ctx context.Context, nid int64) (e *store.Stored, room string, err error) {
	err = s.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		if e, err = s.o.Rooms.Store.Event(tx, nid); err != nil {
			return err
		}
		key, err := s.o.Rooms.Store.RoomByNID(tx, e.Room)
		room = key.ID
		return err
	})
	return e, room, err
}

// prio is high for what the user would want to be woken for.
func prio(e *store.Stored, tweaks []byte) string {
	var t struct {
		Highlight bool   `json:"highlight"`
		Sound     string `json:"sound"`
	}
	if json.Unmarshal(tweaks, &t) == nil && (t.Highlight || t.Sound != "") || e.Event.Type() == "m.room.encrypted" {
		return "high"
	}
	return "low"
}

// describe adds what the event says.
func (s *Service) describe(ctx context.Context, msg *notification, e *store.Stored, user string) error {
	target, isState := e.Event.Key()
	msg.Type, msg.Sender, msg.Content = e.Event.Type(), e.Event.Sender(), e.Event.ContentJSON()
	msg.IsTarget = isState && msg.Type == "m.room.member" && target == user
	view, err := s.view(ctx, msg.RoomID, s.o.Hub.Published())
	if err != nil {
		return err
	}
	return s.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		for _, part := range []struct {
			to              *string
			typ, key, field string
		}{
			{&msg.SenderName, "m.room.member", msg.Sender, "displayname"},
			{&msg.RoomName, "m.room.name", "", "name"},
			{&msg.RoomAlias, "m.room.canonical_alias", "", "alias"},
		} {
			state, err := s.o.Rooms.StateEvent(tx, view, part.typ, part.key)
			if err != nil {
				return err
			}
			if state != nil {
				*part.to = state.Event.ContentString(part.field)
			}
		}
		return nil
	})
}

// maxAnswer bounds what is read of a gateway's answer.
const maxAnswer = 64 << 10

// post sends a notification to the pusher's gateway. An error means that it may
// be tried again.
func (s *Service) post(ctx context.Context, p *Pusher, msg *notification) (d delivery, err error) {
	u, err := url.Parse(p.url())
	if err != nil {
		return d, err
	}
	slots := s.slots(u.Host)
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return d, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	body, err := json.Marshal(map[string]*notification{"notification": msg})
	if err != nil {
		return d, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return d, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := s.o.Client.Do(req)
	if err != nil {
		return d, hideURL(err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		d.retryAfter = retryAfter(res.Header.Get("Retry-After"))
		return d, fmt.Errorf("the gateway answered %d", res.StatusCode)
	}
	return s.answered(p, res.Body)
}

// answered reads an answer. The gateway has the notification, whatever it says.
func (s *Service) answered(p *Pusher, body io.Reader) (delivery, error) {
	var answer struct {
		Rejected []string `json:"rejected"`
	}
	data, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	if err != nil || len(data) > maxAnswer || json.Unmarshal(data, &answer) != nil {
		s.metrics.odd.Inc()
		return delivery{sent: true}, nil
	}
	return delivery{sent: true, rejected: slices.Contains(answer.Rejected, p.PushKey)}, nil
}

// hideURL keeps the gateway's URL, which may have secrets in it, out of logs.
func hideURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

func retryAfter(text string) time.Duration {
	if s, err := strconv.Atoi(text); err == nil && s > 0 {
		return min(time.Duration(min(s, 3600))*time.Second, maxPause)
	}
	return 0
}

// reject deletes a pusher that its gateway does not know. It returns how long to
// wait when that fails.
func (s *Service) reject(ctx context.Context, l *lane) time.Duration {
	s.metrics.rejected.Inc()
	s.o.Log.WithField("user", l.user).Info("A gateway does not know a device any more, or an e-mail address is not the user's any more; the pusher is removed")
	err := s.delete(ctx, "pushers.reject", func(tx *sqldb.Tx) ([]int64, error) {
		_, err := tx.Exec(deleteNumber, l.nid)
		return []int64{l.nid}, err
	})
	if err != nil {
		s.o.Log.WithError(err).Warn("A rejected pusher could not be removed; it is tried again with the next notification")
		return maxPause
	}
	return 0
}
