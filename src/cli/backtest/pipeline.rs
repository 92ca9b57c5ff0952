//! Lines in order → changes, on all cores, once through.
//!
//! One thread brings rounds of lines in order, a thread for each core decodes and folds those of its parcels, and the caller's
//! thread takes the changes. What is in hand is bounded: a few rounds, what the shards keep of their parcels, and the
//! changes of the moment that is not over yet. Rules look at one parcel at a time, and between two records of a parcel W
//! only decides what falls before the second: the changes do not depend on the number of threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::learn::{Learner, PARTS};
use crate::engine::{Lifetimes, Record, Shard};
use crate::model::{Change, Event, Time};
use crate::rules::RuleSet;
use crate::source::blocks::{Block, Line};
use crate::source::decode::{FactNames, decode};
use crate::source::ordered::{Merge, Round, Trouble};

/// What is to be folded, and how.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// One rule set, or two that see the same events.
    pub sets: &'a [Arc<RuleSet>],
    /// How many threads fold.
    pub threads: usize,
    /// Records appended later are not read.
    pub until: Option<Time>,
    /// Whether changes carry what decided them.
    pub evidence: bool,
    /// Whether to learn from the events.
    pub learn: bool,
}

/// Takes changes as they become final.
pub trait Sink {
    /// All changes of a rule set that are not in earlier calls and whose `at` is before some moment; those of one parcel in the
    /// order they happened.
    fn changes(&mut self, set: usize, changes: Vec<Change>) -> anyhow::Result<()>;
    /// A round is over; what it costs to say so is the sink's.
    fn progress(&mut self) {}
}

/// What the events were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Lines read.
    pub events: u64,
    /// Of them, rejected.
    pub rejected: u64,
    /// Parcels that were known at some time.
    pub parcels: u64,
    /// The first append time.
    pub first: Option<Time>,
    /// The last one.
    pub last: Option<Time>,
}

/// Why there is no result.
#[derive(Debug)]
pub enum Failure {
    /// The lines ended early.
    Source(Trouble),
    /// The sink refused.
    Sink(anyhow::Error),
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        Failure::Source(trouble)
    }
}

/// Rounds that wait for a thread.
const AHEAD: usize = 4;
/// Events decoded before they are folded together.
const BATCH: usize = 64;

/// A round on its way to every thread.
struct Shared {
    round: Round,
    /// The latest append time that a decoded line of it was found to have.
    seen: AtomicI64,
}

/// What a thread made of a round.
#[derive(Default)]
struct Part {
    changes: Vec<Vec<Change>>,
    /// Changes before this are all there.
    complete: Time,
    rejected: u64,
    first: Option<Time>,
    last: Option<Time>,
    over: bool,
}

