//! The nouns: times, milestones, decoded events, facts' names, changes. No policy, no IO.
//!
//! Everything else imports this; this imports nothing of the crate.

pub mod event;
pub mod exception;
pub mod fact;
pub mod json;
pub mod milestone;
pub mod number;
pub mod time;
pub mod vocabulary;

pub use event::{Event, FactValue, HoldField, Money, Position, Reject, RejectReason, ZoneProvenance};
pub use exception::{Change, ChangeKind, ExceptionId, Resolution, Severity, exception_id};
pub use fact::{DerivedFact, DerivedTime, FactRef, KNOWN_FACTS, known_fact};
pub use milestone::{Control, Evidence, Milestone, MilestoneSet};
pub use number::{Decimal, grouped};
pub use time::{DAY, HOUR, MINUTE, SECOND, Time};
pub use vocabulary::{FACT_WORDS, FactKind, FactWords, fact_words};
