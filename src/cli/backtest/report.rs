//! Changes → figures for people: per rule how many exceptions, how long they stood, how they ended, who was told.
//!
//! What is kept grows with the exceptions that stand at one time, the rules and the days, not with the events.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::pipeline::Sink;
use super::sketch::Sketch;
use crate::cases::Memory;
use crate::escalation::{Evidence, Flushed};
use crate::model::{Change, ChangeKind, DAY, Resolution, Time};
use crate::rules::{Policies, RuleSet};

/// Examples of a rule.
const EXAMPLES: usize = 5;
/// Changes told of an example.
const CHANGES: usize = 20;
/// Lanes or carriers of a rule that are told apart.
const NAMES: usize = 1_000;

/// What is reported: changes with `at` in [from, to).
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// The first moment.
    pub from: Time,
    /// The first moment that is not in it any more.
    pub to: Time,
}

impl Window {
    /// Whether a moment is in it.
    #[must_use]
    pub fn holds(&self, at: Time) -> bool {
        self.from <= at && at < self.to
    }
}

/// How often each of some names came; beyond [`NAMES`] of them new ones are counted together.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    counts: BTreeMap<String, u64>,
    other: u64,
}

impl Tally {
    fn add(&mut self, name: &str) {
        if let Some(n) = self.counts.get_mut(name) {
            *n += 1;
        } else if self.counts.len() < NAMES {
            self.counts.insert(name.to_owned(), 1);
        } else {
            self.other += 1;
        }
    }

    /// The most frequent ones, and how many the rest are.
    #[must_use]
    pub fn top(&self, most: usize) -> (Vec<(&str, u64)>, u64) {
        let mut all: Vec<_> = self.counts.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let rest = all.drain(all.len().min(most)..).map(|(_, n)| n).sum::<u64>();
        (all, rest + self.other)
    }
}

/// One exception, for a person to look at.
#[derive(Debug, Clone)]
pub struct Example {
    /// What examples are drawn by: no choice of anybody's.
    key: u64,
    /// The parcel.
    pub parcel_id: String,
    /// "" or the anchor's time.
    pub episode: String,
    /// What happened to it, at most the first twenty changes.
    pub changes: Vec<Change>,
    /// What decided the latest of them.
    pub evidence: Option<Box<str>>,
}

/// The figures of a rule.
#[derive(Debug, Clone, Default)]
pub struct OfRule {
    /// Exceptions opened (again).
    pub opened: u64,
    /// By severity, from info.
    pub severities: [u64; 4],
    /// By day since 1970.
    pub days: BTreeMap<i64, u64>,
    /// Raises.
    pub raised: u64,
    /// By [`Resolution::ALL`].
    pub resolved: [u64; Resolution::ALL.len()],
    /// From the latest `opened` to `resolved`.
    pub stood: Sketch,
    /// From the due time to the record that said it was done, of those satisfied late.
    pub too_late: Sketch,
    /// Of those opened.
    pub lanes: Tally,
    /// Of those opened.
    pub carriers: Tally,
    /// Standing at the end.
    pub standing: u64,
    /// Messages that hold one of its exceptions, by receiver.
    pub messages: BTreeMap<String, u64>,
    /// Drawn by a hash.
    pub examples: Vec<Example>,
}

impl OfRule {
    /// All that ended.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.resolved.iter().sum()
    }

    /// Those that turned out to have been in time.
    #[must_use]
    pub fn late_evidence(&self) -> u64 {
        self.resolved[Resolution::LateEvidence as usize]
    }
}

/// An exception that stands.
#[derive(Debug, Clone, Copy)]
struct Standing {
    opened: Time,
    rule: usize,
}

/// Gathers the figures of one rule set.
pub struct Report {
    /// The rules.
    pub rules: Arc<RuleSet>,
    /// By the rules' order.
    pub of: Vec<OfRule>,
    /// Messages by receiver, each once.
    pub messages: BTreeMap<String, u64>,
    /// Whether anybody could be told: the directory has policies.
    pub told: bool,
    /// What is reported.
    pub window: Window,
    /// Changes within it.
    pub count: u64,
    standing: HashMap<u64, Standing>,
    cases: Option<Memory>,
}

impl Report {
    /// Nothing has happened. Without policies nobody is told.
    #[must_use]
    pub fn new(rules: Arc<RuleSet>, policies: &Policies, window: Window) -> Report {
        let told = !policies.policies.is_empty();
        Report {
            of: vec![OfRule::default(); rules.rules.len()],
            messages: BTreeMap::new(),
            told,
            window,
            count: 0,
            standing: HashMap::new(),
            cases: told.then(|| Memory::new(Arc::clone(&rules), policies.clone())),
            rules,
        }
    }

    /// The days reported, from the first append time to the last one, at least one.
    #[must_use]
    pub fn days(&self, first: Option<Time>, last: Option<Time>) -> f64 {
        let from = self.window.from.max(first.unwrap_or(Time::MIN));
        let to = self.window.to.min(last.unwrap_or(Time::MAX));
        (to.0.saturating_sub(from.0) as f64 / DAY as f64).max(1.0)
    }

