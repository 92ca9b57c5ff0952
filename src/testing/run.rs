//! What happens in a test: its events through the real engine, the changes through the real escalation.

use std::sync::Arc;

use super::{Kind, Test};
use crate::cases::Memory;
use crate::engine::{Lifetimes, Record, Shard};
use crate::escalation::{Flushed, policy_of};
use crate::model::{Change, ChangeKind, Event, RejectReason, Resolution, Severity, Time, exception_id};
use crate::rules::{Policies, RuleSet};
use crate::source::decode::{FactNames, decode};

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct Happened {
    /// What.
    pub kind: Kind,
    /// A change's `at`; of a notification the wall time of its flush.
    pub at: Time,
    /// The rule's id, or the receiver's.
    pub subject: String,
    /// The parcel.
    pub parcel_id: String,
    /// The episode as printed.
    pub episode: String,
    /// From 1.
    pub stage: u8,
    /// Of the stage.
    pub severity: Severity,
    /// Of the stage.
    pub due: Time,
    /// What its clock counts from.
    pub anchor: Time,
    /// The evidence is incomplete.
    pub incomplete: bool,
    /// Who has to act.
    pub owner: String,
    /// Which ladder; "" where there is none.
    pub policy: String,
    /// Why it ended.
    pub resolution: Option<Resolution>,
    /// Of a notification, from 1; 0: of no step.
    pub step: u32,
    /// Of a notification.
    pub reason: &'static str,
    /// The rule.
    pub rule: String,
    /// Of a notification: what it says.
    pub change: &'static str,
    /// Which body of the rule decided: 0 its own, n its n-th override.
    pub body: u16,
}

/// A record as it is appended.
struct Appended<'a> {
    at: Time,
    event: Result<Event<'a>, RejectReason>,
}

/// What came of a test's events and commands.
#[derive(Debug, Clone, Default)]
pub struct Ran {
    /// In the order of time.
    pub happened: Vec<Happened>,
    /// Commands that found nothing to act on, by their place in the list.
    pub in_vain: Vec<usize>,
}

/// Runs a test.
#[must_use]
pub fn run(test: &Test, rules: &Arc<RuleSet>, policies: &Policies) -> Ran {
    let changes = changes(test, rules);
    let mut happened: Vec<Happened> = changes.iter().map(|c| of_change(c, rules, policies)).collect();
    let told = told(test, &changes, rules, policies);
    happened.extend(told.happened);
    happened.sort_by_key(|h| h.at);
    Ran { happened, in_vain: told.in_vain }
}

/// What the engine decides.
fn changes(test: &Test, rules: &Arc<RuleSet>) -> Vec<Change> {
    let names = FactNames::new(rules.declared.iter().map(|d| d.name.as_str()));
    let mut log: Vec<Appended<'_>> = test
        .events
        .iter()
        .map(|e| (e, after(&[&test.held_back], e.told)))
        .filter(|(e, at)| !inside(&test.lost, e.told) && !inside(&test.lost, *at))
        .map(|(e, at)| Appended { at, event: decode(e.json.as_bytes(), &names).map_err(|r| r.reason) })
        .collect();
    log.sort_by_key(|e| e.at);
    let mut gaps = test.lost.clone();
    gaps.sort_unstable();
    let mut gaps = gaps.into_iter().peekable();
    let mut shard = Shard::new(Arc::clone(rules), Lifetimes::default(), true);
    let mut out = Vec::new();
    let mut offset = 0;
    let gap = |shard: &mut Shard, from: Time, offset: &mut i64, out: &mut Vec<Change>| {
        // Up to the gap everything was read; of what follows nobody knows what is missing.
        shard.advance(from, usize::MAX, out);
        *offset += 1;
        shard.gap(*offset);
    };
    for appended in &log {
        while let Some((from, _)) = gaps.next_if(|(from, _)| *from <= appended.at) {
            gap(&mut shard, from, &mut offset, &mut out);
        }
        let record = Record { offset, append: appended.at, event: appended.event.as_ref().map_err(|r| *r) };
        shard.fold(&[record], usize::MAX, &mut out);
        offset += 1;
    }
    for (from, _) in gaps.filter(|(from, _)| *from <= test.until) {
        gap(&mut shard, from, &mut offset, &mut out);
    }
    shard.advance(test.until.plus(1), usize::MAX, &mut out);
    out
}

/// What the escalation tells of it, and what operators end.
fn told(test: &Test, changes: &[Change], rules: &Arc<RuleSet>, policies: &Policies) -> Ran {
    let mut office = Office {
        memory: Memory::new(Arc::clone(rules), policies.clone()),
        ran: Ran::default(),
        changes,
        rules,
        policies,
    };
    let mut commands = test.commands.iter().enumerate().peekable();
    let mut now = Time::MIN;
    for change in changes {
        let at = wall(test, change.at).max(now);
        while let Some((i, command)) = commands.next_if(|(_, c)| c.at < at) {
            office.act(i, command);
        }
        now = at;
        let Office { memory, ran, .. } = &mut office;
        memory.commit_at(change, at, &mut |at, flushed| of_flush(at, flushed, &mut ran.happened));
    }
    for (i, command) in commands {
        office.act(i, command);
    }
    office.run(test.until);
    office.ran
}

