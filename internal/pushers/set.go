package pushers

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"unicode/utf8"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// Bounds of what a client may store.
const (
	maxPushKey = 512 // bytes
	maxAppID   = 64  // characters
	maxText    = 512 // bytes of a name or language
	maxData    = 8 << 10
	maxOfUser  = 100
)

// KindHTTP is the kind of pushers that send HTTP requests to a gateway.
const KindHTTP = "http"

// KindEmail is the kind of pushers that send e-mails about what stays unread.
const KindEmail = "email"

// gatewayPath is what a gateway's URL must end in (POST /pushers/set).
const gatewayPath = "/_matrix/push/v1/notify"

// Request is the body of POST /pushers/set.
type Request struct {
	AppID      *string                    `json:"app_id"`
	PushKey    *string                    `json:"pushkey"`
	Kind       json.RawMessage            `json:"kind"` // null deletes
	AppName    *string                    `json:"app_display_name"`
	DeviceName *string                    `json:"device_display_name"`
	ProfileTag string                     `json:"profile_tag"`
	Lang       *string                    `json:"lang"`
	Data       map[string]json.RawMessage `json:"data"`
	Append     bool                       `json:"append"`
}

// check returns the pusher that the request makes, nil when it deletes one.
func (q *Request) check() (*Pusher, error) {
	if q.AppID == nil || q.PushKey == nil || q.Kind == nil {
		return nil, matrixerr.MissingParam("kind, app_id and pushkey are needed; kind may be null to delete the pusher")
	}
	if *q.PushKey == "" || len(*q.PushKey) > maxPushKey {
		return nil, matrixerr.InvalidParam(fmt.Sprintf("pushkey must have from 1 to %d bytes", maxPushKey))
	}
	if *q.AppID == "" || utf8.RuneCountInString(*q.AppID) > maxAppID {
		return nil, matrixerr.InvalidParam(fmt.Sprintf("app_id must have from 1 to %d characters", maxAppID))
	}
	if string(q.Kind) == "null" {
		return nil, nil
	}
	p := &Pusher{AppID: *q.AppID, PushKey: *q.PushKey}
	if json.Unmarshal(q.Kind, &p.Kind) != nil {
		return nil, matrixerr.BadJSON("kind must be a string or null")
	}
	if q.AppName == nil || q.DeviceName == nil || q.Lang == nil || q.Data == nil {
		return nil, matrixerr.MissingParam("app_display_name, device_display_name, lang and data are needed to set a pusher")
	}
	p.About = About{*q.AppName, *q.DeviceName, q.ProfileTag, *q.Lang, q.Data}
	for _, text := range []string{*q.AppName, *q.DeviceName, q.ProfileTag, *q.Lang} {
		if len(text) > maxText {
			return nil, matrixerr.InvalidParam(fmt.Sprintf("Names, profile_tag and lang may have at most %d bytes", maxText))
		}
	}
	return p, nil
}

func (s *Service) checkKind(ctx context.Context, p *Pusher) error {
	switch {
	case p.Kind == KindEmail && s.o.Mail != nil:
		return s.checkEmail(ctx, p)
	case p.Kind != KindHTTP:
		return matrixerr.InvalidParam("kind must be http, or null to delete the pusher; other kinds are not supported here")
	case !validURL(p.url()):
		return matrixerr.InvalidParam("data.url must be an http or https URL with the path " + gatewayPath)
	}
	return nil
}

// checkEmail takes addresses of the user's account only: nobody else is to be written to.
func (s *Service) checkEmail(ctx context.Context, p *Pusher) error {
	owned, err := s.o.OwnsEmail(ctx, p.user, p.PushKey)
	if err == nil && !owned {
		err = matrixerr.InvalidParam("pushkey must be an e-mail address of your account; add and confirm it first")
	}
	p.secret = rand.Text()
	return err
}

func (p *Pusher) text(key string) (s string) {
	if json.Unmarshal(p.Data[key], &s) != nil {
		return ""
	}
	return s
}

func (p *Pusher) url() string { return p.text("url") }

// idsOnly says whether the gateway wants to know nothing of the event but its id.
func (p *Pusher) idsOnly() bool { return p.text("format") == "event_id_only" }

// noBadge says whether the gateway wants no counts (MSC4076).
func (p *Pusher) noBadge() bool {
	return p.Kind == KindEmail || string(p.Data["org.matrix.msc4076.disable_badge_count"]) == "true" || string(p.Data["disable_badge_count"]) == "true"
}

