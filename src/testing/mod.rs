//! Tests of rules: `*_test.yaml` beside the rules says what is told to whom of which events (DESIGN §8).
//!
//! Nothing here is a model of the engine: [`run`] folds the events with the very [`crate::engine::Shard`] and escalates with
//! the very fold of [`crate::escalation`] that the daemon uses. Pure but for the threads of [`mutate`]; files are read by the command line.
//!
//! Reading order: [`file`] (the text → [`Test`]s, or every problem), [`run`] (what happened), [`judge`] (what was expected of it),
//! [`check`] (what is said of them before they run), [`coverage`] (which parts of the rules no test asks about), [`mutate`] (which wrong rules no test would notice).
//!
//! ## The format
//! ```yaml
//! start: 2026-10-12T07:10:00Z            # what offsets count from; a test may set its own; default 2026-01-05T00:00:00Z, a Monday
//! facts: {lane: CN-ES, destination: ES}  # of every test; a test's own `facts` are laid over it
//! tests:
//!   - name: nobody scans it
//!     facts: {domestic_carrier: correos} # stated by the first event of each parcel, where it does not state them itself
//!     events:                            # any field of an event; `at` is its event_time: an offset from start, or RFC 3339
//!       - {at: +0h, milestone: import_customs_cleared}                                     # parcel_id: default P-1
//!       - {at: +50h, told: +53h, milestone: domestic_scan, evidence_class: physical_scan}  # `told`: append time, default `at`
//!     feed:
//!       held_back: [{from: +10h, to: +20h}]   # what is told in between is appended at `to`
//!       lost: [{from: +30h, to: +31h}]        # what is told in between never arrives, and the shard knows of the gap; nor do we tell meanwhile
//!       lag: [{from: +40h, to: +50h}]         # we read nothing: telling waits until `to`, changes keep their `at`
//!     commands: [{at: +30h, ack: cleared_no_domestic_scan, by: anna}]   # `ack` or `resolve`; `parcel_id`, `episode`, `comment`; one that finds nothing open fails
//!     until: +10d                        # the clock ends just past it; default: the latest time named in the test
//!     expect:                            # each is met by one thing that happened, each thing meets one at most
//!       - {at: +24h, opened: cleared_no_domestic_scan, severity: warning}
//!       - {between: [+47h, +49h], raised: cleared_no_domestic_scan, stage: 2}
//!       - {at: +53h, resolved: cleared_no_domestic_scan, resolution: satisfied_late}
//!       - {between: [+24h, +25h], notify: ops_mail, step: 1, reason: new}
//!     never: [{opened: hold_vs_guarantee, from: +0h, to: +30h}]         # nothing that happened may be like these
//!     only: [cleared_no_domestic_scan]   # other rules are left out of account
//!     exact: true                        # everything that happens must be expected; notifications where one is
//! excused:                               # what cannot be asked for, and why (`--coverage`, `--mutate`)
//!   - {rule: some_rule, item: "ends terminal", because: "its parcels never end otherwise"}
//! ```

pub mod check;
pub mod coverage;
pub mod file;
pub mod judge;
pub mod mutate;
pub mod run;
mod words;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use crate::model::{Resolution, Severity, Time};
use crate::rules::problem::{Place, Source};

/// One file of tests.
#[derive(Debug, Clone)]
pub struct TestFile {
    /// Its text.
    pub source: Arc<Source>,
    /// In the order of the text.
    pub tests: Vec<Test>,
    /// What cannot be asked for, and why.
    pub excused: Vec<Excuse>,
}

/// Something that coverage or mutation need not find.
#[derive(Debug, Clone)]
pub struct Excuse {
    /// The rule's id, or a policy's.
    pub rule: String,
    /// The item or mutant as `test` prints it.
    pub item: String,
    /// Why.
    pub because: String,
    /// Where it stands.
    pub place: Place,
}

/// One test.
#[derive(Debug, Clone)]
pub struct Test {
    /// What it shows, in a sentence.
    pub name: String,
    /// Where it begins.
    pub place: Place,
    /// What offsets count from.
    pub start: Time,
    /// In the order of the text.
    pub events: Vec<TestEvent>,
    /// What is told from here to there is appended at the end.
    pub held_back: Vec<(Time, Time)>,
    /// What is told from here to there never arrives.
    pub lost: Vec<(Time, Time)>,
    /// We read nothing.
    pub lag: Vec<(Time, Time)>,
    /// What operators do, by time.
    pub commands: Vec<Command>,
    /// The clock ends just past it.
    pub until: Time,
    /// What must happen.
    pub expect: Vec<Expectation>,
    /// What must not.
    pub never: Vec<Expectation>,
    /// Rules that count; `None`: all.
    pub only: Option<BTreeSet<String>>,
    /// Everything that happens must be expected.
    pub exact: bool,
}

impl Test {
    /// The rules it names.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        let named = self.expect.iter().chain(&self.never);
        let of_expectation = |e: &Expectation| match e.kind {
            Kind::Notify => None,
            Kind::Opened | Kind::Raised | Kind::Resolved => Some(()),
        };
        named
            .flat_map(move |e| {
                of_expectation(e).map(|()| e.subject.as_str()).into_iter().chain(e.rule.as_deref())
            })
            .chain(self.only.iter().flatten().map(String::as_str))
            .chain(self.commands.iter().map(|c| c.rule.as_str()))
    }
}

/// A record.
#[derive(Debug, Clone)]
pub struct TestEvent {
    /// When it is told.
    pub told: Time,
    /// The record as JSON.
    pub json: String,
    /// Bytes of the file.
    pub at: Range<usize>,
}

/// What an operator does.
#[derive(Debug, Clone)]
pub struct Command {
    /// Wall time.
    pub at: Time,
    /// The exception's rule.
    pub rule: String,
    /// Its parcel.
    pub parcel_id: String,
    /// Its episode.
    pub episode: String,
    /// Who.
    pub by: String,
    /// What they said.
    pub comment: String,
    /// Resolve, else acknowledge.
    pub resolve: bool,
    /// Where it stands.
    pub place: Place,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Kind {
    Opened,
    Raised,
    Resolved,
    Notify,
}

impl Kind {
    /// Its key in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Opened => "opened",
            Kind::Raised => "raised",
            Kind::Resolved => "resolved",
            Kind::Notify => "notify",
        }
    }
}

/// Something expected, or forbidden. What is `None` may be anything.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// What happens.
    pub kind: Kind,
    /// The rule's id, or the receiver's.
    pub subject: String,
    /// From when on.
    pub from: Option<Time>,
    /// Until when, itself counted.
    pub to: Option<Time>,
    /// The parcel.
    pub parcel_id: Option<String>,
    /// The episode as printed.
    pub episode: Option<String>,
    /// From 1.
    pub stage: Option<u8>,
    /// Of the stage.
    pub severity: Option<Severity>,
    /// Of the stage.
    pub due: Option<Time>,
    /// What its clock counts from.
    pub anchor: Option<Time>,
    /// Whether the evidence is incomplete.
    pub incomplete: Option<bool>,
    /// Who has to act.
    pub owner: Option<String>,
    /// Which ladder.
    pub policy: Option<String>,
    /// Why it ended.
    pub resolution: Option<Resolution>,
    /// Of a notification, from 1.
    pub step: Option<u32>,
    /// Of a notification.
    pub reason: Option<String>,
    /// Of a notification: the rule that it tells of.
    pub rule: Option<String>,
    /// Of a notification: what it says.
    pub change: Option<String>,
    /// Where it stands.
    pub place: Place,
}