/// Folds the lines of a merge. Returns what they were and what was learned.
///
/// # Errors
/// A line that goes back, a file that cannot be read, a sink that refuses: changes handed out before are void.
pub fn fold(
    plan: &Plan<'_>,
    mut merge: Merge,
    sink: &mut dyn Sink,
) -> Result<(Totals, Option<Learner>), Failure> {
    let threads = plan.threads.max(1);
    std::thread::scope(|scope| {
        let (mut rounds, mut parts, mut ends, mut workers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for thread in 0..threads {
            let (round, take) = sync_channel::<Arc<Shared>>(AHEAD);
            let (give, part) = sync_channel(AHEAD);
            let (end, ended) = sync_channel(1);
            let worker = Worker::new(plan, thread, threads);
            workers.push(scope.spawn(move || worker.run(&take, &ended, &give)));
            rounds.push(round);
            parts.push(part);
            ends.push(end);
        }
        let front = scope.spawn(move || bring(&mut merge, &rounds).map(|()| merge.met()));
        let mut totals = Totals::default();
        let mut gathered = Gathered { pending: vec![Vec::new(); plan.sets.len()] };
        while gathered.take(&parts, &mut totals, sink)? {
            sink.progress();
        }
        let met = front.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        totals.events = met.lines;
        totals.rejected += met.untimed;
        let end = plan.until.or(totals.last).map_or(Time::MIN, |t| t.plus(1));
        for sender in ends {
            let _ = sender.send(end);
        }
        gathered.take(&parts, &mut totals, sink)?;
        gathered.rest(sink)?;
        let mut learned: Option<Learner> = None;
        for worker in workers {
            let (parcels, learner) = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            totals.parcels += parcels;
            match (&mut learned, learner) {
                (Some(all), Some(one)) => all.add(one),
                (none, one) => *none = one,
            }
        }
        Ok((totals, learned))
    })
}

fn bring(merge: &mut Merge, rounds: &[SyncSender<Arc<Shared>>]) -> Result<(), Trouble> {
    while let Some(round) = merge.next_round()? {
        let shared = Arc::new(Shared { round, seen: AtomicI64::new(i64::MIN) });
        for sender in rounds {
            if sender.send(Arc::clone(&shared)).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Changes that are not final yet.
struct Gathered {
    pending: Vec<Vec<Change>>,
}

impl Gathered {
    /// Takes what every thread made of the next round. Whether there was one.
    fn take(
        &mut self,
        parts: &[Receiver<Part>],
        totals: &mut Totals,
        sink: &mut dyn Sink,
    ) -> Result<bool, Failure> {
        let (mut complete, mut more) = (Time::MAX, true);
        for receiver in parts {
            // A thread that panicked: joining it says so.
            let Ok(part) = receiver.recv() else { return Ok(false) };
            for (pending, changes) in self.pending.iter_mut().zip(part.changes) {
                pending.extend(changes);
            }
            complete = complete.min(part.complete);
            more &= !part.over;
            totals.rejected += part.rejected;
            totals.first = totals.first.into_iter().chain(part.first).min();
            totals.last = totals.last.max(part.last);
        }
        for (set, pending) in self.pending.iter_mut().enumerate() {
            let (now, later) = std::mem::take(pending).into_iter().partition(|c| c.at < complete);
            *pending = later;
            sink.changes(set, now).map_err(Failure::Sink)?;
        }
        Ok(more)
    }

    fn rest(self, sink: &mut dyn Sink) -> Result<(), Failure> {
        for (set, pending) in self.pending.into_iter().enumerate() {
            sink.changes(set, pending).map_err(Failure::Sink)?;
        }
        Ok(())
    }
}

struct Worker {
    shards: Vec<Shard>,
    /// The names to decode by, and which sets see what is decoded so: sets that declare the same facts share one.
    names: Vec<(FactNames, Vec<usize>)>,
    thread: u32,
    threads: u32,
    learner: Option<Learner>,
}

impl Worker {
    fn new(plan: &Plan<'_>, thread: usize, threads: usize) -> Worker {
        let mut names: Vec<(FactNames, Vec<usize>)> = Vec::new();
        for (set, rules) in plan.sets.iter().enumerate() {
            let declared = |set: usize| plan.sets[set].declared.iter().map(|d| d.name.as_str());
            match names.iter_mut().find(|(_, sets)| declared(sets[0]).eq(declared(set))) {
                Some((_, sets)) => sets.push(set),
                None => {
                    names.push((FactNames::new(rules.declared.iter().map(|d| d.name.as_str())), vec![set]))
                }
            }
        }
        let shard = |rules: &Arc<RuleSet>| Shard::new(rules.clone(), Lifetimes::default(), plan.evidence);
        Worker {
            shards: plan.sets.iter().map(shard).collect(),
            names,
            thread: thread as u32,
            threads: threads as u32,
            learner: plan.learn.then(Learner::default),
        }
    }

    fn run(
        mut self,
        rounds: &Receiver<Arc<Shared>>,
        end: &Receiver<Time>,
        parts: &SyncSender<Part>,
    ) -> (u64, Option<Learner>) {
        let mut before: Option<Arc<Shared>> = None;
        while let Ok(shared) = rounds.recv() {
            let mut part = Part { changes: vec![Vec::new(); self.shards.len()], ..Part::default() };
            self.round(&shared.round, &mut part);
            if let Some(last) = part.last {
                shared.seen.fetch_max(last.0, Ordering::Relaxed);
            }
            // What another thread saw in an earlier round is behind us too: a thread with few parcels keeps up.
            let seen = before.map_or(i64::MIN, |b| b.seen.load(Ordering::Relaxed));
            self.advance(Time(seen).max(part.last.unwrap_or(Time::MIN)), &mut part);
            before = Some(shared);
            if parts.send(part).is_err() {
                break;
            }
        }
        drop(before);
        let _ = parts.send(Part { over: true, complete: Time::MIN, ..Part::default() });
        if let Ok(end) = end.recv() {
            let mut part = Part { changes: vec![Vec::new(); self.shards.len()], ..Part::default() };
            self.advance(end, &mut part);
            let _ = parts.send(part);
        }
        let shard = &self.shards[0];
        (shard.parcels() as u64 + shard.stats().forgotten, self.learner)
    }

    fn advance(&mut self, to: Time, part: &mut Part) {
        part.complete = Time::MAX;
        for (shard, changes) in self.shards.iter_mut().zip(&mut part.changes) {
            shard.advance(to, usize::MAX, changes);
            part.complete = part.complete.min(shard.watermark());
        }
    }

    fn round(&mut self, round: &Round, part: &mut Part) {
        let (thread, threads) = (self.thread, self.threads);
        let mut events: Vec<(Time, Event<'_>)> = Vec::with_capacity(BATCH);
        for first in 0..self.names.len() {
            let mut mine = round.lines().filter(|(_, l)| l.hash % PARTS % threads == thread).peekable();
            while mine.peek().is_some() {
                events.clear();
                for (block, line) in mine.by_ref().take(BATCH) {
                    self.decode(first, block, line, part, &mut events);
                }
                let records: Vec<_> = events
                    .iter()
                    .map(|(append, e)| Record { offset: 0, append: *append, event: Ok(e) })
                    .collect();
                for &set in &self.names[first].1 {
                    self.shards[set].fold(&records, usize::MAX, &mut part.changes[set]);
                }
            }
        }
    }

    fn decode<'b>(
        &mut self,
        names: usize,
        block: &'b Block,
        line: &Line,
        part: &mut Part,
        events: &mut Vec<(Time, Event<'b>)>,
    ) {
        let text = block.text(line);
        let stamp = line.stamped.then_some(line.append);
        let append = match decode(text, &self.names[names].0) {
            Ok(event) => {
                let append = stamp.unwrap_or(event.file_append());
                if names == 0
                    && let Some(learner) = &mut self.learner
                {
                    learner.see(text, &event, append, line.hash);
                }
                events.push((append, event));
                Some(append)
            }
            Err(reject) => {
                part.rejected += u64::from(names == 0);
                stamp.or(reject.file_append)
            }
        };
        part.first = part.first.into_iter().chain(append).min();
        part.last = part.last.max(append);
    }
}
