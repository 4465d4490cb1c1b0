-- Pushers and what they could not deliver yet: owned by internal/pushers.

-- data is JSON: names, language and what the gateway gets. device_id is that of
-- the access token that made the pusher; it goes with the device. since is the
-- position at which it was made.
CREATE TABLE pushers (
    nid BIGINT NOT NULL PRIMARY KEY,
    user_id BYTEA NOT NULL,
    app_id BYTEA NOT NULL,
    pushkey BYTEA NOT NULL,
    device_id BYTEA NOT NULL,
    kind BYTEA NOT NULL,
    data BYTEA NOT NULL,
    ts BIGINT NOT NULL,
    since BIGINT NOT NULL
);
CREATE UNIQUE INDEX pushers_key ON pushers (user_id, app_id, pushkey);
CREATE INDEX pushers_app ON pushers (app_id, pushkey);

-- Notifications that were not delivered within a second or so of their event.
-- event is its number; tweaks is JSON; ts is when the event was looked at.
CREATE TABLE push_queue (
    pusher BIGINT NOT NULL,
    pos BIGINT NOT NULL,
    event BIGINT NOT NULL,
    tweaks BYTEA NOT NULL,
    ts BIGINT NOT NULL,
    PRIMARY KEY (pusher, pos)
)
-- sqlite: WITHOUT ROWID
;

-- Up to where events were looked at: everything later is looked at again after a
-- start. One row.
CREATE TABLE push_cursor (
    one BIGINT NOT NULL PRIMARY KEY,
    pos BIGINT NOT NULL
);
