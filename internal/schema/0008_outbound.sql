-- Federation: what goes to other servers (federationapi/send). The event log is the queue.

-- Every event for a server with pos up to sent_pos was delivered to it.
CREATE TABLE destinations (
    name BYTEA NOT NULL PRIMARY KEY,
    sent_pos BIGINT NOT NULL
)
-- sqlite: WITHOUT ROWID
;

-- Events for a server that may not be in the room, such as the end of its user's invite. Written with the event.
CREATE TABLE outbox (
    name BYTEA NOT NULL,
    pos BIGINT NOT NULL,
    event BIGINT NOT NULL,
    PRIMARY KEY (name, pos)
)
-- sqlite: WITHOUT ROWID
;
