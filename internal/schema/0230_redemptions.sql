-- Invites to e-mail addresses of which an identity server told that one of our users has the address, until the server
-- that issued them has invited that user: owned by roomserver. signed is the identity server's word, JSON; due is when to
-- try next and added when it came, in ms.
CREATE TABLE redemptions (
    nid BIGINT NOT NULL PRIMARY KEY,
    room BYTEA NOT NULL,
    user_id BYTEA NOT NULL,
    token BYTEA NOT NULL,
    sender BYTEA NOT NULL,
    signed BYTEA NOT NULL,
    added BIGINT NOT NULL,
    due BIGINT NOT NULL,
    tries BIGINT NOT NULL,
    UNIQUE (room, user_id, token)
);
CREATE INDEX redemptions_due ON redemptions (due);