    /// The end: what is told by then is told.
    pub fn end(&mut self, at: Time) {
        let mut cases = self.cases.take();
        if let Some(cases) = &mut cases {
            cases.run(at.0, &mut |now, flushed| self.told(now, flushed));
        }
        self.cases = cases;
        for standing in self.standing.values() {
            self.of[standing.rule].standing += 1;
        }
    }

    fn told(&mut self, now: Time, flushed: &Flushed) {
        if !self.window.holds(now) {
            return;
        }
        let rules: HashMap<i64, &str> = flushed.cases.iter().map(|c| (c.number, c.rule.as_str())).collect();
        for message in &flushed.messages {
            *self.messages.entry(message.to.receiver.clone()).or_insert(0) += 1;
            let mut of: Vec<&str> =
                message.notices.iter().filter_map(|n| rules.get(&n.exception).copied()).collect();
            of.sort_unstable();
            of.dedup();
            for (rule, _) in of.into_iter().filter_map(|id| self.rules.rule(id)) {
                *self.of[rule].messages.entry(message.to.receiver.clone()).or_insert(0) += 1;
            }
        }
    }

    /// Takes changes in the order they happened.
    pub fn take(&mut self, change: &Change) {
        let mut cases = self.cases.take();
        if let Some(cases) = &mut cases {
            cases.commit(change, &mut |now, flushed| self.told(now, flushed));
        }
        self.cases = cases;
        let Some((rule, _)) = self.rules.rule(&change.rule) else { return };
        let key = key(change);
        let inside = self.window.holds(change.at);
        self.count += u64::from(inside);
        match change.kind {
            ChangeKind::Opened => {
                self.standing.insert(key, Standing { opened: change.at, rule });
                if inside {
                    self.of[rule].opened(change);
                }
            }
            ChangeKind::Raised => self.of[rule].raised += u64::from(inside),
            ChangeKind::Resolved(resolution) => {
                let opened = self.standing.remove(&key).map_or(change.at, |s| s.opened);
                if inside {
                    let of = &mut self.of[rule];
                    of.resolved[resolution as usize] += 1;
                    of.stood.add(change.at.0 - opened.0);
                    if resolution == Resolution::SatisfiedLate {
                        of.too_late.add(change.at.0 - change.due.0);
                    }
                }
            }
        }
        self.of[rule].example(key, change, inside);
    }
}

impl OfRule {
    fn opened(&mut self, change: &Change) {
        self.opened += 1;
        self.severities[change.severity as usize - 1] += 1;
        *self.days.entry(change.at.0.div_euclid(DAY)).or_insert(0) += 1;
        let evidence = change.evidence.as_deref().map(Evidence::parse).unwrap_or_default();
        let text = |name: &str| evidence.facts.get(name).and_then(|v| v.as_str());
        self.lanes.add(text("lane").unwrap_or("not stated"));
        let carrier = ["domestic_carrier", "carrier", "carrier_code"].into_iter().find_map(text);
        self.carriers.add(carrier.unwrap_or("not stated"));
    }

    fn example(&mut self, key: u64, change: &Change, inside: bool) {
        let known = self.examples.iter().position(|e| e.key == key);
        let at = match known {
            Some(at) => at,
            None if inside && change.kind == ChangeKind::Opened => {
                let greatest = self.examples.iter().enumerate().max_by_key(|(_, e)| e.key);
                match greatest {
                    Some((_, e)) if self.examples.len() >= EXAMPLES && e.key < key => return,
                    Some((i, _)) if self.examples.len() >= EXAMPLES => drop(self.examples.swap_remove(i)),
                    _ => {}
                }
                self.examples.push(Example {
                    key,
                    parcel_id: change.parcel_id.to_string(),
                    episode: change.episode_text(),
                    changes: Vec::new(),
                    evidence: None,
                });
                self.examples.len() - 1
            }
            None => return,
        };
        let example = &mut self.examples[at];
        if example.changes.len() < CHANGES {
            example.changes.push(Change { evidence: None, ..change.clone() });
            example.evidence.clone_from(&change.evidence);
        }
    }
}

/// The same in every run and on every machine.
fn key(change: &Change) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&*change.rule, &*change.parcel_id, change.episode).hash(&mut hasher);
    hasher.finish()
}

/// In the order they happened: those of one parcel are already.
pub fn in_order(changes: &mut [Change]) {
    changes.sort_by(|a, b| (a.at, &a.parcel_id).cmp(&(b.at, &b.parcel_id)));
}

impl Sink for Report {
    fn changes(&mut self, _: usize, mut changes: Vec<Change>) -> anyhow::Result<()> {
        in_order(&mut changes);
        changes.iter().for_each(|c| self.take(c));
        Ok(())
    }
}
