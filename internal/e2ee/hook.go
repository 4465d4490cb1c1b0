package e2ee

import (
	"slices"

	"knock/internal/sqldb"
)

var dehydratedGone = sqldb.Register("e2ee.dehydratedGone",
	`DELETE FROM e2ee_dehydrated WHERE user_id = $1 AND device_id = ANY($2::bytea[])`)

// DevicesDeleted deletes everything of devices, in the transaction that deletes them: keys, messages that wait, and the
// data of a dehydrated device. Others hear of it when a device had keys. The function that it returns runs after the
// commit.
func (s *Service) DevicesDeleted(tx *sqldb.Tx, pos int64, userID string, ids []string) (func(), error) {
	var done after
	withKeys, err := sqldb.Collect(tx, deviceKeysDelete, scanText, userID, ids)
	if err != nil {
		return nil, err
	}
	for _, stmt := range []*sqldb.Stmt{fallbackDelete, messagesGone, dehydratedGone} {
		if _, err := tx.Exec(stmt, userID, ids); err != nil {
			return nil, err
		}
	}
	batches, err := sqldb.Collect(tx, batchesGone, scanNumber, userID, ids)
	if err != nil {
		return nil, err
	}
	if len(batches) > 0 {
		if _, err := tx.Exec(batchKeysDelete, batches); err != nil {
			return nil, err
		}
	}
	if len(withKeys) > 0 {
		slices.Sort(withKeys)
		if err := s.localChange(tx, pos, userID, withKeys, &done); err != nil {
			return nil, err
		}
	}
	done.add(func() {
		s.boxes.drop(userID, ids)
		for _, id := range ids {
			s.counts.drop(userID, id)
		}
	})
	return func() { done.run(0) }, nil
}

// DeviceRenamed tells others of a device's new display name when it has keys.
func (s *Service) DeviceRenamed(tx *sqldb.Tx, pos int64, userID, deviceID string) (func(), error) {
	var done after
	keys, err := readDeviceKeys(tx, userID, deviceID)
	if err == nil && keys != nil {
		err = s.localChange(tx, pos, userID, []string{deviceID}, &done)
	}
	return func() { done.run(0) }, err
}
