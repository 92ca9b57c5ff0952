//! One decoded record, borrowed from its bytes (DESIGN §3). `source::decode` makes it, the engine folds it.

use std::borrow::Cow;

use super::{Control, Evidence, Milestone, Time};

/// Where a record stood: partition and offset of the one input topic. In files the partition is the number of the file
/// and the offset that of the line, both from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position {
    /// Kafka's partition number.
    pub partition: i32,
    /// Kafka's offset.
    pub offset: i64,
}

/// Why a record could not be decoded: the closed set of DESIGN §3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum RejectReason {
    Empty,
    TooLarge,
    NotUtf8,
    NotJson,
    NotObject,
    TooDeep,
    MissingParcelId,
    MissingMilestone,
    BadEventTime,
    UnknownControl,
}

impl RejectReason {
    /// All of them, for metrics that exist from the start.
    pub const ALL: [RejectReason; 10] = [
        RejectReason::Empty,
        RejectReason::TooLarge,
        RejectReason::NotUtf8,
        RejectReason::NotJson,
        RejectReason::NotObject,
        RejectReason::TooDeep,
        RejectReason::MissingParcelId,
        RejectReason::MissingMilestone,
        RejectReason::BadEventTime,
        RejectReason::UnknownControl,
    ];

    /// Its name in metrics, logs and SQL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            RejectReason::Empty => "empty",
            RejectReason::TooLarge => "too_large",
            RejectReason::NotUtf8 => "not_utf8",
            RejectReason::NotJson => "not_json",
            RejectReason::NotObject => "not_object",
            RejectReason::TooDeep => "too_deep",
            RejectReason::MissingParcelId => "missing_parcel_id",
            RejectReason::MissingMilestone => "missing_milestone",
            RejectReason::BadEventTime => "bad_event_time",
            RejectReason::UnknownControl => "unknown_control",
        }
    }
}

/// A record that was not decoded, and what could still be read of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject {
    /// Why.
    pub reason: RejectReason,
    /// `received_time`, else `event_time`, where one of them was readable: a file's append time (SEMANTICS 1.1).
    pub file_append: Option<Time>,
}

/// An amount with its currency, as a record states it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Money<'a> {
    /// The amount's digits: a decimal text, or a JSON number's text.
    pub amount: &'a str,
    /// ISO 4217, or "" where none is stated.
    pub currency: &'a str,
}

/// The value of a fact, with its JSON type (DESIGN §3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FactValue<'a> {
    /// A text, unescaped.
    Text(Cow<'a, str>),
    /// A number, as it was written.
    Number(&'a str),
    /// `true` or `false`.
    Bool(bool),
    /// A list or an object, as it was written.
    Json(&'a str),
}

/// How the offset of `event_time` was known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ZoneProvenance {
    /// Stated, or not told.
    #[default]
    Known,
    /// A guess: a rule's `zone_slack` counts (SEMANTICS 5.3).
    Assumed,
}

/// The `hold` object of a record.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HoldField<'a> {
    /// Its id; none is the one hold without an id.
    pub id: Option<Cow<'a, str>>,
    /// `null` and `unknown` state nothing.
    pub reason: Option<Cow<'a, str>>,
    /// Who holds it; `null` and `unknown` state nothing.
    pub authority: Option<Cow<'a, str>>,
    /// By when it wants an answer; `Some(None)` where something is told that is no time.
    pub respond_by: Option<Option<Time>>,
}

/// One record, decoded. Fields of a wrong type count as missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    /// Empty only for a `feed_health` about a feed.
    pub parcel_id: Cow<'a, str>,
    /// The milestone, where the record names one that is known.
    pub milestone: Option<Milestone>,
    /// It names a milestone that is not known.
    pub unmapped: bool,
    /// The control record it is, besides or instead.
    pub control: Option<Control>,
    /// `classifier` is estimated or planned: no occurrence (SEMANTICS 1.7).
    pub planned: bool,
    /// How the milestone is known.
    pub evidence: Option<Evidence>,
    /// When it happened, as stated.
    pub event_time: Time,
    /// `received_time`, where readable; a file's append time.
    pub received_time: Option<Time>,
    /// Whether the offset of `event_time` was guessed.
    pub zone: ZoneProvenance,
    /// The record's own id, where it has one.
    pub event_id: Option<Cow<'a, str>>,
    /// `is_test: true`.
    pub is_test: bool,
    /// The `location` object as it was written, for the derived id.
    pub location: Option<&'a str>,
    /// The facility the record names; `null` and `unknown` name none.
    pub facility: Option<Cow<'a, str>>,
    /// The `hold` object.
    pub hold: Option<HoldField<'a>>,
    /// Ids that an `event_retracted` takes back.
    pub retracts: Vec<Cow<'a, str>>,
    /// Facts it states, by their number ([`super::FactRef::Stated`]); each at most once.
    pub facts: Vec<(u16, FactValue<'a>)>,
}

impl Event<'_> {
    /// The append time of this record in a file (SEMANTICS 1.1).
    #[must_use]
    pub fn file_append(&self) -> Time {
        self.received_time.unwrap_or(self.event_time)
    }
}
