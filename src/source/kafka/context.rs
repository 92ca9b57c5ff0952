//! What librdkafka calls: it notes, the thread that polls acts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{TopicPartitionList, TopicPartitionListElem};
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;

use super::trouble::Troubles;

/// What the group decided.
pub(super) enum Step {
    Assign(Vec<i32>),
    Revoke(Vec<i32>),
}

/// What librdkafka calls. It notes; the thread acts after `poll` returns.
pub(super) struct Context {
    troubles: Arc<Troubles>,
    rebalances: Mutex<VecDeque<Step>>,
    rebalanced: AtomicBool,
    samples: Mutex<Option<Vec<Sample>>>,
    closing: AtomicBool,
}

impl Context {
    pub(super) fn new(troubles: Arc<Troubles>) -> Context {
        Context {
            troubles,
            rebalances: Mutex::default(),
            rebalanced: AtomicBool::new(false),
            samples: Mutex::default(),
            closing: AtomicBool::new(false),
        }
    }

    /// What the group decided since it was last asked, in order. Cheap where that is nothing.
    pub(super) fn rebalances(&self) -> VecDeque<Step> {
        if self.rebalanced.swap(false, Ordering::Acquire) {
            std::mem::take(&mut *lock(&self.rebalances))
        } else {
            VecDeque::new()
        }
    }

    /// The newest statistics, once.
    pub(super) fn samples(&self) -> Option<Vec<Sample>> {
        lock(&self.samples).take()
    }

    /// From now on a revocation is answered at once: nobody polls any more.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientContext for Context {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        // The error callback says what matters; the log says it once a second and broker.
        tracing::debug!(target: "librdkafka", "{facility}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
        self.troubles.note(&error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        match serde_json::from_slice::<Statistics>(json) {
            Ok(statistics) => {
                let samples = statistics.topics.into_values().flat_map(|t| t.partitions.into_values());
                *lock(&self.samples) = Some(samples.filter(|s| s.partition >= 0).collect());
            }
            Err(error) => tracing::debug!("kafka: statistics not understood: {error}"),
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Context>,
        err: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        if self.closing.load(Ordering::Acquire) {
            // Closing waits for an answer to the last revocation, and nobody polls any more.
            let _ = consumer.unassign();
            return;
        }
        let partitions = list.elements().iter().map(TopicPartitionListElem::partition).collect();
        lock(&self.rebalances).push_back(match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Step::Assign(partitions),
            _ => Step::Revoke(partitions),
        });
        self.rebalanced.store(true, Ordering::Release);
    }
}

/// The few fields of librdkafka's statistics that the clock needs.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    topics: BTreeMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    #[serde(default)]
    partitions: BTreeMap<String, Sample>,
}

/// One partition's.
#[derive(Deserialize)]
pub(super) struct Sample {
    pub(super) partition: i32,
    pub(super) fetchq_cnt: i64,
    pub(super) fetch_state: String,
    pub(super) next_offset: i64,
    pub(super) ls_offset: i64,
}
