//! Cases in memory, for who asks what would be told: the same folds as [`Cases::commit`](super::Cases::commit) and the escalator's turn, without
//! the database. Time is what the caller says; a change counts as committed at its `at`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Who;
use super::commit::{address, words};
use super::fold::{self, Effect};
use super::operate::{self, Act};
use crate::escalation::quiet::inhibit;
use crate::escalation::{
    self, Body, Case, Counts, Evidence, Flushed, Group, Member, NEVER, Quiet, Sender, State, Told, Why,
};
use crate::model::{Change, Time};
use crate::rules::{Policies, RuleSet};

/// What messages show of a parcel besides the facts of the rule and its policy.
const SHOWN: [&str; 3] = ["tracking_number", "carrier_code", "order_id"];

fn count(counts: &mut Counts, state: State, by: i64) {
    match state {
        State::Open => counts.open += by,
        State::Acknowledged => counts.acknowledged += by,
        State::Resolved => {}
    }
}

/// Exceptions, groups and timers of one rule set and its policies.
pub struct Memory {
    rules: Arc<RuleSet>,
    policies: Policies,
    bodies: BTreeMap<(u16, u16), Option<Arc<Body>>>,
    /// By exception id, while anybody may still be told of it.
    numbers: BTreeMap<String, i64>,
    members: BTreeMap<i64, Member>,
    groups: BTreeMap<String, Group>,
    /// How many of a group stand, and who waits for its flush.
    of_group: BTreeMap<String, (Counts, BTreeSet<i64>)>,
    looks: BTreeSet<(i64, i64)>,
    flushes: BTreeSet<(i64, String)>,
    /// Facts that `inhibit` and `mute` read.
    conditions: BTreeSet<String>,
    next: i64,
    clock: i64,
}

impl Memory {
    /// Nothing has happened.
    #[must_use]
    pub fn new(rules: Arc<RuleSet>, policies: Policies) -> Memory {
        let mut conditions = BTreeSet::new();
        for entry in &policies.inhibit {
            entry.source.names(&mut conditions);
            entry.target.names(&mut conditions);
            conditions.extend(entry.equal.iter().cloned());
        }
        for mute in &policies.mute {
            mute.on.names(&mut conditions);
        }
        Memory {
            rules,
            policies,
            conditions,
            bodies: BTreeMap::new(),
            numbers: BTreeMap::new(),
            members: BTreeMap::new(),
            groups: BTreeMap::new(),
            of_group: BTreeMap::new(),
            looks: BTreeSet::new(),
            flushes: BTreeSet::new(),
            next: 1,
            clock: i64::MIN,
        }
    }

    /// Takes a change; they come in the order of their `at`. What is due before it is told first.
    pub fn commit(&mut self, change: &Change, told: &mut dyn FnMut(Time, &Flushed)) {
        self.commit_at(change, change.at, told);
    }

    /// Takes a change that is committed at `now`, which never goes back. What is due before is told first.
    pub fn commit_at(&mut self, change: &Change, now: Time, told: &mut dyn FnMut(Time, &Flushed)) {
        self.run(now.0.saturating_sub(1), told);
        self.clock = self.clock.max(now.0);
        let id = change.exception_id();
        let seq = self.next;
        self.next += 1;
        let change = fold::Told {
            change,
            seq,
            now_ms: self.clock,
            body: change.body.and_then(|at| self.body(at)),
            partition: 0,
        };
        let number = *self.numbers.entry(id.clone()).or_insert(seq);
        let mut member = self.members.remove(&number).unwrap_or_else(|| Member {
            case: fold::first(&change, number, &id),
            told: BTreeSet::new(),
            evidence: Evidence::default(),
        });
        self.unlist(&member.case);
        let evidence = change.change.evidence.as_deref();
        if let Some(evidence) = evidence {
            member.evidence = Evidence::parse(evidence);
        }
        let was = fold::Before::of(&member.case);
        let effect = fold::fold(&mut member.case, &change);
        address(&mut member.case, evidence, &self.policies, effect, &mut self.groups);
        if effect == Effect::Opened {
            fold::flap(&mut member.case, &was, &self.policies, self.clock);
        }
        let owner = self.policies.owners.get(&member.case.body.owner).and_then(|o| o.by.as_deref());
        let shown = &member.case.body.facts;
        member.evidence.facts.retain(|name, _| {
            SHOWN.contains(&&**name)
                || owner == Some(&**name)
                || self.conditions.contains(name)
                || shown.iter().any(|s| s == name)
        });
        self.list(member, effect == Effect::EndedUnheard);
        self.wake_explained(number);
    }

