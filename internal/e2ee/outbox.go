package e2ee

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"knock/internal/sqldb"
)

// EDU is something that another server is to be told.
type EDU struct {
	Type    string // "m.direct_to_device", "m.device_list_update" or "m.signing_key_update"
	Content json.RawMessage
	Pos     int64
}

var (
	outboxMessage = sqldb.RegisterInsert("e2ee.outboxMessage",
		`INSERT INTO e2ee_outbox_messages (destination, pos, n, data) VALUES`, 4, ``)
	outboxList = sqldb.RegisterInsert("e2ee.outboxList",
		`INSERT INTO e2ee_outbox_lists (destination, user_id, device_id, pos, stream) VALUES`, 5,
		`ON CONFLICT (destination, user_id, device_id) DO UPDATE SET pos = excluded.pos, stream = excluded.stream`)
	outboxMessages = sqldb.Register("e2ee.outboxMessages",
		`SELECT pos, data FROM e2ee_outbox_messages WHERE destination = $1 AND pos > $2 AND pos <= $3 ORDER BY pos, n LIMIT $4`)
	outboxLists = sqldb.Register("e2ee.outboxLists",
		`SELECT pos, user_id, device_id, stream FROM e2ee_outbox_lists WHERE destination = $1 AND pos > $2 AND pos <= $3
		ORDER BY pos, stream LIMIT $4`)
	outboxServers = sqldb.Register("e2ee.outboxServers",
		`SELECT DISTINCT destination FROM e2ee_outbox_messages UNION SELECT DISTINCT destination FROM e2ee_outbox_lists`)
	messagesDelivered = sqldb.Register("e2ee.messagesDelivered",
		`DELETE FROM e2ee_outbox_messages WHERE destination = $1 AND pos <= $2`)
	listsDelivered = sqldb.Register("e2ee.listsDelivered",
		`DELETE FROM e2ee_outbox_lists WHERE destination = $1 AND pos <= $2 RETURNING user_id, device_id, stream`)
	sentPut = sqldb.Register("e2ee.sentPut",
		`INSERT INTO e2ee_sent (user_id, destination, stream) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, destination) DO UPDATE SET stream = excluded.stream`)
	sentOf = sqldb.Register("e2ee.sentOf",
		`SELECT user_id, stream FROM e2ee_sent WHERE destination = $1 AND user_id = ANY($2::bytea[])`)
	sentPrune = sqldb.Register("e2ee.sentPrune",
		`DELETE FROM e2ee_sent WHERE user_id = $1 AND destination <> ALL($2::bytea[])`)
	listsPrune = sqldb.Register("e2ee.outboxListsPrune",
		`DELETE FROM e2ee_outbox_lists WHERE user_id = $1 AND destination <> ALL($2::bytea[])`)
)

// queueLists writes what servers are to be told of devices, stream being the id of the last of them. Servers that
// share no room any more are told nothing.
func (s *Service) queueLists(tx *sqldb.Tx, pos, stream int64, userID string, devices, servers []string) error {
	for _, prune := range []*sqldb.Stmt{sentPrune, listsPrune} {
		if _, err := tx.Exec(prune, userID, servers); err != nil {
			return err
		}
	}
	first := stream - int64(len(devices)) + 1
	var rows [][]any
	for _, server := range servers {
		for i, device := range devices {
			rows = append(rows, []any{server, userID, device, pos, first + int64(i)})
		}
	}
	return tx.Insert(outboxList, rows...)
}

// AnnounceDevices queues all devices of a local user for servers that have just come to share a room, in the
// transaction of the join (Server-Server API, "Device Management"). pos is a position of that transaction.
func (s *Service) AnnounceDevices(tx *sqldb.Tx, pos int64, userID string, servers []string) (committed func(), err error) {
	if s.o.Remote == nil || len(servers) == 0 {
		return func() {}, nil
	}
	devices, err := s.devicesOf(tx, userID)
	if err != nil || len(devices) == 0 {
		return func() {}, err
	}
	var stream int64
	if err := tx.QueryRow(listChange, userID, pos, len(devices)).Scan(&stream); err != nil {
		return nil, err
	}
	first := stream - int64(len(devices)) + 1
	var rows [][]any
	for _, server := range servers {
		for i, device := range devices {
			rows = append(rows, []any{server, userID, device, pos, first + int64(i)})
		}
	}
	return func() { s.wake(servers) }, tx.Insert(outboxList, rows...)
}

