-- Server notices: owned by internal/notices.

-- The room in which a user gets notices. It is written in the transaction that makes the room.
CREATE TABLE notice_rooms (
    user_id BYTEA NOT NULL PRIMARY KEY,
    room_id BYTEA NOT NULL
);

-- Users that were made to send notices: an account of the same name that is not here belongs to a person.
CREATE TABLE notice_senders (
    user_id BYTEA NOT NULL PRIMARY KEY
);

-- Notices to many. users is a JSON list of localparts in order, empty for everybody; passed is the localpart up to which
-- they have been sent, with sent and failed counting them. ended is 0 while users are left.
CREATE TABLE notice_jobs (
    id BYTEA NOT NULL PRIMARY KEY,
    content BYTEA NOT NULL,
    users BYTEA NOT NULL,
    passed BYTEA NOT NULL,
    sent BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    created BIGINT NOT NULL,
    ended BIGINT NOT NULL
);
CREATE INDEX notice_jobs_created ON notice_jobs (created);
