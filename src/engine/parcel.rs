//! What a shard keeps of one parcel, and how a record changes it (DESIGN §3, SEMANTICS 1-3).
//!
//! The fold does not care for the order of arrival: occurrences are kept sorted by event time, facts carry the times
//! they were stated at, holds are recomputed from their openings and closings. A [`Parcel`] is the unpacked form, one
//! per shard, used again for each record; `pack` turns it into bytes and back.

use super::ident::{json_text, named_id, record_id};
use super::intern::{Code, Interner};
use crate::model::json::{Token, each_element, each_member};
use crate::model::{Control, Event, FactValue, KNOWN_FACTS, MINUTE, Milestone, Time, ZoneProvenance};

/// Bounds of SEMANTICS 3.1.
pub const MAX_OCCURRENCES: usize = 64;
pub const MAX_HOLDS: usize = 32;
pub const MAX_WAITING: usize = 64;
pub const MAX_DOCUMENTS: usize = 64;
pub const MAX_FACT: usize = 4_096;
/// Openings and closings of all holds of a parcel: two for each hold and as many again for holds that reopen.
pub const MAX_HOLD_EVENTS: usize = 4 * MAX_HOLDS;
/// An event time further ahead of its append time than this is no time (SEMANTICS 1.6).
pub const FUTURE: i64 = 15 * MINUTE;

/// A text: shared by its code, or this parcel's own, a range of [`Parcel::own`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Text {
    /// In the shard's interner.
    Shared(Code),
    /// Start and length.
    Own(u32, u32),
}

/// When something was stated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Stamp {
    /// SEMANTICS 1.6 applied.
    pub event_time: i64,
    /// Of its record.
    pub append: i64,
}

/// One occurrence of a milestone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Occurrence {
    pub milestone: Milestone,
    /// 0 = of no class.
    pub class: u8,
    pub stamp: Stamp,
    /// 48 bits of the record's id.
    pub id: u64,
    pub facility: Option<Code>,
    pub future: bool,
    pub zone_assumed: bool,
}

/// The value of a fact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    Text(Text),
    Number(Text),
    Bool(bool),
    Json(Text),
}

/// A fact as it stands.
#[derive(Clone, Copy, Debug)]
pub struct Fact {
    pub number: u16,
    pub stamp: Stamp,
    pub value: Value,
}

/// An opening or closing of a hold.
#[derive(Clone, Copy, Debug)]
pub struct HoldEvent {
    /// Index into [`Parcel::hold_ids`].
    pub hold: u8,
    pub opens: bool,
    pub stamp: Stamp,
    pub id: u64,
    pub reason: Option<Text>,
    pub authority: Option<Text>,
    /// `Some(None)` where something was told that is no time.
    pub respond_by: Option<Option<Time>>,
}

/// The source's own promise (SEMANTICS 3.9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    pub milestone: Milestone,
    pub by: Time,
    pub stamp: Stamp,
    /// The milestone of the record that made it.
    pub made_by: Option<Milestone>,
}

/// The record that gave a derived time its present value (SEMANTICS 5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    pub append: i64,
    pub zone_assumed: bool,
}

/// An id taken back; `seen` once its record came.
#[derive(Clone, Copy, Debug)]
pub struct TakenBack {
    pub id: u64,
    pub seen: bool,
}

/// When a rule with `restart` last began to hold (SEMANTICS 5.5).
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// Code of the rule's id.
    pub rule: Code,
    pub holds: bool,
    pub since: Option<Stamp>,
}

/// The origin of a derived time that a rule sees through its `holds:` filter.
#[derive(Clone, Copy, Debug)]
pub struct FilteredOrigin {
    /// Code of the rule's id.
    pub rule: Code,
    /// Code of the derived time.
    pub time: u8,
    pub value: Time,
    pub origin: Origin,
}

/// What stands of an exception.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Standing {
    /// Code of the rule's id.
    pub rule: Code,
    pub episode: Option<Time>,
    /// Highest stage and severity told since the latest `opened`.
    pub highest_stage: u8,
    pub highest_severity: u8,
    /// Of the latest `opened` or `raised`.
    pub stage: u8,
    pub severity: u8,
    pub due: Time,
    pub anchor: Time,
    pub claim: Option<Claim>,
}

/// What was left out because a bound was reached, counted by the shard.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub occurrences: u64,
    pub holds: u64,
    pub retractions: u64,
    pub documents: u64,
    pub facts: u64,
}

/// What a record did to its parcel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// The same record as an earlier one: nothing.
    Duplicate,
    /// It counts.
    Folded,
}

