-- Which threads users follow: owned by internal/threads. root is the thread's
-- first event, state 0 for one that the user does not follow any more, 1 for
-- one that their client chose, 2 for one that they chose. left_pos is the
-- position at which they last ceased to follow it.
CREATE TABLE thread_subscriptions (
    user_nid BIGINT NOT NULL,
    root BIGINT NOT NULL,
    state BIGINT NOT NULL,
    left_pos BIGINT NOT NULL,
    pos BIGINT NOT NULL,
    PRIMARY KEY (user_nid, root)
)
-- sqlite: WITHOUT ROWID
;

CREATE INDEX thread_subscriptions_pos ON thread_subscriptions (user_nid, pos);
