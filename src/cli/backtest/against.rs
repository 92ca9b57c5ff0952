//! Two rule sets over the same events: which exceptions stand only under the one, only under the other, or otherwise.
//!
//! An exception here is one standing: from an `opened` to its `resolved`. Two of the same rule, parcel and episode are the same
//! where they stand at one time; what is compared is told once both are over, so that only what stands is kept.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use serde_json::{Value, json};

use super::jsonl::Held;
use super::report::{Window, in_order};
use crate::model::{Change, ChangeKind, Time};

/// Examples of each difference of a rule.
const EXAMPLES: usize = 3;

/// How two exceptions differ: the first that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// It opens only under `--rules`.
    OnlyRules,
    /// It opens only under `--against`.
    OnlyAgainst,
    /// It opens at another time.
    Time,
    /// It has other stages or severities, or gets them at another time.
    Severity,
    /// It ends otherwise, or at another time.
    End,
}

impl Difference {
    /// All of them.
    pub const ALL: [Difference; 5] = [
        Difference::OnlyRules,
        Difference::OnlyAgainst,
        Difference::Time,
        Difference::Severity,
        Difference::End,
    ];

    /// The `difference` and the `set` of a line.
    #[must_use]
    pub const fn names(self) -> (&'static str, &'static str) {
        match self {
            Difference::OnlyRules => ("only", "rules"),
            Difference::OnlyAgainst => ("only", "against"),
            Difference::Time => ("time", "both"),
            Difference::Severity => ("severity", "both"),
            Difference::End => ("end", "both"),
        }
    }

    /// In words.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Difference::OnlyRules => "only in rules",
            Difference::OnlyAgainst => "only in against",
            Difference::Time => "opens at another time",
            Difference::Severity => "other stages or severities",
            Difference::End => "ends otherwise",
        }
    }
}

/// One standing: its changes in the order they happened.
#[derive(Debug, Clone, PartialEq)]
struct Standing {
    changes: Vec<Step>,
}

/// What counts of a change.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    kind: ChangeKind,
    at: Time,
    stage: u8,
    severity: u8,
    due: Time,
}

impl Standing {
    fn opened(&self) -> Time {
        self.changes[0].at
    }

    /// `None` while it stands.
    fn ended(&self) -> Option<Time> {
        self.changes.last().filter(|s| matches!(s.kind, ChangeKind::Resolved(_))).map(|s| s.at)
    }

    fn ends_by(&self, at: Time) -> bool {
        self.ended().is_some_and(|e| e <= at)
    }

    fn json(&self) -> Value {
        self.changes
            .iter()
            .map(|s| match s.kind {
                ChangeKind::Resolved(r) => {
                    json!({"at": s.at.to_string(), "change": s.kind.name(), "stage": s.stage, "resolution": r.name()})
                }
                _ => json!({
                    "at": s.at.to_string(), "change": s.kind.name(), "stage": s.stage,
                    "severity": crate::model::Severity::from_code(s.severity).map(crate::model::Severity::name),
                    "due": s.due.to_string(),
                }),
            })
            .collect()
    }
}

type Key = (std::sync::Arc<str>, Box<str>, Option<Time>);

/// What both sets have of one exception and is not compared yet.
#[derive(Debug, Default)]
struct Both([VecDeque<Standing>; 2]);

/// What differs for a rule.
#[derive(Debug, Clone, Default)]
pub struct OfRule {
    /// Opened, under `--rules` and under `--against`.
    pub opened: [u64; 2],
    /// The same in every respect.
    pub same: u64,
    /// By [`Difference::ALL`].
    pub counts: [u64; 5],
    /// Lines of the first of each.
    pub examples: [Vec<String>; 5],
}

/// Compares.
pub struct Compare {
    window: Window,
    both: HashMap<Key, Both>,
    touched: BTreeSet<Key>,
    /// By rule.
    pub of: BTreeMap<String, OfRule>,
    /// The lines.
    pub held: Held,
    /// How many.
    pub count: u64,
}

impl Compare {
    /// Nothing has happened.
    #[must_use]
    pub fn new(window: Window) -> Compare {
        Compare {
            window,
            both: HashMap::new(),
            touched: BTreeSet::new(),
            of: BTreeMap::new(),
            held: Held::default(),
            count: 0,
        }
    }

