package federationapi

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"knock/internal/matrixerr"
)

// The turns of EDUs in a transaction.
const (
	turnToDevice = iota
	turnDurable
	turnPassing
)

func (a *API) turn(e edu) int {
	switch _, _, durable := a.taker(e); {
	case e.Type == "m.direct_to_device":
		return turnToDevice
	case durable:
		return turnDurable
	}
	return turnPassing
}

// sort puts EDUs in the order of their turns.
func (a *API) sort(t *transaction) {
	slices.SortStableFunc(t.EDUs, func(x, y edu) int { return a.turn(x) - a.turn(y) })
}

// passing is the index of the first EDU that need not arrive.
func (a *API) passing(t *transaction) int {
	if i := slices.IndexFunc(t.EDUs, func(e edu) bool { return a.turn(e) == turnPassing }); i >= 0 {
		return i
	}
	return len(t.EDUs)
}

func (a *API) takeEDUs(ctx context.Context, origin string, list []edu) error {
	for _, e := range list {
		if err := a.takeEDU(ctx, origin, e); err != nil {
			return err
		}
	}
	return nil
}

// takeEDU hands an EDU to its owner, who checks that the origin speaks for its own users and that they are in the
// room. What is wrong with one is no reason to refuse the transaction; that one which must arrive could not be written
// down is.
func (a *API) takeEDU(ctx context.Context, origin string, e edu) error {
	kind, take, durable := a.taker(e)
	a.metrics.edus.WithLabelValues(kind).Inc()
	err := take(ctx, origin, e.Content)
	if err != nil && durable && !refused(err) {
		return err
	}
	if err != nil {
		a.o.Log.WithError(err).WithField("origin", origin).WithField("edu", kind).Debug("An EDU was left out")
	}
	return nil
}

// taker is who takes an EDU; durable tells whether it must arrive.
func (a *API) taker(e edu) (kind string, take func(context.Context, string, json.RawMessage) error, durable bool) {
	kind, take = "other", func(context.Context, string, json.RawMessage) error { return nil }
	switch {
	case e.Type == "m.typing" && a.o.Typing != nil:
		kind, take = e.Type, a.typing
	case e.Type == "m.receipt" && a.o.Receipts != nil:
		kind, take = e.Type, a.receipts
	case e.Type == "m.presence" && a.o.Presence != nil:
		kind, take = e.Type, a.presence
	case e.Type == "m.direct_to_device" && a.o.Encryption != nil:
		kind, take, durable = e.Type, a.o.Encryption.ReceiveToDevice, true
	case e.Type == "m.device_list_update" && a.o.Encryption != nil:
		kind, take, durable = e.Type, a.o.Encryption.ReceiveDeviceList, true
	case e.Type == "m.signing_key_update" && a.o.Encryption != nil:
		kind, take, durable = e.Type, a.o.Encryption.ReceiveSigningKeys, true
	}
	return kind, take, durable
}

func (a *API) typing(ctx context.Context, origin string, content json.RawMessage) error {
	var c struct {
		Room   string `json:"room_id"`
		User   string `json:"user_id"`
		Typing bool   `json:"typing"`
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return matrixerr.BadJSON("m.typing has the wrong shape").With(err)
	}
	if err := a.admitted(ctx, c.Room, origin); err != nil {
		return err
	}
	return a.o.Typing.Remote(origin, c.Room, c.User, c.Typing)
}

// maxReceiptRooms bounds the rooms of one m.receipt.
const maxReceiptRooms = 1000

// receipts leaves out the rooms whose ACL denies the origin.
func (a *API) receipts(ctx context.Context, origin string, content json.RawMessage) error {
	var rooms map[string]json.RawMessage
	if err := json.Unmarshal(content, &rooms); err != nil {
		return matrixerr.BadJSON("m.receipt has the wrong shape").With(err)
	}
	if len(rooms) > maxReceiptRooms {
		return matrixerr.TooLarge("There are receipts of too many rooms in one EDU")
	}
	n := len(rooms)
	maps.DeleteFunc(rooms, func(room string, _ json.RawMessage) bool { return a.admitted(ctx, room, origin) != nil })
	if len(rooms) < n {
		var err error
		if content, err = json.Marshal(rooms); err != nil {
			return err
		}
	}
	return a.o.Receipts.EDU(ctx, origin, content)
}

func (a *API) presence(_ context.Context, origin string, content json.RawMessage) error {
	return a.o.Presence.Remote(origin, content)
}
