//! What follows from a parcel's occurrences, holds and facts: derived times and facts (SEMANTICS 2.3-2.8, 3.3-3.9).

use super::intern::Interner;
use super::parcel::{HoldEvent, Parcel, Text, Value, index};
use crate::model::json::{Token, each_element, each_member};
use crate::model::{DAY, Decimal, DerivedTime, Evidence, Milestone, MilestoneSet, Time};
use crate::rules::ruleset::HoldsFilter;

pub(super) const LANE: u16 = index("lane");
const GUARANTEE_START: u16 = index("guarantee_start");
const GUARANTEE_DAYS: u16 = index("guarantee_days");
const DUTY_DUE_BY: u16 = index("duty_due_by");
const QUOTED: u16 = index("landed_cost_quoted");
const ACTUAL: u16 = index("landed_cost_actual");
const ITEMS: u16 = index("items");
const FORCED_LABOUR: u16 = index("category_forced_labour");

/// One hold as it stands (SEMANTICS 3.3, 3.5).
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// Index into [`Parcel::hold_ids`].
    pub hold: u8,
    pub opened: i64,
    /// `None` while it is open.
    pub closed: Option<i64>,
    pub reason: Option<Text>,
    pub authority: Option<Text>,
    pub respond_by: Option<Time>,
}

/// What follows from a parcel; made anew after each record.
#[derive(Debug)]
pub struct Derived {
    /// By the code of the derived time.
    pub times: [Option<Time>; 13],
    pub seen: MilestoneSet,
    pub terminal: bool,
    pub holds: Vec<Hold>,
    pub facility_scans: Option<u32>,
    pub last_milestone: Option<Milestone>,
    /// Index of the first occurrence of each milestone seen, by its code.
    pub first: [u8; 35],
}

impl Default for Derived {
    fn default() -> Derived {
        Derived {
            times: [None; 13],
            seen: MilestoneSet::default(),
            terminal: false,
            holds: Vec::new(),
            facility_scans: None,
            last_milestone: None,
            first: [0; 35],
        }
    }
}

impl Derived {
    /// A derived time's value.
    #[must_use]
    pub fn time(&self, t: DerivedTime) -> Option<Time> {
        self.times[t as usize]
    }

    /// Computes all from the parcel.
    pub fn of(&mut self, p: &Parcel, interner: &Interner) {
        self.times = [None; 13];
        self.holds.clear();
        self.occurrences(p);
        holds(p, &mut self.holds);
        let mut set = |t: DerivedTime, v: Option<Time>| self.times[t as usize] = v;
        set(DerivedTime::HoldOpened, hold_opened(self.holds.iter()));
        set(DerivedTime::HoldsClosed, holds_closed(self.holds.iter()));
        set(DerivedTime::HoldRespondBy, hold_respond_by(self.holds.iter()));
        set(DerivedTime::DocumentsAdded, p.documents_added.map(Time));
        set(DerivedTime::NextExpectedBy, p.claim.map(|c| c.by));
        let start = time_fact(p, GUARANTEE_START, interner);
        set(DerivedTime::GuaranteeStart, start);
        set(DerivedTime::GuaranteeEnd, start.and_then(|s| guarantee_end(p, s, interner)));
        set(DerivedTime::DutyDueBy, time_fact(p, DUTY_DUE_BY, interner));
        let cleared = self.fully_cleared(p);
        self.times[DerivedTime::ImportCustomsFullyCleared as usize] = cleared;
    }

