//! Messages out (DESIGN §7): e-mail, signed webhooks, Slack, PagerDuty, Alertmanager, commands; how their answers are classed, when they are tried again.
//!
//! A [`Message`] is a row of the outbox: decided, rendered and committed before anything here sees it. A [`Notifier`] tries
//! it once and says what came of it; it never retries, never panics on an answer and holds a time limit of its own. When to
//! try again is [`backoff`]'s, the loop is `runtime::dispatcher`'s. Every try of a message carries the same id and the same
//! bytes, so that a second delivery is recognised by the other side.

pub mod alertmanager;
pub mod backoff;
pub mod body;
pub mod command;
pub mod dkim;
pub mod egress;
pub mod email;
pub mod link;
mod mail;
pub mod pagerduty;
pub mod slack;
pub mod templated;
pub mod webhook;

use futures_util::future::BoxFuture;

/// A row of the outbox, to be delivered to one recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The row's id: `webhook-id`, and the `Message-ID`'s local part.
    pub id: String,
    /// The receiver's id.
    pub receiver: String,
    /// `email`, `webhook`, `slack` and so on: [`crate::rules::policies::ReceiverKind::integration`].
    pub integration: String,
    /// An address; "" where the receiver has one only.
    pub recipient: String,
    /// What it is about: `new`, `raised`, `step`, `reminder`, `resolved`, `test` and so on.
    pub kind: String,
    /// The mail's subject, the same for all messages of a thread.
    pub subject: String,
    /// The JSON of DESIGN §11, as it goes out.
    pub body: String,
    /// The group: messages of one thread stay in order.
    pub thread: String,
    /// Tries that failed so far.
    pub attempts: u32,
    /// When it was written, milliseconds since 1970.
    pub created_ms: i64,
    /// When it is due, milliseconds since 1970.
    pub due_ms: i64,
    /// Exceptions of its thread that this recipient was told of and that stand, at the moment it was taken to be tried. Only
    /// those who keep one incident for them ask; else 0.
    pub standing: i64,
}

/// How a failure is treated (`reference/alerting.md` §4.2). The names are label values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureClass {
    /// Never to be repeated: refused for good.
    Permanent,
    /// To be tried again: the other side, or the way there, is down.
    Transient,
    /// To be tried again, later: the other side asks for less.
    RateLimited,
    /// A matter of configuration: a credential, a certificate. Tried again, rarely.
    Auth,
    /// Sent, and the answer never came. Tried again under the same id.
    OutcomeUnknown,
}

impl FailureClass {
    /// Its name in metrics, rows and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            FailureClass::Permanent => "permanent",
            FailureClass::Transient => "transient",
            FailureClass::RateLimited => "rate_limited",
            FailureClass::Auth => "auth",
            FailureClass::OutcomeUnknown => "outcome_unknown",
        }
    }
}

/// Whom a failure concerns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// This message or its recipient; the next may well pass.
    Message,
    /// The receiver: what comes next would fail alike, so it waits.
    Receiver,
    /// The receiver asks never to be called again (410).
    Gone,
}

/// One try that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// How it is treated.
    pub class: FailureClass,
    /// Whom it concerns.
    pub scope: Scope,
    /// What happened, for operators. No secret, no query of a URL.
    pub detail: String,
    /// What the other side said about when to come back, milliseconds from now.
    pub retry_after_ms: Option<i64>,
    /// The least time until the next try that this failure asks for, milliseconds; 0 for none.
    pub floor_ms: i64,
}

impl Failure {
    /// A failure without a wish about the next try.
    #[must_use]
    pub fn new(class: FailureClass, scope: Scope, detail: impl Into<String>) -> Failure {
        Failure { class, scope, detail: one_line(&detail.into()), retry_after_ms: None, floor_ms: 0 }
    }

    /// The same, tried again after `ms` at the earliest.
    #[must_use]
    pub fn not_before(mut self, ms: i64) -> Failure {
        self.floor_ms = ms;
        self
    }
}

/// What one try came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// The other side said yes.
    Delivered,
    /// The other side said yes to a plain message, since the proper one could not be rendered, for this reason.
    DeliveredPlain(String),
    /// It did not.
    Failed(Failure),
}

/// Somebody who can be told.
pub trait Notifier: Send + Sync {
    /// Tries once, within [`Notifier::limit`].
    fn deliver<'a>(&'a self, message: &'a Message, now_ms: i64) -> BoxFuture<'a, Delivery>;

    /// The longest that a try takes, in real time.
    fn limit(&self) -> std::time::Duration;

    /// How many messages it takes side by side at most.
    fn at_once(&self) -> usize {
        4
    }

    /// Whether it forgets what it was told unless it is told again: then [`Notifier::restate`] is called every minute.
    fn forgets(&self) -> bool {
        false
    }

    /// States anew to a recipient what stands, a list of bodies of one exception each (DESIGN §11) at a time.
    ///
    /// # Errors
    /// The first failure; what did not get through is stated with the next round.
    fn restate<'a>(
        &'a self,
        _recipient: &'a str,
        _standing: &'a [Stated],
        _now_ms: i64,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// An exception that stands, as its receiver was told of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Stated {
    /// Values of its group.
    pub group: serde_json::Map<String, serde_json::Value>,
    /// Its fields in a body (DESIGN §11).
    pub listed: serde_json::Value,
}

/// Makes a foreign text fit for a log line: control characters become spaces, at most 300 characters.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    line.truncate(line.trim_end().len());
    line
}
