//! One partition's shard at work: takes what its feed brings, decodes, folds, lets the clock run under a certificate,
//! and hands over what was decided. No turn takes long, none waits.
//!
//! The life of a partition after its snapshot is loaded:
//! 1. **Legs**: it folds with the rules that were recorded, up to each recorded (position, W), so that a replay decides
//!    what the run before decided (DESIGN §6).
//! 2. **Reconcile**: the rules in force take over, and what should be open is compared with what cases says is open.
//! 3. From then on certificates may move its clock, and new rules take over in slices, at one place of its log.

mod listening;
mod restore;
mod save;
mod switch;
mod take;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use self::listening::Listening;
use super::clock::WallClock;
use super::progress::{PartitionProgress, Progress, Wait};
use super::saver::{Saver, Saving};
use super::worker::Question;
use super::writer::Write;
use crate::cases::{Cases, Recorded, Rejected};
use crate::engine::swap::{Foreseen, Preview, Swap};
use crate::engine::{Shard, Stats};
use crate::model::{Change, Time};
use crate::rules::RuleSet;
use crate::source::Batch;
use crate::source::decode::FactNames;
use crate::source::kafka::Feed;

/// Changes after which a turn ends: a storm is written in slices.
const SLICE: usize = 1_000;
/// How often a position without changes is recorded.
const POSITION_EVERY: Duration = Duration::from_secs(1);
/// How often a clock that merely ticks is: a transaction is dear, and losing a tick costs nothing.
const TICK_EVERY: Duration = Duration::from_secs(5);
/// More than a tick: it has caught up.
const TICK: i64 = 10_000;

/// What all partitions share.
pub struct Context {
    /// The database.
    pub cases: Cases,
    /// What is to be committed.
    pub writes: mpsc::Sender<Write>,
    /// Shared.
    pub progress: Arc<Progress>,
    /// What time it is.
    pub clock: Arc<dyn WallClock>,
    /// For the few questions to the database.
    pub handle: Handle,
    /// Takes snapshots.
    pub saver: Saver,
    /// `time.skew`, milliseconds.
    pub skew: i64,
    /// `time.certificate_ttl`, in real time.
    pub certificate_ttl: Duration,
    /// `snapshots.every`, in real time.
    pub save_every: Duration,
    /// `kafka.topic`.
    pub topic: String,
}

/// Rules that were in force until a (position, W).
pub struct Leg {
    /// Until where.
    pub until: Recorded,
    /// The rules.
    pub rules: Arc<RuleSet>,
}

/// What a turn came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// There may be more to do at once.
    Busy,
    /// Nothing to do until something comes.
    Idle,
    /// The queue of writes is full: again in a moment.
    Full,
}

/// A partition of this process.
pub struct Partition {
    id: i32,
    context: Arc<Context>,
    progress: Arc<PartitionProgress>,
    feed: Feed,
    shard: Shard,
    names: FactNames,
    legs: VecDeque<Leg>,
    /// The rules that are wanted: in force once the legs are done and W has passed `switched`.
    rules: Arc<RuleSet>,
    /// W at the last change of rules.
    switched: Time,
    /// A change of rules under way.
    swapping: Option<Swap>,
    /// Who asked what other rules would change.
    previews: VecDeque<(Arc<RuleSet>, mpsc::Sender<(i32, Foreseen)>)>,
    previewing: Option<(Preview, mpsc::Sender<(i32, Foreseen)>)>,
    batch: Option<(Batch, usize)>,
    /// Everything below this came or holds no record.
    hole: i64,
    out: Vec<Change>,
    rejected: Vec<Rejected>,
    listening: Listening,
    unsent: Option<Write>,
    /// Number of the last write made.
    number: u64,
    /// The last (position, W) at which nothing was half done.
    complete: Recorded,
    recorded: Recorded,
    recorded_at: Instant,
    stats: Stats,
    topic_id: Option<String>,
    partitions: i32,
    saving: Option<Saving>,
    save_due: Instant,
    /// The feed has said where reading begins.
    started: bool,
    /// The log was made anew below what is recorded.
    forget: bool,
}

/// What a partition begins with.
pub struct Beginning {
    /// Its number.
    pub partition: i32,
    /// Where its records come from.
    pub feed: Feed,
    /// Its shard, loaded or empty, with the rules of the first leg.
    pub shard: Shard,
    /// What was recorded, the oldest first.
    pub legs: VecDeque<Leg>,
    /// The rules in force.
    pub rules: Arc<RuleSet>,
    /// W at the last change of rules that is recorded; [`Time::MIN`] where there was none.
    pub switched: Time,
    /// There is no snapshot yet: one is taken at once, so that a restart begins here.
    pub fresh: bool,
    /// How many partitions the topic has.
    pub partitions: i32,
}

