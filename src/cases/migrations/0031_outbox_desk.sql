-- Dead letters, newest first, however many messages were delivered. A message that an operator dropped has the state 'dropped'.
CREATE INDEX outbox_dead_letters ON outbox (seq) WHERE state = 'dead';
