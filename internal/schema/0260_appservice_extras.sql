-- What transactions to application services have beside events: owned by
-- internal/appservice.

-- Receipts and changed device lists with a position up to pos are in
-- transactions that were made. body is what transaction txn has beside
-- events, a JSON object: messages to devices are in it and nowhere else until
-- the service has taken it. It is of no use once a later transaction was made.
CREATE TABLE appservice_extras (
    id BYTEA NOT NULL PRIMARY KEY,
    pos BIGINT NOT NULL,
    txn BIGINT NOT NULL,
    body BYTEA NOT NULL
)
-- sqlite: WITHOUT ROWID
;
