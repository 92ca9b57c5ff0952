//! parcelwatch: a rule-driven exception watchdog for cross-border parcels.

pub mod cases;
pub mod cli;
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
