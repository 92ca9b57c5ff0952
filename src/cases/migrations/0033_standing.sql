-- Whom a receiver is told of, asked for by receiver: those that keep an incident or an alert for what stands.
CREATE INDEX told_receiver ON told (receiver, recipient, exception);
