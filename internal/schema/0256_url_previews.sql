-- Previews of web pages: owned by mediaapi. url_hash is the SHA-256 of a page's address, which itself is not written
-- down; body is the answer to clients. media_id names the medium of ours that is the page's image, which lives as long as
-- its row here and belongs to no user (its user_id is empty); it is empty where there is none. size is the bytes of both.
CREATE TABLE url_previews (
    url_hash BYTEA NOT NULL,
    fetched BIGINT NOT NULL,
    body BYTEA NOT NULL,
    media_id BYTEA NOT NULL,
    size BIGINT NOT NULL,
    PRIMARY KEY (url_hash, fetched)
);
CREATE INDEX url_previews_fetched ON url_previews (fetched);
