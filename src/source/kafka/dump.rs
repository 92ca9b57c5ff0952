//! A whole topic, once, from its first record to the ends it had when asked: no group is joined, nothing is committed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Message, Timestamp};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::config::{ConfigError, Options};
use crate::model::Time;
use crate::source::{Batch, Stamp};

/// Longest wait for an answer about the topic.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest time without a record though there are more.
const SILENCE: Duration = Duration::from_secs(60);

/// Why a topic could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No broker answers.
    #[error("kafka: {servers} does not answer about topic {topic}: {why}")]
    NoAnswer {
        /// `kafka.bootstrap_servers`.
        servers: String,
        /// The topic.
        topic: String,
        /// What librdkafka says.
        why: String,
    },
    /// There is no such topic.
    #[error("kafka: there is no topic {0}; name the one that `kafka.topic` should be")]
    NoTopic(String),
    /// It ended in the middle.
    #[error("kafka: topic {topic}, partition {partition}: stopped at offset {at} of {end}: {why}")]
    Cut {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The next offset.
        at: i64,
        /// Where it should have ended.
        end: i64,
        /// Why.
        why: String,
    },
}

/// A topic on its way.
pub struct Dump {
    options: Options,
    consumer: BaseConsumer,
    /// The next offset and the end, by partition, of those that are not read yet.
    left: BTreeMap<i32, (i64, i64)>,
    building: BTreeMap<i32, Batch>,
    ready: Vec<Batch>,
    /// Offsets from the first ones to the ends.
    pub total: u64,
}

impl Dump {
    /// Asks where each partition begins and ends, and starts to read.
    ///
    /// # Errors
    /// See [`DumpError`].
    pub fn start(options: Options) -> Result<Dump, DumpError> {
        let consumer: BaseConsumer = options.dump()?.create().map_err(|e| ConfigError::refused(&e))?;
        let failed = |e: KafkaError| DumpError::NoAnswer {
            servers: options.bootstrap_servers.clone(),
            topic: options.topic.clone(),
            why: e.to_string(),
        };
        let metadata = consumer.fetch_metadata(Some(&options.topic), ANSWER).map_err(failed)?;
        let topic = metadata.topics().iter().find(|t| t.name() == options.topic);
        let Some(topic) = topic.filter(|t| t.error().is_none() && !t.partitions().is_empty()) else {
            return Err(DumpError::NoTopic(options.topic));
        };
        let mut left = BTreeMap::new();
        let mut list = TopicPartitionList::new();
        for partition in topic.partitions() {
            let (low, high) =
                consumer.fetch_watermarks(&options.topic, partition.id(), ANSWER).map_err(failed)?;
            if low < high {
                left.insert(partition.id(), (low, high));
                list.add_partition_offset(&options.topic, partition.id(), Offset::Offset(low))
                    .map_err(failed)?;
            }
        }
        consumer.assign(&list).map_err(failed)?;
        let total = left.values().map(|(low, high)| (high - low) as u64).sum();
        Ok(Dump { options, consumer, left, building: BTreeMap::new(), ready: Vec::new(), total })
    }

    /// Offsets still to be read.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left.values().map(|(next, end)| (end - next).max(0) as u64).sum()
    }

    /// The next records of a partition, in its order; `None` at the end of all.
    ///
    /// # Errors
    /// See [`DumpError`].
    pub fn next_batch(&mut self) -> Result<Option<Batch>, DumpError> {
        let mut heard = Instant::now();
        loop {
            if let Some(batch) = self.ready.pop() {
                return Ok(Some(batch));
            }
            if self.left.is_empty() {
                return Ok(self.building.pop_first().map(|(_, batch)| batch));
            }
            match self.consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let (partition, offset) = (message.partition(), message.offset());
                    let Some((next, end)) = self.left.get_mut(&partition) else { continue };
                    if offset < *end {
                        let stamp = match message.timestamp() {
                            Timestamp::NotAvailable => Stamp::None,
                            Timestamp::CreateTime(ms) => Stamp::Create(Time(ms)),
                            Timestamp::LogAppendTime(ms) => Stamp::Append(Time(ms)),
                        };
                        let batch = self.building.entry(partition).or_insert_with(|| Batch::new(partition));
                        batch.push(offset, stamp, b"", message.payload().unwrap_or_default());
                    }
                    *next = offset + 1;
                    let full = self.building.get(&partition).is_some_and(Batch::is_full);
                    if full {
                        self.ready.extend(self.building.remove(&partition));
                    }
                    if offset + 1 >= *end {
                        self.left.remove(&partition);
                    }
                }
                // Behind the last record, whatever offsets without one (transaction markers, compaction) lie before the end.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    heard = Instant::now();
                    self.left.remove(&partition);
                }
                // What librdkafka tries again by itself comes here too; silence decides.
                Some(Err(error)) if heard.elapsed() > SILENCE => return Err(self.cut(&error.to_string())),
                None if heard.elapsed() > SILENCE => return Err(self.cut("no record for a minute")),
                Some(Err(_)) | None => {}
            }
        }
    }

    fn cut(&self, why: &str) -> DumpError {
        let (partition, (at, end)) = self.left.first_key_value().map_or((0, (0, 0)), |(p, n)| (*p, *n));
        DumpError::Cut { topic: self.options.topic.clone(), partition, at, end, why: why.to_owned() }
    }
}
