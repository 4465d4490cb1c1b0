-- What administrators did to accounts: owned by internal/account.

-- 1 or 0. A locked account cannot be used, a suspended one only reads.
ALTER TABLE users ADD COLUMN locked BIGINT NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN suspended BIGINT NOT NULL DEFAULT 0;
