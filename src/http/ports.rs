//! What the listener asks of the rest: the daemon's state, and the cases behind the API. The runtime joins them.

use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::model::{Severity, Time};

/// The daemon as seen from outside.
pub trait Daemon: Send + Sync {
    /// Whether our own loop turns; whatever Kafka, SQL or SMTP do.
    ///
    /// # Errors
    /// What stands still, for people.
    fn healthy(&self) -> Result<(), String>;

    /// Whether state is restored, the first assignment is known and folding does not wait.
    ///
    /// # Errors
    /// What is missing, for people.
    fn ready(&self) -> Result<(), String>;

    /// `/api/v1/status`.
    fn status(&self) -> BoxFuture<'_, Value>;

    /// `/api/v1/parcels/{id}`; `None` where nothing is known of it.
    fn parcel<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Option<Value>>;

    /// What is known of a parcel and what each rule makes of it, at a later time where one is named; `None` where nothing is known
    /// of it.
    fn explain<'a>(
        &'a self,
        id: &'a str,
        rule: Option<&'a str>,
        at: Option<Time>,
    ) -> BoxFuture<'a, Option<Value>>;

    /// Reads rules and policies anew. `by`: who asks. `accept`: the hash of rules that may open as much as they do. The answer
    /// says what is in force now.
    fn reload<'a>(
        &'a self,
        by: &'a str,
        accept: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Value, ReloadError>>;

    /// Called before metrics are written out: for gauges that are read, not counted.
    fn before_scrape(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Why rules were not read anew.
#[derive(Debug, Clone, PartialEq)]
pub enum ReloadError {
    /// They have problems; the old ones stay.
    Refused(String),
    /// They would open too much at once; the old ones stay until somebody accepts them by their hash.
    Brake {
        /// Of the rules.
        hash: String,
        /// Exceptions that would open.
        openings: u64,
        /// By rule.
        foreseen: Value,
    },
    /// The daemon cannot at present; the old ones stay.
    NotNow(String),
}

/// The cases behind the API. Values are in the shapes of DESIGN §11.
pub trait CasesApi: Send + Sync {
    /// Exceptions, newest first.
    fn exceptions<'a>(
        &'a self,
        filter: &'a Filter,
        limit: u32,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, ApiError>>;

    /// Each time that rules or policies were put in force, the newest first.
    fn rules_loads(&self, limit: u32) -> BoxFuture<'_, Result<Vec<Value>, ApiError>>;

    /// The texts kept under a hash, or under one that begins so.
    fn rules_texts<'a>(&'a self, hash: &'a str) -> BoxFuture<'a, Result<Option<Value>, ApiError>>;

    /// One exception with its changes.
    fn exception<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Value>, ApiError>>;

    /// Who was told what; of all exceptions without an id.
    fn notifications<'a>(
        &'a self,
        exception_id: Option<&'a str>,
        limit: u32,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, ApiError>>;

    /// An operator acts on an exception.
    fn act<'a>(
        &'a self,
        action: Action,
        id: &'a str,
        who: &'a Operator,
    ) -> BoxFuture<'a, Result<Acted, ApiError>>;

    /// What operators do besides acting on one exception; `None`: that is not offered.
    fn desk(&self) -> Option<&dyn super::silences::Desk> {
        None
    }

    /// What operators do with the outbox; `None`: that is not offered.
    fn outbox(&self) -> Option<&dyn super::outbox::Outbox> {
        None
    }

    /// Tests of receivers, and what would be sent; `None`: that is not offered.
    fn receivers(&self) -> Option<&dyn super::receivers::Receivers> {
        None
    }

    /// A message of the outbox, for its link; `None` where it is no longer kept.
    fn message<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<LinkedMessage>, ApiError>>;
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
    #[default]
    Standing,
    Open,
    Acknowledged,
    Resolved,
    All,
}

impl StateFilter {
    /// The filter of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<StateFilter> {
        match name {
            "standing" => Some(StateFilter::Standing),
            "open" => Some(StateFilter::Open),
            "acknowledged" => Some(StateFilter::Acknowledged),
            "resolved" => Some(StateFilter::Resolved),
            "all" => Some(StateFilter::All),
            _ => None,
        }
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// The entries.
    pub items: Vec<Value>,
    /// Hand it back for the next page.
    pub next_cursor: Option<String>,
}

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Action {
    Acknowledge,
    Unacknowledge,
    Resolve,
}

/// Who acts, and by what right.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Operator {
    /// As they call themselves.
    pub by: String,
    /// Their comment; may be empty.
    pub comment: String,
    /// `token erp`, `link in message …`; `None` where nothing is asked for.
    pub via: Option<String>,
}

/// What an operator's action met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Acted {
    Done,
    /// It was so already: nothing changed.
    Already,
    /// It is resolved: an acknowledgement makes no sense.
    Resolved,
    /// Its policy asks for a comment.
    CommentNeeded,
    NotFound,
}

/// A message that a link names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkedMessage {
    /// To whom it went.
    pub recipient: String,
    /// Its subject.
    pub subject: String,
    /// Its body (DESIGN §11), which lists the exceptions.
    pub body: String,
}

/// Why cases gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiError {
    /// The request is wrong, a cursor for one.
    Invalid(String),
    /// The database refuses now; the text is for the log.
    Unavailable(String),
}
