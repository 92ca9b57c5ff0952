-- A state of the outbox more: withdrawn, by the fence before the first try. A lease_ms of 0 says that a message was never handed out; one
-- that was, and whose lease a restart ended, has 1.
CREATE INDEX digests_id ON digests (id);

-- Whether others were told of a dead letter: 0 not yet looked at, 1 they were, 2 there was nothing to tell or nobody. Those of before are
-- past telling.
ALTER TABLE outbox ADD COLUMN escalated BIGINT NOT NULL DEFAULT 0;
UPDATE outbox SET escalated = 2 WHERE state = 'dead';
CREATE INDEX outbox_dead ON outbox (receiver, seq) WHERE state = 'dead' AND escalated = 0;

-- In the order in which messages are handed out: of very many that are due at once only the first are looked at, twice now.
DROP INDEX outbox_due;
CREATE INDEX outbox_due ON outbox (receiver, due_ms, seq, lease_ms) WHERE state = 'pending' AND blocked = 0;
