-- Push rules and unread counts: owned by internal/pushrules. "room" is the
-- room's number there, "thread" the root's event id, "main", or "*" for all.

-- What a user changed in the default rules. indexed is 1 when events must be
-- looked at for this user one by one: those rows are read at the start.
CREATE TABLE push_rules (
    user_id BYTEA NOT NULL PRIMARY KEY,
    data BYTEA NOT NULL,
    indexed BIGINT NOT NULL,
    pos BIGINT NOT NULL
);
CREATE INDEX push_rules_indexed ON push_rules (user_id) WHERE indexed = 1;

-- The running total of countable events of a class, after the event at pos.
-- sender is "*", or a sender whom somebody here ignores (counted twice then).
CREATE TABLE push_totals (
    room BIGINT NOT NULL,
    thread BYTEA NOT NULL,
    class BIGINT NOT NULL,
    sender BYTEA NOT NULL,
    pos BIGINT NOT NULL,
    total BIGINT NOT NULL,
    PRIMARY KEY (room, thread, class, sender, pos)
)
-- sqlite: WITHOUT ROWID
;

-- The newest row of push_totals for each key.
CREATE TABLE push_heads (
    room BIGINT NOT NULL,
    thread BYTEA NOT NULL,
    class BIGINT NOT NULL,
    sender BYTEA NOT NULL,
    pos BIGINT NOT NULL,
    total BIGINT NOT NULL,
    PRIMARY KEY (room, thread, class, sender)
)
-- sqlite: WITHOUT ROWID
;
CREATE INDEX push_heads_pos ON push_heads (room, pos);

-- Up to where a local user has read, by receipt or own event.
CREATE TABLE push_reads (
    user_id BYTEA NOT NULL,
    room BIGINT NOT NULL,
    thread BYTEA NOT NULL,
    pos BIGINT NOT NULL,
    PRIMARY KEY (user_id, room, thread)
)
-- sqlite: WITHOUT ROWID
;

-- Events that are something else to a user than their class says; class is 0
-- when the event has no running total. flags: 1 notify, 2 highlight.
CREATE TABLE push_events (
    user_id BYTEA NOT NULL,
    room BIGINT NOT NULL,
    pos BIGINT NOT NULL,
    thread BYTEA NOT NULL,
    class BIGINT NOT NULL,
    flags BIGINT NOT NULL,
    PRIMARY KEY (user_id, room, pos)
)
-- sqlite: WITHOUT ROWID
;
CREATE INDEX push_events_room ON push_events (room);

-- The newest receipt of a user for each type and thread ("*": unthreaded):
-- owned by internal/ephemeral.
CREATE TABLE receipts (
    room_id BYTEA NOT NULL,
    user_id BYTEA NOT NULL,
    type BYTEA NOT NULL,
    thread BYTEA NOT NULL,
    event_id BYTEA NOT NULL,
    ord BIGINT NOT NULL,
    ts BIGINT NOT NULL,
    pos BIGINT NOT NULL,
    PRIMARY KEY (room_id, user_id, type, thread)
)
-- sqlite: WITHOUT ROWID
;
CREATE INDEX receipts_pos ON receipts (room_id, pos);
