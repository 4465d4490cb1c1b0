// Package pushers owns pushers and the notifications that go through them: HTTP
// requests to push gateways (Push Gateway API), and e-mails.
//
// Run looks at each event once it is published. It starts from the local users
// with pushers who are in the event's room, not from all members, and asks the
// push rules what the event is to them: the rules decide it for all those at
// once to whom the event is only what its class says.
//
// Each pusher has a lane, which delivers one notification after another. The
// event log is the queue: what is delivered within about a second is written
// nowhere. What is not goes into a table, and only then moves the position up to
// which events were looked at, once a second. A start goes on from there, so a
// crash loses nothing and repeats a second at most, which gateways recognise by
// the event's id; an orderly stop repeats nothing.
//
// The lane of a pusher that sends e-mails lets what comes lie for some minutes.
// Then it sends what is still unread in one e-mail, and waits longer before the
// next one, until all was read.
package pushers
