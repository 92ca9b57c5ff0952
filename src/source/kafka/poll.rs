//! The consumer's thread: poll, copy, hand over; pause what nobody takes.
//!
//! Everything here rests on measured traps (`BaseConsumer` on its own thread, no split queues, automatic offset store
//! off, no reset, a close that may hang). The thread never waits for a feed: what a full feed refuses is held, above a
//! bound it stops polling for moments, and a partition whose feed stays full is paused, so that `poll` is called in time
//! whatever the fold does.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::context::{Context, Step};
use super::part::{Hole, Part, take};
use super::probe::Request;
use super::trouble::{Kind, Troubles};
use super::{ConfigError, Event, Gap, Item, Shared, Watch};
use crate::source::Batch;

/// What the thread is told.
pub(super) enum Command {
    /// The topic is there.
    Subscribe,
    /// Where assigned partitions begin.
    Start(Vec<Begin>),
    /// Go on behind a gap.
    Skip(Gap),
    /// Read on where this one stands: it may have stopped.
    Again(i32),
    /// Offsets that are safe.
    Commit(Vec<(i32, i64)>),
    /// A partition stands still: make the consumer anew.
    Recreate,
    /// Look at the stop flag.
    Wake,
}

/// A partition whose first offset is known.
pub(super) struct Begin {
    pub(super) offset: i64,
    pub(super) gap: Option<Gap>,
    pub(super) topic_id: Option<String>,
    pub(super) items: Sender<Item>,
    pub(super) watch: Arc<Watch>,
}

/// Bytes held for full feeds before polling stops for moments.
const HOLD: usize = 16 << 20;
/// How long a feed may stay full before its partition is paused: pausing throws away what was fetched ahead.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an idle poll may take, and so a command may wait.
const IDLE: Duration = Duration::from_millis(50);

pub(super) struct Poll {
    config: ClientConfig,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    requests: Sender<Request>,
    events: Sender<Event>,
    consumer: BaseConsumer<Context>,
    subscribed: bool,
    /// Assigned by the group, their positions not known yet. The group waits for one answer to each assignment.
    pending: Option<Vec<i32>>,
    begins: Vec<Begin>,
    parts: Vec<Option<Part>>,
    held_bytes: usize,
}

impl Poll {
    pub(super) fn new(
        config: ClientConfig,
        shared: Arc<Shared>,
        commands: Receiver<Command>,
        requests: Sender<Request>,
        events: Sender<Event>,
    ) -> Result<Poll, ConfigError> {
        let consumer = create(&config, &shared.troubles).map_err(|e| ConfigError::refused(&e))?;
        Ok(Poll {
            config,
            shared,
            commands,
            requests,
            events,
            consumer,
            subscribed: false,
            pending: None,
            begins: Vec::new(),
            parts: Vec::new(),
            held_bytes: 0,
        })
    }

    pub(super) fn run(mut self) {
        while !self.shared.stopping() {
            while let Ok(command) = self.commands.try_recv() {
                self.command(command);
            }
            self.shared.troubles.speak();
            self.flush_held();
            if self.held_bytes > HOLD {
                // A moment only: after PATIENCE the partitions that hold it are paused and count no longer.
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            self.poll_some();
            self.hand_over_all();
        }
        self.close();
    }

    /// Polls until the local queue is empty, or a few thousand records have come.
    fn poll_some(&mut self) {
        let mut wait = IDLE;
        for _ in 0..4_096 {
            // The message borrows the consumer: copied out at once.
            let came = match self.consumer.poll(wait) {
                None => None,
                Some(Ok(message)) => {
                    take(&mut self.parts, &mut self.held_bytes, &message);
                    Some(None)
                }
                Some(Err(error)) => Some(Some(error)),
            };
            wait = Duration::ZERO;
            self.rebalance();
            match came {
                None => break,
                Some(Some(error)) => self.failed(&error),
                Some(None) => {}
            }
            if self.held_bytes > HOLD {
                break;
            }
        }
        self.statistics();
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Subscribe => self.subscribe(),
            Command::Start(begins) => {
                self.begins.extend(begins);
                self.begin();
            }
            Command::Skip(gap) => self.skip(gap),
            Command::Again(partition) => self.again(partition),
            Command::Commit(positions) => self.commit(&positions),
            Command::Recreate => self.recreate(),
            Command::Wake => {}
        }
    }

    fn subscribe(&mut self) {
        if self.subscribed {
            return;
        }
        match self.consumer.subscribe(&[&self.shared.options.topic]) {
            Ok(()) => self.subscribed = true,
            Err(error) => {
                self.shared.troubles.say(Kind::Group, 2, format!("kafka: cannot subscribe: {error}"))
            }
        }
    }

