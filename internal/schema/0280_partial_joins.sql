-- Joins through servers that left most members out of their answer: owned by roomserver. They last from from_pos until
-- to_pos (NULL while they do); whole is 1 once the members are known. servers are those named as in the room, one a line.
CREATE TABLE partial_joins (
    room BIGINT NOT NULL,
    event BIGINT NOT NULL,
    from_pos BIGINT NOT NULL,
    to_pos BIGINT,
    whole BIGINT NOT NULL,
    through BYTEA NOT NULL,
    servers BYTEA NOT NULL,
    PRIMARY KEY (room, event)
)
-- sqlite: WITHOUT ROWID
;

-- The events that a room took meanwhile, in the order in which they came: they are judged again when it is whole.
CREATE TABLE partial_events (
    room BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    event BIGINT NOT NULL,
    PRIMARY KEY (room, seq)
)
-- sqlite: WITHOUT ROWID
;

-- The states after events that are not here, which other servers told meanwhile.
CREATE TABLE partial_told (
    room BIGINT NOT NULL,
    prev BYTEA NOT NULL,
    state BIGINT NOT NULL,
    PRIMARY KEY (room, prev)
)
-- sqlite: WITHOUT ROWID
;
