-- Events that users scheduled (MSC4140): owned by internal/delayed.

-- id is what clients call the event by; who knows it may manage it. service is
-- the application service that scheduled it, or empty. txn is a hash of the
-- transaction. Times and delays are milliseconds: ts is the event's own if one
-- was given, scheduled when the delay began, and due when it ends, NULL once
-- the event is finalised. An event that was sent has the id of what it became
-- in event; error is a standard error response. Without both it was cancelled.
CREATE TABLE delayed_events (
    nid BIGINT PRIMARY KEY,
    id BYTEA NOT NULL UNIQUE,
    owner BYTEA NOT NULL,
    device BYTEA NOT NULL,
    service BYTEA NOT NULL,
    room BYTEA NOT NULL,
    type BYTEA NOT NULL,
    state_key BYTEA,
    content BYTEA NOT NULL,
    ts BIGINT,
    txn BYTEA UNIQUE,
    delay BIGINT NOT NULL,
    scheduled BIGINT NOT NULL,
    due BIGINT,
    finalised BIGINT,
    event BYTEA,
    error BYTEA
);
CREATE INDEX delayed_events_due ON delayed_events (due);
CREATE INDEX delayed_events_owner ON delayed_events (owner, finalised, nid);
CREATE INDEX delayed_events_finalised ON delayed_events (finalised);
