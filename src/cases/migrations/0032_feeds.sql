-- What is known of feeds: a source, and what it says of each lane (lane '': the source as a whole).
CREATE TABLE feeds (
    feed INTEGER PRIMARY KEY NOT NULL,
    source TEXT NOT NULL,
    lane TEXT NOT NULL,
    -- Append times of its first and its latest record.
    first_ms BIGINT NOT NULL,
    last_ms BIGINT NOT NULL,
    -- The hours in which it spoke: the newest, and a bit for each of four weeks.
    hours TEXT NOT NULL,
    -- What it last said of itself; '': nothing.
    health TEXT NOT NULL,
    health_ms BIGINT NOT NULL,
    -- What is wrong with it; '': nothing.
    incident TEXT NOT NULL,
    since_ms BIGINT NOT NULL,
    opened_ms BIGINT NOT NULL,
    -- Who was told of an incident and not yet of its end: a JSON list of [receiver, recipient].
    told TEXT NOT NULL
);
CREATE UNIQUE INDEX feeds_name ON feeds (source, lane);
