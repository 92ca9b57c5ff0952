-- Everything cases keeps (DESIGN §6, §7). Kept to what SQLite and PostgreSQL both take: BIGINT for every number (flags
-- are 0 and 1), TEXT, no NULL but where "none" is a value of its own. Times are milliseconds since 1970;
-- 9223372036854775807 is never. INTEGER PRIMARY KEY is SQLite's row number, which needs no index of its own: BIGINT
-- PRIMARY KEY in PostgreSQL.

CREATE TABLE settings (
    name TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
);

-- Where each partition's shard stood with its last commit, and each change of rules.
CREATE TABLE partitions (
    partition_id INTEGER PRIMARY KEY NOT NULL,
    next_offset BIGINT NOT NULL,
    watermark BIGINT NOT NULL,
    rules_hash TEXT NOT NULL,
    updated_ms BIGINT NOT NULL
);
CREATE TABLE rule_switches (
    partition_id BIGINT NOT NULL,
    next_offset BIGINT NOT NULL,
    watermark BIGINT NOT NULL,
    rules_hash TEXT NOT NULL,
    at_ms BIGINT NOT NULL
);
CREATE TABLE rule_sets (
    hash TEXT PRIMARY KEY NOT NULL,
    texts TEXT NOT NULL,
    kept_ms BIGINT NOT NULL
);

-- What a rule and its policy say in words: one row for very many exceptions.
CREATE TABLE bodies (
    body INTEGER PRIMARY KEY NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    words TEXT NOT NULL
);

CREATE TABLE exceptions (
    exception INTEGER PRIMARY KEY NOT NULL,
    exception_id TEXT NOT NULL UNIQUE,
    rule TEXT NOT NULL,
    parcel_id TEXT NOT NULL,
    episode TEXT NOT NULL,
    partition_id BIGINT NOT NULL,
    state TEXT NOT NULL,
    engine_open BIGINT NOT NULL,
    stage BIGINT NOT NULL,
    severity BIGINT NOT NULL,
    highest_stage BIGINT NOT NULL,
    highest_severity BIGINT NOT NULL,
    anchor BIGINT NOT NULL,
    due BIGINT NOT NULL,
    opened_at BIGINT NOT NULL,
    opened_ms BIGINT NOT NULL,
    news TEXT NOT NULL,
    news_at BIGINT NOT NULL,
    news_seq BIGINT NOT NULL,
    evidence_seq BIGINT NOT NULL,
    resolved_at BIGINT,
    resolution TEXT NOT NULL,
    ack_ms BIGINT,
    ack_by TEXT NOT NULL,
    ack_comment TEXT NOT NULL,
    incomplete BIGINT NOT NULL,
    body BIGINT NOT NULL,
    group_id TEXT NOT NULL,
    updated_ms BIGINT NOT NULL,
    -- The ladder: the escalator's own.
    ladder_ms BIGINT NOT NULL,
    ladder_round BIGINT NOT NULL,
    step BIGINT NOT NULL,
    told_seq BIGINT NOT NULL,
    told BIGINT NOT NULL,
    told_ms BIGINT NOT NULL,
    reminders BIGINT NOT NULL,
    waiting BIGINT NOT NULL,
    next_ms BIGINT NOT NULL
);
CREATE INDEX exceptions_parcel ON exceptions (parcel_id);
CREATE INDEX exceptions_rule ON exceptions (rule, exception);
CREATE INDEX exceptions_standing ON exceptions (exception) WHERE state <> 'resolved';
CREATE INDEX exceptions_engine ON exceptions (partition_id) WHERE engine_open = 1;
CREATE INDEX exceptions_next ON exceptions (partition_id, next_ms) WHERE next_ms < 9223372036854775807;
CREATE INDEX exceptions_group ON exceptions (group_id, waiting, state) WHERE state <> 'resolved' OR waiting = 1;
CREATE INDEX exceptions_ended ON exceptions (updated_ms) WHERE state = 'resolved';

CREATE TABLE changes (
    seq INTEGER PRIMARY KEY NOT NULL,
    exception BIGINT NOT NULL,
    -- Of (rule-set hash, offset, at, change, stage): with the exception, the change's name.
    name TEXT NOT NULL,
    change TEXT NOT NULL,
    stage BIGINT NOT NULL,
    severity BIGINT NOT NULL,
    at BIGINT NOT NULL,
    anchor BIGINT NOT NULL,
    due BIGINT NOT NULL,
    resolution TEXT NOT NULL,
    partition_id BIGINT NOT NULL,
    log_offset BIGINT NOT NULL,
    rules_hash TEXT NOT NULL,
    body BIGINT NOT NULL,
    incomplete BIGINT NOT NULL,
    committed_ms BIGINT NOT NULL,
    evidence TEXT NOT NULL,
    UNIQUE (exception, name)
);

CREATE TABLE groups (
    group_id TEXT PRIMARY KEY NOT NULL,
    policy TEXT NOT NULL,
    group_values TEXT NOT NULL,
    told BIGINT NOT NULL,
    last_ms BIGINT NOT NULL,
    flush_ms BIGINT NOT NULL
);
CREATE INDEX groups_flush ON groups (flush_ms) WHERE flush_ms < 9223372036854775807;

-- Who was told of what stands, and is owed its resolve.
CREATE TABLE told (
    exception BIGINT NOT NULL,
    receiver TEXT NOT NULL,
    recipient TEXT NOT NULL,
    PRIMARY KEY (exception, receiver, recipient)
);

CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY NOT NULL,
    id TEXT NOT NULL UNIQUE,
    receiver TEXT NOT NULL,
    integration TEXT NOT NULL,
    recipient TEXT NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    thread TEXT NOT NULL,
    -- pending, delivered, dead, dry_run
    state TEXT NOT NULL,
    -- An older message of the same thread to the same recipient is not finished.
    blocked BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    due_ms BIGINT NOT NULL,
    lease_ms BIGINT NOT NULL,
    done_ms BIGINT,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX outbox_due ON outbox (receiver, due_ms, lease_ms) WHERE state = 'pending' AND blocked = 0;
CREATE INDEX outbox_thread ON outbox (receiver, recipient, thread, seq) WHERE state = 'pending';
CREATE INDEX outbox_state ON outbox (state, created_ms);

-- Which news each message holds.
CREATE TABLE notices (
    outbox_id TEXT NOT NULL,
    exception BIGINT NOT NULL,
    change TEXT NOT NULL,
    stage BIGINT NOT NULL,
    step BIGINT NOT NULL,
    at BIGINT NOT NULL,
    reminder BIGINT NOT NULL,
    PRIMARY KEY (outbox_id, exception)
);
CREATE INDEX notices_exception ON notices (exception);

-- Decisions not to send, and why.
CREATE TABLE unsent (
    exception BIGINT NOT NULL,
    reason TEXT NOT NULL,
    step BIGINT NOT NULL,
    at_ms BIGINT NOT NULL
);
CREATE INDEX unsent_exception ON unsent (exception);

-- What operators did.
CREATE TABLE actions (
    exception BIGINT NOT NULL,
    action TEXT NOT NULL,
    actor TEXT NOT NULL,
    remark TEXT NOT NULL,
    at_ms BIGINT NOT NULL
);
CREATE INDEX actions_exception ON actions (exception);

CREATE TABLE rejected_records (
    seq INTEGER PRIMARY KEY NOT NULL,
    partition_id BIGINT NOT NULL,
    log_offset BIGINT NOT NULL,
    append_ms BIGINT NOT NULL,
    reason TEXT NOT NULL,
    record_key TEXT NOT NULL,
    head TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    UNIQUE (partition_id, log_offset)
);
