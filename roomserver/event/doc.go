// Package event owns what a Matrix room event is: the table of room versions,
// strict parsing, canonical JSON, event ids, content and reference hashes,
// signatures, redaction, building, and the forms in which events are given to
// clients.
//
// An [Event] is immutable and safe for concurrent use. Everything in it is cut
// from one slice of canonical bytes; its id is known from the moment it exists.
// Keys are compared exactly, duplicate keys are refused at any depth, so an
// event means the same on arrival, after a reload and on every other server.
//
// gomatrixserverlib sees our events through [Event.PDU].
package event