/// Cases and their operators.
struct Office<'a> {
    memory: Memory,
    ran: Ran,
    changes: &'a [Change],
    rules: &'a RuleSet,
    policies: &'a Policies,
}

impl Office<'_> {
    fn run(&mut self, until: Time) {
        let Office { memory, ran, .. } = self;
        memory.run(until.0, &mut |at, flushed| of_flush(at, flushed, &mut ran.happened));
    }

    fn act(&mut self, i: usize, command: &super::Command) {
        self.run(command.at.minus(1));
        let id = exception_id(&command.rule, &command.parcel_id, &command.episode);
        if !self.memory.act(&id, &command.by, &command.comment, command.resolve, command.at) {
            self.ran.in_vain.push(i);
            return;
        }
        let of_it = |c: &&Change| {
            *c.rule == *command.rule
                && *c.parcel_id == *command.parcel_id
                && c.episode_text() == command.episode
                && c.at <= command.at
        };
        if command.resolve
            && let Some(latest) = self.changes.iter().rfind(of_it)
        {
            self.ran.happened.push(Happened {
                kind: Kind::Resolved,
                at: command.at,
                resolution: Some(Resolution::ByOperator),
                ..of_change(latest, self.rules, self.policies)
            });
        }
    }
}

/// The wall time at which what falls on `at` is written: while nothing is read, nothing is.
fn wall(test: &Test, at: Time) -> Time {
    after(&[&test.lost, &test.lag], at)
}

fn inside(windows: &[(Time, Time)], at: Time) -> bool {
    windows.iter().any(|(from, to)| (*from..*to).contains(&at))
}

/// The end of the window that `at` falls into; windows may overlap and follow each other.
fn after(kinds: &[&[(Time, Time)]], mut at: Time) -> Time {
    let within = |at: Time| kinds.iter().copied().flatten().find(|(from, to)| (*from..*to).contains(&at));
    while let Some((_, to)) = within(at) {
        at = *to;
    }
    at
}

fn of_change(c: &Change, rules: &RuleSet, policies: &Policies) -> Happened {
    let body =
        c.body.and_then(|(rule, body)| rules.rules.get(usize::from(rule))?.bodies.get(usize::from(body)));
    let policy = body.and_then(|b| policy_of(policies, b.policy.as_deref())).map(|p| p.id.clone());
    let (kind, resolution) = match c.kind {
        ChangeKind::Opened => (Kind::Opened, None),
        ChangeKind::Raised => (Kind::Raised, None),
        ChangeKind::Resolved(resolution) => (Kind::Resolved, Some(resolution)),
    };
    Happened {
        kind,
        at: c.at,
        subject: c.rule.to_string(),
        parcel_id: c.parcel_id.to_string(),
        episode: c.episode_text(),
        stage: c.stage,
        severity: c.severity,
        due: c.due,
        anchor: c.anchor,
        incomplete: c.incomplete,
        owner: body.map(|b| b.owner.clone()).unwrap_or_default(),
        policy: policy.unwrap_or_default(),
        resolution,
        step: 0,
        reason: "",
        rule: c.rule.to_string(),
        change: "",
        body: c.body.map_or(0, |(_, body)| body),
    }
}

/// What a flush tells: one thing for each receiver and exception, however many recipients a receiver has.
fn of_flush(at: Time, flushed: &Flushed, happened: &mut Vec<Happened>) {
    let begun = happened.len();
    for message in &flushed.messages {
        for notice in &message.notices {
            let Some(case) = flushed.cases.iter().find(|c| c.number == notice.exception) else { continue };
            let again = |h: &Happened| {
                h.subject == message.to.receiver
                    && h.step == notice.step
                    && h.rule == case.rule
                    && h.parcel_id == case.parcel_id
                    && h.episode == case.episode
                    && h.change == notice.word.name()
            };
            if happened[begun..].iter().any(again) {
                continue;
            }
            happened.push(Happened {
                kind: Kind::Notify,
                at,
                subject: message.to.receiver.clone(),
                parcel_id: case.parcel_id.clone(),
                episode: case.episode.clone(),
                stage: notice.stage,
                severity: case.severity,
                due: case.due,
                anchor: case.anchor,
                incomplete: case.incomplete,
                owner: case.body.owner.clone(),
                policy: flushed.group.policy.clone(),
                resolution: None,
                step: notice.step,
                reason: message.reason.name(),
                rule: case.rule.clone(),
                change: notice.word.name(),
                body: 0,
            });
        }
    }
}
