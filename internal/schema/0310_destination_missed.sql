-- The position after which receipts and presence may not have reached a server (federationapi/send); 0: after sent_pos.
ALTER TABLE destinations ADD COLUMN missed BIGINT NOT NULL DEFAULT 0;
