-- Who put which rules and policies in force, and when; and the texts of policies by their hash, as rule_sets keeps rules.
CREATE TABLE rules_loads (
    load INTEGER PRIMARY KEY NOT NULL,
    rules_hash TEXT NOT NULL,
    policies_hash TEXT NOT NULL,
    actor TEXT NOT NULL,
    at_ms BIGINT NOT NULL
);
CREATE TABLE policy_sets (
    hash TEXT PRIMARY KEY NOT NULL,
    texts TEXT NOT NULL,
    kept_ms BIGINT NOT NULL
);