impl Partition {
    /// A partition that begins.
    pub fn new(context: Arc<Context>, progress: Arc<PartitionProgress>, b: Beginning) -> Partition {
        // Spread over the interval, so that they do not all save at once.
        let part = context.save_every / u32::try_from(b.partitions.max(1)).unwrap_or(1);
        let first = part * u32::try_from(b.partition.max(0) + 1).unwrap_or(1);
        let recorded = recorded(&b.shard);
        Partition {
            id: b.partition,
            names: names(b.shard.rules()),
            save_due: Instant::now() + if b.fresh { Duration::ZERO } else { first.min(context.save_every) },
            context,
            progress,
            feed: b.feed,
            stats: b.shard.stats(),
            shard: b.shard,
            legs: b.legs,
            rules: b.rules,
            switched: b.switched,
            swapping: None,
            previews: VecDeque::new(),
            previewing: None,
            batch: None,
            hole: 0,
            out: Vec::new(),
            rejected: Vec::new(),
            listening: Listening::default(),
            unsent: None,
            number: 0,
            complete: recorded.clone(),
            recorded,
            recorded_at: Instant::now(),
            topic_id: None,
            partitions: b.partitions,
            saving: None,
            started: false,
            forget: false,
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.id
    }

    /// What is known of a parcel.
    #[must_use]
    pub fn parcel(&self, id: &str, question: Option<&Question>) -> Option<String> {
        match question {
            None => self.shard.parcel_json(id),
            Some(q) => Some(self.shard.explain(id, q.rule.as_deref(), q.at)?.to_string()),
        }
    }

    /// Does a little of what there is to do.
    pub fn turn(&mut self) -> Turn {
        let turn = self.step();
        self.publish();
        turn
    }

    fn step(&mut self) -> Turn {
        if !self.send() {
            return Turn::Full;
        }
        if self.context.progress.is_halted() {
            return Turn::Idle;
        }
        if self.forget && !self.forget_position() {
            return Turn::Idle;
        }
        if self.swapping.is_some() {
            return self.go_on_switching();
        }
        let mut busy = self.restore() | self.foresee();
        if self.restored() && self.begin_switch() {
            return Turn::Busy;
        }
        if self.restored() || !self.legs.is_empty() || !self.started {
            busy |= self.take();
        }
        if !busy {
            busy = self.run_clock();
        }
        busy |= self.save();
        if !self.out.is_empty() || !self.rejected.is_empty() || self.position_is_due() {
            self.hand_over();
        }
        if !self.send() {
            return Turn::Full;
        }
        if busy { Turn::Busy } else { Turn::Idle }
    }

    fn restored(&self) -> bool {
        self.progress.restored.load(Ordering::Relaxed)
    }

    fn position(&self) -> i64 {
        self.shard.next_offset().max(self.hole)
    }

    // ---- the clock

    /// Lets W follow the wall clock where a fresh certificate allows it (DESIGN §4.2). Whether there is more to decide.
    fn run_clock(&mut self) -> bool {
        let end = self.feed.watch.end();
        self.progress.end.store(end.unwrap_or(-1), Ordering::Relaxed);
        let certificate =
            self.feed.watch.certificate().filter(|c| c.at.elapsed() < self.context.certificate_ttl);
        let reached = certificate.filter(|c| self.batch.is_none() && self.position() >= c.end);
        self.progress.caught_up.store(reached.is_some(), Ordering::Relaxed);
        let Some(certificate) = reached.filter(|_| self.restored()) else { return false };
        self.progress.metrics.set_certificate_ms(certificate.taken.0);
        let to = certificate.taken.minus(self.context.skew);
        let done = self.shard.advance(to, SLICE, &mut self.out);
        if done {
            self.complete = recorded(&self.shard);
        }
        !done
    }

    // ---- handing over

    fn position_is_due(&self) -> bool {
        let (was, is) = (&self.recorded, &self.complete);
        if was == is {
            return false;
        }
        let only_ticks = was.position == is.position
            && was.rules_hash == is.rules_hash
            && is.watermark < was.watermark.plus(TICK);
        self.recorded_at.elapsed() >= if only_ticks { TICK_EVERY } else { POSITION_EVERY }
    }

    /// Makes one write of what there is. What a full queue has refused goes first, so it may do nothing.
    fn hand_over(&mut self) {
        if !self.send() {
            return;
        }
        self.number += 1;
        if !self.out.is_empty() {
            // What is handed over may end in the middle of a turn: the place has to cover it, or a replay would stop before
            // these changes and take them for over.
            self.complete = recorded(&self.shard);
        }
        self.recorded = self.complete.clone();
        self.recorded_at = Instant::now();
        self.unsent = Some(Write {
            progress: Arc::clone(&self.progress),
            number: self.number,
            changes: std::mem::take(&mut self.out),
            rejected: std::mem::take(&mut self.rejected),
            heard: self.listening.take(),
            rules: Arc::clone(self.shard.rules()),
            recorded: self.recorded.clone(),
        });
        self.send();
    }

    /// Hands over what there is. Whether nothing is left behind.
    fn hand_over_all(&mut self) -> bool {
        if !self.out.is_empty() || !self.rejected.is_empty() {
            self.hand_over();
        }
        self.send() && self.out.is_empty() && self.rejected.is_empty()
    }

    /// Whether nothing is left to send.
    fn send(&mut self) -> bool {
        let Some(write) = self.unsent.take() else { return true };
        let shared = &self.context.progress;
        match self.context.writes.try_send(write) {
            Ok(()) => {
                shared.goes_on(Wait::Queue, self.id);
                true
            }
            Err(TrySendError::Full(write)) => {
                shared.waits(Wait::Queue, self.id, "the database takes changes slower than they are decided");
                self.unsent = Some(write);
                false
            }
            // The writer has ended: the process stops, and the log has it all.
            Err(TrySendError::Closed(_)) => true,
        }
    }

    /// Hands over what the queue takes at once: it was taken away. The number of the last write on its way; what is dropped
    /// here is decided again from the log.
    pub fn leave(&mut self) -> u64 {
        self.hand_over_all();
        if self.unsent.take().is_some() { self.number - 1 } else { self.number }
    }

    /// Hands over what there is and its position: at the end. Whether all is on its way.
    pub fn finish(&mut self) -> bool {
        if !self.hand_over_all() {
            return false;
        }
        if self.recorded != self.complete {
            self.hand_over();
        }
        self.send()
    }

    // ---- telling

    fn publish(&mut self) {
        let (p, metrics) = (&self.progress, &self.progress.metrics);
        let position = self.position();
        p.position.store(position, Ordering::Relaxed);
        p.parcels.store(self.shard.parcels() as u64, Ordering::Relaxed);
        p.remembered.store(self.shard.remembered() as u64, Ordering::Relaxed);
        let watermark = self.shard.watermark();
        if watermark > Time::MIN {
            p.watermark.store(watermark.0, Ordering::Relaxed);
            metrics.set_watermark_ms(watermark.0);
        }
        if let Some(end) = self.feed.watch.end() {
            p.end.store(end, Ordering::Relaxed);
            metrics.lag.set((end - position).max(0));
        }
        metrics.caught_up.set(i64::from(p.caught_up.load(Ordering::Relaxed)));
        let stats = self.shard.stats();
        if stats != self.stats {
            count_stats(&self.context.progress, &self.stats, &stats);
            self.stats = stats;
        }
    }
}

fn names(rules: &RuleSet) -> FactNames {
    FactNames::new(rules.declared.iter().map(|d| d.name.as_str()))
}

fn recorded(shard: &Shard) -> Recorded {
    Recorded {
        position: shard.next_offset(),
        watermark: shard.watermark(),
        rules_hash: shard.rules().hash.clone(),
    }
}

fn count_stats(progress: &Progress, before: &Stats, now: &Stats) {
    let metrics = &progress.metrics;
    metrics.records_duplicate.inc_by(now.duplicates - before.duplicates);
    metrics.records_test.inc_by(now.tests - before.tests);
    metrics.records_unmapped.inc_by(now.unmapped - before.unmapped);
    metrics.records_future.inc_by(now.future - before.future);
    metrics.records_swallowed.inc_by(now.swallowed - before.swallowed);
    for _ in before.clock_back..now.clock_back {
        metrics.clock_violation("backwards");
    }
    let (was, is) = (&before.dropped, &now.dropped);
    for (what, was, is) in [
        ("occurrences", was.occurrences, is.occurrences),
        ("holds", was.holds, is.holds),
        ("retractions", was.retractions, is.retractions),
        ("facts", was.facts + was.documents, is.facts + is.documents),
    ] {
        if is > was {
            metrics.dropped_over_bounds(what, is - was);
        }
    }
}
