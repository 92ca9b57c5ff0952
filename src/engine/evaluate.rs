//! What the rules want of a parcel at one moment: DESIGN §5 and SEMANTICS 5 and 7 as one page.
//!
//! A moment is a bound `x` on the append-time axis: a stage is reached where its fire time is below `x`, an `until` has
//! come where anchor + until is. After a record `x` is W; where the clock passes T, `x` is just past T.

use std::sync::Arc;

use super::derive::Derived;
use super::explain::StageTime;
use super::intern::{Code, Interner};
use super::matching::{Seen, View};
use super::parcel::{Claim, FilteredOrigin, Origin, Parcel, Restart, Stamp, Standing};
use super::reading::{Anchored, anchor, body_in_force, conditions_hold, filtered_time, satisfied};
use crate::model::{Change, ChangeKind, DAY, DerivedTime, FactRef, MilestoneSet, Resolution, Severity, Time};
use crate::rules::ruleset::{AnchorSource, Body, CalendarRef, Rule, RuleSet, Span};

/// A rule set as one shard uses it: with the codes of the rules' ids in the shard's interner.
pub struct Program {
    pub rules: Arc<RuleSet>,
    /// By the rule's index.
    pub codes: Vec<Code>,
    /// Rules that say `restart`.
    restarting: Vec<usize>,
    /// (rule, derived time) pairs whose origin is seen through a `holds:` filter.
    filtered: Vec<(usize, DerivedTime)>,
    /// By the rule's index: what must be there for it to have an anchor.
    starts: Vec<Starts>,
}

/// The milestones and derived times (bits by their code) that a rule's anchor is read from.
#[derive(Clone, Copy, Default)]
struct Starts {
    milestones: MilestoneSet,
    derived: u16,
}

impl Starts {
    fn of(rule: &Rule) -> Starts {
        // Through a filter a time may be there that is not there without it.
        let mut starts =
            Starts { derived: if rule.holds.is_some() { u16::MAX } else { 0 }, ..Starts::default() };
        for source in &rule.anchor.sources {
            match source {
                AnchorSource::Milestone(m) => starts.milestones.insert(*m),
                AnchorSource::Derived(t) => starts.derived |= 1 << *t as u16,
            }
        }
        starts
    }
}

impl Program {
    /// Prepares a rule set for a shard.
    pub fn new(rules: Arc<RuleSet>, interner: &mut Interner) -> Program {
        let codes = rules.rules.iter().map(|r| interner.intern(&r.id)).collect();
        let restarting = (0..rules.rules.len()).filter(|i| rules.rules[*i].restart).collect();
        let mut filtered = Vec::new();
        for (i, rule) in rules.rules.iter().enumerate().filter(|(_, r)| r.holds.is_some()) {
            for source in &rule.anchor.sources {
                if let AnchorSource::Derived(t) = source
                    && t.sees_filtered_holds()
                {
                    filtered.push((i, *t));
                }
            }
        }
        let starts = rules.rules.iter().map(Starts::of).collect();
        Program { rules, codes, restarting, filtered, starts }
    }

    /// Notes which record gave each derived time its present value, and since when rules with `restart` hold
    /// (SEMANTICS 5.2, 5.5). `before` is what held before the record; `None` for a parcel's first.
    pub fn note_origins(
        &self,
        p: &mut Parcel,
        before: Option<&Derived>,
        now: &Derived,
        interner: &Interner,
        record: Stamp,
        zone_assumed: bool,
    ) {
        let origin = Origin { append: record.append, zone_assumed };
        for t in DerivedTime::ALL {
            let i = t as usize;
            match now.times[i] {
                None => p.origins[i] = None,
                value if before.is_none_or(|b| b.times[i] != value) || p.origins[i].is_none() => {
                    p.origins[i] = Some(origin);
                }
                _ => {}
            }
        }
        for (rule, time) in &self.filtered {
            self.note_filtered(p, now, interner, (*rule, *time), origin);
        }
        for rule in &self.restarting {
            self.note_restart(p, now, interner, *rule, record);
        }
    }

    fn note_filtered(
        &self,
        p: &mut Parcel,
        now: &Derived,
        interner: &Interner,
        (rule, time): (usize, DerivedTime),
        origin: Origin,
    ) {
        let code = self.codes[rule];
        let view = View { parcel: p, derived: now, interner, filter: self.rules.rules[rule].holds.as_ref() };
        let value = filtered_time(view, time);
        let known = p.filtered.iter().position(|f| f.rule == code && f.time == time as u8);
        match (value, known) {
            (None, Some(i)) => drop(p.filtered.swap_remove(i)),
            (None, None) => {}
            (Some(v), Some(i)) if p.filtered[i].value == v => {}
            (Some(value), Some(i)) => p.filtered[i] = FilteredOrigin { value, origin, ..p.filtered[i] },
            (Some(value), None) => {
                p.filtered.push(FilteredOrigin { rule: code, time: time as u8, value, origin })
            }
        }
    }

