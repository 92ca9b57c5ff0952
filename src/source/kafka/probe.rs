//! The thread that asks the broker: the topic's metadata, where a partition begins, what was lost, and the end offsets
//! that certificates are made of. It has a client of its own, so that no question delays a record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::context::Context;
use super::poll::{Begin, Command};
use super::trouble::Kind;
use super::{Certificate, ConfigError, Event, Gap, GapKind, Shared, Start, StartAt, topic};

/// What the thread is asked.
pub(super) enum Request {
    /// Find where these begin.
    Start(Vec<Start>),
    /// The consumer met an offset that is not there, and does not say where.
    OutOfRange,
    /// Look at the stop flag.
    Wake,
}

/// Longest wait for an answer about offsets: certificates of other brokers wait behind it.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest wait for metadata, the first connection included.
const METADATA: Duration = Duration::from_secs(5);
/// How far wall clock and steady clock may go apart between two looks.
const STEP: i64 = 2_000;
/// Answers in a row that put the end below what was read before that is believed: a new leader may lag for moments.
const STRIKES: u32 = 8;
/// How long records may lie ahead with nothing read before the consumer is made anew.
const STUCK: Duration = Duration::from_secs(60);

pub(super) struct Probe {
    shared: Arc<Shared>,
    client: BaseConsumer<Context>,
    requests: Receiver<Request>,
    commands: Sender<Command>,
    events: Sender<Event>,
    /// Partitions by their leader.
    leaders: BTreeMap<i32, Vec<i32>>,
    partitions: i32,
    /// The topic's id, where the broker gives one.
    topic_id: Option<String>,
    metadata_due: Instant,
    /// Brokers that did not answer, and when they are asked again.
    silent: BTreeMap<i32, Instant>,
    starts: Vec<Start>,
    clocks: Option<(i64, i64)>,
    progress: BTreeMap<i32, Progress>,
}

#[derive(Clone, Copy)]
struct Progress {
    position: i64,
    since: Instant,
    strikes: u32,
}

impl Probe {
    pub(super) fn new(
        config: &ClientConfig,
        shared: Arc<Shared>,
        requests: Receiver<Request>,
        commands: Sender<Command>,
        events: Sender<Event>,
    ) -> Result<Probe, ConfigError> {
        let client = config
            .create_with_context(Context::new(Arc::clone(&shared.troubles)))
            .map_err(|e| ConfigError::refused(&e))?;
        Ok(Probe {
            shared,
            client,
            requests,
            commands,
            events,
            leaders: BTreeMap::new(),
            partitions: 0,
            topic_id: None,
            metadata_due: Instant::now(),
            silent: BTreeMap::new(),
            starts: Vec::new(),
            clocks: None,
            progress: BTreeMap::new(),
        })
    }

