//! The relational truth: exceptions, their changes, the escalation's state, the outbox, what operators did (DESIGN §2,
//! §6, §7). SQLite inside the process, by sqlx; the SQL is kept to what PostgreSQL takes too.
//!
//! One connection writes, so a transaction sees nobody between its reads and its writes. Times are milliseconds since
//! 1970. An exception has a small number of its own, `exception`, under which the other tables know it; the id of
//! DESIGN §6 is what everybody outside sees.
//!
//! How a change travels: [`Cases::commit`] writes it and sets the exception's `next_ms`; the escalator
//! ([`crate::runtime::escalator`]) takes what is due, decides with [`crate::escalation`], and writes ladder, who was
//! told and the outbox in one transaction; delivery takes [`Cases::outbox_due`] and answers [`Cases::outbox_done`].

mod error;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;

use crate::model::{Change, ExceptionId, Severity, Time};
use crate::rules::{Policies, RuleSet};

pub use error::CasesError;

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Cases {}

/// How the file is opened; tests use others than the default.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a statement waits for another process's lock.
    pub busy_timeout: Duration,
    /// SQLite's `max_page_count`: a full disk for tests.
    pub max_page_count: Option<u32>,
}

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
    /// `new`, `raised`, `step`, `reminder`, `ack_expired`, `resolved`, `digest`, `test`.
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
    /// Rows by state: `pending`, `delivered`, `dead`, `dry_run`.
    pub rows: BTreeMap<String, i64>,
    /// `created_ms` of the oldest pending one.
    pub oldest_pending_ms: Option<i64>,
}

impl Cases {
    /// Changes a transaction takes at most.
    pub const MAX_BATCH: usize = 10_000;
    /// Rejected records kept.
    pub const MAX_REJECTED: i64 = 10_000;

    /// Opens or makes the database at `path` (a file) and brings its tables up to date.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn open(path: &Path) -> Result<Cases, CasesError> {
        Cases::open_with(path, &Options::default()).await
    }

    /// As [`Cases::open`], with other limits.
    pub async fn open_with(_path: &Path, _options: &Options) -> Result<Cases, CasesError> {
        todo!()
    }

    /// Closes the connections after what is under way.
    pub async fn close(&self) {
        todo!()
    }

    /// Writes changes, their exceptions and the partition's position in one transaction. All or nothing; safe to
    /// repeat.
    pub async fn commit(&self, _batch: &Batch<'_>) -> Result<Committed, CasesError> {
        todo!()
    }

    /// Where a partition's shard stood; `None` where it never committed.
    pub async fn recorded(&self, _partition: i32) -> Result<Option<Recorded>, CasesError> {
        todo!()
    }

    /// What stands in a partition by the engine's account.
    pub async fn standing(&self, _partition: i32) -> Result<Vec<Standing>, CasesError> {
        todo!()
    }

    /// Keeps the texts of a rule set (file name → text) under its hash.
    pub async fn keep_rules(
        &self,
        _hash: &str,
        _texts: &BTreeMap<String, String>,
        _now_ms: i64,
    ) -> Result<(), CasesError> {
        todo!()
    }

    /// The texts kept under a hash.
    pub async fn rules_texts(&self, _hash: &str) -> Result<Option<BTreeMap<String, String>>, CasesError> {
        todo!()
    }

    /// Keeps rejected records, the newest [`Cases::MAX_REJECTED`] of all.
    pub async fn reject(&self, _records: &[Rejected], _now_ms: i64) -> Result<(), CasesError> {
        todo!()
    }

    /// Standing exceptions by (rule, severity), kept up to date by every commit; no query.
    #[must_use]
    pub fn open_counts(&self) -> BTreeMap<(String, Severity), i64> {
        todo!()
    }

    /// A list for the API; `limit` at most 1,000.
    pub async fn exceptions(
        &self,
        _filter: &Filter,
        _limit: u32,
        _cursor: Option<&str>,
        _now_ms: i64,
    ) -> Result<Page, CasesError> {
        todo!()
    }

    /// One exception with its changes.
    pub async fn exception(&self, _id: &str, _now_ms: i64) -> Result<Option<Value>, CasesError> {
        todo!()
    }

    /// Who was told what about an exception (all of them without an id), newest first.
    pub async fn notifications(
        &self,
        _exception_id: Option<&str>,
        _limit: u32,
        _cursor: Option<&str>,
    ) -> Result<Page, CasesError> {
        todo!()
    }

    /// An operator took it on: the ladder stops.
    pub async fn acknowledge(&self, _id: &str, _by: &str, _comment: &str, _now_ms: i64) -> Result<Acted, CasesError> {
        todo!()
    }

    /// An operator ended it (SEMANTICS 8.2).
    pub async fn resolve(&self, _id: &str, _by: &str, _comment: &str, _now_ms: i64) -> Result<Acted, CasesError> {
        todo!()
    }

    /// The random key of links in mails, made at the first call.
    pub async fn link_key(&self) -> Result<[u8; 32], CasesError> {
        todo!()
    }

    /// Forgets resolved exceptions and finished messages older than this (`cases.keep`); at most `limit` of each.
    pub async fn purge(&self, _before_ms: i64, _limit: u32) -> Result<u64, CasesError> {
        todo!()
    }

    /// Woken when changes were committed or an operator acted: the escalator waits on it.
    #[must_use]
    pub fn changed(&self) -> Arc<Notify> {
        todo!()
    }

    /// Woken when outbox rows were written or came free: every dispatcher that waits on
    /// [`Notify::notified`] is woken (`notify_waiters`); make the future before asking [`Cases::outbox_due`].
    #[must_use]
    pub fn outbox_filled(&self) -> Arc<Notify> {
        todo!()
    }

    /// Takes messages of a receiver that may be tried now and hides them for `lease_ms`. Of one thread to one recipient only
    /// the oldest unfinished message is ever handed out, so they arrive in order.
    pub async fn outbox_due(
        &self,
        _receiver: &str,
        _now_ms: i64,
        _limit: u32,
        _lease_ms: i64,
    ) -> Result<Vec<OutboxRow>, CasesError> {
        todo!()
    }

    /// When the next message of a receiver may be tried (a retry's time, a lease's end); `None`: nothing is pending.
    pub async fn outbox_next(&self, _receiver: &str) -> Result<Option<i64>, CasesError> {
        todo!()
    }

    /// How the try of a message ended.
    pub async fn outbox_done(&self, _id: &str, _now_ms: i64, _outcome: Outcome) -> Result<(), CasesError> {
        todo!()
    }

    /// A message by its id, whatever its state: for the acknowledge link.
    pub async fn outbox_message(&self, _id: &str) -> Result<Option<OutboxRow>, CasesError> {
        todo!()
    }

    /// Puts messages into the outbox that no escalation decided: a receiver's test.
    pub async fn outbox_put(&self, _rows: &[OutboxRow]) -> Result<(), CasesError> {
        todo!()
    }

    /// The outbox in figures, for metrics.
    pub async fn outbox_stats(&self) -> Result<OutboxStats, CasesError> {
        todo!()
    }
}

impl Default for Options {
    fn default() -> Options {
        Options { busy_timeout: Duration::from_secs(5), max_page_count: None }
    }
}
