//! The life of one parcel: records fold, the clock passes, exceptions open and end (4, 5, 7, 8 of SEMANTICS).
use super::facts::{self, Claim, Fact, HoldFilter, Known};
use super::matcher;
use super::record::Record;
use super::rules::{Expectation, Rule, RuleBook, SEVERITIES, Terms};
use super::time::{DAY, Direction, Millis, print_instant};
use super::vocabulary::{MILESTONES, reaches};
use super::{Change, Line};
use std::collections::BTreeSet;

/// DESIGN 10: the defaults that `backtest` forgets with.
const FORGET_AFTER: Millis = 30 * DAY;
const REMEMBER_IDS: Millis = 60 * DAY;
const ABANDON_AFTER: Millis = 400 * DAY;

/// The moment at which something is asked: W is this append time, or W has just passed this time.
#[derive(Clone, Copy)]
struct Moment {
    time: Millis,
    just_passed: bool,
}

impl Moment {
    /// DESIGN 4.4: W > t
    fn is_past(self, t: Millis) -> bool {
        t < self.time || (self.just_passed && t == self.time)
    }
}

/// 5.2: an anchor, with the record that gave it.
#[derive(Clone, Copy)]
struct Anchor {
    time: Millis,
    append: Millis,
    position: usize,
    zone_assumed: bool,
}

/// What stands of a rule.
struct Standing {
    episode: String,
    /// 7.2: of the latest `opened` or `raised`
    stage: usize,
    due: Millis,
    anchor: Millis,
    /// 7.4: the highest told since `opened`
    highest_stage: usize,
    highest_severity: usize,
    /// 7.3: the claim while its episode was the current one
    claim: Option<Claim>,
}

struct Parcel<'a> {
    book: &'a RuleBook,
    id: &'a str,
    /// what was folded, and what was known after each of them
    folded: Vec<Record>,
    known: Vec<Known>,
    /// 1.4
    ids: BTreeSet<String>,
    standing: Vec<Option<Standing>>,
    /// 8.1: since when it is forgotten
    forgotten_at: Option<Millis>,
    /// clock-driven times before this one are done
    clock_from: Millis,
    lines: Vec<Line>,
}

/// All changes of one parcel: its records in order of folding, and the time that the clock passes last.
pub fn changes(book: &RuleBook, id: &str, records: Vec<Record>, end: Millis) -> Vec<Line> {
    let mut parcel = Parcel {
        book,
        id,
        folded: Vec::new(),
        known: Vec::new(),
        ids: BTreeSet::new(),
        standing: book.rules.iter().map(|_| None).collect(),
        forgotten_at: None,
        clock_from: Millis::MIN,
        lines: Vec::new(),
    };
    for record in records {
        parcel.pass_clock(record.append - 1);
        parcel.receive(record);
    }
    parcel.pass_clock(end);
    parcel.lines
}

impl<'a> Parcel<'a> {
    /// 1.4, 8.1: what is folded and what is not; after each fold every rule is asked.
    fn receive(&mut self, mut record: Record) {
        if record.is_test {
            return;
        }
        if let Some(forgotten_at) = self.forgotten_at {
            if record.append <= forgotten_at + REMEMBER_IDS {
                return;
            }
            self.forgotten_at = None;
            self.ids.clear();
        }
        if record.id.as_ref().is_some_and(|id| self.ids.contains(id)) {
            return;
        }
        // ids are remembered for occurrences and retractions
        let remembered = record.is_occurrence() || record.is_retraction();
        if let Some(id) = record.id.clone().filter(|_| remembered) {
            self.ids.insert(id);
        }
        let now = Moment { time: record.append, just_passed: false };
        self.clock_from = record.append;
        record.states = facts::stated(&record, &self.book.declared_facts);
        self.folded.push(record);
        self.known.push(Known::of(&self.folded));
        self.ask_all(now);
    }

