-- What operators keep quiet. Kept after its end, for the record; purged with old exceptions.
CREATE TABLE silences (
    silence INTEGER PRIMARY KEY NOT NULL,
    matchers TEXT NOT NULL,
    starts_ms BIGINT NOT NULL,
    ends_ms BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    remark TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    -- Who ended it before its time; '': nobody.
    ended_by TEXT NOT NULL
);
CREATE INDEX silences_end ON silences (ends_ms);
