//! A broker inside this process, for `demo`: librdkafka's mock cluster and a producer for it.
//!
//! What the mock lacks and what follows from it: it keeps 5 MiB a partition, so nobody may lag by more; it knows CreateTime
//! only, so append times are the producer's; a group's first member waits 3 s for its assignment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{
    BaseProducer, BaseRecord, DefaultProducerContext, DeliveryResult, Producer, ProducerContext,
};

use crate::model::Time;

/// Longest wait for the broker to take what it was sent.
const TAKEN: Duration = Duration::from_secs(30);

/// The broker. Dropped, it is gone. It stays on the thread that made it.
pub struct EmbeddedBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
    topic: String,
}

/// What stores records in it.
pub struct EmbeddedProducer {
    producer: BaseProducer<Refused>,
    refused: Arc<AtomicU64>,
    topic: String,
}

/// Counts what the broker refused.
struct Refused(Arc<AtomicU64>);

impl ClientContext for Refused {}

impl ProducerContext for Refused {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Why the embedded broker cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedBrokerError {
    /// librdkafka says no.
    #[error("the embedded broker: {0}")]
    Kafka(#[from] KafkaError),
    /// Records were not taken.
    #[error("the embedded broker took {0} records less than it was sent")]
    Refused(u64),
}

impl EmbeddedBroker {
    /// A broker with one topic.
    ///
    /// # Errors
    /// [`EmbeddedBrokerError`].
    pub fn new(topic: &str, partitions: i32) -> Result<EmbeddedBroker, EmbeddedBrokerError> {
        let cluster = MockCluster::new(1)?;
        cluster.create_topic(topic, partitions, 1)?;
        Ok(EmbeddedBroker { cluster, topic: topic.to_owned() })
    }

    /// `host:port`.
    #[must_use]
    pub fn bootstrap_servers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// A producer for its topic.
    ///
    /// # Errors
    /// [`EmbeddedBrokerError::Kafka`].
    pub fn producer(&self) -> Result<EmbeddedProducer, EmbeddedBrokerError> {
        let refused = Arc::new(AtomicU64::new(0));
        let producer = ClientConfig::new()
            .set("bootstrap.servers", self.bootstrap_servers())
            // A parcel's records stay in their order even if a request were tried again.
            .set("max.in.flight.requests.per.connection", "1")
            .set("linger.ms", "0")
            .set("compression.type", "zstd")
            .create_with_context(Refused(refused.clone()))?;
        Ok(EmbeddedProducer { producer, refused, topic: self.topic.clone() })
    }
}

impl EmbeddedProducer {
    /// Stores records (time, key, value) and waits until the broker has them all.
    ///
    /// # Errors
    /// [`EmbeddedBrokerError`].
    pub fn store<'a>(
        &self,
        records: impl IntoIterator<Item = (Time, &'a str, &'a str)>,
    ) -> Result<(), EmbeddedBrokerError> {
        for (at, key, value) in records {
            let mut record = BaseRecord::to(&self.topic).key(key).payload(value).timestamp(at.0);
            while let Err((error, back)) = self.producer.send(record) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(error.into());
                }
                self.producer.poll(Duration::from_millis(10));
                record = back;
            }
        }
        // Not `flush`: that waits in steps of 100 ms.
        let until = Instant::now() + TAKEN;
        while self.producer.in_flight_count() > 0 && Instant::now() < until {
            self.producer.poll(Duration::from_millis(1));
        }
        let late = u64::try_from(self.producer.in_flight_count()).unwrap_or(0);
        match self.refused.load(Ordering::Relaxed) + late {
            0 => Ok(()),
            n => Err(EmbeddedBrokerError::Refused(n)),
        }
    }
}
