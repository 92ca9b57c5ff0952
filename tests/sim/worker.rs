//! One owner of one partition: everything it knows is in memory and lost with it. Each method is one step between which
//! anything may happen. The rules of DESIGN §4.2 and §6 for whoever drives a shard are written down here as code:
//!
//! - W is raised by a folded record, or by a certificate that is not older than 15 s once everything below its end offset is
//!   folded and nothing is queued;
//! - a transaction carries changes in the order they were decided *and* how far the shard is, so that what is recorded is never
//!   behind a change that is written; a turn (new rules, a gap) is written before anything more is folded;
//! - a snapshot is published when everything decided up to it is written, and its place is recorded;
//! - after a restart the shard folds from the snapshot through all recorded turns to the recorded place, writes what that gives
//!   (no-ops), takes the configured rules, reconciles, and only then goes on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parcelwatch::engine::{Lifetimes, Record, Shard};
use parcelwatch::model::{Change, SECOND, Time};
use parcelwatch::rules::RuleSet;
use parcelwatch::source::decode::{FactNames, decode};

mod replay;
mod save;

use crate::broker::{Broker, Fetched, Seen, Stored};
use crate::cases::{Batch, Cases, Place, Refused, Turn};
use crate::snapshots::Save;

/// How long a certificate is good, and how far clocks may differ, in milliseconds (DESIGN §4.2).
pub const TTL: i64 = 15 * SECOND;
pub const SKEW: i64 = 5 * SECOND;

/// What a worker works with.
pub struct World {
    pub now: i64,
    pub broker: Broker,
    pub cases: Cases,
    pub rules: BTreeMap<String, Arc<RuleSet>>,
    pub lifetimes: Lifetimes,
    pub keep_evidence: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Replaying,
    Reconciling,
    Live,
}

pub struct Worker {
    pub partition: usize,
    pub phase: Phase,
    pub shard: Shard,
    fence: u64,
    /// How far this process's clock is ahead.
    own_skew: i64,
    pub wanted: Arc<RuleSet>,
    names: FactNames,
    /// Turns that the shard went through.
    turns: usize,
    goals: VecDeque<(Place, Option<Turn>)>,
    /// The log ends before the goals do.
    short: bool,
    position: i64,
    queue: VecDeque<(i64, Stored)>,
    raising: Option<Time>,
    pub out: Vec<Change>,
    turn: Option<(Place, Turn)>,
    /// How far this worker's own transactions went.
    committed: Option<Place>,
    /// (t0, position then) of a question to the broker.
    asked: Option<(Time, i64)>,
    certificate: Option<(Time, i64)>,
    /// The greatest append time folded, and what a certificate allowed.
    folded_to: Time,
    allowed: Time,
    save: Option<Save>,
}

fn names_of(rules: &RuleSet) -> FactNames {
    FactNames::new(rules.declared.iter().map(|d| d.name.as_str()))
}

impl Worker {
    /// Takes the lease, loads the newest snapshot and knows what is to be folded again.
    pub fn start(world: &mut World, partition: usize, wanted: Arc<RuleSet>, own_skew: i64) -> Worker {
        let fence = world.cases.lease(partition);
        let book = &world.cases.books[partition];
        let (lifetimes, keep) = (world.lifetimes, world.keep_evidence);
        let mut turns = 0;
        let shard = match (book.newest(), book.first_rules()) {
            (Some(snapshot), _) => {
                turns = snapshot.turns;
                let rules = book.turns[..turns].iter().rev().find_map(|(_, t)| match t {
                    Turn::Rules(hash) => Some(world.rules[hash].clone()),
                    Turn::Gap(_) => None,
                });
                snapshot.load(rules.expect("it was saved under some rules"), lifetimes, keep)
            }
            (None, Some(first)) => {
                turns = 1;
                Shard::new(world.rules[first].clone(), lifetimes, keep)
            }
            (None, None) => Shard::new(wanted.clone(), lifetimes, keep),
        };
        let mut goals: VecDeque<_> = book.turns[turns..].iter().map(|(p, t)| (*p, Some(t.clone()))).collect();
        goals.extend(book.recorded.map(|p| (p, None)));
        let mut worker = Worker {
            partition,
            phase: Phase::Replaying,
            fence,
            own_skew,
            names: names_of(shard.rules()),
            turns,
            goals,
            short: false,
            position: shard.next_offset(),
            queue: VecDeque::new(),
            raising: None,
            out: Vec::new(),
            turn: None,
            committed: None,
            asked: None,
            certificate: None,
            folded_to: shard.watermark(),
            allowed: shard.watermark(),
            save: None,
            wanted,
            shard,
        };
        if worker.turns == 0 {
            worker.turn = Some((worker.place(), Turn::Rules(worker.shard.rules().hash.clone())));
            worker.turns = 1;
        }
        worker
    }

