//! The thread that follows the consumer group: loads what is assigned, lets go of what is taken away, and says when this
//! process cannot go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use futures_util::StreamExt;
use tokio::sync::watch;

use super::escalator::Backlog;
use super::partition::{Beginning, Context, Partition};
use super::progress::{PartitionProgress, Progress, Wait};
use super::restore::{RestoreError, Restored, Restorer};
use super::worker::{Order, Worker};
use crate::model::{DAY, HOUR};
use crate::rules::RuleSet;
use crate::rules::ruleset::Span;
use crate::source::kafka::topic::TopicConfig;
use crate::source::kafka::{self, Event, Kafka};

/// How long a process that never had all partitions waits for the rest, where it needs all: a member that died may hold some
/// until its session ends.
const NEWCOMER: Duration = Duration::from_secs(15);
/// How long one that had all of them waits: whoever joined by mistake gives up before.
const INCUMBENT: Duration = Duration::from_secs(90);

/// How often the thread looks whether to stop.
const LOOK: Duration = Duration::from_millis(250);
/// Partitions loaded at once: each is in memory twice meanwhile.
const LOADS: usize = 4;

/// What the thread needs.
pub struct Group {
    /// The source.
    pub kafka: Arc<Kafka>,
    /// What partitions share.
    pub context: Arc<Context>,
    /// Loads them.
    pub restorer: Arc<Restorer>,
    /// The threads that fold.
    pub workers: Arc<Vec<Worker>>,
    /// Told where a backlog begins.
    pub backlog: Backlog,
    /// The rules in force.
    pub rules: watch::Receiver<Arc<RuleSet>>,
    /// Whether this process must own every partition (SQLite).
    pub needs_all: bool,
    /// Why the process cannot go on.
    pub fatal: watch::Sender<Option<String>>,
    /// Set at the end.
    pub stop: Arc<AtomicBool>,
}

/// What the thread remembers.
#[derive(Default)]
struct Owned {
    partitions: i32,
    ours: BTreeMap<i32, Arc<PartitionProgress>>,
    had_all: bool,
    short_since: Option<Instant>,
}

