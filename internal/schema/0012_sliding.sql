-- Connections of sliding sync: owned by clientapi/slidingsync. A row is what a
-- client has been told when it holds a token of this generation. A connection
-- has at most two: that which the client came with last, and that of the newest
-- answer. used is when it was last seen, to within a day.
CREATE TABLE sliding_connections (
    gen BIGINT NOT NULL PRIMARY KEY,
    user_id BYTEA NOT NULL,
    device_id BYTEA NOT NULL,
    conn_id BYTEA NOT NULL,
    used BIGINT NOT NULL,
    data BYTEA NOT NULL
);
CREATE INDEX sliding_connections_conn ON sliding_connections (user_id, device_id, conn_id);
CREATE INDEX sliding_connections_used ON sliding_connections (used);
