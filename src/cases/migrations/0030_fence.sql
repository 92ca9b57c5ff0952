-- A state of the outbox more: withdrawn, by the fence before the first try. A lease_ms of 0 says that a message was never handed out; one
-- that was, and whose lease a restart ended, has 1.
CREATE INDEX digests_id ON digests (id);
