-- The search index: owned by internal/search. Segments are never changed, only
-- merged into larger ones.

-- age orders segments by what they hold: of two that have the same event, the
-- one of the higher age is right. docs is how many events it has, and rooms of
-- which rooms how many, in the order of their numbers.
CREATE TABLE search_segments (
    seg BIGINT NOT NULL PRIMARY KEY,
    age BIGINT NOT NULL,
    docs BIGINT NOT NULL,
    rooms BYTEA NOT NULL
);

-- Terms with the places of the events that have them. term is the first of the
-- block, and doc the first place of a further part of a long list, else 0.
CREATE TABLE search_blocks (
    seg BIGINT NOT NULL,
    term BYTEA NOT NULL,
    doc BIGINT NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (seg, term, doc)
)
-- sqlite: WITHOUT ROWID
;
-- postgres: ALTER TABLE search_blocks ALTER COLUMN data SET STORAGE EXTERNAL;

-- The events of a segment by their places, from doc on.
CREATE TABLE search_docs (
    seg BIGINT NOT NULL,
    doc BIGINT NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (seg, doc)
)
-- sqlite: WITHOUT ROWID
;
-- postgres: ALTER TABLE search_docs ALTER COLUMN data SET STORAGE EXTERNAL;

-- How far the index has come: everything delivered up to pos is in it. While it
-- is brought up to date, until is where to, and room and at say how far that is.
-- removed counts redactions since cleaned, a time in milliseconds. version is
-- that of how texts become terms: an index of another one is made anew.
CREATE TABLE search_state (
    nid BIGINT NOT NULL PRIMARY KEY,
    pos BIGINT NOT NULL,
    until BIGINT NOT NULL,
    room BIGINT NOT NULL,
    at BIGINT NOT NULL,
    removed BIGINT NOT NULL,
    cleaned BIGINT NOT NULL,
    version BIGINT NOT NULL
);

-- Events of fetched history that are yet to be indexed.
CREATE TABLE search_queue (
    event BIGINT NOT NULL PRIMARY KEY
);