    /// The first occurrence of a milestone.
    #[must_use]
    pub fn first_of<'p>(&self, p: &'p Parcel, m: Milestone) -> Option<&'p super::parcel::Occurrence> {
        if self.seen.contains(m) { p.occurrences.get(usize::from(self.first[m as usize])) } else { None }
    }

    fn fully_cleared(&self, p: &Parcel) -> Option<Time> {
        let cleared = self.first_of(p, Milestone::ImportCustomsCleared)?;
        let mut latest = cleared.stamp.event_time;
        for h in &self.holds {
            latest = latest.max(h.closed?);
        }
        Some(Time(latest))
    }

    /// One pass over the occurrences, which are sorted by time.
    fn occurrences(&mut self, p: &Parcel) {
        let (mut seen, mut scan) = (0u64, None);
        // The unbroken run at the facility of the latest (SEMANTICS 3.8).
        let mut run: Option<(u32, i64, u32)> = None;
        let mut before = u8::MAX;
        for (i, o) in p.occurrences.iter().enumerate() {
            let bit = 1 << o.milestone as u8;
            if seen & bit == 0 {
                seen |= bit;
                self.first[o.milestone as usize] = i as u8;
            }
            if o.class == Evidence::PhysicalScan as u8 {
                scan = Some(Time(o.stamp.event_time));
            }
            let rank = o.milestone.rank();
            match (o.facility, &mut run) {
                (Some(f), Some((same, _, n))) if f == *same => *n += 1,
                (Some(f), _) => run = Some((f, o.stamp.event_time, 1)),
                (None, _) if rank > before => run = None,
                (None, _) => {}
            }
            before = rank;
        }
        self.seen = MilestoneSet(seen);
        self.terminal = TERMINAL.meets(self.seen);
        self.times[DerivedTime::FirstEvent as usize] =
            p.occurrences.first().map(|o| Time(o.stamp.event_time));
        self.times[DerivedTime::LastEvent as usize] = p.occurrences.last().map(|o| Time(o.stamp.event_time));
        self.times[DerivedTime::LastScan as usize] = scan;
        self.times[DerivedTime::FacilitySince as usize] = run.map(|(_, since, _)| Time(since));
        self.facility_scans = run.map(|(_, _, n)| n);
        self.last_milestone = p.occurrences.last().map(|last| {
            let same = p.occurrences.iter().rev().take_while(|o| o.stamp == last.stamp);
            same.map(|o| o.milestone).max_by_key(|m| m.name()).unwrap_or(last.milestone)
        });
    }
}

/// The milestones that end a parcel's life.
pub const TERMINAL: MilestoneSet = MilestoneSet(
    MilestoneSet::of(Milestone::Delivered).0
        | MilestoneSet::of(Milestone::ImportCustomsRefused).0
        | MilestoneSet::of(Milestone::ReturnedToSender).0
        | MilestoneSet::of(Milestone::ParcelIncident).0
        | MilestoneSet::of(Milestone::Cancelled).0,
);

/// The holds that were ever opened, in the order of their first record.
fn holds(p: &Parcel, out: &mut Vec<Hold>) {
    for hold in 0..p.hold_ids.len() {
        let hold = hold as u8;
        let openings = || p.hold_events.iter().filter(move |h| h.hold == hold && h.opens);
        let Some(latest) = openings().map(|h| h.stamp.event_time).max() else { continue };
        let nameless = p.hold_ids[usize::from(hold)].is_none();
        let releases =
            p.hold_events.iter().filter(|h| h.hold == hold && !h.opens).map(|h| h.stamp.event_time);
        let statuses = p
            .occurrences
            .iter()
            .filter(|o| nameless && o.milestone.closes_status_hold())
            .map(|o| o.stamp.event_time);
        let (mut closed, mut before) = (None::<i64>, None::<i64>);
        for t in releases.chain(statuses) {
            if t >= latest {
                closed = Some(closed.map_or(t, |c| c.min(t)));
            } else {
                before = Some(before.map_or(t, |b| b.max(t)));
            }
        }
        // The openings since it last opened: after the closing before the latest opening.
        let since = || openings().filter(|h| before.is_none_or(|b| h.stamp.event_time > b));
        out.push(Hold {
            hold,
            opened: since().map(|h| h.stamp.event_time).min().unwrap_or(latest),
            closed,
            reason: latest_told(since(), |h| h.reason),
            authority: latest_told(since(), |h| h.authority),
            respond_by: latest_told(since(), |h| h.respond_by).flatten(),
        });
    }
}

fn latest_told<'a, T: Copy>(
    openings: impl Iterator<Item = &'a HoldEvent>,
    told: impl Fn(&HoldEvent) -> Option<T>,
) -> Option<T> {
    openings.filter_map(|h| told(h).map(|t| (h.stamp, t))).max_by_key(|(stamp, _)| *stamp).map(|(_, t)| t)
}

/// The oldest open hold's opening.
pub fn hold_opened<'a>(holds: impl Iterator<Item = &'a Hold>) -> Option<Time> {
    holds.filter(|h| h.closed.is_none()).map(|h| Time(h.opened)).min()
}

/// The latest closing, while none is open.
pub fn holds_closed<'a>(holds: impl Iterator<Item = &'a Hold>) -> Option<Time> {
    let mut latest = None;
    for h in holds {
        latest = latest.max(Some(Time(h.closed?)));
    }
    latest
}

/// The earliest that an open hold wants an answer by.
pub fn hold_respond_by<'a>(holds: impl Iterator<Item = &'a Hold>) -> Option<Time> {
    holds.filter(|h| h.closed.is_none()).filter_map(|h| h.respond_by).min()
}