    pub fn place(&self) -> Place {
        Place { offset: self.shard.next_offset(), watermark: self.shard.watermark() }
    }

    /// This process's clock.
    pub fn clock(&self, world: &World) -> Time {
        Time(world.now + self.own_skew)
    }

    /// Nothing is half done: neither an advance, nor a transaction, nor a turn.
    fn at_rest(&self) -> bool {
        self.out.is_empty() && self.turn.is_none() && self.raising.is_none()
    }

    /// Reads up to `max` records where the queue has room.
    pub fn fetch(&mut self, world: &mut World, max: usize) {
        let until = if self.phase == Phase::Live { i64::MAX } else { self.last_goal() };
        if self.queue.len() > 64 || self.position >= until {
            return;
        }
        match world.broker.fetch(self.partition, self.position, max) {
            Fetched::Cut => {}
            Fetched::Records(records, position) => {
                self.queue.extend(records);
                self.position = position;
            }
            Fetched::OutOfRange { start, end } if self.queue.is_empty() => {
                self.out_of_range(world, start, end, until);
            }
            Fetched::OutOfRange { .. } => {}
        }
    }

    fn last_goal(&self) -> i64 {
        self.goals.iter().map(|g| g.0.offset).max().unwrap_or(0)
    }

    fn out_of_range(&mut self, world: &mut World, start: i64, end: i64, until: i64) {
        if self.position > end {
            self.short = true;
            if self.phase == Phase::Replaying || !self.at_rest() {
                return;
            }
        }
        let to = if self.position > end { end } else { start };
        if self.phase == Phase::Live {
            if self.at_rest() {
                self.turn = Some((self.place(), Turn::Gap(to)));
                self.turns += 1;
                self.gap(to);
                self.position = to;
            }
            return;
        }
        // While replaying: what was folded before must be there again, but for what was a gap already.
        let to = to.min(until);
        let lost = &world.broker.partitions[self.partition].log[self.position as usize..to as usize];
        let in_a_gap = |o: i64| {
            self.goals.iter().any(|(p, t)| matches!(t, Some(Turn::Gap(end)) if p.offset <= o && o < *end))
        };
        let lost = (self.position..).zip(lost).any(|(o, s)| s.seen == Seen::Yes && !in_a_gap(o));
        self.position = to;
        if lost {
            world.cases.books[self.partition].lossy = true;
            self.gap(to);
        }
    }

    fn gap(&mut self, to: i64) {
        self.shard.gap(to);
        self.certificate = None;
    }

    /// Folds up to `max` queued records or goes on with an advance, as long as fewer than `limit` changes wait.
    pub fn fold(&mut self, world: &World, max: usize, limit: usize) {
        let replayed = self.phase != Phase::Live && self.goals.is_empty();
        if self.turn.is_some() || self.out.len() >= limit || replayed {
            return;
        }
        if let Some(to) = self.raising {
            if self.advance(to, limit) {
                self.raising = None;
            }
            return;
        }
        let until = self.goals.front().map_or(i64::MAX, |g| g.0.offset);
        let taken: Vec<(i64, Stored)> =
            self.queue.iter().take(max).take_while(|(o, _)| *o < until).cloned().collect();
        let decoded: Vec<_> = taken.iter().map(|(_, s)| decode(&s.bytes, &self.names)).collect();
        let records: Vec<Record<'_>> = taken
            .iter()
            .zip(&decoded)
            .map(|((offset, s), d)| Record {
                offset: *offset,
                append: s.append,
                event: d.as_ref().map_err(|reject| reject.reason),
            })
            .collect();
        let before = self.shard.watermark();
        let n = self.shard.fold(&records, limit, &mut self.out);
        let appended = |r: &Record<'_>| r.append;
        let ceiling = records.iter().take(n + 1).map(appended).max().unwrap_or(Time::MIN);
        for r in &records[..n] {
            // Only a record before it can have passed this one's append time, never a certificate.
            let by_proof = self.allowed > self.folded_to && r.append < self.allowed;
            assert!(
                !by_proof || world.cases.books[self.partition].lossy,
                "a certificate passed {} before it was folded",
                r.append
            );
            self.folded_to = self.folded_to.max(r.append);
        }
        self.check_watermark(before, ceiling);
        self.queue.drain(..n);
    }

