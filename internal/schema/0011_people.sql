-- The user directory: owned by internal/userdir. Who may find whom is decided
-- by the memberships when somebody searches.

-- name and avatar are those of the member event with the number source, or the
-- profile of a local user. folded is what a search looks in.
CREATE TABLE directory_users (
    user_nid BIGINT NOT NULL PRIMARY KEY,
    user_id BYTEA NOT NULL,
    name BYTEA NOT NULL,
    avatar BYTEA NOT NULL,
    folded BYTEA NOT NULL,
    source BIGINT NOT NULL
);

-- Rooms whose members everybody may find.
CREATE TABLE directory_rooms (
    room BIGINT NOT NULL PRIMARY KEY
);

-- Events that the directory has yet to look at; below zero the whole room.
CREATE TABLE directory_queue (
    event BIGINT NOT NULL PRIMARY KEY,
    room BIGINT NOT NULL
);

-- What users reported: owned by internal/reports. kind is 1 for an event, 2 for
-- a room, 3 for a user; target is the event's sender or the user.
CREATE TABLE reports (
    nid BIGINT NOT NULL PRIMARY KEY,
    kind BIGINT NOT NULL,
    received BIGINT NOT NULL,
    reporter BYTEA NOT NULL,
    room BYTEA NOT NULL,
    event BYTEA NOT NULL,
    target BYTEA NOT NULL,
    reason BYTEA NOT NULL,
    score BIGINT
);
CREATE INDEX reports_reporter ON reports (reporter);