    pub(super) fn run(mut self) {
        let mut check = false;
        while !self.shared.stopping() {
            let round = Instant::now();
            self.drain();
            if round >= self.metadata_due {
                self.metadata();
            }
            if self.partitions > 0 {
                self.begin();
                self.look_at_clocks();
                self.certify();
                if check {
                    check = !self.find_gaps();
                }
            }
            let left = self.shared.options.certificate_every.saturating_sub(round.elapsed());
            match self.requests.recv_timeout(left) {
                Ok(Request::Start(starts)) => self.starts.extend(starts),
                Ok(Request::OutOfRange) => check = true,
                Ok(Request::Wake) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Lets librdkafka deliver its errors.
    fn drain(&self) {
        for _ in 0..100 {
            if self.client.poll(Duration::ZERO).is_none() {
                return;
            }
        }
    }

    fn metadata(&mut self) {
        let topic = self.shared.options.topic.clone();
        self.metadata_due = Instant::now() + Duration::from_secs(1);
        let metadata = match self.client.fetch_metadata(Some(&topic), METADATA) {
            Ok(metadata) => metadata,
            Err(error) => {
                self.drain();
                return self.shared.troubles.note(&error, "no answer to a metadata request");
            }
        };
        if self.shared.watches().is_empty() {
            self.shared.troubles.clear(Kind::Connection);
        }
        let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return };
        if let Some(code) = found.error() {
            self.shared.troubles.note(&KafkaError::MetadataFetch(code.into()), "");
            return;
        }
        let count = i32::try_from(found.partitions().len()).unwrap_or(i32::MAX);
        if count == 0 {
            return;
        }
        self.shared.troubles.clear(Kind::Topic);
        self.leaders.clear();
        for partition in found.partitions().iter().filter(|p| p.leader() >= 0) {
            self.leaders.entry(partition.leader()).or_default().push(partition.id());
        }
        self.identified();
        self.counted(count);
        let led = self.leaders.values().map(Vec::len).sum::<usize>();
        if led == found.partitions().len() {
            self.metadata_due = Instant::now() + self.shared.options.metadata_every;
        }
    }

    /// Sees that the topic is another one of the same name.
    fn identified(&mut self) {
        let Some(id) = topic::id(&self.client, &self.shared.options.topic, ANSWER) else { return };
        let before = self.topic_id.replace(id);
        if before.is_some() && before != self.topic_id {
            tracing::warn!(topic = self.shared.options.topic, "the topic was deleted and made anew");
            for (partition, watch) in self.shared.watches() {
                let from = watch.position.load(Ordering::Relaxed);
                match self.client.fetch_watermarks(&self.shared.options.topic, partition, ANSWER) {
                    Ok((to, _)) => self.skip(Gap { partition, from, to, kind: GapKind::MadeAnew }),
                    Err(error) => {
                        // The whole is looked at again with the next metadata.
                        self.shared.troubles.note(&error, "no answer to a question about offsets");
                        self.topic_id.clone_from(&before);
                    }
                }
            }
        }
    }

    fn skip(&self, gap: Gap) {
        self.found(Some(&gap));
        let _ = self.commands.send(Command::Skip(gap));
    }

    fn counted(&mut self, count: i32) {
        let was = self.partitions;
        if was == count {
            return;
        }
        if was == 0 {
            self.partitions = count;
            let config = topic::config(&self.client, &self.shared.options.topic, ANSWER);
            let _ = self.events.send(Event::Topic { partitions: count, config });
            let _ = self.commands.send(Command::Subscribe);
            return;
        }
        // Said once; what follows stays frozen.
        if !self.shared.frozen.swap(true, Ordering::Relaxed) {
            let topic = &self.shared.options.topic;
            self.shared.troubles.say(
                Kind::Partitions,
                2,
                format!(
                    "kafka: topic {topic} had {was} partitions and now has {count}: a parcel's records may be in two of \
                     them, so the clocks stand still; use a topic with a fixed number, or restart to go on as it is"
                ),
            );
            for watch in self.shared.watches().values() {
                watch.withdraw();
            }
            let _ = self.events.send(Event::PartitionCount { was, now: count });
        }
    }

    /// Answers the partitions that wait for their first offset.
    fn begin(&mut self) {
        if self.starts.is_empty() {
            return;
        }
        let mut begins = Vec::new();
        for start in std::mem::take(&mut self.starts) {
            match self.resolve(start.partition, &start.at) {
                Ok((offset, gap)) => {
                    self.found(gap.as_ref());
                    self.progress.remove(&start.partition);
                    begins.push(Begin {
                        offset,
                        gap,
                        topic_id: None,
                        items: start.items,
                        watch: start.watch,
                    });
                }
                Err(error) => {
                    self.drain();
                    self.shared.troubles.note(&error, "no answer to a question about offsets");
                    self.starts.push(start);
                }
            }
        }
        if !begins.is_empty() {
            let _ = self.commands.send(Command::Start(begins));
        }
    }

    fn resolve(&self, partition: i32, at: &StartAt) -> KafkaResult<(i64, Option<Gap>)> {
        let (low, high) = self.client.fetch_watermarks(&self.shared.options.topic, partition, ANSWER)?;
        let beginning =
            |to: i64| (to > 0).then_some(Gap { partition, from: 0, to, kind: GapKind::Beginning });
        Ok(match at {
            StartAt::Earliest => (low, beginning(low)),
            StartAt::Latest => (high, beginning(high)),
            StartAt::At(time) => {
                let mut list = TopicPartitionList::with_capacity(1);
                list.add_partition_offset(
                    &self.shared.options.topic,
                    partition,
                    Offset::Offset(time.0.max(0)),
                )?;
                let found = self.client.offsets_for_times(list, ANSWER)?;
                let offset = match found.elements().first().map(|e| e.error().map(|()| e.offset())) {
                    Some(Ok(Offset::Offset(offset))) => offset,
                    Some(Err(error)) => return Err(error),
                    _ => high,
                };
                (offset, beginning(offset))
            }
            StartAt::Offset { offset, topic_id } => {
                let known = topic_id.as_ref().zip(self.topic_id.as_ref()).map(|(was, is)| was == is);
                let gap = lost(partition, *offset, low, high, known);
                (gap.as_ref().map_or(*offset, |g| g.to), gap)
            }
        })
    }

    fn found(&self, gap: Option<&Gap>) {
        if let Some(gap) = gap {
            self.shared.counters.gap(gap.kind);
            tracing::warn!(
                topic = self.shared.options.topic,
                from = gap.from,
                to = gap.to,
                kind = gap.kind.name(),
                "{gap}"
            );
        }
    }

    /// Withdraws every certificate where someone set the clock or the machine slept.
    fn look_at_clocks(&mut self) {
        let now = (self.shared.clocks.wall().0, self.shared.clocks.steady());
        if let Some(before) = self.clocks.replace(now) {
            let apart = (now.0 - before.0) - (now.1 - before.1);
            if apart.abs() > STEP {
                self.shared.counters.clock_steps.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    milliseconds = apart,
                    "the wall clock jumped: proofs of being caught up are taken anew"
                );
                for watch in self.shared.watches().values() {
                    watch.withdraw();
                }
            }
        }
    }

    /// One question for the ends of all partitions of one leader (DESIGN §4.2).
    fn certify(&mut self) {
        let watches = self.shared.watches();
        self.progress.retain(|p, _| watches.contains_key(p));
        let mut all = !watches.is_empty();
        for (leader, partitions) in self.leaders.clone() {
            let ours: Vec<i32> = partitions.into_iter().filter(|p| watches.contains_key(p)).collect();
            let now = Instant::now();
            if ours.is_empty() {
                continue;
            }
            if self.silent.get(&leader).is_some_and(|until| *until > now) {
                all = false;
                continue;
            }
            // Both before the question: what the answer is compared with must be older than it.
            let positions: Vec<i64> =
                ours.iter().map(|p| watches[p].position.load(Ordering::Relaxed)).collect();
            let taken = self.shared.clocks.wall();
            match self.ends(&ours) {
                Ok(ends) => {
                    self.silent.remove(&leader);
                    for ((partition, position), end) in ours.iter().zip(positions).zip(ends) {
                        let Some(end) = end else { continue };
                        // An end below what was read already is that of a log that was cut: it proves nothing.
                        if end >= position && !self.shared.frozen.load(Ordering::Relaxed) {
                            self.shared.counters.certificates.fetch_add(1, Ordering::Relaxed);
                            watches[partition].certify(Certificate { end, taken, at: now });
                        }
                        self.watch_progress(*partition, position, end);
                    }
                }
                Err(error) => {
                    self.drain();
                    self.shared.troubles.note(&error, "no answer to a question about end offsets");
                    self.silent.insert(leader, Instant::now() + Duration::from_secs(1));
                    self.metadata_due = Instant::now();
                    all = false;
                }
            }
        }
        if all {
            self.shared.troubles.clear(Kind::Connection);
        }
    }

    /// End offsets, in the order asked for; `None` where the broker refused one.
    fn ends(&self, partitions: &[i32]) -> KafkaResult<Vec<Option<i64>>> {
        let topic = &self.shared.options.topic;
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition_offset(topic, *partition, Offset::End)?;
        }
        let answer = self.client.offsets_for_times(list, ANSWER)?;
        Ok(partitions
            .iter()
            .map(|p| {
                let element = answer.find_partition(topic, *p)?;
                match (element.error(), element.offset()) {
                    (Ok(()), Offset::Offset(end)) => Some(end),
                    _ => None,
                }
            })
            .collect())
    }