    fn note_restart(&self, p: &mut Parcel, now: &Derived, interner: &Interner, rule: usize, record: Stamp) {
        let code = self.codes[rule];
        let rule = &self.rules.rules[rule];
        let view = View { parcel: p, derived: now, interner, filter: rule.holds.as_ref() };
        let holds = conditions_hold(view, body_in_force(view, rule).1);
        match p.restarts.iter().position(|r| r.rule == code) {
            Some(i) => {
                let known = &mut p.restarts[i];
                if holds && !known.holds {
                    known.since = Some(record);
                }
                known.holds = holds;
            }
            // A first record, or a rule that is new to this parcel: there is no such record.
            None => p.restarts.push(Restart { rule: code, holds, since: None }),
        }
    }
}

/// One look at one parcel.
pub struct Look<'a> {
    pub program: &'a Program,
    pub interner: &'a Interner,
    /// Stages with a fire time below this are reached.
    pub x: i64,
    /// `at` of changes.
    pub at: Time,
    /// Offset of the last record folded.
    pub offset: i64,
    /// What comes of it is due to new rules.
    pub swapped: bool,
}

/// What a look found besides changes.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// When to look next for a stage or an `until`; `i64::MAX` for never.
    pub next: i64,
    /// The latest fire time of rules with `after_terminal`.
    pub after_terminal: i64,
}

/// The stages of a rule at one moment.
struct Stages {
    /// 0 = none.
    wanted: u8,
    due: Time,
    severity: Severity,
    /// The first stage's due time has passed.
    first_due_passed: bool,
    next: i64,
    last_fire: i64,
}