    /// Answers the group's assignment once every partition of it has its position.
    fn begin(&mut self) {
        let Some(pending) = &self.pending else {
            self.begins.clear();
            return;
        };
        self.begins.retain(|b| pending.contains(&b.watch.partition));
        if !pending.iter().all(|p| self.begins.iter().any(|b| b.watch.partition == *p)) {
            return;
        }
        let pending = self.pending.take().unwrap_or_default();
        let begins = std::mem::take(&mut self.begins);
        self.assign(&begins.iter().map(|b| (b.watch.partition, b.offset)).collect::<Vec<_>>());
        for begin in begins {
            self.add(begin);
        }
        tracing::info!(partitions = pending.len(), topic = self.shared.options.topic, "reading");
    }

    fn add(&mut self, begin: Begin) {
        let Begin { offset, gap, topic_id, items, watch } = begin;
        let partition = watch.partition;
        let index = partition as usize;
        if self.parts.len() <= index {
            self.parts.resize_with(index + 1, || None);
        }
        watch.position.store(offset, Ordering::Relaxed);
        self.shared
            .watches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(partition, Arc::clone(&watch));
        let mut part = Part {
            items,
            watch,
            next: offset,
            building: Batch::new(partition),
            held: VecDeque::new(),
            held_bytes: 0,
            full_since: None,
            paused: false,
            begun: Instant::now(),
            hole: None,
        };
        part.send(Item::Start { offset, gap, topic_id }, &mut self.held_bytes);
        self.parts[index] = Some(part);
    }

    fn assign(&self, positions: &[(i32, i64)]) {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (partition, offset) in positions {
            if let Err(error) =
                list.add_partition_offset(&self.shared.options.topic, *partition, Offset::Offset(*offset))
            {
                self.fatal(format!("kafka: partition {partition} cannot begin at offset {offset}: {error}"));
            }
        }
        if let Err(error) = self.consumer.incremental_assign(&list) {
            self.fatal(format!("kafka: the assignment of {} partitions failed: {error}", positions.len()));
        }
    }