// devicesOf are the devices of a local user, with keys or without.
func (s *Service) devicesOf(tx *sqldb.Tx, userID string) ([]string, error) {
	names, err := s.o.Accounts.DeviceNames(tx, []string{userID})
	return keysOf(names[userID]), err
}

// PendingServers returns the servers for which something waits.
func (s *Service) PendingServers(tx *sqldb.Tx) ([]string, error) {
	return sqldb.Collect(tx, outboxServers, scanText)
}

// pending is a row of the outbox.
type pending struct {
	pos          int64
	message      json.RawMessage // nil for a row about a list
	user, device string
	stream       int64
}

// PendingEDUs returns what a server is to be told first, oldest first: about limit EDUs. All EDUs of one position come
// together, so there may be more; send them in as many transactions as it takes, in order, and call Delivered with the
// position of the last one only when all of them arrived.
func (s *Service) PendingEDUs(tx *sqldb.Tx, server string, limit int) ([]EDU, error) {
	rows, err := s.pendingRows(tx, server, limit)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return s.renderEDUs(tx, server, rows)
}

const endOfTime = 1<<63 - 1

func (s *Service) pendingRows(tx *sqldb.Tx, server string, limit int) ([]pending, error) {
	messages, upto, err := pendingOf(tx, outboxMessages, scanPendingMessage, server, limit)
	if err != nil {
		return nil, err
	}
	lists, uptoLists, err := pendingOf(tx, outboxLists, scanPendingList, server, limit)
	if err != nil {
		return nil, err
	}
	upto = min(upto, uptoLists)
	rows := append(messages, lists...)
	slices.SortStableFunc(rows, func(a, b pending) int { return cmp.Compare(a.pos, b.pos) })
	for i, r := range rows {
		if r.pos > upto || i >= limit && r.pos > rows[i-1].pos {
			return rows[:i], nil
		}
	}
	return rows, nil
}

// pendingOf reads rows of whole positions: at least limit of them, or all. upto is how far they go.
func pendingOf(tx *sqldb.Tx, stmt *sqldb.Stmt, scan func(*sqldb.Rows) (pending, error), server string, limit int) ([]pending, int64, error) {
	rows, err := sqldb.Collect(tx, stmt, scan, server, -1, int64(endOfTime), limit)
	if err != nil || len(rows) < limit {
		return rows, endOfTime, err
	}
	last := rows[len(rows)-1].pos
	rows = slices.DeleteFunc(rows, func(p pending) bool { return p.pos == last })
	rest, err := sqldb.Collect(tx, stmt, scan, server, last-1, last, int64(endOfTime))
	return append(rows, rest...), last, err
}

func scanPendingMessage(r *sqldb.Rows) (p pending, err error) {
	err = r.Scan(&p.pos, &p.message)
	return p, err
}

func scanPendingList(r *sqldb.Rows) (p pending, err error) {
	var user, device []byte
	err = r.Scan(&p.pos, &user, &device, &p.stream)
	p.user, p.device = string(user), string(device)
	return p, err
}

