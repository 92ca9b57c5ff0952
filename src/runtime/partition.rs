//! One partition's shard at work: takes what its feed brings, decodes, folds, lets the clock run under a certificate,
//! and hands over what was decided. No turn takes long, none waits.
//!
//! The life of a partition after its snapshot is loaded:
//! 1. **Legs**: it folds with the rules that were recorded, up to each recorded (position, W), so that a replay decides
//!    what the run before decided (DESIGN §6).
//! 2. **Reconcile**: the rules in force take over, and what should be open is compared with what cases says is open.
//! 3. From then on certificates may move its clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::clock::WallClock;
use super::progress::{PartitionProgress, Progress, Wait};
use super::saver::{Saver, Saving};
use super::writer::Write;
use crate::cases::{Cases, CasesError, Recorded, Rejected, Standing};
use crate::engine::reconcile::StandingCase;
use crate::engine::{Record, Shard, Stats};
use crate::model::{Change, ChangeKind, Event, MINUTE, Reject, Time};
use crate::rules::RuleSet;
use crate::snapshots::Head;
use crate::source::decode::{FactNames, decode};
use crate::source::kafka::{Feed, Gap, Item};
use crate::source::{Batch, Raw, Stamp};

/// Records decoded and folded at once.
const CHUNK: usize = 256;
/// Changes after which a turn ends: a storm is written in slices.
const SLICE: usize = 1_000;
/// How often a position without changes is recorded.
const POSITION_EVERY: Duration = Duration::from_secs(1);
/// How far a broker's clock may be ahead of ours (DESIGN §4.6).
const AHEAD: i64 = MINUTE;
/// How much of a rejected record is kept.
const SAMPLE: usize = 200;

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
    /// The rules in force, for after the legs.
    rules: Arc<RuleSet>,
    batch: Option<(Batch, usize)>,
    /// Everything below this came or holds no record.
    hole: i64,
    out: Vec<Change>,
    rejected: Vec<Rejected>,
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
            batch: None,
            hole: 0,
            out: Vec::new(),
            rejected: Vec::new(),
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
    pub fn parcel(&self, id: &str) -> Option<String> {
        self.shard.parcel_json(id)
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
        let mut busy = self.restore();
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

    // ---- taking records

    /// Folds a chunk of the batch at hand, or takes the next item. Whether there was anything.
    fn take(&mut self) -> bool {
        if let Some((batch, at)) = self.batch.take() {
            let (at, stopped) = self.fold(&batch, at);
            if at < batch.len() {
                self.batch = Some((batch, at));
            }
            return !stopped;
        }
        match self.feed.items.try_recv() {
            Ok(Item::Batch(batch)) => self.batch = Some((batch, 0)),
            Ok(Item::Position(offset)) => self.hole = self.hole.max(offset),
            Ok(Item::Gap(gap)) => self.gap(&gap),
            Ok(Item::Start { offset, gap, topic_id }) => self.start(offset, gap.as_ref(), topic_id),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => return false,
        }
        true
    }

    fn start(&mut self, offset: i64, gap: Option<&Gap>, topic_id: Option<String>) {
        self.topic_id = topic_id;
        self.started = true;
        match gap {
            Some(gap) => self.gap(gap),
            None if self.shard.next_offset() != offset => self.shard.begin_at(offset),
            None => {}
        }
        self.complete = recorded(&self.shard);
    }

    /// Records are missing: the shard goes on from the first there is, and parcels known now say so (DESIGN §4.7).
    fn gap(&mut self, gap: &Gap) {
        self.shard.gap(gap.to);
        self.hole = gap.to;
        self.progress.gap(gap.to_string());
        self.context.progress.metrics.gap(gap.kind.name());
        if gap.to < gap.from {
            // Offsets begin again: what was recorded is of another log.
            self.legs.clear();
            self.forget = true;
        }
        self.complete = recorded(&self.shard);
    }

    /// Folds up to a chunk from `at`. Where it goes on, and whether something keeps it from going on at once.
    fn fold(&mut self, batch: &Batch, at: usize) -> (usize, bool) {
        let end = batch.len().min(at + CHUNK);
        let mut raws = &batch.records()[at..end];
        if let Some(leg) = self.legs.front() {
            let before = raws.iter().position(|r| r.offset >= leg.until.position).unwrap_or(raws.len());
            raws = &raws[..before];
            if raws.is_empty() {
                // The leg ends before this record; `restore` sees it by the hole.
                self.hole = self.hole.max(leg.until.position);
                return (at, false);
            }
        }
        let now = self.context.clock.now_ms();
        let mut clock = AppendClock { watermark: self.shard.watermark(), now, create_time: false };
        let mut appends = Vec::with_capacity(raws.len());
        for raw in raws {
            match clock.append(raw) {
                Some(append) => appends.push(append),
                None => break,
            }
        }
        let stopped = appends.len() < raws.len();
        let events: Vec<Result<Event<'_>, Reject>> =
            raws[..appends.len()].iter().map(|r| decode(batch.value(r), &self.names)).collect();
        let records: Vec<Record<'_>> = raws
            .iter()
            .zip(&appends)
            .zip(&events)
            .map(|((raw, append), event)| Record {
                offset: raw.offset,
                append: *append,
                event: event.as_ref().map_err(|r| r.reason),
            })
            .collect();
        let taken = self.shard.fold(&records, SLICE, &mut self.out);
        if taken == records.len() {
            self.complete = recorded(&self.shard);
        }
        for ((raw, append), event) in raws.iter().zip(&appends).zip(&events).take(taken) {
            self.count(batch, raw, *append, event, now);
        }
        self.progress.metrics.consumed.inc_by(taken as u64);
        let stopped = stopped && taken == appends.len();
        self.clock_ahead(raws.get(taken).filter(|_| stopped), clock.create_time);
        (at + taken, stopped)
    }

    fn count(&mut self, batch: &Batch, raw: &Raw, append: Time, event: &Result<Event<'_>, Reject>, now: i64) {
        let metrics = &self.context.progress.metrics;
        if matches!(raw.stamp, Stamp::Create(at) if is_ahead(at, now)) {
            metrics.clock_violation("ahead");
        }
        match event {
            Ok(event) => {
                let key = batch.key(raw);
                if !key.is_empty() && key != event.parcel_id.as_bytes() && !event.parcel_id.is_empty() {
                    metrics.key_mismatch.inc();
                }
            }
            Err(reject) => {
                metrics.rejected(reject.reason);
                self.rejected.push(Rejected {
                    partition: self.id,
                    offset: raw.offset,
                    append,
                    reason: reject.reason.name(),
                    key: sample(batch.key(raw)),
                    head: sample(batch.value(raw)),
                });
            }
        }
    }

    /// A broker's clock far ahead of ours would fire what is not due: the shard stands before that record until the clock
    /// has caught up.
    fn clock_ahead(&self, before: Option<&Raw>, create_time: bool) {
        let progress = &self.context.progress;
        if create_time && progress.saw_create_time() {
            tracing::warn!(
                topic = self.context.topic,
                "records carry their producers' time (message.timestamp.type=CreateTime): a replay may decide otherwise than \
                 the live run; set LogAppendTime on the topic"
            );
        }
        let Some(Raw { offset, stamp: Stamp::Append(at), .. }) = before else {
            return progress.goes_on(Wait::ClockAhead, self.id);
        };
        let why = format!(
            "partition {}: the record at offset {offset} was stored at {at} by the broker's clock, more than a minute ahead of \
             this machine's; check both clocks",
            self.id
        );
        if progress.waits(Wait::ClockAhead, self.id, &why) {
            progress.metrics.clock_violation("ahead");
        }
    }

    // ---- restoring

    /// Ends legs that are reached, then reconciles. Whether there is more to do at once.
    fn restore(&mut self) -> bool {
        if self.restored() || !self.started {
            return false;
        }
        let Some(leg) = self.legs.front() else { return self.reconcile() };
        if self.position() < leg.until.position {
            return false;
        }
        let until = leg.until.watermark;
        if !self.shard.advance(until, SLICE, &mut self.out) {
            return true;
        }
        self.complete = recorded(&self.shard);
        if !self.hand_over_all() {
            return false;
        }
        self.legs.pop_front();
        if let Some(next) = self.legs.front() {
            let rules = Arc::clone(&next.rules);
            self.swap(rules);
        }
        true
    }

    /// Puts other rules in force; what those before decided is handed over already, under their hash.
    fn swap(&mut self, rules: Arc<RuleSet>) {
        if self.shard.rules().hash != rules.hash {
            self.names = names(&rules);
            self.shard.swap_rules(rules, &mut self.out);
        }
        self.complete = recorded(&self.shard);
    }

    /// Compares with cases once everything decided so far is there.
    fn reconcile(&mut self) -> bool {
        if !self.hand_over_all() || !self.progress.is_durable(self.number) {
            return false; // its being written rings no bell; the worker looks again soon
        }
        let Some(standing) = self.ask(|cases, id| async move { cases.standing(id).await }) else {
            return false;
        };
        let rules = Arc::clone(&self.rules);
        self.swap(rules);
        // What the new rules changed is no difference to cases: it is on its way there.
        let standing = after(standing.iter().map(standing_case).collect(), &self.out);
        self.shard.reconcile(&standing, &mut self.out);
        self.complete = recorded(&self.shard);
        self.hand_over();
        self.progress.restored.store(true, Ordering::Relaxed);
        tracing::info!(
            partition = self.id,
            position = self.position(),
            parcels = self.shard.parcels(),
            "the state of the partition is restored"
        );
        true
    }

    /// Offsets begin again: the recorded ones would never be passed. Done once all writes of before are durable.
    fn forget_position(&mut self) -> bool {
        if !self.hand_over_all() || !self.progress.is_durable(self.number) {
            return false;
        }
        self.forget = self.ask(|cases, id| async move { cases.forget_position(id).await }).is_none();
        !self.forget
    }

    /// Asks the database; `None` where it refuses, and it is to be asked again.
    fn ask<T, F>(&self, question: impl FnOnce(Cases, i32) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, CasesError>>,
    {
        match self.context.handle.block_on(question(self.context.cases.clone(), self.id)) {
            Ok(answer) => {
                self.context.progress.goes_on(Wait::Cases, self.id);
                Some(answer)
            }
            Err(error) => {
                self.context.progress.waits(Wait::Cases, self.id, &error.to_string());
                None
            }
        }
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
        self.recorded != self.complete && self.recorded_at.elapsed() >= POSITION_EVERY
    }

    /// Makes one write of what there is. What a full queue has refused goes first, so it may do nothing.
    fn hand_over(&mut self) {
        if !self.send() {
            return;
        }
        self.number += 1;
        self.recorded = self.complete.clone();
        self.recorded_at = Instant::now();
        self.unsent = Some(Write {
            progress: Arc::clone(&self.progress),
            number: self.number,
            changes: std::mem::take(&mut self.out),
            rejected: std::mem::take(&mut self.rejected),
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

    // ---- snapshots

    /// Begins, continues or ends a snapshot. Whether there is more to do at once.
    fn save(&mut self) -> bool {
        if let Some(saving) = &mut self.saving {
            return match saving.step(&mut self.shard) {
                super::saver::Stepped::More => true,
                super::saver::Stepped::Waits => false,
                super::saver::Stepped::Done => {
                    self.saving = None;
                    false
                }
            };
        }
        if self.save_due > Instant::now() || !self.restored() {
            return false;
        }
        self.begin_save()
    }

    /// Begins a snapshot where the shard stands between two records. Whether it did.
    pub fn begin_save(&mut self) -> bool {
        if !self.started || self.saving.is_some() || self.complete != recorded(&self.shard) {
            return false;
        }
        // The snapshot counts once this write is durable.
        self.hand_over();
        if self.unsent.is_some() {
            return false;
        }
        self.save_due = Instant::now() + self.context.save_every;
        let at = self.shard.save_begin();
        let head = Head {
            topic: self.context.topic.clone(),
            topic_id: self.topic_id.clone(),
            partitions: self.partitions,
            partition: self.id,
            next_offset: at.next_offset,
            watermark_ms: at.watermark.0,
            rules_hash: self.shard.rules().hash.clone(),
        };
        self.saving = Some(self.context.saver.begin(head, &self.progress, self.number));
        true
    }

    /// Whether a snapshot is being copied.
    #[must_use]
    pub fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    /// Copies on for a snapshot at the end.
    pub fn continue_save(&mut self) -> Turn {
        if self.save() {
            Turn::Busy
        } else if self.saving.is_some() {
            Turn::Full
        } else {
            Turn::Idle
        }
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

/// The append time of live records (DESIGN §4.5, §4.6).
struct AppendClock {
    watermark: Time,
    now: i64,
    create_time: bool,
}

fn is_ahead(at: Time, now: i64) -> bool {
    at.0 > now.saturating_add(AHEAD)
}

impl AppendClock {
    /// `None`: the broker's clock is too far ahead of ours.
    fn append(&mut self, raw: &Raw) -> Option<Time> {
        let append = match raw.stamp {
            Stamp::Append(at) if is_ahead(at, self.now) => return None,
            Stamp::Append(at) => at,
            Stamp::Create(at) => {
                self.create_time = true;
                let at = if is_ahead(at, self.now) { Time(self.now) } else { at };
                at.max(self.watermark)
            }
            Stamp::None => Time(self.now).max(self.watermark),
        };
        self.watermark = self.watermark.max(append);
        Some(append)
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

fn standing_case(s: &Standing) -> StandingCase {
    StandingCase {
        rule: s.rule.clone(),
        parcel_id: s.parcel_id.clone(),
        episode: Time::parse(&s.episode),
        stage: s.stage,
        severity: s.severity,
        due: s.due,
        anchor: s.anchor,
        by_operator: s.by_operator,
    }
}

/// What cases will hold once these changes are there too.
fn after(standing: Vec<StandingCase>, changes: &[Change]) -> Vec<StandingCase> {
    let mut by_id: BTreeMap<_, _> =
        standing.into_iter().map(|s| ((s.parcel_id.clone(), s.rule.clone(), s.episode), s)).collect();
    for c in changes {
        let id = (c.parcel_id.to_string(), c.rule.to_string(), c.episode);
        if matches!(c.kind, ChangeKind::Resolved(_)) {
            by_id.remove(&id);
            continue;
        }
        let (parcel_id, rule, episode) = id.clone();
        let case = StandingCase {
            rule,
            parcel_id,
            episode,
            stage: c.stage,
            severity: c.severity,
            due: c.due,
            anchor: c.anchor,
            by_operator: false,
        };
        by_id.insert(id, case);
    }
    by_id.into_values().collect()
}

/// The first bytes of something, printable.
fn sample(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SAMPLE)]);
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn appends(watermark: i64, now: i64, stamps: &[Stamp]) -> Vec<Option<i64>> {
        let mut batch = Batch::new(0);
        for (i, stamp) in stamps.iter().enumerate() {
            batch.push(i as i64, *stamp, b"", b"");
        }
        let mut clock = AppendClock { watermark: Time(watermark), now, create_time: false };
        batch.records().iter().map(|r| clock.append(r).map(|t| t.0)).collect()
    }

    #[test]
    fn the_brokers_time_is_taken_as_it_is_unless_it_is_far_ahead() {
        let append = |ms| Stamp::Append(Time(ms));
        let now = 1_000_000;
        let given = [append(5), append(3), append(now + AHEAD), append(now + AHEAD + 1)];
        assert_eq!(appends(4, now, &given), [Some(5), Some(3), Some(now + AHEAD), None]);
    }

    #[test]
    fn a_producers_time_never_goes_back_and_is_replaced_where_it_is_far_ahead() {
        let create = |ms| Stamp::Create(Time(ms));
        let now = 1_000_000;
        let given = [create(5), create(3), create(now + AHEAD + 1), create(7), Stamp::None];
        assert_eq!(appends(4, now, &given), [Some(5), Some(5), Some(now), Some(now), Some(now)]);
    }

    #[test]
    fn what_is_on_its_way_to_cases_counts_as_there() {
        let case = |parcel: &str, rule: &str| StandingCase {
            rule: rule.to_owned(),
            parcel_id: parcel.to_owned(),
            episode: None,
            stage: 1,
            severity: crate::model::Severity::High,
            due: Time(1),
            anchor: Time(0),
            by_operator: false,
        };
        let change = |parcel: &str, rule: &str, kind| Change {
            kind,
            rule: rule.into(),
            body: None,
            parcel_id: parcel.into(),
            episode: None,
            offset: 1,
            at: Time(2),
            stage: 1,
            severity: crate::model::Severity::High,
            anchor: Time(0),
            due: Time(1),
            incomplete: false,
            evidence: None,
        };
        let gone = ChangeKind::Resolved(crate::model::Resolution::RuleChanged);
        let changes = [change("A", "old", gone), change("B", "new", ChangeKind::Opened)];
        let left = after(vec![case("A", "old"), case("A", "new")], &changes);
        assert_eq!(left, [case("A", "new"), case("B", "new")]);
    }

    #[test]
    fn samples_are_short_and_printable() {
        assert_eq!(sample(b"a\nb\xff"), "a\u{fffd}b\u{fffd}");
        assert_eq!(sample(&vec![b'x'; 5_000]).len(), SAMPLE);
    }
}