    /// What an exception explained is looked at again: it changed.
    fn wake_explained(&mut self, source: i64) {
        if self.policies.inhibit.is_empty() {
            return;
        }
        let explained =
            |m: &Member| m.case.ladder.held.is_some_and(|h| h.why == Why::Inhibited && h.by == source);
        let held: Vec<i64> = self.members.iter().filter(|(_, m)| explained(m)).map(|(n, _)| *n).collect();
        for number in held {
            let Some(mut member) = self.members.remove(&number) else { continue };
            self.unlist(&member.case);
            member.case.ladder.next_ms = self.clock;
            self.list(member, false);
        }
    }

    /// Which of the members of a flush are explained by what stands beside them or elsewhere.
    fn quiet(&self, members: &[Member]) -> Quiet {
        let mut quiet = Quiet::default();
        for entry in &self.policies.inhibit {
            let others = self.members.values().chain(members).map(|m| (&m.case, &m.evidence));
            inhibit(entry, members.iter().map(|m| (&m.case, &m.evidence)), others, &mut quiet.sources);
        }
        quiet
    }

    /// An operator acknowledges or, with `resolve`, ends an exception at `now` ([`Cases::acknowledge`](super::Cases::acknowledge),
    /// [`Cases::resolve`](super::Cases::resolve)). Whether there was one to act on.
    pub fn act(&mut self, id: &str, by: &str, comment: &str, resolve: bool, now: Time) -> bool {
        self.clock = self.clock.max(now.0);
        let Some(mut member) = self.numbers.get(id).and_then(|n| self.members.remove(n)) else {
            return false;
        };
        self.unlist(&member.case);
        let act = if resolve { Act::Resolve } else { Act::Acknowledge };
        let who = Who { by, comment, via: "" };
        let done = operate::apply(act, &mut member.case, &who, &BTreeSet::new(), self.clock);
        let number = member.case.number;
        self.list(member, false);
        self.wake_explained(number);
        done == super::Acted::Done
    }

    /// The exception of this id, while anybody may still be told of it.
    #[must_use]
    pub fn case(&self, id: &str) -> Option<&Case> {
        Some(&self.members.get(self.numbers.get(id)?)?.case)
    }

    /// The clock comes to `now`: tells what is due by then.
    pub fn run(&mut self, now: i64, told: &mut dyn FnMut(Time, &Flushed)) {
        loop {
            let look = self.looks.first().map_or(NEVER, |l| l.0);
            let flush = self.flushes.first().map_or(NEVER, |f| f.0);
            let due = look.min(flush);
            if due > now || due == NEVER {
                break;
            }
            self.clock = self.clock.max(due);
            self.look();
            self.flush(told);
        }
        self.clock = self.clock.max(now);
    }

    fn body(&mut self, at: (u16, u16)) -> Option<Arc<Body>> {
        let (rules, policies) = (&self.rules, &self.policies);
        self.bodies.entry(at).or_insert_with(|| words(rules, policies, at).map(Arc::new)).clone()
    }

    fn unlist(&mut self, case: &Case) {
        self.looks.remove(&(case.ladder.next_ms, case.number));
        if let Some((counts, waiting)) = self.of_group.get_mut(&case.group_id) {
            count(counts, case.state, -1);
            waiting.remove(&case.number);
        }
    }

