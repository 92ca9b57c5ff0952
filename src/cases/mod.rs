//! The relational truth: exceptions, their changes, the escalation's state, the outbox, what operators did (DESIGN §2,
//! §6, §7). SQLite inside the process, or a PostgreSQL that several processes share; the SQL is the same (`sql` has the few differences).
//!
//! One connection writes, and in PostgreSQL one process at a time, so a transaction sees nobody between its reads and its writes. Times are milliseconds since
//! 1970. An exception has a small number of its own, `exception`, under which the other tables know it; the id of
//! DESIGN §6 is what everybody outside sees.
//!
//! How a change travels: [`Cases::commit`] writes it and sets the exception's `next_ms`; the escalator
//! ([`crate::runtime::escalator`]) takes what is due, decides with [`crate::escalation`], and writes ladder, who was
//! told and the outbox in one transaction; delivery takes [`Cases::outbox_due`], which withdraws what is no longer to be said, and
//! answers [`Cases::outbox_done`].

mod audit;
mod causes;
mod commit;
mod digests;
mod error;
mod escalation;
mod feeds;
mod fence;
mod fold;
mod keep;
mod leases;
mod letters;
mod listing;
mod loads;
mod memory;
mod operate;
mod orders;
mod outbox;
mod overdue;
mod preview;
mod query;
mod replay;
mod row;
mod silences;
mod sql;
mod standing;
mod store;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::escalation::feeds::Heard;
use crate::model::{Change, ExceptionId, Severity, Time};
use crate::rules::{Policies, RuleSet};

pub use audit::{Chain, Deed, Who, chained};
pub use digests::DueDigest;
pub use error::CasesError;
pub use escalation::Escalation;
pub use leases::Lead;
pub use letters::DeadLetters;
pub use loads::RulesLoad;
pub use memory::Memory;
pub use operate::{Act, GroupActed};
pub use overdue::Audit;
pub use preview::Preview;
pub use replay::{Handled, Replay};
pub use silences::{NewSilence, Reach};
pub use sql::{Place, Server};
pub use standing::ToldException;
pub use store::{Cases, Options};

/// What a shard hands over at once: its changes in order, and how far it is. One transaction.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The partition.
    pub partition: i32,
    /// At most [`Cases::MAX_BATCH`], in the order they were decided. May be empty: then only the position moves.
    pub changes: &'a [Change],
    /// The rules that decided.
    pub rules: &'a RuleSet,
    /// The policies in force, which fix the group of what opens.
    pub policies: &'a Policies,
    /// What its records told of feeds.
    pub heard: &'a [Heard],
    /// How far the shard is once these changes are durable.
    pub recorded: &'a Recorded,
    /// Wall time.
    pub now_ms: i64,
}

/// Where a partition's shard stood when its last changes were committed (DESIGN §6).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recorded {
    /// The offset that is read next.
    pub position: i64,
    /// Its watermark.
    pub watermark: Time,
    /// [`RuleSet::hash`] of the rules it folded with.
    pub rules_hash: String,
}

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// For each change of the batch: whether it was new. One written before is a no-op.
    pub new: Vec<bool>,
}

/// An exception that stands by the engine's own account, for reconcile (DESIGN §6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its id.
    pub exception_id: ExceptionId,
    /// The rule's id.
    pub rule: String,
    /// The parcel.
    pub parcel_id: String,
    /// "" or the anchor's time as printed.
    pub episode: String,
    /// Of the latest opened or raised.
    pub stage: u8,
    /// Of the latest opened or raised.
    pub severity: Severity,
    /// Highest stage told since the latest opened.
    pub highest_stage: u8,
    /// Highest severity told since the latest opened.
    pub highest_severity: Severity,
    /// Of the latest opened or raised.
    pub anchor: Time,
    /// Of the latest opened or raised.
    pub due: Time,
    /// An operator resolved it; the engine has not ended it. Left alone (SEMANTICS 8.2).
    pub by_operator: bool,
}

/// Which exceptions to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Which states.
    pub state: StateFilter,
    /// Only this rule's.
    pub rule: Option<String>,
    /// Only this parcel's.
    pub parcel_id: Option<String>,
    /// Only what this one has to act on.
    pub owner: Option<String>,
    /// Only of this severity.
    pub severity: Option<Severity>,
    /// Only this order's.
    pub order_id: Option<String>,
    /// Only this group's.
    pub group_id: Option<String>,
}

/// `state=` of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum StateFilter {
    /// Open and acknowledged.
    #[default]
    Standing,
    Open,
    Acknowledged,
    Resolved,
    All,
}

/// One page of a list, as `{"items": […], "next_cursor": …}` wants it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// Newest first.
    pub items: Vec<Value>,
    /// Hand it back for the next page.
    pub next_cursor: Option<String>,
}

/// What an operator's action met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Acted {
    Done,
    /// It was so already (acknowledged, resolved): nothing changed.
    Already,
    /// It is resolved: an acknowledgement makes no sense.
    Resolved,
    /// Its policy asks for a comment.
    CommentNeeded,
    NotFound,
}

/// A record that could not be decoded (DESIGN §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Where it stood.
    pub partition: i32,
    /// Where it stood.
    pub offset: i64,
    /// Its append time.
    pub append: Time,
    /// The closed set of [`crate::model::RejectReason`].
    pub reason: &'static str,
    /// Its key's and value's first bytes, made printable.
    pub key: String,
    /// At most some hundred characters.
    pub head: String,
}

/// A message to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// `webhook-id`, the local part of `Message-ID`; holds no `.`; the same on every try.
    pub id: String,
    /// The receiver's id.
    pub receiver: String,
    /// `email` or `webhook`.
    pub integration: String,
    /// The address; "" for a webhook.
    pub recipient: String,
    /// `new`, `raised`, `step`, `reminder`, `ack_expired`, `resolved`, `digest`, `feed.incident`, `feed.resolved`, `test`.
    pub kind: String,
    /// The same for every message of a group.
    pub subject: String,
    /// The JSON of DESIGN §11, rendered once.
    pub body: String,
    /// The group's id: the root of the mail thread.
    pub thread: String,
    /// Tries so far.
    pub attempts: u32,
    /// When it was decided.
    pub created_ms: i64,
    /// When it may be tried.
    pub due_ms: i64,
}

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The other side said yes.
    Delivered,
    /// Not yet.
    Retry {
        /// When to try again.
        at_ms: i64,
        /// One of a closed set, for metrics.
        reason: String,
        /// For people.
        detail: String,
    },
    /// Never: a dead letter.
    Dead {
        /// One of a closed set, for metrics.
        reason: String,
        /// For people.
        detail: String,
    },
}

/// The outbox in figures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutboxStats {
    /// Rows by state: `pending`, `delivered`, `withdrawn`, `dead`, `dry_run`.
    pub rows: BTreeMap<String, i64>,
    /// `created_ms` of the oldest pending one.
    pub oldest_pending_ms: Option<i64>,
}
