package e2ee

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// Bounds of messages to devices.
const (
	maxContent  = 64 << 10 // bytes of one message
	maxMessages = 10_000   // in one request
	eduBytes    = 60 << 10 // more goes into another EDU
	allDevices  = "*"
)

var (
	txnsDone = sqldb.Register("e2ee.txnsDone", `SELECT key FROM e2ee_txns WHERE key = ANY($1::bytea[])`)
	txnPut   = sqldb.RegisterInsert("e2ee.txnPut", `INSERT INTO e2ee_txns (key, ts) VALUES`, 2, ``)
	txnPrune = sqldb.Register("e2ee.txnPrune",
		`DELETE FROM e2ee_txns WHERE key IN (SELECT key FROM e2ee_txns WHERE ts < $1 LIMIT $2)`)
	messagePut = sqldb.RegisterInsert("e2ee.messagePut",
		`INSERT INTO e2ee_to_device (user_id, device_id, pos, data) VALUES`, 4, ``)
)

// Messages are contents of to-device messages: user id → device id, or "*" → content.
type Messages map[string]map[string]json.RawMessage

// toDeviceEDU is the content of an m.direct_to_device EDU.
type toDeviceEDU struct {
	Sender   string   `json:"sender"`
	Type     string   `json:"type"`
	ID       string   `json:"message_id"`
	Messages Messages `json:"messages"`
}

// SendToDevice delivers messages to devices, or queues them for other servers. The same transaction id of the same
// device and type is done once. It returns after the commit. Errors: M_BAD_JSON, M_TOO_LARGE, M_INVALID_PARAM.
func (s *Service) SendToDevice(ctx context.Context, sender, deviceID, typ, txnID string, messages Messages) error {
	if err := checkMessages(typ, messages); err != nil {
		return err
	}
	m := &sending{s: s, key: sendKey("client", sender, deviceID, typ, txnID)}
	m.local = s.eventsFor(sender, typ, messages)
	if s.o.Remote != nil {
		m.remote = s.edusFor(sender, typ, messages)
	}
	return s.send(ctx, "e2ee.sendToDevice", m)
}

// ReceiveToDevice takes the content of an m.direct_to_device EDU and returns after the commit. A message id of a server
// is done once.
func (s *Service) ReceiveToDevice(ctx context.Context, origin string, content json.RawMessage) error {
	var edu toDeviceEDU
	if err := json.Unmarshal(content, &edu); err != nil {
		return matrixerr.BadJSON("m.direct_to_device has the wrong shape").With(err)
	}
	if err := s.checkOrigin(origin, edu.Sender); err != nil {
		return err
	}
	if edu.ID == "" || utf8.RuneCountInString(edu.ID) > 4*maxID {
		return matrixerr.BadJSON("m.direct_to_device needs a message_id")
	}
	if err := checkMessages(edu.Type, edu.Messages); err != nil {
		return err
	}
	m := &sending{s: s, key: sendKey("server", origin, edu.ID), local: s.eventsFor(edu.Sender, edu.Type, edu.Messages)}
	return s.send(ctx, "e2ee.receiveToDevice", m)
}

func checkMessages(typ string, messages Messages) error {
	if typ == "" || len(typ) > maxID {
		return matrixerr.InvalidParam("The event type must have 1 to 255 bytes")
	}
	n := 0
	for _, byDevice := range messages {
		for device, content := range byDevice {
			n++
			switch {
			case len(device) > maxID:
				return matrixerr.InvalidParam("A device id may have at most 255 bytes")
			case len(content) > maxContent:
				return matrixerr.TooLarge("The content of a message may have at most 65536 bytes")
			case len(content) == 0 || content[0] != '{':
				return matrixerr.BadJSON("The content of a message must be a JSON object")
			}
		}
	}
	if n > maxMessages {
		return matrixerr.InvalidParam("At most 10000 messages can be sent at once")
	}
	return nil
}

func sendKey(parts ...string) []byte {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return h.Sum(nil)[:16]
}

// toDeviceEvent is a message as /sync shows it.
type toDeviceEvent struct {
	Content json.RawMessage `json:"content"`
	Sender  string          `json:"sender"`
	Type    string          `json:"type"`
}

