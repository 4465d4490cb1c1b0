-- Relations between events: owned by internal/relations. Where an event is in
-- history and whether it was redacted is in its own row only.

-- parent is the id of an event as events.id has it: it may not be here yet. rel
-- is the number of the rel_type's name. mark is a hash of sender, type and key
-- for annotations, which must not be repeated, and empty for others.
CREATE TABLE relations (
    parent BYTEA NOT NULL,
    rel BIGINT NOT NULL,
    mark BYTEA NOT NULL,
    child BIGINT NOT NULL,
    PRIMARY KEY (parent, rel, mark, child)
)
-- sqlite: WITHOUT ROWID
;

-- The events of a room that somebody began a thread on.
CREATE TABLE threads (
    room BIGINT NOT NULL,
    root BYTEA NOT NULL,
    PRIMARY KEY (room, root)
)
-- sqlite: WITHOUT ROWID
;