    /// Sees a log that was cut, and a partition that stands still though there is more to read.
    fn watch_progress(&mut self, partition: i32, position: i64, end: i64) {
        let now = Instant::now();
        let fresh = Progress { position, since: now, strikes: 0 };
        let progress = self.progress.entry(partition).or_insert(fresh);
        if position != progress.position || position == end {
            *progress = fresh;
        }
        if end < position {
            progress.strikes += 1;
            if progress.strikes >= STRIKES {
                progress.strikes = 0;
                self.find_gap(partition);
            }
            return;
        }
        progress.strikes = 0;
        if position < end && now - progress.since > STUCK {
            *progress = fresh;
            let stable = self.shared.watch(partition).map_or(-1, |w| w.stable.load(Ordering::Relaxed));
            if (0..end).contains(&stable) && stable <= position {
                self.shared.troubles.say(
                    Kind::Transaction,
                    1,
                    format!(
                        "kafka: partition {partition}: a producer's transaction has been open at offset {stable} for more \
                         than a minute; the clock stands still until it ends"
                    ),
                );
            } else {
                tracing::warn!(
                    partition,
                    position,
                    end,
                    "nothing read for a minute though there is more: new consumer"
                );
                let _ = self.commands.send(Command::Recreate);
            }
        } else {
            self.shared.troubles.clear(Kind::Transaction);
        }
    }

