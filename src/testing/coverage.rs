//! Which parts of the rules and policies a test asks about. What merely happens in a test counts for nothing: only what an
//! expectation asked for.
//!
//! The items of a rule are each of its stages; each override, with each of its stages where it has its own; and each way of
//! ending that is possible for it: `satisfied_late` and `late_evidence` where it expects anything, `terminal` unless it is
//! `after_terminal` or every terminal milestone satisfies it, `expired` with `until`, `condition_ended` with `scope`, `while` or `unless`, `anchor_moved` where its anchor
//! makes episodes. Those of a policy are its steps. An item that cannot be asked for is excused in a test file, with a reason.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::run::Happened;
use super::{Excuse, Kind, TestFile};
use crate::model::{Milestone, Resolution};
use crate::rules::ruleset::{Body, Matcher, Rule};
use crate::rules::{Policies, RuleSet, duration};

/// What is known of one item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Open,
    Asked,
    Excused,
}

/// The items of a directory, and which of them are asked for.
pub struct Coverage {
    /// (rule or policy, item) → what became of it, and what it is in words.
    items: BTreeMap<(String, String), (Fate, String)>,
    /// Bodies of each rule with stages of their own.
    own_stages: BTreeMap<String, Vec<bool>>,
    idle: Vec<Excuse>,
}

impl Coverage {
    /// Nothing is asked for yet.
    #[must_use]
    pub fn new(rules: &RuleSet, policies: &Policies, tests: &[TestFile]) -> Coverage {
        let mut coverage = Coverage { items: BTreeMap::new(), own_stages: BTreeMap::new(), idle: Vec::new() };
        for rule in &rules.rules {
            coverage.rule(rule);
        }
        for policy in &policies.policies {
            for (n, step) in (1..).zip(&policy.steps) {
                let words = format!("{} after {}", step.notify.join(" and "), super::words::span(step.after));
                coverage.add(&policy.id, format!("step {n}"), words);
            }
        }
        for excuse in tests.iter().flat_map(|t| &t.excused) {
            match coverage.items.get_mut(&(excuse.rule.clone(), excuse.item.clone())) {
                Some((fate, _)) => *fate = Fate::Excused,
                // It may excuse a mutant; of those that name an item's kind it is plain.
                None if is_item(&excuse.item) => coverage.idle.push(excuse.clone()),
                None => {}
            }
        }
        coverage
    }

    fn add(&mut self, of: &str, item: String, words: String) {
        self.items.insert((of.to_owned(), item), (Fate::Open, words));
    }

    fn rule(&mut self, rule: &Rule) {
        let own: Vec<bool> = rule
            .bodies
            .iter()
            .enumerate()
            .map(|(n, b)| n == 0 || b.stages != rule.bodies[0].stages)
            .collect();
        for (n, body) in rule.bodies.iter().enumerate() {
            if !own[n] {
                self.add(&rule.id, override_item(n, None), "a parcel that it applies to, told of".to_owned());
                continue;
            }
            for (k, stage) in body.stages.iter().enumerate() {
                let item = if n == 0 { format!("stage {}", k + 1) } else { override_item(n, Some(k + 1)) };
                let side = if rule.anchor.before { "before" } else { "after" };
                self.add(
                    &rule.id,
                    item,
                    format!("{}, {} {side}", stage.severity.name(), duration::show(stage.at)),
                );
            }
        }
        for resolution in possible(rule) {
            self.add(&rule.id, format!("ends {}", resolution.name()), ending(resolution).to_owned());
        }
        self.own_stages.insert(rule.id.to_string(), own);
    }

