//! Who is told, when: receivers, policies, owners (DESIGN §7, §10). Calendars of the same file are part of the
//! [`super::RuleSet`].

use std::collections::BTreeMap;

use super::calendar::Calendar;
use super::condition::Condition;
use super::ruleset::Span;
use super::template::Templates;
use crate::model::{DAY, MINUTE, Severity, Time};

/// `policies.yaml`, checked.
#[derive(Debug, Default, Clone)]
pub struct Policies {
    /// SHA-256 (hexadecimal) over what it means.
    pub hash: String,
    /// By id, in file order.
    pub receivers: Vec<Receiver>,
    /// By id, in file order.
    pub policies: Vec<Policy>,
    /// `default_policy`, resolved to an id; `None` where there is no policy at all.
    pub default_policy: Option<String>,
    /// `owners:` by the rule's owner.
    pub owners: BTreeMap<String, OwnerRoute>,
    /// `inhibit:` in file order.
    pub inhibit: Vec<Inhibit>,
    /// `mute:` in file order.
    pub mute: Vec<Mute>,
    /// `rates:` by receiver.
    pub rates: BTreeMap<String, Rate>,
    /// `auditor:`.
    pub auditor: Auditor,
    /// `feeds:`; `None`: nobody asks whether feeds speak.
    pub feeds: Option<FeedWatch>,
}

/// Who hears of feeds that are silent, failing or stopped, and what need not be told meanwhile.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedWatch {
    /// Receivers' ids; never empty.
    pub notify: Vec<String>,
    /// Milliseconds that any feed may be silent.
    pub silent_after: i64,
    /// Which exceptions a feed's incident explains; everything where it says nothing.
    pub target: Condition,
}

/// Who watches the watchdog.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Auditor {
    /// The receiver that is told when steps are overdue.
    pub fallback: Option<String>,
    /// The receiver that is sent a sign of life as long as none is.
    pub dead_mans_switch: Option<String>,
    /// Milliseconds between signs of life.
    pub every: i64,
}

/// How many messages a recipient takes; more become a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At once, and in each [`Rate::per_ms`].
    pub messages: i64,
    /// Milliseconds.
    pub per_ms: i64,
}

/// What stands explains what else stands: only the cause is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Inhibit {
    /// The cause.
    pub source: Condition,
    /// What it explains.
    pub target: Condition,
    /// Names whose values both have alike, for it to do so.
    pub equal: Vec<String>,
}

/// A calendar that keeps quiet.
#[derive(Debug, Clone, PartialEq)]
pub struct Mute {
    /// Its id.
    pub id: String,
    /// Whose opening hours count.
    pub calendar: Calendar,
    /// Quiet while the calendar is closed; else while it is open.
    pub outside: bool,
    /// What of; everything where it says nothing.
    pub on: Condition,
}

/// Somebody to tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Receiver {
    /// Its id.
    pub id: String,
    /// How it is reached.
    pub kind: ReceiverKind,
    /// Texts of its own.
    pub templates: Templates,
}

impl Receiver {
    /// One with the built-in texts.
    #[must_use]
    pub fn new(id: impl Into<String>, kind: ReceiverKind) -> Receiver {
        Receiver { id: id.into(), kind, templates: Templates::default() }
    }
}

/// How a receiver is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum ReceiverKind {
    /// One message a recipient.
    Email {
        /// Addresses.
        to: Vec<String>,
    },
    /// Standard Webhooks.
    Webhook {
        /// Where to; may be a secret.
        url: SecretText,
        /// Signing key, `whsec_…`; unsigned where absent.
        secret: Option<SecretText>,
    },
    /// An incoming webhook of Slack.
    Slack {
        /// The URL, which is the secret.
        url: SecretText,
    },
    /// Events v2: one incident a group.
    PagerDuty {
        /// The integration's key.
        routing_key: SecretText,
        /// Where events go; `None`: PagerDuty's own address.
        url: Option<String>,
    },
    /// Alertmanager's API v2: one alert an exception, at each of these.
    Alertmanager {
        /// Base URLs; every one is told.
        urls: Vec<String>,
    },
    /// A program of the user's.
    Command {
        /// The program and its arguments.
        argv: Vec<String>,
        /// How long it may take, milliseconds.
        timeout: i64,
    },
}