    /// Whether all of them could be asked.
    fn find_gaps(&self) -> bool {
        // Which one stopped is not known: where nothing is lost, reading begins again at the same place.
        self.shared.watches().into_keys().all(|p| {
            let answered = self.find_gap(p);
            let _ = self.commands.send(Command::Again(p));
            answered
        })
    }

    /// Compares what is expected next with what the log holds; sends the consumer on behind what is lost. Whether the
    /// broker answered.
    fn find_gap(&self, partition: i32) -> bool {
        let Some(watch) = self.shared.watch(partition) else { return true };
        let position = watch.position.load(Ordering::Relaxed);
        match self.client.fetch_watermarks(&self.shared.options.topic, partition, ANSWER) {
            Ok((low, high)) => {
                // Another topic of the same name would have been seen by its id.
                let same = self.topic_id.as_ref().map(|_| true);
                if let Some(gap) = lost(partition, position, low, high, same) {
                    self.skip(gap);
                }
                true
            }
            Err(error) => {
                self.drain();
                self.shared.troubles.note(&error, "no answer to a question about offsets");
                false
            }
        }
    }
}

/// What is missing between the offset wanted and a log that holds `low` up to, not including, `high`; `same`: whether it is
/// the topic it was, where that is known. A log that was cut goes on from its end. Where it may be another log, all it
/// holds is read: a record folded twice changes nothing, one never folded would be missing.
fn lost(partition: i32, wanted: i64, low: i64, high: i64, same: Option<bool>) -> Option<Gap> {
    let (to, kind) = match same {
        Some(false) => (low, GapKind::MadeAnew),
        _ if wanted < low => (low, GapKind::Retention),
        Some(true) if wanted > high => (high, GapKind::Truncation),
        None if wanted > high => (low, GapKind::MadeAnew),
        _ => return None,
    };
    Some(Gap { partition, from: wanted, to, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost() {
        let kind = |wanted, same| lost(0, wanted, 10, 20, same).map(|g| (g.kind, g.to));
        for same in [Some(true), None] {
            assert_eq!(kind(10, same), None);
            assert_eq!(kind(20, same), None);
            assert_eq!(kind(9, same), Some((GapKind::Retention, 10)));
        }
        assert_eq!(kind(21, Some(true)), Some((GapKind::Truncation, 20)));
        assert_eq!(kind(21, None), Some((GapKind::MadeAnew, 10)));
        assert_eq!(kind(15, Some(false)), Some((GapKind::MadeAnew, 10)));
    }
}