    fn unassign(&self, partitions: &[i32]) {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.shared.options.topic, *partition);
        }
        if self.consumer.incremental_unassign(&list).is_err() {
            // Some of them were never assigned by us: giving everything back is always allowed.
            let _ = self.consumer.unassign();
        }
    }

    /// Serves what the group decided; the callback only noted it.
    fn rebalance(&mut self) {
        for step in self.consumer.context().rebalances() {
            match step {
                Step::Assign(partitions) => {
                    self.shared.troubles.clear(Kind::Group);
                    if partitions.is_empty() {
                        self.assign(&[]);
                    } else {
                        self.pending = Some(partitions.clone());
                    }
                    let _ = self.events.send(Event::Assigned(partitions));
                }
                Step::Revoke(partitions) => {
                    self.hand_over_all();
                    self.forget(&partitions);
                    self.pending = None;
                    self.unassign(&partitions);
                    let _ = self.events.send(Event::Revoked(partitions));
                }
            }
        }
    }

    fn forget(&mut self, partitions: &[i32]) {
        let mut watches = self.shared.watches.lock().unwrap_or_else(PoisonError::into_inner);
        for partition in partitions {
            watches.remove(partition);
            if let Some(part) = self.parts.get_mut(*partition as usize).and_then(Option::take) {
                part.watch.withdraw();
                self.held_bytes -= if part.paused { 0 } else { part.held_bytes };
            }
        }
    }

    fn skip(&mut self, gap: Gap) {
        let Some(part) = self.parts.get_mut(gap.partition as usize).and_then(Option::as_mut) else { return };
        if part.next != gap.from {
            return; // it went on meanwhile
        }
        part.hand_over(&mut self.held_bytes);
        part.next = gap.to;
        part.watch.withdraw();
        part.watch.position.store(gap.to, Ordering::Relaxed);
        let partition = gap.partition;
        part.send(Item::Gap(gap), &mut self.held_bytes);
        self.again(partition);
    }

    fn again(&mut self, partition: i32) {
        let Some(part) = self.parts.get_mut(partition as usize).and_then(Option::as_mut) else { return };
        let (next, paused) = (part.next, part.paused);
        (part.begun, part.hole) = (Instant::now(), None);
        // A partition that ran out of range has stopped and takes no seek.
        self.unassign(&[partition]);
        self.assign(&[(partition, next)]);
        if paused {
            self.set_paused(&[partition], true);
        }
    }

    fn failed(&mut self, error: &KafkaError) {
        match error {
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
            ) => {
                // First, so that the position the probe compares is the one the broker refused.
                self.hand_over_all();
                let _ = self.requests.try_send(Request::OutOfRange);
            }
            KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::FencedInstanceId) => {
                let (group, instance) = (&self.shared.options.group_id, &self.shared.options.instance_id);
                self.fatal(format!(
                    "kafka: another process has joined group {group} as {instance}: two of them run on one state, or on \
                     copies of it; stop one, or give it a state of its own"
                ));
            }
            KafkaError::MessageConsumptionFatal(code) => {
                self.fatal(format!("kafka: the consumer cannot go on: {code}"))
            }
            // The context's error callback has noted it.
            _ => {}
        }
    }

    fn fatal(&self, text: String) {
        let _ = self.events.send(Event::Fatal(text));
    }

    fn commit(&self, positions: &[(i32, i64)]) {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (partition, offset) in positions {
            let ours = self.parts.get(*partition as usize).is_some_and(Option::is_some);
            if ours && *offset >= 0 {
                let _ = list.add_partition_offset(
                    &self.shared.options.topic,
                    *partition,
                    Offset::Offset(*offset),
                );
            }
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!("offsets for lag tools were not committed: {error}");
        }
    }

    fn hand_over_all(&mut self) {
        for part in self.parts.iter_mut().flatten() {
            part.hand_over(&mut self.held_bytes);
        }
    }

    /// Offers again what full feeds refused; pauses and resumes.
    fn flush_held(&mut self) {
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for part in self.parts.iter_mut().flatten().filter(|p| p.full_since.is_some()) {
            part.flush(&mut self.held_bytes);
            match part.full_since {
                None if part.paused => {
                    part.paused = false;
                    resume.push(part.watch.partition);
                }
                Some(since) if !part.paused && since.elapsed() > PATIENCE => {
                    part.paused = true;
                    self.held_bytes -= part.held_bytes;
                    pause.push(part.watch.partition);
                }
                _ => {}
            }
        }
        self.set_paused(&pause, true);
        self.set_paused(&resume, false);
        self.shared.counters.held_bytes.store(self.held_bytes as i64, Ordering::Relaxed);
    }

    fn set_paused(&self, partitions: &[i32], paused: bool) {
        if partitions.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.shared.options.topic, *partition);
        }
        if paused {
            self.shared.counters.pauses.fetch_add(partitions.len() as u64, Ordering::Relaxed);
        }
        // Resuming begins behind the last record that poll gave us, and what comes twice is passed over in `take`.
        let result = if paused { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
        if let Err(error) = result {
            tracing::warn!(
                ?partitions,
                "kafka: cannot {} them: {error}",
                if paused { "pause" } else { "resume" }
            );
        }
    }

    /// Makes progress over offsets that hold no record, transaction markers at the end above all: two samples a second
    /// apart that agree that nothing is queued prove everything below the first one's position handed over.
    fn statistics(&mut self) {
        let Some(samples) = self.consumer.context().samples() else { return };
        for sample in samples {
            let Some(part) = self.parts.get_mut(sample.partition as usize).and_then(Option::as_mut) else {
                continue;
            };
            part.watch.stable.store(sample.ls_offset, Ordering::Relaxed);
            let quiet = sample.fetchq_cnt == 0 && sample.fetch_state == "active" && !part.paused;
            let now = Hole { expected: part.next, fetched: sample.next_offset };
            let settled = part.begun.elapsed() > Duration::from_secs(2);
            if !(quiet && settled && now.fetched > now.expected) {
                part.hole = None;
                continue;
            }
            match part.hole {
                Some(before) if before.expected == now.expected && before.fetched <= now.fetched => {
                    part.hand_over(&mut self.held_bytes);
                    part.next = before.fetched;
                    part.watch.position.store(part.next, Ordering::Relaxed);
                    part.hole = None;
                    part.send(Item::Position(before.fetched), &mut self.held_bytes);
                }
                _ => part.hole = Some(now),
            }
        }
    }

    fn recreate(&mut self) {
        self.shared.counters.restarts.fetch_add(1, Ordering::Relaxed);
        let fresh = match create(&self.config, &self.shared.troubles) {
            Ok(fresh) => fresh,
            Err(error) => return self.fatal(format!("kafka: the consumer cannot be made anew: {error}")),
        };
        self.hand_over_all();
        let all: Vec<i32> = self.parts.iter().flatten().map(|p| p.watch.partition).collect();
        self.forget(&all);
        self.pending = None;
        self.begins.clear();
        let _ = self.events.send(Event::Revoked(all));
        dispose(std::mem::replace(&mut self.consumer, fresh));
        self.subscribed = false;
        self.subscribe();
    }

    fn close(mut self) {
        let all: Vec<i32> = self.parts.iter().flatten().map(|p| p.watch.partition).collect();
        self.forget(&all);
        self.consumer.context().close();
        self.consumer.unsubscribe();
    }
}

/// Drops a consumer elsewhere: its close may hang for as long as its session lasts.
fn dispose(consumer: BaseConsumer<Context>) {
    consumer.context().close();
    let spawned = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || drop(consumer));
    if let Err(error) = spawned {
        tracing::warn!("kafka: no thread to close a consumer: {error}");
    }
}

fn create(config: &ClientConfig, troubles: &Arc<Troubles>) -> KafkaResult<BaseConsumer<Context>> {
    config.create_with_context(Context::new(Arc::clone(troubles)))
}