    fn advance(&mut self, to: Time, limit: usize) -> bool {
        let before = self.shard.watermark();
        let done = self.shard.advance(to, limit, &mut self.out);
        self.check_watermark(before, to);
        done
    }

    fn check_watermark(&self, before: Time, ceiling: Time) {
        let now = self.shard.watermark();
        assert!(now >= before, "W goes back from {before} to {now}");
        assert!(now <= before.max(ceiling), "W rises to {now}, allowed was {ceiling}");
    }

    /// Notes the time, then asks the broker how long the log is.
    pub fn ask(&mut self, world: &World) {
        self.asked = Some((self.clock(world), self.position));
    }

    /// The broker's answer, if it comes.
    pub fn answer(&mut self, world: &World) {
        let Some((t0, position)) = self.asked.take() else { return };
        // An end before what was read already, or before what is recorded, is no proof but a log that was cut off.
        let Some(h) = world.broker.end(self.partition) else { return };
        self.short |= h < self.last_goal();
        self.certificate = (h >= position).then_some((t0, h));
    }

    /// Raises W where a certificate allows it.
    pub fn raise(&mut self, world: &World) {
        let Some((t0, h)) = self.certificate else { return };
        let fresh = self.clock(world).0 - t0.0 <= TTL;
        let folded = self.position >= h && self.queue.is_empty();
        if self.phase == Phase::Live && fresh && folded && self.raising.is_none() && self.turn.is_none() {
            self.allowed = self.allowed.max(t0.minus(SKEW));
            self.raising = Some(t0.minus(SKEW));
            self.certificate = None;
        }
    }

    /// Writes up to `max` changes. `false`: another owner took over.
    pub fn commit(&mut self, world: &mut World, max: usize) -> bool {
        let n = self.out.len().min(max);
        let place = self.place();
        let live = self.phase != Phase::Replaying || self.turn.is_some();
        let hash = self.shard.rules().hash.clone();
        let batch = Batch {
            fence: self.fence,
            rules: &hash,
            changes: &self.out[..n],
            place: live.then_some(place),
            turn: self.turn.clone(),
        };
        match world.cases.commit(self.partition, &batch) {
            Ok(()) => {
                self.out.drain(..n);
                self.turn = None;
                self.committed = live.then_some(place).max(self.committed);
                if let Some(save) = &mut self.save {
                    save.owed = save.owed.saturating_sub(n);
                }
                true
            }
            Err(Refused::Full) => true,
            Err(Refused::Fenced) => false,
        }
    }

    /// One turn of the loop without faults: everything there is to do.
    pub fn round(&mut self, world: &mut World) {
        self.ask(world);
        self.answer(world);
        for _ in 0..6 {
            self.fetch(world, 1_000);
            self.fold(world, 1_000, 10_000);
            self.raise(world);
            self.fold(world, 1_000, 10_000);
            assert!(self.commit(world, usize::MAX), "nobody else owns p{}", self.partition);
            self.settle(world);
        }
    }

    /// Whether its lease is the latest.
    pub fn owns(&self, world: &World) -> bool {
        world.cases.books[self.partition].fence == self.fence
    }

    /// Whether it has done all it can: nothing waits anywhere.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Live && self.at_rest() && self.queue.is_empty()
    }
}
