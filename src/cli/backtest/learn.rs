//! What a rule's author cannot know: how long after a milestone its report comes, by feed, lane and milestone, and how long after a
//! rule's anchor what it expects usually happens.
//!
//! Learned from whole parcels, up to about 130,000 of them; of more, from a sample drawn by the hash of their ids, so that it
//! does not depend on order or threads. Each parcel sampled is looked at from its first record to its last, which is
//! what keeps the sample fair.

use std::collections::{BTreeMap, HashMap};

use super::sketch::percentile;
use crate::engine::parcel::FUTURE;
use crate::model::{
    DAY, DerivedTime, Event, FactValue, HOUR, KNOWN_FACTS, MINUTE, Milestone, MilestoneSet, Time, known_fact,
};
use crate::rules::RuleSet;
use crate::rules::ruleset::{AnchorSource, ClassFilter, Rule, Tolerance};
use crate::source::decode::{FactNames, decode};

/// Pieces that the parcels are divided into; a piece is folded by one thread.
pub const PARTS: u32 = 256;
/// Parcels sampled of a piece at most.
const PARCELS: usize = 512;
/// Occurrences kept of a parcel.
const OCCURRENCES: usize = 64;
/// Names of feeds and of lanes that are told apart.
const NAMES: usize = 2_000;
/// Rows of delays that are told; the rest is one.
const ROWS: usize = 300;
/// The whole of a piece, as a limit of the hash.
const ALL: u32 = 1 << 24;

/// One milestone of a sampled parcel.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    event: i64,
    append: i64,
    id: u32,
    feed: u16,
    milestone: Milestone,
    class: u8,
}

#[derive(Default)]
struct Sampled {
    /// The latest lane stated, and when.
    lane: Option<(Time, u16)>,
    seen: Vec<Seen>,
}

/// Names by their numbers; 0 is every name beyond [`NAMES`].
#[derive(Default)]
struct Names {
    numbers: HashMap<Box<str>, u16>,
    names: Vec<Box<str>>,
}

impl Names {
    fn number(&mut self, name: &str) -> u16 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.names.is_empty() {
            self.names.push("other".into());
        }
        if self.names.len() > NAMES {
            return 0;
        }
        let number = self.names.len() as u16;
        self.names.push(name.into());
        self.numbers.insert(name.into(), number);
        number
    }

    fn name(&self, number: u16) -> &str {
        self.names.get(usize::from(number)).map_or("other", |n| n)
    }
}

/// Looks at the events of the parcels of a thread.
pub struct Learner {
    names: FactNames,
    feeds: Names,
    lanes: Names,
    parts: Vec<(u32, HashMap<u32, Sampled>)>,
    last: Time,
}

impl Default for Learner {
    fn default() -> Learner {
        Learner {
            names: FactNames::new(["source.feed"]),
            feeds: Names::default(),
            lanes: Names::default(),
            parts: (0..PARTS).map(|_| (ALL, HashMap::new())).collect(),
            last: Time::MIN,
        }
    }
}

impl Learner {
    /// Looks at a record; `hash` is its parcel's.
    pub fn see(&mut self, text: &[u8], event: &Event<'_>, append: Time, hash: u32) {
        self.last = self.last.max(append);
        let (limit, parcels) = &mut self.parts[(hash % PARTS) as usize];
        let spread = hash / PARTS;
        if spread >= *limit || event.is_test || event.parcel_id.is_empty() {
            return;
        }
        // Decoded again, for the feed is no fact that rules know.
        let Ok(event) = decode(text, &self.names) else { return };
        let parcel = parcels.entry(hash).or_default();
        if let Some(lane) = fact(&event, known_fact("lane"))
            && parcel.lane.is_none_or(|(at, _)| at <= event.event_time)
        {
            parcel.lane = Some((event.event_time, self.lanes.number(lane)));
        }
        let Some(milestone) = event.milestone.filter(|_| !event.planned) else { return };
        if event.event_time > append.plus(FUTURE) || parcel.seen.len() >= OCCURRENCES {
            return;
        }
        let system = fact(&event, known_fact("source.system")).unwrap_or("unnamed");
        let feed = match fact(&event, Some(KNOWN_FACTS.len() as u16)) {
            Some(feed) => self.feeds.number(&format!("{system}/{feed}")),
            None => self.feeds.number(system),
        };
        let seen = Seen {
            event: event.event_time.0,
            append: append.0,
            id: event.event_id.as_deref().map_or(0, number_of),
            feed,
            milestone,
            class: event.evidence.map_or(0, |e| e as u8),
        };
        // The same record again is told once (SEMANTICS 1.4).
        let again = |s: &Seen| {
            if seen.id != 0 { s.id == seen.id } else { (s.milestone, s.event) == (milestone, seen.event) }
        };
        if !parcel.seen.iter().any(again) {
            parcel.seen.push(seen);
        }
        while parcels.len() > PARCELS {
            *limit /= 2;
            parcels.retain(|hash, _| hash / PARTS < *limit);
        }
    }

