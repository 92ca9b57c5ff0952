//! The nouns of the fold: an exception with its ladder, a group, who was told.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::quiet::Held;
use crate::model::{ExceptionId, Resolution, Severity, Time};

/// A time that never comes: nothing to do.
pub const NEVER: i64 = i64::MAX;

/// Where an exception is (DESIGN §6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum State {
    Open,
    Acknowledged,
    Resolved,
}

impl State {
    /// Its name in outputs and SQL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Acknowledged => "acknowledged",
            State::Resolved => "resolved",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<State> {
        [State::Open, State::Acknowledged, State::Resolved].into_iter().find(|s| s.name() == name)
    }
}

/// What a message says of an exception.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Word {
    Opened,
    Raised,
    Reminder,
    Resolved,
}

impl Word {
    /// Its name in bodies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Word::Opened => "opened",
            Word::Raised => "raised",
            Word::Reminder => "reminder",
            Word::Resolved => "resolved",
        }
    }

    /// The word of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Word> {
        [Word::Opened, Word::Raised, Word::Reminder, Word::Resolved].into_iter().find(|w| w.name() == name)
    }
}

/// Why a message is sent, the weightiest first: a message with several says the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Reason {
    New,
    Raised,
    AckExpired,
    MuteEnded,
    Step,
    Reminder,
    Resolved,
    Digest,
}

impl Reason {
    /// Its name in bodies and in the outbox.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Reason::New => "new",
            Reason::Raised => "raised",
            Reason::AckExpired => "ack_expired",
            Reason::MuteEnded => "mute_ended",
            Reason::Step => "step",
            Reason::Reminder => "reminder",
            Reason::Resolved => "resolved",
            Reason::Digest => "digest",
        }
    }
}

/// What a rule and its policy say of an exception in words: the same for very many, kept once.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Body {
    /// Its number in the database.
    #[serde(skip)]
    pub number: i64,
    /// [`crate::rules::Rule::hash`].
    pub rule_hash: String,
    /// The rule's title.
    pub title: String,
    /// Where to read what to do.
    pub runbook: Option<String>,
    /// The rule's labels.
    pub labels: BTreeMap<String, String>,
    /// Who has to act.
    pub owner: String,
    /// The policy's id; "" where there is none.
    pub policy: String,
    /// Tell nobody (SEMANTICS 5.13).
    pub shadow: bool,
    /// What was expected, as written in the rule.
    pub expected: Vec<String>,
    /// Names of the facts that messages show.
    pub facts: Vec<String>,
}

/// The latest `opened` or `raised`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct News {
    /// [`Word::Opened`] or [`Word::Raised`].
    pub word: Word,
    /// The change's `at`.
    pub at: Time,
    /// The change's number in the order of commits.
    pub seq: i64,
}

/// An operator's acknowledgement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ack {
    /// Who.
    pub by: String,
    /// What they said.
    pub comment: String,
    /// Wall time.
    pub at_ms: i64,
}

/// How far an exception has climbed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ladder {
    /// Wall time that its steps count from.
    pub start_ms: i64,
    /// How often an acknowledgement ran out since the latest change that began it anew.
    pub round: u32,
    /// Steps behind it, told or passed over.
    pub step: u32,
    /// [`News::seq`] of the latest change that was told, or decided not to be.
    pub told_seq: i64,
    /// Somebody was told and is owed a resolve.
    pub told: bool,
    /// Wall time of the latest telling; 0: never.
    pub told_ms: i64,
    /// Reminders so far.
    pub reminders: u32,
    /// It waits for its group's next flush.
    pub waiting: bool,
    /// Why it was last kept quiet, and has not spoken since.
    pub held: Option<Held>,
    /// Wall time of its latest end; 0: it never ended.
    pub ended_ms: i64,
    /// Wall time at which to look at it again; [`NEVER`].
    pub next_ms: i64,
}

impl Default for Ladder {
    fn default() -> Ladder {
        Ladder {
            start_ms: 0,
            round: 0,
            step: 0,
            told_seq: 0,
            told: false,
            told_ms: 0,
            reminders: 0,
            waiting: false,
            held: None,
            ended_ms: 0,
            next_ms: NEVER,
        }
    }
}

