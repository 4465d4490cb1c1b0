-- Changes of local users that their rooms are still to hear of (roomserver): 1 the profile, 2 that they are gone, 3 both.
CREATE TABLE follow_ups (
    user_id BYTEA NOT NULL PRIMARY KEY,
    what BIGINT NOT NULL
)
-- sqlite: WITHOUT ROWID
;
