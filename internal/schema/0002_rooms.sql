-- Rooms, events and state: owned by roomserver/store.

-- One dictionary for event types, state keys and users.
CREATE TABLE names (
    nid BIGINT NOT NULL PRIMARY KEY,
    s BYTEA NOT NULL UNIQUE
);

-- One number for each (type, state key).
CREATE TABLE tuples (
    nid BIGINT NOT NULL PRIMARY KEY,
    type BIGINT NOT NULL,
    key BIGINT NOT NULL,
    UNIQUE (type, key)
);

-- rev guards every change of a room; state is the current state set.
-- resident is 0 for a room known only through an invite or a knock.
CREATE TABLE rooms (
    nid BIGINT NOT NULL PRIMARY KEY,
    room_id BYTEA NOT NULL UNIQUE,
    version BYTEA NOT NULL,
    resident BIGINT NOT NULL,
    rev BIGINT NOT NULL,
    state BIGINT NOT NULL,
    extremities BYTEA NOT NULL
);

-- pos orders delivery, ord orders history; both are NULL where an event is not
-- part of it. id is the 32-byte hash, or the whole id in room versions 1 and 2.
CREATE TABLE events (
    nid BIGINT NOT NULL PRIMARY KEY,
    room BIGINT NOT NULL,
    id BYTEA NOT NULL UNIQUE,
    tuple BIGINT NOT NULL,
    type BIGINT NOT NULL,
    sender BIGINT NOT NULL,
    depth BIGINT NOT NULL,
    ts BIGINT NOT NULL,
    flags BIGINT NOT NULL,
    pos BIGINT,
    ord BIGINT,
    state BIGINT NOT NULL,
    redacted_by BIGINT NOT NULL,
    auth BYTEA NOT NULL
);
CREATE INDEX events_ord ON events (room, ord) WHERE ord IS NOT NULL;
CREATE INDEX events_pos ON events (room, pos) WHERE pos IS NOT NULL;

CREATE TABLE event_json (
    nid BIGINT NOT NULL PRIMARY KEY,
    data BYTEA NOT NULL
);

-- Prev events that are named but not here: the backward extremities.
CREATE TABLE missing (
    room BIGINT NOT NULL,
    prev BYTEA NOT NULL,
    event BIGINT NOT NULL,
    PRIMARY KEY (room, prev, event)
)
-- sqlite: WITHOUT ROWID
;

-- Redactions whose target may not be here yet.
CREATE TABLE redactions (
    target BYTEA NOT NULL,
    event BIGINT NOT NULL,
    room BIGINT NOT NULL,
    PRIMARY KEY (target, event)
)
-- sqlite: WITHOUT ROWID
;

-- A state set is its parent's entries changed by delta.
CREATE TABLE state_sets (
    nid BIGINT NOT NULL PRIMARY KEY,
    room BIGINT NOT NULL,
    parent BIGINT NOT NULL,
    height BIGINT NOT NULL,
    delta BYTEA NOT NULL
);

-- Which state set became current at which position.
CREATE TABLE room_states (
    room BIGINT NOT NULL,
    pos BIGINT NOT NULL,
    state BIGINT NOT NULL,
    PRIMARY KEY (room, pos)
)
-- sqlite: WITHOUT ROWID
;

-- The current membership of each user; pos is that of the change.
CREATE TABLE membership (
    room BIGINT NOT NULL,
    user_nid BIGINT NOT NULL,
    state BIGINT NOT NULL,
    local BIGINT NOT NULL,
    forgotten BIGINT NOT NULL,
    event BIGINT NOT NULL,
    pos BIGINT NOT NULL,
    PRIMARY KEY (room, user_nid)
)
-- sqlite: WITHOUT ROWID
;
CREATE INDEX membership_user ON membership (user_nid, room);
CREATE INDEX membership_local ON membership (room) WHERE local = 1;

-- When each other server was in a room: joined by the event at from_pos, gone
-- with the event at to_pos (NULL while it is in).
CREATE TABLE room_servers (
    server BIGINT NOT NULL,
    room BIGINT NOT NULL,
    from_pos BIGINT NOT NULL,
    to_pos BIGINT,
    PRIMARY KEY (server, room, from_pos)
)
-- sqlite: WITHOUT ROWID
;
CREATE INDEX room_servers_room ON room_servers (room);

-- The stripped state that came with an invite or a knock.
CREATE TABLE stripped (
    event BIGINT NOT NULL PRIMARY KEY,
    data BYTEA NOT NULL
);

-- Transaction ids of clients: key is a hash of device, path and id.
CREATE TABLE txns (
    key BYTEA NOT NULL PRIMARY KEY,
    event BIGINT NOT NULL
)
-- sqlite: WITHOUT ROWID
;

CREATE TABLE aliases (
    alias BYTEA NOT NULL PRIMARY KEY,
    room_id BYTEA NOT NULL,
    creator BYTEA NOT NULL
);
CREATE INDEX aliases_room ON aliases (room_id);

-- Rooms in the public directory.
CREATE TABLE published (
    room BIGINT NOT NULL PRIMARY KEY
);

-- PDUs that were acknowledged to a peer and wait for their turn.
CREATE TABLE inbound (
    seq BIGINT NOT NULL PRIMARY KEY,
    room BIGINT NOT NULL,
    id BYTEA NOT NULL,
    origin BYTEA NOT NULL,
    received BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    data BYTEA NOT NULL,
    UNIQUE (room, id)
);