impl Look<'_> {
    /// Compares what the rules want with what stands, updates what stands and pushes the changes.
    pub fn take(&self, p: &mut Parcel, d: &Derived, out: &mut Vec<Change>) -> Found {
        let mut found = Found { next: i64::MAX, after_terminal: i64::MIN };
        let there = d.times.iter().enumerate().fold(0u16, |bits, (i, t)| bits | u16::from(t.is_some()) << i);
        for (i, starts) in self.program.starts.iter().enumerate() {
            let code = self.program.codes[i];
            let stands = p.standing.iter().any(|s| s.rule == code);
            if !stands && !starts.milestones.meets(d.seen) && starts.derived & there == 0 {
                continue;
            }
            let rule = &self.program.rules.rules[i];
            if d.terminal && !rule.after_terminal && !stands {
                continue;
            }
            let view = View { parcel: p, derived: d, interner: self.interner, filter: rule.holds.as_ref() };
            let anchor = anchor(view, rule, code);
            match anchor {
                None if !stands => continue,
                // Most rules that began are met, and the fact that says so is the cheapest to look at.
                Some(a)
                    if !stands
                        && !rule.after_terminal
                        && rule.overrides.is_empty()
                        && satisfied(view, rule, &rule.bodies[0], a.time, p.claim, true).is_some() =>
                {
                    continue;
                }
                _ => {}
            }
            self.rule(p, d, (i, rule, code), anchor, &mut found, out);
        }
        self.removed_rules(p, out);
        found
    }

    /// One rule: its present episode, then the episodes left behind.
    fn rule(
        &self,
        p: &mut Parcel,
        d: &Derived,
        (i, rule, code): (usize, &Rule, Code),
        anchor: Option<Anchored>,
        found: &mut Found,
        out: &mut Vec<Change>,
    ) {
        let view = View { parcel: p, derived: d, interner: self.interner, filter: rule.holds.as_ref() };
        let (variant, body) = body_in_force(view, rule);
        let episode = anchor.filter(|_| rule.anchor.has_episodes()).map(|a| a.time);
        let live = anchor.is_some_and(|a| self.live(view, rule, body, a));
        let stages =
            anchor.filter(|_| live || rule.after_terminal).map(|a| self.stages(view, rule, body, code, a));
        if let (true, Some(s)) = (rule.after_terminal, &stages) {
            found.after_terminal = found.after_terminal.max(s.last_fire);
        }
        let mine = |s: &Standing| s.rule == code;
        let current = p
            .standing
            .iter()
            .position(|s| mine(s) && (s.episode == episode && (anchor.is_some() || episode.is_none())));
        let body_index = Some((i as u16, variant));
        if let (Some(a), Some(s), true) = (anchor, &stages, live) {
            let claim = if body.expect.next_expected { p.claim } else { None };
            self.present(p, current, (rule, code, body_index), (a, episode, claim), s, found, out);
            if s.wanted == 0 && !s.first_due_passed {
                self.end(p, d, rule, body, body_index, current, anchor, out);
            }
        } else {
            self.end(p, d, rule, body, body_index, current, anchor, out);
        }
        while let Some(left) =
            p.standing.iter().position(|s| mine(s) && !(anchor.is_some() && s.episode == episode))
        {
            // Left behind, or its anchor is gone.
            self.end(p, d, rule, body, body_index, Some(left), anchor, out);
        }
    }

    /// The rule is live: tells what is wanted above what stands.
    #[allow(clippy::too_many_arguments, reason = "one decision with all that it looks at")]
    fn present(
        &self,
        p: &mut Parcel,
        current: Option<usize>,
        (rule, code, body): (&Rule, Code, Option<(u16, u16)>),
        (anchor, episode, claim): (Anchored, Option<Time>, Option<Claim>),
        s: &Stages,
        found: &mut Found,
        out: &mut Vec<Change>,
    ) {
        found.next = found.next.min(s.next);
        if let Some(until) = rule.until {
            let expires = anchor.time.plus(until).0;
            if expires >= self.x && (current.is_some() || s.wanted > 0) {
                found.next = found.next.min(expires);
            }
        }
        if let Some(c) = current {
            // An episode is judged by the last claim known while it was the present one (SEMANTICS 7.3).
            p.standing[c].claim = claim;
        }
        if s.wanted == 0 {
            return;
        }
        let told = Standing {
            rule: code,
            episode,
            highest_stage: s.wanted,
            highest_severity: s.severity as u8,
            stage: s.wanted,
            severity: s.severity as u8,
            due: s.due,
            anchor: anchor.time,
            claim,
        };
        let kind = match current.map(|c| p.standing[c]) {
            None => ChangeKind::Opened,
            Some(c) if s.wanted > c.highest_stage || s.severity as u8 > c.highest_severity => {
                ChangeKind::Raised
            }
            Some(_) => return,
        };
        match current {
            None => p.standing.push(told),
            Some(c) => {
                let (stage, severity) = (p.standing[c].highest_stage, p.standing[c].highest_severity);
                p.standing[c] = Standing {
                    highest_stage: stage.max(told.highest_stage),
                    highest_severity: severity.max(told.highest_severity),
                    ..told
                };
            }
        }
        out.push(self.change(p, kind, rule.id.clone(), body, &told));
    }

    /// Nothing is wanted: resolves what stands.
    #[allow(clippy::too_many_arguments, reason = "one decision with all that it looks at")]
    fn end(
        &self,
        p: &mut Parcel,
        d: &Derived,
        rule: &Rule,
        body: &Body,
        body_index: Option<(u16, u16)>,
        standing: Option<usize>,
        anchor: Option<Anchored>,
        out: &mut Vec<Change>,
    ) {
        let Some(i) = standing else { return };
        let s = p.standing[i];
        let view = View { parcel: p, derived: d, interner: self.interner, filter: rule.holds.as_ref() };
        let episode = anchor.filter(|_| rule.anchor.has_episodes()).map(|a| a.time);
        let left_behind = s.episode != episode;
        let claim = if left_behind { s.claim } else { p.claim };
        let own_anchor = if left_behind { s.anchor } else { anchor.map_or(s.anchor, |a| a.time) };
        let resolution = match satisfied(view, rule, body, s.anchor, claim, false) {
            Some(latest) if latest > s.due => Resolution::SatisfiedLate,
            Some(_) => Resolution::LateEvidence,
            None if self.swapped => Resolution::RuleChanged,
            None if d.terminal && !rule.after_terminal => Resolution::Terminal,
            None if rule.until.is_some_and(|u| own_anchor.plus(u).0 < self.x) => Resolution::Expired,
            None if !view.holds_for(&rule.scope) || !conditions_hold(view, body) => {
                Resolution::ConditionEnded
            }
            None => Resolution::AnchorMoved,
        };
        p.standing.remove(i);
        out.push(self.change(p, ChangeKind::Resolved(resolution), rule.id.clone(), body_index, &s));
    }

    /// What stands of rules that are no more.
    fn removed_rules(&self, p: &mut Parcel, out: &mut Vec<Change>) {
        while let Some(i) = p.standing.iter().position(|s| !self.program.codes.contains(&s.rule)) {
            let s = p.standing.remove(i);
            let rule: Arc<str> = self.interner.text(s.rule).into();
            out.push(self.change(p, ChangeKind::Resolved(Resolution::RuleChanged), rule, None, &s));
        }
    }

    /// What stands of a parcel that is forgotten.
    pub fn forget(&self, p: &mut Parcel, out: &mut Vec<Change>) {
        for s in std::mem::take(&mut p.standing) {
            let (rule, body) = match self.program.codes.iter().position(|c| *c == s.rule) {
                Some(i) => (self.program.rules.rules[i].id.clone(), Some((i as u16, 0))),
                None => (self.interner.text(s.rule).into(), None),
            };
            out.push(self.change(p, ChangeKind::Resolved(Resolution::Forgotten), rule, body, &s));
        }
    }

    fn change(
        &self,
        p: &Parcel,
        kind: ChangeKind,
        rule: Arc<str>,
        body: Option<(u16, u16)>,
        s: &Standing,
    ) -> Change {
        Change {
            kind,
            rule,
            body,
            parcel_id: p.id.as_str().into(),
            episode: s.episode,
            offset: self.offset,
            at: self.at,
            stage: s.stage,
            severity: Severity::from_code(s.severity).unwrap_or(Severity::Critical),
            anchor: s.anchor,
            due: s.due,
            incomplete: p.incomplete,
            evidence: None,
        }
    }

    /// In scope, not terminal, `while` holds, `unless` does not, not expired, not satisfied.
    fn live(&self, view: View<'_>, rule: &Rule, body: &Body, a: Anchored) -> bool {
        (rule.after_terminal || !view.derived.terminal)
            && rule.until.is_none_or(|u| a.time.plus(u).0 >= self.x)
            && satisfied(view, rule, body, a.time, view.parcel.claim, true).is_none()
            && view.holds_for(&rule.scope)
            && conditions_hold(view, body)
    }

    /// When each stage is due, and when it fires (SEMANTICS 5.3, 5.5).
    pub(super) fn stage_times(
        &self,
        view: View<'_>,
        rule: &Rule,
        body: &Body,
        code: Code,
        a: Anchored,
    ) -> Vec<StageTime> {
        let base = base(view, rule, body, code, a);
        let times = body.stages.iter().map(|stage| {
            let due = self.due(view, body.calendar, base.from, stage.at, rule.anchor.before);
            let fires = Time(due.plus(base.slack).0.max(base.earliest));
            StageTime { due, fires, severity: stage.severity }
        });
        times.collect()
    }

    fn stages(&self, view: View<'_>, rule: &Rule, body: &Body, code: Code, a: Anchored) -> Stages {
        let Base { from: base, slack, earliest } = base(view, rule, body, code, a);
        let mut s = Stages {
            wanted: 0,
            due: base,
            severity: body.stages[0].severity,
            first_due_passed: false,
            next: i64::MAX,
            last_fire: i64::MIN,
        };
        for (k, stage) in body.stages.iter().enumerate() {
            let due = self.due(view, body.calendar, base, stage.at, rule.anchor.before);
            let fire = due.plus(slack).0.max(earliest);
            s.last_fire = s.last_fire.max(fire);
            if k == 0 {
                s.first_due_passed = due.0 < self.x;
            }
            if fire < self.x {
                (s.wanted, s.due, s.severity) = (k as u8 + 1, due, stage.severity);
                // Lower stages that fire later change nothing.
                s.next = i64::MAX;
            } else {
                s.next = s.next.min(fire);
            }
        }
        s
    }

    fn due(&self, view: View<'_>, calendar: CalendarRef, base: Time, at: Span, back: bool) -> Time {
        let calendars = &self.program.rules.calendars;
        let calendar = match calendar {
            CalendarRef::Elapsed => None,
            CalendarRef::Named(i) => calendars.get(i),
            CalendarRef::ByDestination => {
                let destination = view.fact(FactRef::Stated(DESTINATION));
                let country = match &destination {
                    Some(Seen::Text(t)) => Some(&**t),
                    _ => None,
                };
                let of = |c: &str| calendars.iter().find(|k| k.countries.iter().any(|n| n == c));
                country.and_then(of).or_else(|| calendars.iter().find(|k| k.any))
            }
        };
        match calendar {
            Some(calendar) => calendar.add(base, at, back),
            None => {
                let ms = i64::from(at.days).saturating_mul(DAY).saturating_add(at.ms);
                if back { base.minus(ms) } else { base.plus(ms) }
            }
        }
    }
}

/// What the stages of a rule count from.
struct Base {
    from: Time,
    /// Milliseconds between due and fire time.
    slack: i64,
    /// No stage fires before: the anchor was told late.
    earliest: i64,
}

fn base(view: View<'_>, rule: &Rule, body: &Body, code: Code, a: Anchored) -> Base {
    let since = match rule.restart {
        true => view.parcel.restarts.iter().find(|r| r.rule == code).and_then(|r| r.since),
        false => None,
    };
    let append = since.map_or(a.origin.append, |s| s.append.max(a.origin.append));
    Base {
        from: Time(since.map_or(a.time.0, |s| s.event_time.max(a.time.0))),
        slack: body.reporting_delay + if a.origin.zone_assumed { rule.zone_slack } else { 0 },
        earliest: append.saturating_add(body.grace),
    }
}

const DESTINATION: u16 = super::parcel::index("destination");