impl ReceiverKind {
    /// The `integration` label of metrics and rows.
    #[must_use]
    pub const fn integration(&self) -> &'static str {
        match self {
            ReceiverKind::Email { .. } => "email",
            ReceiverKind::Webhook { .. } => "webhook",
            ReceiverKind::Slack { .. } => "slack",
            ReceiverKind::PagerDuty { .. } => "pagerduty",
            ReceiverKind::Alertmanager { .. } => "alertmanager",
            ReceiverKind::Command { .. } => "command",
        }
    }

    /// Who is told, each by a message of their own: addresses, Alertmanagers; "" where there is one only.
    #[must_use]
    pub fn recipients(&self) -> Vec<String> {
        match self {
            ReceiverKind::Email { to } => to.clone(),
            ReceiverKind::Alertmanager { urls } => urls.clone(),
            _ => vec![String::new()],
        }
    }

    /// Whether it keeps one incident or alert for what stands, and so is told all of it and never a digest.
    #[must_use]
    pub const fn keeps_what_stands(&self) -> bool {
        matches!(self, ReceiverKind::PagerDuty { .. } | ReceiverKind::Alertmanager { .. })
    }
}

/// A text that may live elsewhere. Never printed: `config::read_secret` reads it.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretText {
    /// Written in place (allowed for a URL, never for a key).
    Plain(String),
    /// `{file: PATH}`, relative to the file that names it.
    File(std::path::PathBuf),
    /// `{env: NAME}`.
    Env(String),
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

/// One escalation policy.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    /// Its id.
    pub id: String,
    /// Names of facts, or `rule`, `severity`, `owner`, `parcel_id`: what an exception's group is made of.
    pub group_by: Vec<String>,
    /// Milliseconds from a group's first news to its first message.
    pub group_wait: i64,
    /// Milliseconds between messages of one group.
    pub group_interval: i64,
    /// Milliseconds after which what stands is told again; `None`: never.
    pub repeat_every: Option<i64>,
    /// Milliseconds after which an acknowledgement ends; `None`: never.
    pub ack_timeout: Option<i64>,
    /// The ladder; never empty.
    pub steps: Vec<Step>,
    /// Facts shown in messages besides those of `group_by` and the rule's matchers.
    pub show: Vec<String>,
    /// Steps count in it; `None`: on the plain clock.
    pub calendar: Option<Calendar>,
    /// Where there is a calendar: what each step's `after` is in it. [`Step::after`] stands for one that is missing here.
    pub spans: Vec<Span>,
    /// Milliseconds of the local day at which all it has to say is said, once a day; `None`: group by group. The zone is
    /// the calendar's, else UTC.
    pub digest_at: Option<i64>,
    /// Nobody acknowledges without a comment.
    pub comment_needed: bool,
    /// Milliseconds that a resolve is held back: what opens again by then goes on as if it had never ended.
    pub hold_resolve: i64,
    /// Milliseconds after an end in which what opens again stays in its group, and so in its thread.
    pub reopen_within: i64,
}

impl Policy {
    /// The next moment of its daily digest after `now`; `None`: it has none.
    #[must_use]
    pub fn next_digest(&self, now: i64) -> Option<i64> {
        let at = self.digest_at?;
        Some(match &self.calendar {
            Some(calendar) => calendar.next_clock(Time(now), at).0,
            None => {
                let today = now.div_euclid(DAY) * DAY + at;
                if today > now { today } else { today + DAY }
            }
        })
    }
}

/// A rung.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Milliseconds after the exception's latest `opened` was committed.
    pub after: i64,
    /// Receivers' ids, or `owner`.
    pub notify: Vec<String>,
    /// Only exceptions at least this bad.
    pub min_severity: Option<Severity>,
}

/// `owners:` one entry.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OwnerRoute {
    /// The fact that picks; `None`: always the default.
    pub by: Option<String>,
    /// Receivers by that fact's text.
    pub to: BTreeMap<String, Vec<String>>,
    /// Receivers where none fits.
    pub default: Vec<String>,
}

impl Policies {
    /// The policy of this id.
    #[must_use]
    pub fn policy(&self, id: &str) -> Option<&Policy> {
        self.policies.iter().find(|p| p.id == id)
    }

    /// How many messages each recipient of a receiver takes: as `rates:` says, else as people read (mail, chat) or as programs do.
    /// `None`: as many as there are, for those that keep one incident or alert for each group or exception.
    #[must_use]
    pub fn rate(&self, receiver: &str) -> Option<Rate> {
        if let Some(rate) = self.rates.get(receiver) {
            return Some(*rate);
        }
        match self.receiver(receiver)?.kind.integration() {
            "email" | "slack" => Some(Rate { messages: 20, per_ms: 10 * MINUTE }),
            "webhook" | "command" => Some(Rate { messages: 300, per_ms: 10 * MINUTE }),
            _ => None,
        }
    }

    /// The receiver of this id.
    #[must_use]
    pub fn receiver(&self, id: &str) -> Option<&Receiver> {
        self.receivers.iter().find(|r| r.id == id)
    }
}