    /// Puts an exception back under its timers, or lets it go where nothing more can come of it.
    fn list(&mut self, member: Member, over: bool) {
        let case = &member.case;
        let (number, ladder) = (case.number, &case.ladder);
        if case.state == State::Resolved
            && (over || (!ladder.told && !ladder.waiting && ladder.next_ms == NEVER))
        {
            self.numbers.remove(&case.exception_id);
            return;
        }
        if ladder.next_ms != NEVER {
            self.looks.insert((ladder.next_ms, number));
        }
        if !case.group_id.is_empty() {
            let (counts, waiting) = self.of_group.entry(case.group_id.clone()).or_default();
            count(counts, case.state, 1);
            if ladder.waiting {
                waiting.insert(number);
            }
        }
        self.members.insert(number, member);
    }

    /// Exceptions whose time has come.
    fn look(&mut self) {
        let now = self.clock;
        let due: Vec<i64> = self.looks.iter().take_while(|(at, _)| *at <= now).map(|(_, n)| *n).collect();
        for number in due {
            let Some(mut member) = self.members.remove(&number) else { continue };
            self.unlist(&member.case);
            let group = member.case.group_id.clone();
            let before = self.groups.get(&group).map(|g| g.flush_ms);
            let case = std::slice::from_mut(&mut member.case);
            escalation::step(&self.policies, &mut self.groups, case, now);
            if let (Some(before), Some(after)) = (before, self.groups.get(&group).map(|g| g.flush_ms)) {
                self.schedule(&group, before, after);
            }
            self.list(member, false);
        }
    }

    fn schedule(&mut self, group: &str, before: i64, after: i64) {
        if before != after {
            self.flushes.remove(&(before, group.to_owned()));
            if after != NEVER {
                self.flushes.insert((after, group.to_owned()));
            }
        }
    }

    /// Groups whose moment has come.
    fn flush(&mut self, told: &mut dyn FnMut(Time, &Flushed)) {
        let now = self.clock;
        while let Some((at, id)) = self.flushes.first().cloned()
            && at <= now
        {
            self.flushes.pop_first();
            let Some(group) = self.groups.remove(&id) else { continue };
            let of_group = self.of_group.get_mut(&id);
            let (counts, waiting) = of_group.map(|(c, w)| (*c, std::mem::take(w))).unwrap_or_default();
            let mut members = Vec::with_capacity(waiting.len());
            for number in &waiting {
                if let Some(member) = self.members.remove(number) {
                    self.unlist(&member.case);
                    members.push(member);
                }
            }
            let kept: Vec<_> = members.iter().map(|m| (m.told.clone(), m.evidence.clone())).collect();
            let sender = Sender { policies: &self.policies, public_url: None };
            let quiet = self.quiet(&members);
            let flushed = escalation::flush_unless(&sender, &quiet, group, members, counts, now);
            told(Time(now), &flushed);
            self.after(flushed, kept);
        }
    }

    fn after(&mut self, flushed: Flushed, kept: Vec<(BTreeSet<Told>, Evidence)>) {
        let settled: BTreeSet<i64> = flushed.settled.into_iter().collect();
        let mut now_told: BTreeMap<i64, BTreeSet<Told>> = BTreeMap::new();
        for (number, to) in flushed.told {
            now_told.entry(number).or_default().insert(to);
        }
        for (case, (mut told, evidence)) in flushed.cases.into_iter().zip(kept) {
            if settled.contains(&case.number) {
                told.clear();
            }
            told.extend(now_told.remove(&case.number).unwrap_or_default());
            self.list(Member { case, told, evidence }, false);
        }
        let group = flushed.group;
        self.schedule(&group.id, NEVER, group.flush_ms);
        self.groups.insert(group.id.clone(), group);
    }
}