    /// Takes what the expectations of a test asked for.
    pub fn take<'h>(&mut self, asked: impl Iterator<Item = &'h Happened>) {
        for h in asked {
            let (of, item) = match (h.kind, h.resolution) {
                (Kind::Notify, _) if h.step > 0 => (&h.policy, format!("step {}", h.step)),
                (Kind::Resolved, Some(resolution)) => (&h.rule, format!("ends {}", resolution.name())),
                (Kind::Opened | Kind::Raised, _) => (&h.rule, self.stage_item(h)),
                _ => continue,
            };
            if let Some((fate, _)) = self.items.get_mut(&(of.clone(), item)) {
                *fate = Fate::Asked;
            }
        }
    }

    fn stage_item(&self, h: &Happened) -> String {
        let n = usize::from(h.body);
        let own = self.own_stages.get(&h.rule).and_then(|own| own.get(n)).copied().unwrap_or(true);
        match n {
            0 => format!("stage {}", h.stage),
            _ => override_item(n, own.then_some(usize::from(h.stage))),
        }
    }

    fn count(&self, fate: Fate) -> usize {
        self.items.values().filter(|(f, _)| *f == fate).count()
    }

    /// Of the items, how many are asked for or excused, in whole percent, rounded down.
    #[must_use]
    pub fn percent(&self) -> u32 {
        percent(self.items.len() - self.count(Fate::Open), self.items.len())
    }

    /// What no test asks for and nobody excused: the rule or policy, the item, and what that is.
    pub fn open(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let open = self.items.iter().filter(|(_, (fate, _))| *fate == Fate::Open);
        open.map(|((of, item), (_, words))| (of.as_str(), item.as_str(), words.as_str()))
    }

    /// What no test asks for, for people.
    #[must_use]
    pub fn report(&self, dir: &str) -> String {
        let (all, excused) = (self.items.len(), self.count(Fate::Excused));
        let good = all - self.count(Fate::Open);
        let mut text = format!("coverage of {dir}: {} % ({good} of {all} items", self.percent());
        let _ = writeln!(
            text,
            "{})",
            if excused > 0 { format!(", {excused} of them excused") } else { String::new() }
        );
        let mut open: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (of, item, words) in self.open() {
            open.entry(of).or_default().push(format!("      {item} ({words})"));
        }
        for (of, items) in open {
            let all = self.items.keys().filter(|(other, _)| other == of).count();
            let _ = writeln!(text, "  {of}: no test asks for {} of {all} items:", items.len());
            let _ = writeln!(text, "{}", items.join("\n"));
        }
        for excuse in &self.idle {
            let place = format!("{}:{}", excuse.place.source.path.display(), excuse.place.line);
            let _ = writeln!(text, "  {place}: `{}` has no item `{}` to excuse", excuse.rule, excuse.item);
        }
        text
    }
}

/// Whole percent, rounded down; of nothing, all.
pub(super) fn percent(part: usize, whole: usize) -> u32 {
    (part * 100).checked_div(whole).map_or(100, |p| u32::try_from(p).unwrap_or(100))
}

/// What such an end is, in words.
fn ending(resolution: Resolution) -> &'static str {
    match resolution {
        Resolution::SatisfiedLate => "what is expected happens, too late",
        Resolution::LateEvidence => "what is expected happened in time, and is told too late",
        Resolution::Terminal => "the parcel is delivered, lost, returned or cancelled meanwhile",
        Resolution::Expired => "its `until` comes",
        Resolution::ConditionEnded => "`scope` or `while` no longer hold, or `unless` does",
        Resolution::AnchorMoved => "what it counts from happens again",
        _ => "it ends",
    }
}

fn override_item(n: usize, stage: Option<usize>) -> String {
    stage.map_or_else(|| format!("override {n}"), |stage| format!("override {n} stage {stage}"))
}

fn is_item(item: &str) -> bool {
    let words: Vec<&str> = item.split(' ').collect();
    matches!(words[..], ["stage" | "override" | "step" | "ends", _] | ["override", _, "stage", _])
}

/// The ways in which its exceptions can end by themselves.
fn possible(rule: &Rule) -> Vec<Resolution> {
    let says = |m: &Matcher| *m != Matcher::default();
    let conditions = says(&rule.scope)
        || rule
            .bodies
            .iter()
            .any(|b| b.while_.as_ref().is_some_and(says) || b.unless.as_ref().is_some_and(says));
    let expects = |b: &Body| {
        let e = &b.expect;
        e.next_expected || !e.derived.is_empty() || Milestone::ALL.iter().any(|m| e.milestones.contains(*m))
    };
    let expects = rule.bodies.iter().any(expects);
    let unexpected = |b: &Body| {
        b.evidence.0 != 0
            || Milestone::ALL.iter().any(|m| m.is_terminal() && !b.expect.milestones.contains(*m))
    };
    let terminal = !rule.after_terminal && rule.bodies.iter().any(unexpected);
    [
        (expects, Resolution::SatisfiedLate),
        (expects, Resolution::LateEvidence),
        (terminal, Resolution::Terminal),
        (rule.until.is_some(), Resolution::Expired),
        (conditions, Resolution::ConditionEnded),
        (rule.anchor.has_episodes(), Resolution::AnchorMoved),
    ]
    .into_iter()
    .filter_map(|(possible, resolution)| possible.then_some(resolution))
    .collect()
}