    /// Adds what another thread saw of its parcels.
    pub fn add(&mut self, other: Learner) {
        self.last = self.last.max(other.last);
        for (mine, (limit, parcels)) in self.parts.iter_mut().zip(other.parts) {
            mine.0 = mine.0.min(limit);
            for (hash, mut parcel) in parcels {
                for seen in &mut parcel.seen {
                    seen.feed = self.feeds.number(other.feeds.name(seen.feed));
                }
                if let Some((_, lane)) = &mut parcel.lane {
                    *lane = self.lanes.number(other.lanes.name(*lane));
                }
                mine.1.insert(hash, parcel);
            }
        }
    }

    /// What was learned, for these rules.
    #[must_use]
    pub fn learned(&self, rules: &RuleSet) -> Learned {
        let limit = self.parts.iter().map(|(limit, _)| *limit).min().unwrap_or(ALL);
        let parcels: Vec<&Sampled> = self
            .parts
            .iter()
            .flat_map(|(_, parcels)| parcels.iter().filter(|(hash, _)| **hash / PARTS < limit))
            .map(|(_, parcel)| parcel)
            .collect();
        Learned {
            parcels: parcels.len() as u64,
            one_of: ALL / limit.max(1),
            delays: self.delays(&parcels),
            pairs: rules.rules.iter().filter_map(|rule| self.pair(rule, &parcels)).collect(),
        }
    }

    fn delays(&self, parcels: &[&Sampled]) -> Vec<Delay> {
        let mut by: BTreeMap<(&str, &str, &str), Vec<i64>> = BTreeMap::new();
        for parcel in parcels {
            let lane = parcel.lane.map_or("", |(_, lane)| self.lanes.name(lane));
            for seen in &parcel.seen {
                let key = (self.feeds.name(seen.feed), lane, seen.milestone.name());
                by.entry(key).or_default().push((seen.append - seen.event).max(0));
            }
        }
        let mut rows: Vec<_> = by.into_iter().collect();
        rows.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then(a.0.cmp(&b.0)));
        let rest: Vec<i64> = rows.drain(rows.len().min(ROWS)..).flat_map(|(_, delays)| delays).collect();
        if !rest.is_empty() {
            rows.push((("other", "other", "other"), rest));
        }
        rows.into_iter()
            .map(|((feed, lane, milestone), mut delays)| {
                delays.sort_unstable();
                Delay {
                    feed: feed.to_owned(),
                    lane: lane.to_owned(),
                    milestone: milestone.to_owned(),
                    told: Quantiles::of(&delays),
                }
            })
            .collect()
    }

    fn pair(&self, rule: &Rule, parcels: &[&Sampled]) -> Option<Pair> {
        let body = &rule.bodies[0];
        let (anchors, derived) = anchors(rule);
        if rule.anchor.before || anchors.is_empty() || body.expect.milestones.is_empty() {
            return None;
        }
        let tolerance = match body.tolerance {
            Tolerance::Any => return None,
            Tolerance::Ms(ms) => ms,
        };
        let (mut took, mut told) = (Vec::new(), Vec::new());
        let mut windows: Vec<Window> =
            WINDOWS.iter().map(|after| Window { after: *after, parcels: 0, late: 0 }).collect();
        for parcel in parcels {
            let of = |set: MilestoneSet| parcel.seen.iter().filter(move |s| set.contains(s.milestone));
            let times = of(anchors).map(|s| s.event);
            let Some(anchor) = (if rule.anchor.last { times.max() } else { times.min() }) else { continue };
            let expected = |s: &&Seen| s.event >= anchor - tolerance && admits(body.evidence, s.class);
            let met = of(body.expect.milestones).filter(expected).min_by_key(|s| s.event);
            if let Some(met) = met {
                took.push((met.event - anchor).max(0));
                told.push((met.append - met.event).max(0));
            }
            let ended = parcel.seen.iter().filter(|s| s.milestone.is_terminal()).map(|s| s.event).min();
            for window in &mut windows {
                let end = anchor + window.after;
                let in_time = met.is_some_and(|m| m.event <= end);
                // Neither one whose window is not over nor one that ended otherwise says anything.
                if !in_time && (end > self.last.0 || ended.is_some_and(|e| e <= end)) {
                    continue;
                }
                window.parcels += 1;
                window.late += u64::from(!in_time);
            }
        }
        took.sort_unstable();
        told.sort_unstable();
        let told = Quantiles::of(&told);
        Some(Pair {
            rule: rule.id.to_string(),
            from: anchors.iter().map(Milestone::name).collect::<Vec<_>>().join(" or "),
            approximate: derived,
            expected: body.expect.names.join(", "),
            took: Quantiles::of(&took),
            windows,
            waits: body.reporting_delay,
            suggested: told.suggested(),
            told,
        })
    }
}