impl Group {
    /// Runs until the stop flag is set.
    pub fn run(self) {
        let mut owned = Owned::default();
        while !self.stop.load(Ordering::Relaxed) {
            self.progress().beat("the group's thread");
            match self.kafka.events().recv_timeout(LOOK) {
                Ok(event) => self.event(event, &mut owned),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.fail("the Kafka source has ended".to_owned());
                    break;
                }
            }
            self.check_all(&mut owned);
        }
        self.progress().ended("the group's thread");
    }

    fn progress(&self) -> &Arc<Progress> {
        &self.context.progress
    }

    fn fail(&self, why: String) {
        tracing::error!("{why}");
        self.fatal.send_replace(Some(why));
    }

    fn event(&self, event: Event, owned: &mut Owned) {
        let metrics = &self.progress().metrics;
        match event {
            Event::Topic { partitions, config } => {
                owned.partitions = partitions;
                self.look_at_topic(config);
            }
            Event::Assigned(partitions) => {
                metrics.rebalances.inc();
                let parts = self.assigned(&partitions, owned.partitions);
                owned.ours.extend(parts.into_iter().map(|p| (p.partition, p)));
                metrics.partitions_assigned.set(i64::try_from(owned.ours.len()).unwrap_or(i64::MAX));
            }
            Event::Revoked(partitions) => {
                metrics.rebalances.inc();
                for id in &partitions {
                    if let Some(part) = owned.ours.remove(id) {
                        self.release(&part);
                    }
                }
                metrics.partitions_assigned.set(i64::try_from(owned.ours.len()).unwrap_or(i64::MAX));
                tracing::warn!(?partitions, "partitions were taken away");
            }
            Event::PartitionCount { was, now } => {
                let why = format!(
                    "the topic had {was} partitions and now has {now}, so that a parcel's records may be in two of them; use a \
                     topic with a fixed number, or restart to go on as it is"
                );
                self.progress().waits(Wait::PartitionCount, -1, &why);
            }
            Event::Fatal(why) => self.fail(why),
        }
    }

    /// Says what of the topic's configuration does not fit the rules (DESIGN §4.5, §4.7).
    fn look_at_topic(&self, config: Option<TopicConfig>) {
        let topic = &self.context.topic;
        let Some(TopicConfig { retention_ms, log_append_time }) = config else {
            tracing::debug!(topic, "the topic's configuration may not be read");
            return;
        };
        if log_append_time == Some(false) {
            self.progress().saw_create_time();
            tracing::warn!(
                topic,
                "message.timestamp.type is CreateTime: records carry their producers' time, and a replay may decide otherwise than \
                 the live run; set LogAppendTime on the topic"
            );
        }
        let longest = longest_window(&self.rules.borrow());
        if retention_ms.is_some_and(|keeps| keeps < longest) {
            tracing::warn!(
                topic,
                "the topic keeps records for {} h, shorter than the {} h that the rules look back: without a snapshot a restart \
                 would not know all that is owed; raise retention.ms",
                retention_ms.unwrap_or(0) / HOUR,
                longest / HOUR
            );
        }
    }

    /// Lets go of a partition, and waits until what was decided of it is in the database: whoever loads it next, this
    /// process included, reads positions and exceptions there that must belong together.
    fn release(&self, part: &Arc<PartitionProgress>) {
        let (answer, answered) = bounded(1);
        self.worker(part.partition).order(Order::Remove(part.partition, answer));
        while !self.stop.load(Ordering::Relaxed) {
            match answered.recv_timeout(LOOK) {
                Ok(last) => {
                    while !part.is_durable(last) && !part.is_lost() && !self.stop.load(Ordering::Relaxed) {
                        self.progress().beat("the group's thread");
                        let wait = async { tokio::time::timeout(LOOK, part.durable(last)).await };
                        let _ = self.context.handle.block_on(wait);
                    }
                    break;
                }
                Err(RecvTimeoutError::Timeout) => self.progress().beat("the group's thread"),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if !self.needs_all {
            self.backlog.leaves(part.partition);
        }
        self.progress().remove(part.partition);
    }

    /// Loads the partitions side by side, then begins them together.
    fn assigned(&self, partitions: &[i32], count: i32) -> Vec<Arc<PartitionProgress>> {
        let progress = self.progress();
        progress.assigned(partitions);
        let parts: Vec<_> = partitions
            .iter()
            .map(|id| {
                self.backlog.begins(*id);
                progress.add(&self.context.topic, *id)
            })
            .collect();
        let loads = partitions.iter().map(|id| {
            let (restorer, progress, id) = (Arc::clone(&self.restorer), Arc::clone(progress), *id);
            async move {
                let tell = |error: Option<&RestoreError>| match error {
                    Some(error) => {
                        progress.beat("the group's thread");
                        progress.waits(Wait::Cases, id, &error.to_string());
                    }
                    None => progress.goes_on(Wait::Cases, id),
                };
                restorer.load(id, count, tell).await
            }
        });
        let stop = Arc::clone(&self.stop);
        let stopped = async move {
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let loaded = self.context.handle.block_on(async {
            tokio::select! {
                loaded = futures_util::stream::iter(loads).buffered(LOADS).collect::<Vec<_>>() => Some(loaded),
                () = stopped => None,
            }
        });
        let mut starts = Vec::with_capacity(partitions.len());
        for ((id, part), restored) in partitions.iter().zip(&parts).zip(loaded.into_iter().flatten()) {
            let Restored { shard, at, legs, switched, fresh } = restored;
            let worker = self.worker(*id);
            let (start, feed) = kafka::feed(*id, at, worker.bell());
            let rules = Arc::clone(&self.rules.borrow());
            let beginning =
                Beginning { partition: *id, feed, shard, legs, rules, switched, fresh, partitions: count };
            let partition = Partition::new(Arc::clone(&self.context), Arc::clone(part), beginning);
            worker.order(Order::Add(Box::new(partition)));
            progress.loaded(*id);
            starts.push(start);
        }
        self.kafka.start(starts);
        parts
    }

    fn worker(&self, partition: i32) -> &Worker {
        &self.workers[usize::try_from(partition).unwrap_or(0) % self.workers.len()]
    }

    /// With SQLite one process owns all partitions (DESIGN §2).
    fn check_all(&self, owned: &mut Owned) {
        let all = owned.partitions > 0 && owned.ours.len() as i64 >= i64::from(owned.partitions);
        owned.had_all |= all;
        if all || !self.needs_all || owned.partitions == 0 || !self.progress().is_assigned() {
            owned.short_since = None;
            return;
        }
        let since = *owned.short_since.get_or_insert_with(|| {
            if owned.had_all || !owned.ours.is_empty() {
                tracing::warn!(
                    ours = owned.ours.len(),
                    of = owned.partitions,
                    "the group gave this process only some of the partitions"
                );
            }
            Instant::now()
        });
        let patience = if owned.had_all { INCUMBENT } else { NEWCOMER };
        if since.elapsed() > patience {
            self.fail(format!(
                "the group gave this process {} of {} partitions: another member shares them, and with SQLite one process must own \
                 all; stop the other one, use another kafka.group_id, or set cases.url to a PostgreSQL that all of them share",
                owned.ours.len(),
                owned.partitions
            ));
        }
    }
}

/// The longest time from an anchor to a stage or the end of a rule, about: a business day counts as two.
fn longest_window(rules: &RuleSet) -> i64 {
    let span = |s: &Span| i64::from(s.business_days) * 2 * DAY + i64::from(s.days) * DAY + s.ms;
    let bodies = rules.rules.iter().flat_map(|r| r.bodies.iter().map(move |b| (r, b)));
    bodies
        .map(|(rule, body)| {
            let stage = body.stages.iter().map(|s| span(&s.at)).max().unwrap_or(0);
            (stage + body.reporting_delay + rule.zone_slack).max(rule.until.unwrap_or(0))
        })
        .max()
        .unwrap_or(0)
}
