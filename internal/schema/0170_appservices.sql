-- Application services: owned by internal/appservice. The event log is their
-- queue.

-- Everything with a position up to sent_pos was delivered to the service.
-- Transaction txn, which takes it on to claim_pos, may have been: after a
-- crash it is sent again under the same number.
CREATE TABLE appservices (
    id BYTEA NOT NULL PRIMARY KEY,
    txn BIGINT NOT NULL,
    sent_pos BIGINT NOT NULL,
    claim_pos BIGINT NOT NULL
)
-- sqlite: WITHOUT ROWID
;

-- Rooms that services have put into the directories of their networks.
CREATE TABLE appservice_rooms (
    service BYTEA NOT NULL,
    network BYTEA NOT NULL,
    room BIGINT NOT NULL,
    PRIMARY KEY (service, network, room)
)
-- sqlite: WITHOUT ROWID
;