/// One parcel, unpacked.
#[derive(Default, Debug)]
pub struct Parcel {
    pub id: String,
    /// Bytes of this parcel's own texts.
    pub own: Vec<u8>,
    /// Sorted by (event time, append time), then in log order.
    pub occurrences: Vec<Occurrence>,
    /// Ids of holds; `None` is the hold without an id.
    pub hold_ids: Vec<Option<Text>>,
    pub hold_events: Vec<HoldEvent>,
    /// Sorted by number.
    pub facts: Vec<Fact>,
    pub documents: Vec<Text>,
    pub documents_added: Option<i64>,
    pub claim: Option<Claim>,
    pub taken_back: Vec<TakenBack>,
    /// Ids of retraction records.
    pub retractions: Vec<u64>,
    /// Origins of the derived times, by their code.
    pub origins: [Option<Origin>; 13],
    pub filtered: Vec<FilteredOrigin>,
    pub restarts: Vec<Restart>,
    pub standing: Vec<Standing>,
    /// Append time of the last record folded.
    pub last_append: i64,
    /// The log has a gap behind which this parcel was open.
    pub incomplete: bool,
}

const DOCUMENTS: u16 = index("documents");
/// Reasons and authorities of holds are counted like a fact's texts, under a number that no fact has.
const HOLD_TEXTS: u16 = KNOWN_FACTS.len() as u16 - 1;
const FEED_STATUS: u16 = index("feed_status");
const NEXT_MILESTONE: u16 = index("next_expected_milestone");
const NEXT_BY: u16 = index("next_expected_by");