    /// DESIGN 4: everything due up to `end` fires, each at its own time.
    fn pass_clock(&mut self, end: Millis) {
        while let Some(time) = self.next_time().filter(|&time| time <= end) {
            self.clock_from = time + 1;
            if !self.is_terminal() && time >= self.last_append() + ABANDON_AFTER {
                self.abandon(time);
                continue;
            }
            self.ask_all(Moment { time, just_passed: true });
            // 8.1
            let nothing_stands = self.standing.iter().all(Option::is_none);
            if self.is_terminal() && nothing_stands && time >= self.forget_time() {
                self.forget(time);
            }
        }
    }

    /// The next time that may bring something about: a fire time, the end of an `until`, forgetting.
    fn next_time(&self) -> Option<Millis> {
        if self.folded.is_empty() {
            return None;
        }
        let mut times = vec![self.forget_time(), self.last_append() + ABANDON_AFTER];
        for rule in &self.book.rules {
            if let Some(anchor) = self.anchor(rule) {
                times.extend(self.fire_times(rule, anchor));
                times.extend(rule.until.map(|until| anchor.time + until));
            }
        }
        times.into_iter().filter(|&time| time >= self.clock_from).min()
    }

    fn now_known(&self) -> &Known {
        self.known.last().expect("asked only of a known parcel")
    }

    fn is_terminal(&self) -> bool {
        !self.now_known().terminal().is_empty()
    }

    fn last_append(&self) -> Millis {
        self.folded.last().expect("a known parcel has a record").append
    }

    /// 8.1: the larger of the last record's append time + forget_after and every fire time of rules with `after_terminal`.
    fn forget_time(&self) -> Millis {
        let rules = self.book.rules.iter().filter(|rule| rule.after_terminal);
        let fire_times = rules.flat_map(|rule| match self.anchor(rule) {
            Some(anchor) => self.fire_times(rule, anchor),
            None => Vec::new(),
        });
        fire_times.chain([self.last_append() + FORGET_AFTER]).max().expect("at least one")
    }

    fn forget(&mut self, at: Millis) {
        self.folded.clear();
        self.known.clear();
        self.forgotten_at = Some(at);
    }

    /// 8.1: what stands resolves as `forgotten`, unless another reason comes first (7.3).
    fn abandon(&mut self, time: Millis) {
        let moment = Moment { time, just_passed: true };
        let book = self.book;
        for index in 0..self.book.rules.len() {
            if let Some(standing) = self.standing[index].take() {
                let rule = &book.rules[index];
                let anchor = self.anchor(rule);
                let reason = self.reason(rule, &standing, anchor, moment).unwrap_or("forgotten");
                self.resolve(rule, &standing, reason, time);
            }
        }
        self.forget(time);
    }

    fn holds(&self, matcher: &Option<serde_yaml::Value>, known: &Known, filter: &HoldFilter) -> Option<bool> {
        let matcher = matcher.as_ref()?;
        Some(matcher::holds(matcher, &|name| known.fact(name, filter), &self.book.sets))
    }

