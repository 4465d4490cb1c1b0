package e2ee

import (
	"context"
	"encoding/json"
	"math"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

var (
	remoteOf     = sqldb.Register("e2ee.remoteOf", `SELECT user_id, stream, stale FROM e2ee_remote WHERE user_id = ANY($1::bytea[])`)
	remoteUsers  = sqldb.Register("e2ee.remoteUsers", `SELECT user_id FROM e2ee_remote WHERE user_id > $1 ORDER BY user_id LIMIT $2`)
	remoteStale  = sqldb.Register("e2ee.remoteStale", `SELECT user_id FROM e2ee_remote WHERE stale = $1 LIMIT $2`)
	remoteDelete = sqldb.Register("e2ee.remoteDelete", `DELETE FROM e2ee_remote WHERE user_id = $1`)
	remotePut    = sqldb.Register("e2ee.remotePut",
		`INSERT INTO e2ee_remote (user_id, stream, stale) VALUES ($1, $2, $3)
		ON CONFLICT (user_id) DO UPDATE SET stream = excluded.stream, stale = excluded.stale`)
)

// remoteList is how far the list of another server's user is known.
type remoteList struct {
	stream int64
	stale  bool
}

func readRemote(tx *sqldb.Tx, users []string) (map[string]remoteList, error) {
	out := map[string]remoteList{}
	_, err := sqldb.Collect(tx, remoteOf, func(r *sqldb.Rows) (_ struct{}, err error) {
		var user []byte
		var l remoteList
		err = r.Scan(&user, &l.stream, &l.stale)
		out[string(user)] = l
		return struct{}{}, err
	}, users)
	return out, err
}

// checkOrigin refuses what a server says about a user who is not its own.
func (s *Service) checkOrigin(origin, userID string) error {
	if origin == s.o.ServerName || serverOf(userID) != origin {
		return matrixerr.Forbidden("A server may speak for its own users only")
	}
	return nil
}

// ReceiveDeviceList takes the content of an m.device_list_update EDU and returns after the commit. An update that does
// not follow what is known here has the whole list fetched again.
func (s *Service) ReceiveDeviceList(ctx context.Context, origin string, content json.RawMessage) error {
	var u deviceListUpdate
	if err := json.Unmarshal(content, &u); err != nil {
		return matrixerr.BadJSON("m.device_list_update has the wrong shape").With(err)
	}
	if err := s.checkOrigin(origin, u.UserID); err != nil {
		return err
	}
	if u.DeviceID == "" || len(u.DeviceID) > maxID || len(u.Name) > maxID || u.Stream < 0 {
		return matrixerr.BadJSON("m.device_list_update has the wrong shape")
	}
	return s.do(ctx, "e2ee.deviceListUpdate", 1, func(tx *sqldb.Tx, pos int64, done *after) error {
		rooms, err := s.o.Rooms.SharedRooms(tx, u.UserID)
		if err != nil || len(rooms) == 0 {
			return err
		}
		lists, err := readRemote(tx, []string{u.UserID})
		if err != nil {
			return err
		}
		list, known := lists[u.UserID]
		if !known && !u.Deleted && !isGiven(u.Keys) {
			return nil // a device without keys, which nobody here can have seen
		}
		if known && !list.stale {
			applied, err := u.apply(tx, list)
			if err != nil || applied == nothingNew || applied == unseen {
				return err
			}
			if applied == gap {
				if _, err := tx.Exec(remotePut, u.UserID, list.stream, 1); err != nil {
					return err
				}
			}
			known = applied != gap
		}
		if !known || list.stale {
			s.heard(u.UserID, u.Stream, done)
		}
		return s.remoteChange(tx, pos, u.UserID, rooms, done)
	})
}

// applied says what became of an update.
type applied uint8

const (
	nothingNew applied = iota
	applies
	unseen // applies, to a device without keys
	gap
)

// apply writes an update that follows the stored list. An older one is nothing new if it says what is stored; else its
// server has counted back, and the list must be fetched.
func (u *deviceListUpdate) apply(tx *sqldb.Tx, list remoteList) (applied, error) {
	keys, err := parseDeviceKeys(u.Keys, u.UserID, u.DeviceID)
	if isGiven(u.Keys) && !u.Deleted && err != nil {
		return gap, nil
	}
	has := isGiven(u.Keys) && !u.Deleted
	if u.Stream <= list.stream {
		was, err := readDeviceKeys(tx, u.UserID, u.DeviceID)
		if err != nil || has == (was != nil) && (!has || was.same(keys)) {
			return nothingNew, err
		}
		return gap, nil
	}
	for _, prev := range u.Prev {
		if prev > list.stream {
			return gap, nil
		}
	}
	if len(u.Prev) == 0 {
		return gap, nil
	}
	outcome := applies
	if has {
		err = tx.Insert(deviceKeysPut, []any{u.UserID, u.DeviceID, keys.encode(), u.Name})
	} else {
		var had []string
		if had, err = sqldb.Collect(tx, deviceKeysDelete, scanText, u.UserID, []string{u.DeviceID}); len(had) == 0 {
			outcome = unseen
		}
	}
	if err == nil {
		_, err = tx.Exec(remotePut, u.UserID, u.Stream, 0)
	}
	return outcome, err
}

// ReceiveSigningKeys takes the content of an m.signing_key_update EDU and returns after the commit.
func (s *Service) ReceiveSigningKeys(ctx context.Context, origin string, content json.RawMessage) error {
	var u signingKeyUpdate
	if err := json.Unmarshal(content, &u); err != nil {
		return matrixerr.BadJSON("m.signing_key_update has the wrong shape").With(err)
	}
	if err := s.checkOrigin(origin, u.UserID); err != nil {
		return err
	}
	keys, err := parseCrossKeys(u.UserID, map[usage]json.RawMessage{master: u.Master, selfSigning: u.SelfSigning})
	if err != nil {
		return err
	}
	return s.do(ctx, "e2ee.signingKeyUpdate", 1, func(tx *sqldb.Tx, pos int64, done *after) error {
		rooms, err := s.o.Rooms.SharedRooms(tx, u.UserID)
		if err != nil || len(rooms) == 0 {
			return err
		}
		lists, err := readRemote(tx, []string{u.UserID})
		if err != nil {
			return err
		}
		if list, ok := lists[u.UserID]; !ok || list.stale {
			s.heard(u.UserID, math.MaxInt64, done)
		} else if err := putCrossKeys(tx, u.UserID, keys); err != nil {
			return err
		}
		return s.remoteChange(tx, pos, u.UserID, rooms, done)
	})
}

// Unshared drops the lists of those other servers' users who share no room with anybody here any more: their servers
// tell us nothing from now on. Call it in the transaction that ends a membership, for the user who left or, when the
// last local user left, for the members of the room.
func (s *Service) Unshared(tx *sqldb.Tx, users []string) error {
	if len(users) == 0 {
		return nil
	}
	lists, err := readRemote(tx, users)
	if err != nil {
		return err
	}
	for _, user := range keysOf(lists) {
		rooms, err := s.o.Rooms.SharedRooms(tx, user)
		if err != nil {
			return err
		}
		if len(rooms) == 0 {
			if err := forgetRemote(tx, user); err != nil {
				return err
			}
		}
	}
	return nil
}

func forgetRemote(tx *sqldb.Tx, user string) error {
	for _, stmt := range []*sqldb.Stmt{remoteDelete, deviceKeysClear, crossKeysDelete, listsDelete} {
		if _, err := tx.Exec(stmt, user); err != nil {
			return err
		}
	}
	return nil
}
