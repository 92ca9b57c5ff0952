-- When it last ended, by the wall clock: a resolve may be held back for a while.
ALTER TABLE exceptions ADD COLUMN ended_ms BIGINT NOT NULL DEFAULT 0;

-- How many more messages a recipient takes.
CREATE TABLE buckets (
    receiver TEXT NOT NULL,
    recipient TEXT NOT NULL,
    level BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (receiver, recipient)
);

-- Digests that are being gathered; each has the id that its message will have.
CREATE TABLE digests (
    receiver TEXT NOT NULL,
    recipient TEXT NOT NULL,
    cause TEXT NOT NULL,
    id TEXT NOT NULL,
    due_ms BIGINT NOT NULL,
    gathered TEXT NOT NULL,
    PRIMARY KEY (receiver, recipient, cause)
);
CREATE INDEX digests_due ON digests (due_ms);
