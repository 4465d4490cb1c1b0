-- internal/sqldb: facts about the database itself, id counters and the stream position.

CREATE TABLE meta (
    key   BYTEA NOT NULL PRIMARY KEY,
    value BYTEA NOT NULL
)
-- sqlite: WITHOUT ROWID
;

CREATE TABLE counters (
    name  BYTEA  NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL -- the last number reserved
)
-- sqlite: WITHOUT ROWID
;

INSERT INTO counters (name, value) VALUES (x'6964', 0);   -- only: sqlite
INSERT INTO counters (name, value) VALUES ('\x6964', 0);  -- only: postgres

-- The stream position: one row that is updated on SQLite; rows that are appended and pruned on PostgreSQL, where an
-- updated row would degrade under any long snapshot.
CREATE TABLE position (pos BIGINT NOT NULL);              -- only: sqlite
INSERT INTO position (pos) VALUES (0);                    -- only: sqlite
CREATE TABLE ticks (pos BIGINT NOT NULL PRIMARY KEY);     -- only: postgres
INSERT INTO ticks (pos) VALUES (0);                       -- only: postgres
