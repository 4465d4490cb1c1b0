-- Media: owned by mediaapi. Contents are files, named by their SHA-256.

-- One row for each mxc:// URI, our own and those of other servers that are cached here. hash is NULL and expires is
-- set while a URI has been created and waits for its content. user_id is empty for other servers' media.
CREATE TABLE media (
    origin BYTEA NOT NULL,
    media_id BYTEA NOT NULL,
    hash BYTEA,
    size BIGINT NOT NULL,
    content_type BYTEA NOT NULL,
    upload_name BYTEA NOT NULL,
    user_id BYTEA NOT NULL,
    created BIGINT NOT NULL,
    last_access BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (origin, media_id)
);
CREATE INDEX media_hash ON media (hash) WHERE hash IS NOT NULL;
CREATE INDEX media_user ON media (user_id, hash, size);
CREATE INDEX media_pending ON media (expires) WHERE hash IS NULL;
CREATE INDEX media_access ON media (last_access);

-- What is known about a content as an image. An empty content_type: it is none that can be thumbnailed.
CREATE TABLE media_images (
    hash BYTEA NOT NULL PRIMARY KEY,
    content_type BYTEA NOT NULL,
    width BIGINT NOT NULL,
    height BIGINT NOT NULL,
    orientation BIGINT NOT NULL,
    animated BIGINT NOT NULL,
    memory BIGINT NOT NULL
);

-- Finished thumbnails: thumb is a content of its own.
CREATE TABLE media_thumbnails (
    hash BYTEA NOT NULL,
    width BIGINT NOT NULL,
    height BIGINT NOT NULL,
    crop BIGINT NOT NULL,
    thumb BYTEA NOT NULL,
    size BIGINT NOT NULL,
    content_type BYTEA NOT NULL,
    PRIMARY KEY (hash, width, height, crop)
);
CREATE INDEX media_thumbnails_thumb ON media_thumbnails (thumb);