// validURL accepts plain http for gateways inside the own network, which the
// operator must allow; others are on https by the specification.
func validURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" && u.User == nil && u.Fragment == "" &&
		u.Path == gatewayPath
}

// Set makes, changes or deletes a pusher of a user (POST /pushers/set). It goes
// with the device. Errors are for the client.
func (s *Service) Set(ctx context.Context, user, device string, q *Request) error {
	p, err := q.check()
	if err != nil {
		return err
	}
	if p == nil {
		return s.delete(ctx, "pushers.delete", func(tx *sqldb.Tx) ([]int64, error) {
			return sqldb.Collect(tx, deletePusher, scanNumber, user, *q.AppID, *q.PushKey)
		})
	}
	data, err := json.Marshal(p.About)
	if err != nil {
		return err
	}
	if len(data) > maxData {
		return matrixerr.TooLarge(fmt.Sprintf("A pusher may have at most %d bytes of names and data", maxData))
	}
	p.user, p.device, p.ts = user, device, s.o.Clock.Millis()
	if err := s.checkKind(ctx, p); err != nil {
		return err
	}
	return s.write(ctx, p, data, q.Append)
}

func (s *Service) write(ctx context.Context, p *Pusher, data []byte, others bool) error {
	nid := s.o.DB.NextID()
	var gone []int64
	var kept string // the secret may be older than this request
	return s.o.DB.Do(context.WithoutCancel(ctx), &sqldb.Op{
		Name:      "pushers.set",
		Positions: 1,
		Check: func(tx *sqldb.Tx) error {
			var n int64
			err := tx.QueryRow(countPushers, p.user).Scan(&n)
			if err == nil && n >= maxOfUser {
				err = matrixerr.New(400, "M_LIMIT_EXCEEDED", "You have too many pushers; delete some first")
			}
			return err
		},
		Write: func(tx *sqldb.Tx, pos int64) (err error) {
			gone = nil
			if !others {
				if gone, err = sqldb.Collect(tx, deleteOthers, scanNumber, p.AppID, p.PushKey, p.user); err != nil {
					return err
				}
				if err := dropQueues(tx, gone); err != nil {
					return err
				}
			}
			var secret []byte
			err = tx.QueryRow(upsertPusher, nid, p.user, p.AppID, p.PushKey, p.device, p.Kind, data, p.ts, pos, optional(p.secret)).Scan(&p.nid, &p.since, &secret)
			kept = string(secret)
			return err
		},
		Committed: func(int64) {
			p.secret = kept
			s.forget(gone)
			s.adopt(p)
		},
	})
}

func dropQueues(tx *sqldb.Tx, nids []int64) error {
	if len(nids) == 0 {
		return nil
	}
	_, err := tx.Exec(deleteQueuesOf, nids)
	return err
}

// delete deletes the pushers that find deletes, with what waits for them.
func (s *Service) delete(ctx context.Context, name string, find func(tx *sqldb.Tx) ([]int64, error)) error {
	var gone []int64
	return s.o.DB.Do(context.WithoutCancel(ctx), &sqldb.Op{
		Name: name,
		Write: func(tx *sqldb.Tx, _ int64) (err error) {
			if gone, err = find(tx); err != nil {
				return err
			}
			return dropQueues(tx, gone)
		},
		Committed: func(int64) { s.forget(gone) },
	})
}

// List returns a user's pushers (GET /pushers), oldest first.
func (s *Service) List(user string) []*Pusher {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := []*Pusher{}
	for _, l := range s.byUser[user] {
		out = append(out, l.pusher())
	}
	slices.SortFunc(out, func(a, b *Pusher) int { return int(a.nid - b.nid) })
	return out
}

// DevicesDeleted deletes the pushers of devices that end, in the transaction
// that ends them. It implements account.DeviceHook.
func (s *Service) DevicesDeleted(tx *sqldb.Tx, _ int64, user string, devices []string) (committed func(), err error) {
	gone, err := sqldb.Collect(tx, deleteDevices, scanNumber, user, devices)
	if err != nil || len(gone) == 0 {
		return nil, err
	}
	return func() { s.forget(gone) }, dropQueues(tx, gone)
}

// DeviceRenamed changes nothing here.
func (s *Service) DeviceRenamed(*sqldb.Tx, int64, string, string) (committed func(), err error) {
	return nil, nil
}