/// The milestones that a rule's clock runs from, and whether they only stand for a derived time.
fn anchors(rule: &Rule) -> (MilestoneSet, bool) {
    let (mut set, mut derived) = (MilestoneSet::default(), false);
    for source in &rule.anchor.sources {
        match source {
            AnchorSource::Milestone(m) => set.insert(*m),
            AnchorSource::Derived(DerivedTime::ImportCustomsFullyCleared) => {
                set.insert(Milestone::ImportCustomsCleared);
                derived = true;
            }
            AnchorSource::Derived(_) => return (MilestoneSet::default(), true),
        }
    }
    (set, derived)
}

fn admits(filter: ClassFilter, class: u8) -> bool {
    filter.admits(class)
}

fn fact<'e>(event: &'e Event<'_>, number: Option<u16>) -> Option<&'e str> {
    let (_, value) = event.facts.iter().find(|(n, _)| Some(*n) == number)?;
    match value {
        FactValue::Text(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// A number for an event's id, never 0.
fn number_of(id: &str) -> u32 {
    let hash = id.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    hash.max(1)
}

/// Windows that a rule's author would try.
const WINDOWS: [i64; 8] = [12 * HOUR, DAY, 36 * HOUR, 2 * DAY, 3 * DAY, 5 * DAY, 7 * DAY, 14 * DAY];

/// How many, and what half, 95 % and 99 % of them do not exceed, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// How many.
    pub n: u64,
    /// Half of them.
    pub p50: i64,
    /// 95 % of them.
    pub p95: i64,
    /// 99 % of them.
    pub p99: i64,
}

impl Quantiles {
    fn of(sorted: &[i64]) -> Quantiles {
        let p = |percent| percentile(sorted, percent).unwrap_or_default();
        Quantiles { n: sorted.len() as u64, p50: p(50), p95: p(95), p99: p(99) }
    }

    /// A `reporting_delay` that waits for 99 of 100 reports: the next greater of the durations people write; beyond two weeks
    /// whole days.
    #[must_use]
    pub fn suggested(&self) -> i64 {
        const STEPS: [i64; 17] = [
            5 * MINUTE,
            15 * MINUTE,
            30 * MINUTE,
            HOUR,
            2 * HOUR,
            3 * HOUR,
            4 * HOUR,
            6 * HOUR,
            8 * HOUR,
            12 * HOUR,
            18 * HOUR,
            DAY,
            36 * HOUR,
            2 * DAY,
            3 * DAY,
            4 * DAY,
            7 * DAY,
        ];
        STEPS.into_iter().find(|s| *s >= self.p99).unwrap_or_else(|| self.p99.div_euclid(DAY) * DAY + DAY)
    }
}

/// How long reports of a milestone are on their way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delay {
    /// `source.system/source.feed`.
    pub feed: String,
    /// "" where no record of the parcel names one.
    pub lane: String,
    /// The milestone.
    pub milestone: String,
    /// From `event_time` to the append time.
    pub told: Quantiles,
}

/// How long what a rule expects usually takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The rule.
    pub rule: String,
    /// Its anchor.
    pub from: String,
    /// The anchor is a derived time; the milestone stands for it.
    pub approximate: bool,
    /// What it expects, as written.
    pub expected: String,
    /// From the anchor to the first that satisfies.
    pub took: Quantiles,
    /// What windows would catch.
    pub windows: Vec<Window>,
    /// The rule's `reporting_delay`.
    pub waits: i64,
    /// How long reports of what satisfied were on their way.
    pub told: Quantiles,
    /// What `reporting_delay` they suggest.
    pub suggested: i64,
}

/// A window, and what it would catch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Milliseconds after the anchor.
    pub after: i64,
    /// Parcels whose window is over within the events.
    pub parcels: u64,
    /// Of them, those for which nothing expected had happened by then.
    pub late: u64,
}

/// What was learned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned {
    /// Parcels looked at.
    pub parcels: u64,
    /// One of so many parcels was looked at.
    pub one_of: u32,
    /// Most reports first.
    pub delays: Vec<Delay>,
    /// In the order of the rules; only those with a milestone as an anchor and one expected.
    pub pairs: Vec<Pair>,
}
