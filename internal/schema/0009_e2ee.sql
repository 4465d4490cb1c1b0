-- End-to-end encryption: owned by internal/e2ee. Users are named by their full
-- ids, since other servers' users have rows too.

-- Identity keys of devices as they were uploaded, with the signatures that
-- everybody may see. name is the display name of another server's device;
-- those of our own are in "devices".
CREATE TABLE e2ee_device_keys (
    user_id BYTEA NOT NULL,
    device_id BYTEA NOT NULL,
    keys BYTEA NOT NULL,
    name BYTEA,
    PRIMARY KEY (user_id, device_id)
);

-- One-time keys, one row for each upload and algorithm. nid is a stream
-- position, so it orders the uploads; the first "used" of "total" keys have
-- been given out. The keys themselves never change and are in e2ee_batch_keys.
CREATE TABLE e2ee_batches (
    nid BIGINT NOT NULL PRIMARY KEY,
    user_id BYTEA NOT NULL,
    device_id BYTEA NOT NULL,
    algorithm BYTEA NOT NULL,
    total BIGINT NOT NULL,
    used BIGINT NOT NULL
);
CREATE UNIQUE INDEX e2ee_batches_device ON e2ee_batches (user_id, device_id, algorithm, nid);

CREATE TABLE e2ee_batch_keys (
    batch BIGINT NOT NULL PRIMARY KEY,
    data BYTEA NOT NULL
);

CREATE TABLE e2ee_fallback (
    user_id BYTEA NOT NULL,
    device_id BYTEA NOT NULL,
    algorithm BYTEA NOT NULL,
    key_id BYTEA NOT NULL,
    key BYTEA NOT NULL,
    used BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm)
)
-- sqlite: WITHOUT ROWID
;

-- usage is 1 for the master key, 2 for the self-signing, 3 for the
-- user-signing key; public is the key itself in base64.
CREATE TABLE e2ee_cross_keys (
    user_id BYTEA NOT NULL,
    usage BIGINT NOT NULL,
    public BYTEA NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (user_id, usage)
)
-- sqlite: WITHOUT ROWID
;

-- Signatures of a local user on somebody else's master key, which only the
-- signer may see.
CREATE TABLE e2ee_signatures (
    signer BYTEA NOT NULL,
    user_id BYTEA NOT NULL,
    public BYTEA NOT NULL,
    key_id BYTEA NOT NULL,
    signature BYTEA NOT NULL,
    pos BIGINT NOT NULL,
    PRIMARY KEY (signer, user_id, public, key_id)
)
-- sqlite: WITHOUT ROWID
;
CREATE INDEX e2ee_signatures_pos ON e2ee_signatures (signer, pos);
CREATE INDEX e2ee_signatures_user ON e2ee_signatures (user_id);

-- The newest change of a user's device list or cross-signing keys. stream
-- counts the changes of a local user, for other servers.
CREATE TABLE e2ee_lists (
    user_id BYTEA NOT NULL PRIMARY KEY,
    pos BIGINT NOT NULL,
    stream BIGINT NOT NULL
)
-- sqlite: WITHOUT ROWID
;
CREATE INDEX e2ee_lists_pos ON e2ee_lists (pos);

-- Users of other servers whose device lists are kept here, up to their
-- server's stream id. stale is 1 when an update was missed.
CREATE TABLE e2ee_remote (
    user_id BYTEA NOT NULL PRIMARY KEY,
    stream BIGINT NOT NULL,
    stale BIGINT NOT NULL
)
-- sqlite: WITHOUT ROWID
;

-- Messages that wait for local devices. data is the event as /sync shows it.
CREATE TABLE e2ee_to_device (
    user_id BYTEA NOT NULL,
    device_id BYTEA NOT NULL,
    pos BIGINT NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (user_id, device_id, pos)
)
-- sqlite: WITHOUT ROWID
;

-- Requests to send to devices that have been done. key is a hash of who asked
-- and of the transaction or message id; ts is in milliseconds.
CREATE TABLE e2ee_txns (
    key BYTEA NOT NULL PRIMARY KEY,
    ts BIGINT NOT NULL
)
-- sqlite: WITHOUT ROWID
;
CREATE INDEX e2ee_txns_ts ON e2ee_txns (ts);

-- What other servers are still to be told. Messages are EDU contents; for the
-- lists there is one row for each device ("" for cross-signing keys), and the
-- EDU is made when it is sent.
CREATE TABLE e2ee_outbox_messages (
    destination BYTEA NOT NULL,
    pos BIGINT NOT NULL,
    n BIGINT NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (destination, pos, n)
);
CREATE TABLE e2ee_outbox_lists (
    destination BYTEA NOT NULL,
    user_id BYTEA NOT NULL,
    device_id BYTEA NOT NULL,
    pos BIGINT NOT NULL,
    stream BIGINT NOT NULL,
    PRIMARY KEY (destination, user_id, device_id)
)
-- sqlite: WITHOUT ROWID
;
CREATE INDEX e2ee_outbox_lists_pos ON e2ee_outbox_lists (destination, pos);

-- The newest stream id of a user that another server has taken.
CREATE TABLE e2ee_sent (
    user_id BYTEA NOT NULL,
    destination BYTEA NOT NULL,
    stream BIGINT NOT NULL,
    PRIMARY KEY (user_id, destination)
)
-- sqlite: WITHOUT ROWID
;

-- Server-side key backups. A deleted one stays, so that its version is never
-- used again.
CREATE TABLE e2ee_backups (
    user_id BYTEA NOT NULL,
    version BIGINT NOT NULL,
    algorithm BYTEA NOT NULL,
    auth_data BYTEA NOT NULL,
    etag BIGINT NOT NULL,
    count BIGINT NOT NULL,
    deleted BIGINT NOT NULL,
    PRIMARY KEY (user_id, version)
);
CREATE TABLE e2ee_backup_keys (
    user_id BYTEA NOT NULL,
    version BIGINT NOT NULL,
    room_id BYTEA NOT NULL,
    session_id BYTEA NOT NULL,
    first_index BIGINT NOT NULL,
    forwarded BIGINT NOT NULL,
    verified BIGINT NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (user_id, version, room_id, session_id)
);

CREATE TABLE e2ee_dehydrated (
    user_id BYTEA NOT NULL PRIMARY KEY,
    device_id BYTEA NOT NULL,
    data BYTEA NOT NULL
);