/// The number of a known fact, at compile time.
pub const fn index(name: &str) -> u16 {
    let mut i = 0;
    while i < KNOWN_FACTS.len() {
        if same(KNOWN_FACTS[i].as_bytes(), name.as_bytes()) {
            return i as u16;
        }
        i += 1;
    }
    panic!("no such fact")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

impl Parcel {
    /// Empties it for another parcel; keeps its memory.
    pub fn clear(&mut self) {
        self.id.clear();
        self.own.clear();
        self.occurrences.clear();
        self.hold_ids.clear();
        self.hold_events.clear();
        self.facts.clear();
        self.documents.clear();
        self.documents_added = None;
        self.claim = None;
        self.taken_back.clear();
        self.retractions.clear();
        self.origins = [None; 13];
        self.filtered.clear();
        self.restarts.clear();
        self.standing.clear();
        self.last_append = 0;
        self.incomplete = false;
    }

    /// A text's characters.
    #[must_use]
    pub fn text<'a>(&'a self, text: Text, interner: &'a Interner) -> &'a str {
        match text {
            Text::Shared(code) => interner.text(code),
            Text::Own(start, len) => {
                std::str::from_utf8(&self.own[start as usize..(start + len) as usize]).unwrap_or_default()
            }
        }
    }

    pub(super) fn keep(&mut self, text: &str) -> Text {
        let start = self.own.len() as u32;
        self.own.extend_from_slice(text.as_bytes());
        Text::Own(start, text.len() as u32)
    }

    fn keep_shared(&mut self, fact: u16, text: &str, interner: &mut Interner) -> Text {
        interner.share(fact, text).map_or_else(|| self.keep(text), Text::Shared)
    }

    /// A stated fact.
    #[must_use]
    pub fn fact(&self, number: u16) -> Option<&Fact> {
        self.facts.binary_search_by_key(&number, |f| f.number).ok().map(|i| &self.facts[i])
    }

    fn remembers(&self, id: u64) -> bool {
        self.occurrences.iter().any(|o| o.id == id)
            || self.retractions.contains(&id)
            || self.taken_back.iter().any(|t| t.id == id && t.seen)
            || self.hold_events.iter().any(|h| h.id == id)
    }

    /// Folds one record into the parcel (SEMANTICS 1.4-1.9, 2.1, 2.7, 3.1-3.4).
    pub fn apply(
        &mut self,
        e: &Event<'_>,
        append: Time,
        interner: &mut Interner,
        dropped: &mut Dropped,
    ) -> Applied {
        let id = record_id(e);
        let nameless_retraction = e.control == Some(Control::EventRetracted) && e.event_id.is_none();
        if !nameless_retraction && id.is_some_and(|id| self.remembers(id)) {
            return Applied::Duplicate;
        }
        let future = e.event_time > append.plus(FUTURE);
        let event_time = if future { append.0 } else { e.event_time.0 };
        let stamp = Stamp { event_time, append: append.0 };
        self.last_append = append.0;
        if e.control == Some(Control::EventRetracted) {
            self.retract(e, id, dropped);
        }
        self.state(e, stamp, interner, dropped);
        if let (Some(milestone), false) = (e.milestone, e.planned) {
            self.state_fact(FEED_STATUS, stamp, &FactValue::Text("success".into()), interner, dropped);
            if let Some(t) = self.taken_back.iter_mut().find(|t| Some(t.id) == id) {
                t.seen = true;
            } else {
                self.occur(e, milestone, stamp, id.unwrap_or(0), future, interner, dropped);
            }
        }
        Applied::Folded
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one occurrence")]
    fn occur(
        &mut self,
        e: &Event<'_>,
        milestone: Milestone,
        stamp: Stamp,
        id: u64,
        future: bool,
        interner: &mut Interner,
        dropped: &mut Dropped,
    ) {
        let occurrence = Occurrence {
            milestone,
            class: e.evidence.map_or(0, |c| c as u8),
            stamp,
            id,
            facility: e.facility.as_deref().filter(|f| f.len() <= MAX_FACT).map(|f| interner.intern(f)),
            future,
            zone_assumed: e.zone == ZoneProvenance::Assumed,
        };
        let at = self.occurrences.partition_point(|o| o.stamp <= stamp);
        self.occurrences.insert(at, occurrence);
        if self.occurrences.len() > MAX_OCCURRENCES {
            self.evict();
            dropped.occurrences += 1;
        }
        let opens = match milestone {
            Milestone::ImportCustomsHeld => true,
            Milestone::ImportCustomsInfoRequired | Milestone::ImportCustomsInspection if e.hold.is_some() => {
                true
            }
            Milestone::ImportCustomsHoldReleased => false,
            _ => return,
        };
        self.hold_event(e, opens, stamp, id, interner, dropped);
    }

    /// Of those that are neither first nor last of their (milestone, class) the oldest goes, else the oldest.
    fn evict(&mut self) {
        let kind = |o: &Occurrence| (o.milestone, o.class);
        let inner = (0..self.occurrences.len()).find(|i| {
            let k = kind(&self.occurrences[*i]);
            self.occurrences[..*i].iter().any(|o| kind(o) == k)
                && self.occurrences[i + 1..].iter().any(|o| kind(o) == k)
        });
        self.occurrences.remove(inner.unwrap_or(0));
    }

    fn hold_event(
        &mut self,
        e: &Event<'_>,
        opens: bool,
        stamp: Stamp,
        id: u64,
        interner: &mut Interner,
        dropped: &mut Dropped,
    ) {
        let field = e.hold.as_ref();
        let name = field.and_then(|h| h.id.as_deref());
        let known = self.hold_ids.iter().position(|h| h.map(|t| self.text(t, interner)) == name);
        let hold = match known {
            Some(i) => i,
            None if self.hold_ids.len() < MAX_HOLDS => {
                let kept = name.map(|n| self.keep(n));
                self.hold_ids.push(kept);
                self.hold_ids.len() - 1
            }
            None => {
                dropped.holds += 1;
                return;
            }
        };
        if self.hold_events.len() >= MAX_HOLD_EVENTS {
            dropped.holds += 1;
            return;
        }
        let text =
            |p: &mut Parcel, i: &mut Interner, t: Option<&str>| t.map(|t| p.keep_shared(HOLD_TEXTS, t, i));
        let reason = text(self, interner, field.and_then(|h| h.reason.as_deref()));
        let authority = text(self, interner, field.and_then(|h| h.authority.as_deref()));
        let respond_by = field.and_then(|h| h.respond_by);
        let hold = u8::try_from(hold).unwrap_or(u8::MAX);
        self.hold_events.push(HoldEvent { hold, opens, stamp, id, reason, authority, respond_by });
    }

    fn retract(&mut self, e: &Event<'_>, own: Option<u64>, dropped: &mut Dropped) {
        if e.event_id.is_some() {
            self.retractions.extend(own);
            if self.retractions.len() > MAX_WAITING {
                self.retractions.remove(0);
                dropped.retractions += 1;
            }
        }
        for target in &e.retracts {
            let id = named_id(target);
            if self.taken_back.iter().any(|t| t.id == id) {
                continue;
            }
            let before = self.occurrences.len() + self.hold_events.len();
            self.occurrences.retain(|o| o.id != id);
            self.hold_events.retain(|h| h.id != id);
            let seen = self.occurrences.len() + self.hold_events.len() < before;
            if self.taken_back.iter().filter(|t| t.seen == seen).count() >= MAX_WAITING {
                dropped.retractions += 1;
                if !seen {
                    continue;
                }
                let oldest = self.taken_back.iter().position(|t| t.seen).unwrap_or(0);
                self.taken_back.remove(oldest);
            }
            self.taken_back.push(TakenBack { id, seen });
        }
    }

    fn state(&mut self, e: &Event<'_>, stamp: Stamp, interner: &mut Interner, dropped: &mut Dropped) {
        let (mut next, mut by) = (None, None);
        for (number, value) in &e.facts {
            match (*number, value) {
                (DOCUMENTS, FactValue::Json(raw)) if raw.starts_with('[') => {
                    self.add_documents(raw, stamp, interner, dropped);
                    continue;
                }
                (DOCUMENTS, _) => continue,
                (NEXT_MILESTONE, FactValue::Text(name)) => next = Some(&**name),
                (NEXT_BY, FactValue::Text(time)) => by = Some(&**time),
                _ => {}
            }
            self.state_fact(*number, stamp, value, interner, dropped);
        }
        if let (Some(next), Some(by)) = (next, by)
            && let (Some(milestone), Some(by)) = (Milestone::from_name(next), Time::parse(by))
        {
            let claim = Claim { milestone, by, stamp, made_by: e.milestone };
            let rank = |c: &Claim| (c.stamp, c.milestone.name(), c.by);
            if self.claim.is_none_or(|old| rank(&claim) > rank(&old)) {
                self.claim = Some(claim);
            }
        }
    }

    fn add_documents(&mut self, raw: &str, stamp: Stamp, interner: &mut Interner, dropped: &mut Dropped) {
        self.documents_added =
            Some(self.documents_added.map_or(stamp.event_time, |t| t.max(stamp.event_time)));
        each_element(raw, |element| {
            let Token::Object(object) = element else { return };
            let mut kind = None;
            each_member(object, |key, value| {
                if key == "type" {
                    kind = value.text();
                }
            });
            let Some(kind) = kind.filter(|k| k != "unknown") else { return };
            if self.documents.iter().any(|d| self.text(*d, interner) == kind) {
                return;
            }
            if self.documents.len() >= MAX_DOCUMENTS || kind.len() > MAX_FACT {
                dropped.documents += 1;
                return;
            }
            let kept = self.keep_shared(DOCUMENTS, &kind, interner);
            self.documents.push(kept);
        });
    }

    /// The latest event time wins; at equal ones the later append time; then the greater value as JSON text (2.1).
    fn state_fact(
        &mut self,
        number: u16,
        stamp: Stamp,
        value: &FactValue<'_>,
        interner: &mut Interner,
        dropped: &mut Dropped,
    ) {
        let raw: &str = match value {
            FactValue::Text(t) => t,
            FactValue::Number(t) | FactValue::Json(t) => t,
            FactValue::Bool(_) => "",
        };
        if raw.len() > MAX_FACT {
            dropped.facts += 1;
            return;
        }
        let place = self.facts.binary_search_by_key(&number, |f| f.number);
        if let Ok(i) = place {
            let old = self.facts[i];
            if old.stamp > stamp
                || (old.stamp == stamp && self.json_of(old.value, interner) >= json_text(value))
            {
                return;
            }
            // The same text again: only the stamp is new.
            let unchanged = match (old.value, value) {
                (Value::Text(t), FactValue::Text(_))
                | (Value::Number(t), FactValue::Number(_))
                | (Value::Json(t), FactValue::Json(_)) => self.text(t, interner) == raw,
                _ => false,
            };
            if unchanged {
                self.facts[i].stamp = stamp;
                return;
            }
        }
        let value = match value {
            FactValue::Text(t) => Value::Text(self.keep_shared(number, t, interner)),
            FactValue::Number(t) => Value::Number(self.keep(t)),
            FactValue::Json(t) => Value::Json(self.keep(t)),
            FactValue::Bool(b) => Value::Bool(*b),
        };
        let fact = Fact { number, stamp, value };
        match place {
            Ok(i) => self.facts[i] = fact,
            Err(i) => self.facts.insert(i, fact),
        }
    }

    fn json_of(&self, value: Value, interner: &Interner) -> String {
        match value {
            Value::Text(t) => json_text(&FactValue::Text(self.text(t, interner).into())),
            Value::Number(t) => json_text(&FactValue::Number(self.text(t, interner))),
            Value::Json(t) => json_text(&FactValue::Json(self.text(t, interner))),
            Value::Bool(b) => json_text(&FactValue::Bool(b)),
        }
    }
}