/// One exception as cases keeps it: one row.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    /// Its number in the database.
    pub number: i64,
    /// Its id.
    pub exception_id: ExceptionId,
    /// The rule's id.
    pub rule: String,
    /// The parcel.
    pub parcel_id: String,
    /// "" or the anchor's time as printed.
    pub episode: String,
    /// Whose shard it comes from.
    pub partition: i32,
    /// As operators see it.
    pub state: State,
    /// The engine holds that it stands, whatever an operator said.
    pub engine_open: bool,
    /// Of the latest opened or raised.
    pub stage: u8,
    /// Of the latest opened or raised.
    pub severity: Severity,
    /// Greatest since the latest opened.
    pub highest_stage: u8,
    /// Greatest since the latest opened.
    pub highest_severity: Severity,
    /// Of the latest opened or raised.
    pub anchor: Time,
    /// Of the latest opened or raised.
    pub due: Time,
    /// `at` of the latest opened.
    pub opened_at: Time,
    /// Wall time at which it was committed.
    pub opened_ms: i64,
    /// The latest opened or raised.
    pub news: News,
    /// The latest change that came with evidence; 0: none did.
    pub evidence_seq: i64,
    /// When and why it ended, where it is resolved.
    pub resolved: Option<(Time, Resolution)>,
    /// Where it is acknowledged, and still of one that was resolved then.
    pub ack: Option<Ack>,
    /// The parcel was open across a gap in the log.
    pub incomplete: bool,
    /// What its rule says.
    pub body: Arc<Body>,
    /// Its group, fixed at `opened`; "": nobody is to be told.
    pub group_id: String,
    /// Its way up.
    pub ladder: Ladder,
}

/// What exceptions are told together under (DESIGN §7).
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    /// Hash of the policy's id and the values.
    pub id: String,
    /// The policy's id.
    pub policy: String,
    /// Values of `group_by`.
    pub values: Map<String, Value>,
    /// Exceptions of it that somebody was told of and is owed the resolve of.
    pub told: i64,
    /// Wall time of its latest message; 0: none yet.
    pub last_ms: i64,
    /// Wall time of its next flush; [`NEVER`].
    pub flush_ms: i64,
}

/// Somebody who was told of an exception.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Told {
    /// The receiver's id.
    pub receiver: String,
    /// The address; "" for a webhook.
    pub recipient: String,
}

/// What the engine knew when it decided: the JSON that comes with a change.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Evidence {
    /// Facts by name, as stated.
    pub facts: Map<String, Value>,
    /// `{"milestone", "time", "facility"}` or null.
    pub last: Value,
}

impl Evidence {
    /// Reads what a message shows of the engine's JSON; anything unreadable is nothing.
    #[must_use]
    pub fn parse(text: &str) -> Evidence {
        #[derive(serde::Deserialize)]
        struct Wanted {
            #[serde(default)]
            facts: Map<String, Value>,
            #[serde(default)]
            last: Value,
        }
        serde_json::from_str::<Wanted>(text)
            .map(|w| Evidence { facts: w.facts, last: w.last })
            .unwrap_or_default()
    }
}

/// An exception that opened at 0.
#[cfg(test)]
pub(super) fn sample(rule: &str, parcel_id: &str) -> Case {
    Case {
        number: 1,
        exception_id: format!("{rule} {parcel_id}"),
        rule: rule.to_owned(),
        parcel_id: parcel_id.to_owned(),
        episode: String::new(),
        partition: 0,
        state: State::Open,
        engine_open: true,
        stage: 1,
        severity: Severity::Warning,
        highest_stage: 1,
        highest_severity: Severity::Warning,
        anchor: Time(0),
        due: Time(0),
        opened_at: Time(0),
        opened_ms: 0,
        news: News { word: Word::Opened, at: Time(0), seq: 1 },
        evidence_seq: 1,
        resolved: None,
        ack: None,
        incomplete: false,
        body: Arc::default(),
        group_id: "g".into(),
        ladder: Ladder::default(),
    }
}