    /// Takes changes of a set (0: `--rules`, 1: `--against`) that are complete up to a moment; with those of the second set
    /// what is over by then is compared.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub fn take(&mut self, set: usize, changes: &mut [Change]) -> anyhow::Result<()> {
        in_order(changes);
        for c in changes.iter() {
            let key = (c.rule.clone(), c.parcel_id.clone(), c.episode);
            let (kind, at, stage, severity, due) = (c.kind, c.at, c.stage, c.severity as u8, c.due);
            let step = Step { kind, at, stage, severity, due };
            let list = &mut self.both.entry(key.clone()).or_default().0[set];
            match (kind, list.back_mut()) {
                (ChangeKind::Opened, _) | (_, None) => list.push_back(Standing { changes: vec![step] }),
                (_, Some(last)) => last.changes.push(step),
            }
            self.touched.insert(key);
        }
        if set == 1 { self.settle(false) } else { Ok(()) }
    }

    /// The end: what stands is compared as it is.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub fn end(&mut self) -> anyhow::Result<()> {
        self.touched = self.both.keys().cloned().collect();
        self.settle(true)
    }

    fn settle(&mut self, end: bool) -> anyhow::Result<()> {
        let mut over = Vec::new();
        for key in std::mem::take(&mut self.touched) {
            let Some(both) = self.both.get_mut(&key) else { continue };
            while let Some((a, b)) = both.next(end) {
                over.push((key.clone(), a, b));
            }
            if both.0.iter().all(VecDeque::is_empty) {
                self.both.remove(&key);
            }
        }
        // In the order they ended, whatever the rounds were.
        let ended = |s: &Option<Standing>| s.as_ref().map(|s| s.ended().unwrap_or(Time::MAX));
        let opened = |s: &Option<Standing>| s.as_ref().map_or(Time::MAX, Standing::opened);
        over.sort_by_cached_key(|(key, a, b)| {
            (ended(a).max(ended(b)), opened(a).min(opened(b)), key.1.clone(), key.0.clone(), key.2)
        });
        for (key, a, b) in over {
            self.tell(&key, a.as_ref(), b.as_ref())?;
        }
        Ok(())
    }

    fn tell(&mut self, key: &Key, a: Option<&Standing>, b: Option<&Standing>) -> anyhow::Result<()> {
        let steps = || a.into_iter().chain(b).flat_map(|s| &s.changes);
        if !steps().any(|s| self.window.holds(s.at)) {
            return Ok(());
        }
        let of = self.of.entry(key.0.to_string()).or_default();
        of.opened[0] += u64::from(a.is_some());
        of.opened[1] += u64::from(b.is_some());
        let Some(difference) = difference(a, b) else {
            of.same += 1;
            return Ok(());
        };
        let (name, set) = difference.names();
        let at = steps().map(|s| s.at).min().unwrap_or_default();
        let line = json!({
            "at": at.to_string(), "difference": name, "set": set, "rule": &*key.0, "parcel_id": &*key.1,
            "episode": key.2.map(|t| t.to_string()).unwrap_or_default(),
            "rules": a.map(Standing::json), "against": b.map(Standing::json),
        })
        .to_string();
        let i = difference as usize;
        of.counts[i] += 1;
        if of.examples[i].len() < EXAMPLES {
            of.examples[i].push(line.clone());
        }
        self.count += 1;
        Ok(self.held.line(&line)?)
    }
}

impl Both {
    /// The next pair that is over; one of the two where the other set has none at that time.
    fn next(&mut self, end: bool) -> Option<(Option<Standing>, Option<Standing>)> {
        let [left, right] = &mut self.0;
        let (a, b) = (left.front(), right.front());
        match (a, b) {
            (None, None) => None,
            (Some(a), None) => (end || a.ended().is_some()).then(|| (left.pop_front(), None)),
            (None, Some(b)) => (end || b.ended().is_some()).then(|| (None, right.pop_front())),
            (Some(a), Some(b)) if a.opened() != b.opened() && a.ends_by(b.opened()) => {
                Some((left.pop_front(), None))
            }
            (Some(a), Some(b)) if a.opened() != b.opened() && b.ends_by(a.opened()) => {
                Some((None, right.pop_front()))
            }
            (Some(a), Some(b)) => {
                let over = end || (a.ended().is_some() && b.ended().is_some());
                over.then(|| (left.pop_front(), right.pop_front()))
            }
        }
    }
}

