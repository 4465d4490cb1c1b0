-- Filters that clients uploaded: owned by clientapi/sync. id is a hash of data.
CREATE TABLE sync_filters (
    user_id BYTEA NOT NULL,
    id BYTEA NOT NULL,
    data BYTEA NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (user_id, id)
)
-- sqlite: WITHOUT ROWID
;
