-- Who did what, each row chained by its hash to the one before: nothing is changed or taken out unseen.
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY NOT NULL,
    at_ms BIGINT NOT NULL,
    -- By what right: a token's name, a link in a mail; '': nothing was asked for.
    actor TEXT NOT NULL,
    -- As they call themselves.
    remark_by TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    detail TEXT NOT NULL,
    hash TEXT NOT NULL
);
