-- Sticky events (MSC4354) that have not expired: owned by internal/sticky.

-- pos is NULL while the room's state refuses the event. own is 1 for events of
-- our users, expires a time in milliseconds.
CREATE TABLE sticky_events (
    nid BIGINT PRIMARY KEY,
    room BIGINT NOT NULL,
    pos BIGINT,
    own BIGINT NOT NULL,
    expires BIGINT NOT NULL
);
CREATE INDEX sticky_events_room ON sticky_events (room, pos);
CREATE INDEX sticky_events_expires ON sticky_events (expires);

-- For how long a delayed event is sticky once it is sent, in milliseconds.
ALTER TABLE delayed_events ADD COLUMN sticky BIGINT;
