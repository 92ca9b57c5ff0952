//! # parcelwatch: a rule-driven exception watchdog for cross-border parcels
//!
//! Milestones of parcels come in from Kafka; rules say what must follow what, and by when; what does not follow in time
//! becomes an **exception** that climbs a ladder of mails and webhooks until somebody acknowledges it or the parcel moves
//! on. Start reading here; the README is for those who run it.
//!
//! ## One event, hop by hop
//! 1. [`source::kafka`]: a consumer on a thread of its own copies records into batches, by partition, through bounded
//!    channels. A second client takes *certificates*: proof that all that was stored before a moment has been read.
//! 2. [`source::decode`]: the bytes become an [`model::Event`], or a rejected record with its reason, kept and counted.
//! 3. [`runtime`] (`partition`): hands a batch to the partition's [`engine::Shard`]. The append time of each record raises
//!    the watermark W; what is due before it is decided **before** the record is folded.
//! 4. [`engine`]: facts, occurrences and holds of the parcel are updated, the rules are evaluated, and
//!    [`model::Change`]s come back as data. No IO, no clock, nothing can fail.
//! 5. [`cases`]: one transaction writes the changes by their name and the exceptions' rows. Then, from time to time, a
//!    [`snapshots`] of the shard at an offset is published; Kafka's committed offset follows for lag tools.
//! 6. [`runtime`] (`progress`, `partition`): between records a fresh certificate may raise W. Lag, an outage or a restart
//!    delay an alarm; they never invent one.
//! 7. [`runtime`] (`escalator`): reads what was committed and steps the second pure fold, [`escalation`]: groups, ladders,
//!    acknowledgements → who is told what, and when to look again.
//! 8. [`cases`]: one transaction writes that decision: outbox rows with their bodies, who was told, timers.
//! 9. [`runtime`] (`dispatcher`): leases committed rows, one worker a receiver.
//! 10. [`notify`]: a mail or a signed webhook leaves; the outcome is committed.
//!
//! ## Layers
//! | layer | knows | never |
//! |---|---|---|
//! | [`model`] | nothing of the crate | IO, policy |
//! | [`rules`], [`engine`], [`escalation`] | `model`, and the compiled rules | tokio, a clock, randomness, IO, hash order |
//! | [`cases`], [`snapshots`], [`source`], [`notify`], [`http`] | the core's types | each other |
//! | [`runtime`] | all of the above | – |
//! | [`testing`] | the core, `source::decode`, cases in memory | IO |
//! | [`cli`] | all | – |
//!
//! One module names each outside crate; `tests/it/house.rs` holds both tables.
//!
//! ## Invariants
//! 1. Engine and escalation are total and deterministic functions of their inputs.
//! 2. The set of changes is a function of the log, the rules and W: any batching, crash or replay gives the same set.
//! 3. No exception opens for a parcel whose satisfying record was appended before the fire time; none is missed.
//! 4. Nothing is sent that was not committed first; nothing committed is forgotten; each exception id has one row.
//! 5. One writer a partition, one leader of the escalation: of several processes over one database, whoever was deposed commits nothing
//!    ([`cases`], `leases`).
//! 6. Every queue is bounded and has a gauge; a slow receiver slows nobody else.
//! 7. Rules are swapped whole or not at all.
//! 8. Stored formats carry a version.
//! 9. No secret in a log, an error, a page or an audit line.
//!
//! ## Modules in reading order
//! [`model`] → [`rules`] → [`engine`] → [`escalation`] → [`cases`] → [`source`] → [`snapshots`] → [`notify`] → [`http`] →
//! [`runtime`] → [`testing`] → [`cli`]; beside them [`log`] and [`metrics`].

pub mod cases;
pub mod cli;
pub mod config;
pub mod engine;
pub mod escalation;
pub mod http;
pub mod log;
pub mod metrics;
pub mod model;
pub mod notify;
pub mod rules;
pub mod runtime;
pub mod snapshots;
pub mod source;
pub mod testing;
pub mod yaml;
