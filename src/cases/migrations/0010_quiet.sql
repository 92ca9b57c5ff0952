-- What keeps an exception quiet, and since which news; where another exception explains it, which.
ALTER TABLE exceptions ADD COLUMN held TEXT NOT NULL DEFAULT '';
ALTER TABLE exceptions ADD COLUMN held_by BIGINT NOT NULL DEFAULT 0;
ALTER TABLE exceptions ADD COLUMN held_seq BIGINT NOT NULL DEFAULT 0;
CREATE INDEX exceptions_held ON exceptions (held, held_by) WHERE held <> '';

-- One vocabulary of reasons, here as in the metrics.
UPDATE unsent SET reason = 'min_severity' WHERE reason = 'below_severity';
UPDATE unsent SET reason = 'receiver_disabled' WHERE reason = 'receiver_gone';
UPDATE unsent SET reason = 'resolved_before_send' WHERE reason = 'resolved_before_flush';