/// Whether a rule's `holds:` filter lets a hold through (SEMANTICS 5.11).
pub fn admits(filter: &HoldsFilter, hold: &Hold, p: &Parcel, interner: &Interner) -> bool {
    let reason = hold.reason.map_or("unknown", |t| p.text(t, interner));
    let fits = |wanted: &Option<Vec<String>>, told: Option<&str>| {
        wanted.as_ref().is_none_or(|list| told.is_some_and(|t| list.iter().any(|w| w == t)))
    };
    fits(&filter.reason, Some(reason)) && fits(&filter.authority, hold.authority.map(|t| p.text(t, interner)))
}

fn time_fact(p: &Parcel, number: u16, interner: &Interner) -> Option<Time> {
    match p.fact(number)?.value {
        Value::Text(t) => Time::parse(p.text(t, interner)),
        _ => None,
    }
}

fn guarantee_end(p: &Parcel, start: Time, interner: &Interner) -> Option<Time> {
    let days = match p.fact(GUARANTEE_DAYS).map(|f| f.value) {
        None => 60,
        Some(Value::Number(t)) => Decimal::parse(p.text(t, interner))?.as_whole()?,
        Some(_) => return None,
    };
    Some(start.plus(days.checked_mul(DAY)?))
}

/// Amount and currency of a money fact.
fn money(p: &Parcel, number: u16, interner: &Interner) -> Option<(Decimal, String)> {
    let Value::Json(t) = p.fact(number)?.value else { return None };
    money_of(p.text(t, interner))
}

/// Amount and currency of a money object.
pub fn money_of(raw: &str) -> Option<(Decimal, String)> {
    if !raw.starts_with('{') {
        return None;
    }
    let (mut amount, mut currency) = (None, String::new());
    each_member(raw, |key, value| match (key, value) {
        ("amount", Token::Number(raw)) => amount = Decimal::parse(raw),
        ("amount", value) => amount = value.text().and_then(|t| Decimal::parse(&t)),
        ("currency", value) => currency = value.text().map(|t| t.into_owned()).unwrap_or_default(),
        _ => {}
    });
    amount.map(|a| (a, currency))
}

/// `landed_cost_drift` with what it is a drift from (SEMANTICS 2.5).
pub fn drift(p: &Parcel, interner: &Interner) -> Option<(Decimal, Decimal)> {
    let (quoted, in_quoted) = money(p, QUOTED, interner)?;
    let (actual, in_actual) = money(p, ACTUAL, interner)?;
    if in_quoted != in_actual || quoted.is_zero() {
        return None;
    }
    Some((actual.minus(quoted)?, quoted))
}

/// `missing_documents` (SEMANTICS 2.4).
pub fn missing_documents(p: &Parcel, interner: &Interner) -> Vec<&'static str> {
    let flagged = p.fact(FORCED_LABOUR).is_some_and(|f| f.value != Value::Bool(false));
    let named = |kind: &str| p.documents.iter().any(|d| p.text(*d, interner) == kind);
    ["certificate_of_origin", "supplier_declaration"].into_iter().filter(|k| flagged && !named(k)).collect()
}

/// `weak_description` (SEMANTICS 2.4); `None` without items.
pub fn weak_description(p: &Parcel, interner: &Interner) -> Option<bool> {
    let Value::Json(t) = p.fact(ITEMS)?.value else { return None };
    let raw = p.text(t, interner);
    if !raw.starts_with('[') {
        return None;
    }
    let mut weak = false;
    each_element(raw, |item| {
        let Token::Object(object) = item else { return };
        each_member(object, |key, value| {
            if key == "description"
                && let Some(text) = value.text()
            {
                weak |= is_weak(&text);
            }
        });
    });
    Some(weak)
}

/// Terms that customs' advance filing refuses or queries as a description on their own; see the file's head.
const STOP_WORDS: &str = include_str!("stop_words.txt");

fn is_weak(description: &str) -> bool {
    let normal = description.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let stop = STOP_WORDS.lines().any(|l| !l.starts_with('#') && l.trim() == normal && !normal.is_empty());
    let letters = description.chars().filter(|c| c.is_alphabetic()).count();
    stop || description.split_whitespace().count() < 3 || letters < 10
}

/// `origin` and `destination` where no record states them: the parts of `lane` (SEMANTICS 2.3).
pub fn lane_part<'a>(p: &'a Parcel, part: usize, interner: &'a Interner) -> Option<&'a str> {
    match p.fact(LANE)?.value {
        Value::Text(t) => p.text(t, interner).split('-').nth(part).filter(|s| !s.is_empty()),
        _ => None,
    }
}
