-- Who may do what of which there is to be one only, where several processes share the database: the escalation, and each partition. Whoever
-- takes it counts the fence up; who comes with an older one writes nothing.
CREATE TABLE leases (
    -- 'escalation', or 'partition ' and its number.
    name TEXT PRIMARY KEY NOT NULL,
    -- '': nobody.
    holder TEXT NOT NULL,
    fence BIGINT NOT NULL,
    -- Counted up by the holder while it lives. Others watch it by clocks of their own: no two clocks are compared.
    beat BIGINT NOT NULL,
    -- Of a partition: when it had caught up, by the wall clock; 0: it has a backlog.
    caught_up_ms BIGINT NOT NULL
);
