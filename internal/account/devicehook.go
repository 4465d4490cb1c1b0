package account

import "knock/internal/sqldb"

// DeviceHook writes what hangs on a device, such as its keys, in the transaction that changes the device. pos is a
// stream position of that transaction; the functions that are returned, if any, run after the commit, on the writer's
// goroutine.
type DeviceHook interface {
	DevicesDeleted(tx *sqldb.Tx, pos int64, userID string, deviceIDs []string) (committed func(), err error)
	DeviceRenamed(tx *sqldb.Tx, pos int64, userID, deviceID string) (committed func(), err error)
}

// OnDevices sets who writes along when devices change. Call it before requests are served.
func (s *Service) OnDevices(h DeviceHook) { s.devices = h }

// afterwards is what an operation does after its commit; each attempt of its Write sets it anew.
type afterwards struct{ fn func() }

func (a *afterwards) run(int64) {
	if a.fn != nil {
		a.fn()
	}
}

// DeviceNames reads the devices of local users with their display names: user id → device id → name ("" for none).
// Users without devices, and those of other servers, are left out.
func (s *Service) DeviceNames(tx *sqldb.Tx, userIDs []string) (map[string]map[string]string, error) {
	locals := make([]string, 0, len(userIDs))
	for _, id := range userIDs {
		if local, ok := s.Localpart(id); ok {
			locals = append(locals, local)
		}
	}
	if len(locals) == 0 {
		return nil, nil
	}
	rows, err := tx.Query(deviceNames, locals)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]map[string]string{}
	for rows.Next() {
		var local, id, name []byte
		if err := rows.Scan(&local, &id, &name); err != nil {
			return nil, err
		}
		user := s.userID(string(local))
		if out[user] == nil {
			out[user] = map[string]string{}
		}
		out[user][string(id)] = string(name)
	}
	return out, rows.Close()
}

// AddDevice makes a device that nobody is logged in with. nid is a number from DB.NextID. A device of this id that
// exists already is an error.
func (s *Service) AddDevice(tx *sqldb.Tx, nid int64, userID, deviceID, name string) error {
	local, err := s.ours(userID)
	if err != nil {
		return err
	}
	now := s.now()
	_, err = tx.Exec(deviceInsert, nid, local, deviceID, optional(name), now, now, nil)
	return err
}

// RemoveDevices is DeleteDevices within somebody else's transaction. committed runs after the commit, on the writer's
// goroutine.
func (s *Service) RemoveDevices(tx *sqldb.Tx, pos int64, userID string, ids []string) (committed func(), err error) {
	local, err := s.ours(userID)
	if err != nil {
		return nil, err
	}
	r := &removal{s: s, pos: pos}
	devices, err := sqldb.Collect(tx, deviceByIDs, scanInt, local, ids)
	if err != nil {
		return nil, err
	}
	return func() { r.committed(0) }, r.write(tx, local, devices)
}
