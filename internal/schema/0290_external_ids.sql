-- Who at which identity provider is which user: owned by internal/account. A user is one person at a provider, and the
-- other way round. Rows outlive their account, so that its name is not given out again.
CREATE TABLE external_ids (
    issuer BYTEA NOT NULL,
    subject BYTEA NOT NULL,
    localpart BYTEA NOT NULL,
    added BIGINT NOT NULL,
    PRIMARY KEY (issuer, subject)
)
-- sqlite: WITHOUT ROWID
;
CREATE UNIQUE INDEX external_ids_user ON external_ids (localpart, issuer);