// eventsFor encodes the messages to local users.
func (s *Service) eventsFor(sender, typ string, messages Messages) map[string]map[string][]byte {
	out := map[string]map[string][]byte{}
	for user, byDevice := range messages {
		if !s.local(user) {
			continue
		}
		out[user] = make(map[string][]byte, len(byDevice))
		for device, content := range byDevice {
			out[user][device] = encode(toDeviceEvent{content, sender, typ})
		}
	}
	return out
}

// edusFor encodes the messages to other servers' users, in EDUs of bounded size.
func (s *Service) edusFor(sender, typ string, messages Messages) map[string][]json.RawMessage {
	out := map[string][]json.RawMessage{}
	for server, users := range byServer(messages) {
		if server == s.o.ServerName {
			continue
		}
		part, size := Messages{}, 0
		flush := func() {
			if len(part) > 0 {
				out[server] = append(out[server], encode(toDeviceEDU{sender, typ, rand.Text(), part}))
			}
			part, size = Messages{}, 0
		}
		for _, user := range keysOf(users) {
			for _, device := range keysOf(users[user]) {
				content := users[user][device]
				if size > 0 && size+len(content) > eduBytes {
					flush()
				}
				if part[user] == nil {
					part[user] = map[string]json.RawMessage{}
				}
				part[user][device] = content
				size += len(content) + len(user) + len(device)
			}
		}
		flush()
	}
	return out
}

// sending is one request on its way into the database.
type sending struct {
	s      *Service
	key    []byte
	local  map[string]map[string][]byte // user → device or "*" → event
	remote map[string][]json.RawMessage // server → EDU contents

	pos  int64
	sent []deviceKey // what was written, once it is
	new  bool
}

func (s *Service) send(ctx context.Context, name string, m *sending) error {
	return s.db.Do(ctx, &sqldb.Op{Name: name, Positions: 1, Committed: m.committed,
		Write: func(tx *sqldb.Tx, pos int64) error {
			m.pos, m.sent, m.new = pos, nil, false
			sendingsOf(tx, s).add(m)
			return nil
		}})
}

func (m *sending) committed(int64) {
	users := map[string]bool{}
	for _, d := range m.sent {
		m.s.boxes.arrived(d, m.pos)
		users[d.user] = true
	}
	for user := range users {
		m.s.o.Hub.TouchUser(user, m.pos)
	}
	if m.new {
		m.s.wake(keysOf(m.remote))
	}
}

// sendings are the requests of one transaction. What was done before, and which devices there are, is asked once for
// all of them.
type sendings struct {
	s    *Service
	list []*sending
}

type sendingsKey struct{}

func sendingsOf(tx *sqldb.Tx, s *Service) *sendings {
	return tx.Scratch(sendingsKey{}, func() any {
		b := &sendings{s: s}
		tx.BeforeCommit(func() error { return b.flush(tx) })
		return b
	}).(*sendings)
}

func (b *sendings) add(m *sending) { b.list = append(b.list, m) }

func (b *sendings) flush(tx *sqldb.Tx) error {
	keys := make([][]byte, len(b.list))
	users := map[string]bool{}
	for i, m := range b.list {
		keys[i] = m.key
		for user := range m.local {
			users[user] = true
		}
	}
	before, err := sqldb.Collect(tx, txnsDone, scanText, keys)
	if err != nil {
		return err
	}
	devices, err := b.s.o.Accounts.DeviceNames(tx, keysOf(users))
	if err != nil {
		return err
	}
	done := setOf(before)
	now := b.s.o.Clock.Millis()
	for _, m := range b.list {
		if done[string(m.key)] {
			continue
		}
		done[string(m.key)] = true
		tx.Append(txnPut, m.key, now)
		m.write(tx, devices)
	}
	return nil
}

// write appends a row for each device that exists, and for each EDU.
func (m *sending) write(tx *sqldb.Tx, devices map[string]map[string]string) {
	m.new = true
	for user, byDevice := range m.local {
		for device := range devices[user] {
			data, ok := byDevice[device]
			if !ok {
				data, ok = byDevice[allDevices]
			}
			if ok {
				tx.Append(messagePut, user, device, m.pos, data)
				m.sent = append(m.sent, deviceKey{user, device})
			}
		}
	}
	for server, edus := range m.remote {
		for n, edu := range edus {
			tx.Append(outboxMessage, server, m.pos, n, edu)
		}
	}
}