    /// 5.8: by the facts of the moment.
    fn terms<'r>(&self, rule: &'r Rule, known: &Known) -> &'r Terms {
        let fact = |name: &str| known.fact(name, &rule.holds);
        let matching =
            rule.overrides.iter().find(|(matcher, _)| matcher::holds(matcher, &fact, &self.book.sets));
        matching.map_or(&rule.own, |(_, terms)| terms)
    }

    /// `while` holds and `unless` does not.
    fn condition(&self, rule: &Rule, known: &Known) -> bool {
        let terms = self.terms(rule, known);
        let while_holds = self.holds(&terms.while_, known, &rule.holds).unwrap_or(true);
        let unless_holds = self.holds(&terms.unless, known, &rule.holds).unwrap_or(false);
        while_holds && !unless_holds
    }

    fn in_scope(&self, rule: &Rule) -> bool {
        self.holds(&rule.scope, self.now_known(), &rule.holds).unwrap_or(true)
    }

    /// 5.0, 5.2, 5.7: the anchor that the rule knows.
    fn anchor(&self, rule: &Rule) -> Option<Anchor> {
        let candidates = rule.anchors.iter().filter_map(|name| {
            let is_milestone = MILESTONES.iter().any(|(milestone, _)| milestone == name);
            if is_milestone { self.milestone_anchor(name, rule) } else { self.derived_anchor(name, rule) }
        });
        let anchor = picked(candidates, rule.pick_last)?;
        let begun = rule.effective_from.is_none_or(|from| from <= anchor.time);
        let not_over = rule.effective_to.is_none_or(|to| anchor.time < to);
        (begun && not_over).then_some(anchor)
    }

    /// 5.2: of the occurrence picked; at equal event_time the one appended first.
    fn milestone_anchor(&self, milestone: &str, rule: &Rule) -> Option<Anchor> {
        let occurrences = self.now_known().occurrences.iter().filter(|o| o.milestone == milestone);
        let anchors = occurrences.map(|o| Anchor {
            time: o.time,
            append: o.append,
            position: o.position,
            zone_assumed: o.zone_assumed,
        });
        picked(anchors, rule.pick_last)
    }

    /// 5.2: of the record whose folding changed the derived time to its present value.
    fn derived_anchor(&self, name: &str, rule: &Rule) -> Option<Anchor> {
        let mut anchor: Option<Anchor> = None;
        for (record, known) in self.folded.iter().zip(&self.known) {
            let value = known.derived_time(name, &rule.holds);
            if value != anchor.map(|anchor| anchor.time) {
                anchor = value.map(|time| Anchor {
                    time,
                    append: record.append,
                    position: record.position,
                    zone_assumed: record.zone_assumed,
                });
            }
        }
        anchor
    }

    /// 5.5: (event_time, append time) of the record that last made the condition hold after it had not held.
    fn restarted(&self, rule: &Rule) -> Option<(Millis, Millis)> {
        if !rule.restart {
            return None;
        }
        let mut restart = None;
        let mut held_before = true;
        for (record, known) in self.folded.iter().zip(&self.known) {
            let holds = self.condition(rule, known);
            if holds && !held_before {
                restart = Some((record.time, record.append));
            }
            held_before = holds;
        }
        restart
    }

    /// due_k of every stage (5.3, 5.5, 6).
    fn due_times(&self, rule: &Rule, anchor: Anchor) -> Vec<Millis> {
        let known = self.now_known();
        let terms = self.terms(rule, known);
        let destination = match known.fact("destination", &rule.holds) {
            Some(Fact::Json(serde_json::Value::String(country))) => Some(country),
            _ => None,
        };
        let calendar = self.book.calendar(&terms.calendar, destination.as_deref());
        let from = self.restarted(rule).map_or(anchor.time, |(time, _)| time.max(anchor.time));
        let direction = if rule.counts_back { Direction::Before } else { Direction::After };
        let due = |stage: &super::rules::Stage| match (calendar, direction) {
            (Some(calendar), _) => calendar.shift(from, stage.at, direction),
            (None, Direction::After) => from + stage.at.elapsed(),
            (None, Direction::Before) => from - stage.at.elapsed(),
        };
        terms.stages.iter().map(due).collect()
    }

    /// 5.3
    fn fire_times(&self, rule: &Rule, anchor: Anchor) -> Vec<Millis> {
        let terms = self.terms(rule, self.now_known());
        let known_since = self.restarted(rule).map_or(anchor.append, |(_, append)| append.max(anchor.append));
        let zone_slack = if anchor.zone_assumed { rule.zone_slack } else { 0 };
        let due_times = self.due_times(rule, anchor);
        let fire = |due: Millis| (due + terms.reporting_delay + zone_slack).max(known_since + terms.grace);
        due_times.into_iter().map(fire).collect()
    }

    /// DESIGN 5, SEMANTICS 3.9, 5.4, 5.10: the times of everything that satisfies.
    fn satisfying(&self, rule: &Rule, anchor: Millis, claim: Option<&Claim>) -> Vec<Millis> {
        let known = self.now_known();
        let terms = self.terms(rule, known);
        let whenever = rule.counts_back || terms.tolerance.is_none();
        let tolerance = terms.tolerance.unwrap_or(0);
        let of_wanted_class: Vec<_> = known
            .occurrences
            .iter()
            .filter(|o| match &terms.evidence {
                None => true,
                Some(classes) => o.class.as_ref().is_some_and(|class| classes.contains(class)),
            })
            .collect();
        let mut times = Vec::new();
        for wanted in &terms.expect {
            match wanted {
                Expectation::Milestone(milestone) => {
                    let occurred = of_wanted_class.iter().filter(|o| o.milestone == *milestone);
                    times.extend(occurred.map(|o| o.time).filter(|&t| whenever || t >= anchor - tolerance));
                }
                Expectation::DerivedTime(name) => {
                    let time = known.derived_time(name, &rule.holds);
                    times.extend(time.filter(|&t| whenever || t >= anchor - tolerance));
                }
                Expectation::NextExpected => {
                    let Some(claim) = claim else { continue };
                    let reached = of_wanted_class.iter().filter(|o| reaches(&o.milestone, &claim.milestone));
                    let in_time = reached.filter(|o| whenever || o.time >= claim.time - tolerance);
                    let told_by_itself = |milestone: &str| claim.made_by.as_deref() == Some(milestone);
                    let counts =
                        in_time.filter(|o| whenever || !told_by_itself(&o.milestone) || o.time > claim.time);
                    times.extend(counts.map(|o| o.time));
                }
            }
        }
        times
    }

    /// 5.12
    fn is_expired(&self, rule: &Rule, anchor: Millis, moment: Moment) -> bool {
        rule.until.is_some_and(|until| moment.is_past(anchor + until))
    }

    /// DESIGN 5, Live.
    fn is_live(&self, rule: &Rule, anchor: Anchor, moment: Moment) -> bool {
        let known = self.now_known();
        self.in_scope(rule)
            && (rule.after_terminal || !self.is_terminal())
            && self.condition(rule, known)
            && self.satisfying(rule, anchor.time, known.claim.as_ref()).is_empty()
            && !self.is_expired(rule, anchor.time, moment)
    }

    fn ask_all(&mut self, moment: Moment) {
        for index in 0..self.book.rules.len() {
            self.ask(index, moment);
        }
    }

    /// DESIGN 5, Evaluation.
    fn ask(&mut self, index: usize, moment: Moment) {
        let book = self.book;
        let rule = &book.rules[index];
        let anchor = self.anchor(rule);
        let episode =
            anchor.map(|anchor| if rule.has_episodes() { print_instant(anchor.time) } else { String::new() });
        // an episode left behind, or an anchor that is gone
        if let Some(standing) =
            self.standing[index].take_if(|standing| Some(&standing.episode) != episode.as_ref())
        {
            let reason = self.reason(rule, &standing, None, moment).unwrap_or("anchor_moved");
            self.resolve(rule, &standing, reason, moment.time);
        }
        let (Some(anchor), Some(episode)) = (anchor, episode) else { return };
        let live = self.is_live(rule, anchor, moment);
        let fire_times = self.fire_times(rule, anchor);
        let reached = fire_times.iter().rposition(|&fire| moment.is_past(fire));
        let due_times = self.due_times(rule, anchor);
        let severities: Vec<usize> =
            self.terms(rule, self.now_known()).stages.iter().map(|stage| stage.severity).collect();
        let standing = self.standing[index].take();
        self.standing[index] = match (standing, reached.filter(|_| live)) {
            (None, None) => None,
            (None, Some(wanted)) => {
                let (severity, due) = (severities[wanted], due_times[wanted]);
                self.tell(rule, Change::Opened, &episode, (wanted, severity, due, anchor.time), moment.time);
                Some(Standing {
                    episode,
                    stage: wanted,
                    due,
                    anchor: anchor.time,
                    highest_stage: wanted,
                    highest_severity: severity,
                    claim: None,
                })
            }
            (Some(mut standing), Some(wanted)) => {
                // 7.4
                let (severity, due) = (severities[wanted], due_times[wanted]);
                if wanted > standing.highest_stage || severity > standing.highest_severity {
                    self.tell(
                        rule,
                        Change::Raised,
                        &episode,
                        (wanted, severity, due, anchor.time),
                        moment.time,
                    );
                    standing.highest_stage = standing.highest_stage.max(wanted);
                    standing.highest_severity = standing.highest_severity.max(severity);
                    (standing.stage, standing.due, standing.anchor) = (wanted, due, anchor.time);
                }
                Some(standing)
            }
            // 5.6: grace takes nothing back
            (Some(standing), None) if live && moment.is_past(due_times[0]) => Some(standing),
            (Some(standing), None) => {
                let reason = self.reason(rule, &standing, Some(anchor), moment).unwrap_or("anchor_moved");
                self.resolve(rule, &standing, reason, moment.time);
                None
            }
        };
        let claim = self.now_known().claim.clone();
        if let Some(standing) = &mut self.standing[index] {
            standing.claim = claim;
        }
    }

    /// 7.2, 7.3: the first reason that applies; None where only a moved anchor or forgetting is left. `current` is the
    /// anchor of the same episode, where there is one.
    fn reason(
        &self,
        rule: &Rule,
        standing: &Standing,
        current: Option<Anchor>,
        moment: Moment,
    ) -> Option<&'static str> {
        let known = self.now_known();
        // only an episode can be left behind; without one the claim is the parcel's
        let left_behind = current.is_none() && rule.has_episodes();
        let claim = if left_behind { standing.claim.as_ref() } else { known.claim.as_ref() };
        let satisfying = self.satisfying(rule, standing.anchor, claim);
        if satisfying.iter().any(|&time| time > standing.due) {
            return Some("satisfied_late");
        }
        if !satisfying.is_empty() {
            return Some("late_evidence");
        }
        if self.is_terminal() && !rule.after_terminal {
            return Some("terminal");
        }
        let anchor = current.map_or(standing.anchor, |anchor| anchor.time);
        if self.is_expired(rule, anchor, moment) {
            return Some("expired");
        }
        if !self.in_scope(rule) || !self.condition(rule, known) {
            return Some("condition_ended");
        }
        None
    }

    fn tell(
        &mut self,
        rule: &Rule,
        change: Change,
        episode: &str,
        (stage, severity, due, anchor): (usize, usize, Millis, Millis),
        at: Millis,
    ) {
        self.lines.push(Line {
            at,
            parcel_id: self.id.to_string(),
            rule: rule.id.clone(),
            change,
            episode: episode.to_string(),
            stage: stage as u64 + 1,
            severity: Some(SEVERITIES[severity].to_string()),
            due: Some(due),
            anchor,
            resolution: None,
        });
    }

    fn resolve(&mut self, rule: &Rule, standing: &Standing, reason: &str, at: Millis) {
        self.lines.push(Line {
            at,
            parcel_id: self.id.to_string(),
            rule: rule.id.clone(),
            change: Change::Resolved,
            episode: standing.episode.clone(),
            stage: standing.stage as u64 + 1,
            severity: None,
            due: None,
            anchor: standing.anchor,
            resolution: Some(reason.to_string()),
        });
    }
}

/// The earliest anchor, or with `pick: last` the latest; of equal ones the one appended first.
fn picked(anchors: impl Iterator<Item = Anchor>, pick_last: bool) -> Option<Anchor> {
    anchors.min_by_key(|anchor| {
        let time = if pick_last { -anchor.time } else { anchor.time };
        (time, anchor.append, anchor.position)
    })
}