// renderEDUs makes the EDUs about lists from what is stored now, each pointing back to the one before it that this
// server gets or got.
func (s *Service) renderEDUs(tx *sqldb.Tx, server string, rows []pending) ([]EDU, error) {
	users := map[string]bool{}
	for _, r := range rows {
		if r.message == nil {
			users[r.user] = true
		}
	}
	known, err := s.readUsers(tx, keysOf(users))
	if err != nil {
		return nil, err
	}
	before := map[string]int64{}
	_, err = sqldb.Collect(tx, sentOf, func(r *sqldb.Rows) (_ struct{}, err error) {
		var user []byte
		var stream int64
		err = r.Scan(&user, &stream)
		before[string(user)] = stream
		return struct{}{}, err
	}, server, keysOf(users))
	if err != nil {
		return nil, err
	}
	edus := make([]EDU, len(rows))
	for i, r := range rows {
		switch {
		case r.message != nil:
			edus[i] = EDU{typeToDevice, r.message, r.pos}
		case r.device == crossSigning:
			edus[i] = EDU{typeSigningKeys, encode(known.signingKeyUpdate(r.user)), r.pos}
		default:
			edus[i] = EDU{typeDeviceList, encode(known.deviceListUpdate(r, before)), r.pos}
			before[r.user] = r.stream
		}
	}
	return edus, nil
}

// The types of EDUs that this package sends and takes.
const (
	typeToDevice    = "m.direct_to_device"
	typeDeviceList  = "m.device_list_update"
	typeSigningKeys = "m.signing_key_update"
)

// deviceListUpdate is the content of an m.device_list_update EDU.
type deviceListUpdate struct {
	UserID   string          `json:"user_id"`
	DeviceID string          `json:"device_id"`
	Name     string          `json:"device_display_name,omitempty"`
	Stream   int64           `json:"stream_id"`
	Prev     []int64         `json:"prev_id"`
	Deleted  bool            `json:"deleted,omitempty"`
	Keys     json.RawMessage `json:"keys,omitempty"`
}

func (k *knownUsers) deviceListUpdate(r pending, before map[string]int64) deviceListUpdate {
	name, ok := k.names[r.user][r.device]
	u := deviceListUpdate{UserID: r.user, DeviceID: r.device, Name: name, Stream: r.stream, Prev: []int64{}, Deleted: !ok}
	if ok {
		u.Keys = k.devices[r.user][r.device].keys
	}
	if prev, ok := before[r.user]; ok {
		u.Prev = append(u.Prev, prev)
	}
	return u
}

// signingKeyUpdate is the content of an m.signing_key_update EDU.
type signingKeyUpdate struct {
	UserID      string          `json:"user_id"`
	Master      json.RawMessage `json:"master_key,omitempty"`
	SelfSigning json.RawMessage `json:"self_signing_key,omitempty"`
}

func (k *knownUsers) signingKeyUpdate(userID string) signingKeyUpdate {
	return signingKeyUpdate{userID, k.cross[userID][master], k.cross[userID][selfSigning]}
}

// Delivered forgets what a server has been told, up to a position.
func (s *Service) Delivered(ctx context.Context, server string, upto int64) error {
	return s.do(ctx, "e2ee.delivered", 0, func(tx *sqldb.Tx, _ int64, _ *after) error {
		if _, err := tx.Exec(messagesDelivered, server, upto); err != nil {
			return err
		}
		sent := map[string]int64{}
		_, err := sqldb.Collect(tx, listsDelivered, func(r *sqldb.Rows) (_ struct{}, err error) {
			var user, device []byte
			var stream int64
			if err = r.Scan(&user, &device, &stream); err == nil && string(device) != crossSigning {
				sent[string(user)] = max(sent[string(user)], stream)
			}
			return struct{}{}, err
		}, server, upto)
		if err != nil {
			return err
		}
		for _, user := range keysOf(sent) {
			if _, err := tx.Exec(sentPut, user, server, sent[user]); err != nil {
				return err
			}
		}
		return nil
	})
}

// ForgetMessages drops the messages that wait for a server that is gone. What it was to be told of device lists stays:
// that is one row for each device, and should the server come back it is all that it needs.
func (s *Service) ForgetMessages(ctx context.Context, server string) error {
	return s.do(ctx, "e2ee.forgetMessages", 0, func(tx *sqldb.Tx, _ int64, _ *after) error {
		_, err := tx.Exec(messagesDelivered, server, int64(endOfTime))
		return err
	})
}