fn difference(a: Option<&Standing>, b: Option<&Standing>) -> Option<Difference> {
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (Some(_), None) => return Some(Difference::OnlyRules),
        (None, _) => return Some(Difference::OnlyAgainst),
    };
    if a.opened() != b.opened() {
        return Some(Difference::Time);
    }
    let told = |s: &Standing| -> Vec<_> {
        let told = s.changes.iter().filter(|s| !matches!(s.kind, ChangeKind::Resolved(_)));
        told.map(|s| (s.at, s.stage, s.severity)).collect()
    };
    if told(a) != told(b) {
        return Some(Difference::Severity);
    }
    let end = |s: &Standing| s.changes.last().map(|s| (s.at, s.kind));
    (end(a) != end(b)).then_some(Difference::End)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Resolution, Severity};

    fn change(kind: ChangeKind, at: i64, stage: u8) -> Change {
        Change {
            kind,
            rule: "r".into(),
            body: Some((0, 0)),
            parcel_id: "P".into(),
            episode: None,
            offset: 0,
            at: Time(at),
            stage,
            severity: Severity::Warning,
            anchor: Time(0),
            due: Time(0),
            incomplete: false,
            evidence: None,
        }
    }

    /// `o5 r9`: opened at 5, resolved at 9; `+7`: raised at 7.
    fn changes(text: &str) -> Vec<Change> {
        let mut stage = 0;
        text.split_whitespace()
            .map(|word| {
                let at = word[1..].parse().unwrap();
                let kind = match &word[..1] {
                    "o" => ChangeKind::Opened,
                    "+" => ChangeKind::Raised,
                    _ => ChangeKind::Resolved(Resolution::SatisfiedLate),
                };
                stage = if kind == ChangeKind::Raised { 2 } else { 1 };
                change(kind, at, stage)
            })
            .collect()
    }

    #[track_caller]
    fn compared(a: &str, b: &str, wanted: [u64; 5], same: u64) {
        // Whole, and as it comes: every moment is a round of its own.
        for rounds in [vec![i64::MAX], (0..100).collect()] {
            let mut compare = Compare::new(Window { from: Time::MIN, to: Time::MAX });
            let (mut a, mut b) = (changes(a), changes(b));
            for bound in rounds {
                for (set, list) in [&mut a, &mut b].into_iter().enumerate() {
                    let n = list.iter().take_while(|c| c.at.0 < bound).count();
                    compare.take(set, &mut list.drain(..n).collect::<Vec<_>>()).unwrap();
                }
            }
            compare.end().unwrap();
            let of = compare.of.get("r").cloned().unwrap_or_default();
            assert_eq!((of.counts, of.same), (wanted, same));
        }
    }

    #[test]
    fn the_first_difference_counts() {
        compared("o1 r9", "o1 r9", [0; 5], 1);
        compared("o1 r9", "", [1, 0, 0, 0, 0], 0);
        compared("", "o1", [0, 1, 0, 0, 0], 0);
        compared("o1 r9", "o2 r9", [0, 0, 1, 0, 0], 0);
        compared("o1 +3 r9", "o1 +4 r9", [0, 0, 0, 1, 0], 0);
        compared("o1 r9", "o1 r8", [0, 0, 0, 0, 1], 0);
        compared("o1", "o1", [0; 5], 1);
        compared("o1", "o1 r5", [0, 0, 0, 0, 1], 0);
    }

    #[test]
    fn exceptions_are_the_same_where_they_stand_at_one_time() {
        compared("o1 r3", "o5 r9", [1, 1, 0, 0, 0], 0);
        compared("o1 r5 o5 r9", "o5 r9", [1, 0, 0, 0, 0], 1);
        compared("o1 r3 o5 r9", "o2 r9", [1, 0, 1, 0, 0], 0);
        compared("o4 r4", "o4 r4", [0; 5], 1);
    }
}
