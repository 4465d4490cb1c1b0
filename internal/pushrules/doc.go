// Package pushrules owns push rules and what follows from them: each user's
// rules, the engine that evaluates an event under them, and the unread counts
// of /sync.
//
// A user's row holds only what differs from the server-default rules, which are
// compiled once for everybody and take the user's id as a parameter.
//
// Counts cost the same in a room of ten and of ten thousand. An event gets a
// class, the set of default rules that it matches, and one row with the running
// total of its (room, thread, class). Which classes notify a user follows from
// the user's own rules, so a count is a difference of totals. Only where an
// event is something else to a user than its class says (a mention, a keyword, a
// custom rule) is there a row for that user.
package pushrules
