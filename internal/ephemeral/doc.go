// Package ephemeral owns what passes: who is typing, how far everybody has read
// (receipts and the fully-read marker), and who is online. Typing and presence
// live in memory only, under the hub's ephemeral sequence; receipts are stored
// under stream positions.
package ephemeral

import (
	"strings"
	"time"

	"knock/internal/matrixerr"
)

// Outbox takes what other servers must hear, for the federation sender. Its
// methods must not block. They are called for local users only.
type Outbox interface {
	Typing(room, user string, typing bool, timeout time.Duration)
	Receipt(r Receipt)
	Presence(s State)
}

// silent is the Outbox of a server without federation.
type silent struct{}

func (silent) Typing(string, string, bool, time.Duration) {}
func (silent) Receipt(Receipt)                            {}
func (silent) Presence(State)                             {}

// maxID bounds user, room and event ids (appendices, "Common Identifier Format").
const maxID = 255

// checkRemote refuses what a server says about a user who is not its own.
func checkRemote(origin, user string) error {
	_, server, ok := strings.Cut(user, ":")
	if !ok || user[0] != '@' || len(user) > maxID || server != origin {
		return matrixerr.Forbidden("A server may speak for its own users only")
	}
	return nil
}
