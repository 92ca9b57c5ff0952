//! Against librdkafka's mock broker: what it can prove (groups, errors, pauses); the rest is proved on a real one.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::types::RDKafkaRespErr;

use super::*;

const LONG: Duration = Duration::from_secs(30);
type Broker = MockCluster<'static, rdkafka::producer::DefaultProducerContext>;

fn broker(topic: &str, partitions: i32) -> Broker {
    let broker = MockCluster::new(1).unwrap();
    broker.create_topic(topic, partitions, 1).unwrap();
    broker
}

fn produce(broker: &Broker, partition: i32, from: usize, to: usize, pad: usize) {
    let producer: ThreadedProducer<DefaultProducerContext> =
        ClientConfig::new().set("bootstrap.servers", broker.bootstrap_servers()).create().unwrap();
    for i in from..to {
        let value = format!("{i:09}{}", "x".repeat(pad));
        loop {
            let record = BaseRecord::to("milestones").partition(partition).key("k").payload(&value);
            match producer.send(record) {
                Ok(()) => break,
                Err((e, _))
                    if e.rdkafka_error_code() == Some(rdkafka::error::RDKafkaErrorCode::QueueFull) =>
                {
                    producer.flush(LONG).unwrap();
                }
                Err((e, _)) => panic!("{e}"),
            }
        }
    }
    producer.flush(LONG).unwrap();
}

fn source(servers: &str) -> Kafka {
    let mut options = Options::new(servers, "milestones", "parcelwatch", "one");
    options.metadata_every = Duration::from_secs(1);
    Kafka::spawn(options, Arc::new(SystemClocks::default())).unwrap()
}

/// Waits for the first assignment and starts every partition of it there.
fn start(kafka: &Kafka, at: &StartAt) -> BTreeMap<i32, Feed> {
    loop {
        match kafka.events().recv_timeout(LONG).unwrap() {
            Event::Assigned(partitions) => {
                let (starts, feeds): (Vec<_>, Vec<_>) =
                    partitions.iter().map(|p| feed(*p, at.clone(), Doorbell::new().0)).unzip();
                kafka.start(starts);
                return feeds.into_iter().map(|f| (f.partition, f)).collect();
            }
            Event::Topic { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

fn begun(feed: &Feed) -> (i64, Option<Gap>) {
    match feed.items.recv_timeout(LONG).unwrap() {
        Item::Start { offset, gap, .. } => (offset, gap),
        other => panic!("{other:?}"),
    }
}

/// Reads records up to, not including, offset `to`; they must follow one another.
fn read(feed: &Feed, from: i64, to: i64) {
    let mut next = from;
    while next < to {
        if let Item::Batch(batch) = feed.items.recv_timeout(LONG).unwrap() {
            for raw in batch.records() {
                assert_eq!(raw.offset, next);
                assert_eq!(batch.key(raw), b"k");
                assert!(batch.value(raw).starts_with(format!("{next:09}").as_bytes()));
                next += 1;
            }
        }
    }
    assert_eq!(next, to);
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn records_come_in_order_and_certificates_reach_the_end() {
    let broker = broker("milestones", 2);
    produce(&broker, 0, 0, 3_000, 10);
    produce(&broker, 1, 0, 5, 10);
    let before = SystemClocks::default().wall();
    let kafka = source(&broker.bootstrap_servers());
    let feeds = start(&kafka, &StartAt::Earliest);
    for (partition, end) in [(0, 3_000), (1, 5)] {
        let feed = &feeds[&partition];
        assert_eq!(begun(feed), (0, None));
        read(feed, 0, end);
        until("certificate", || feed.watch.certificate().is_some_and(|c| c.end == end));
        let certificate = feed.watch.certificate().unwrap();
        assert!(certificate.taken >= before && certificate.taken <= SystemClocks::default().wall());
    }
    produce(&broker, 1, 5, 6, 10);
    read(&feeds[&1], 5, 6);
    until("certificate", || feeds[&1].watch.certificate().is_some_and(|c| c.end == 6));
    assert!(kafka.troubles().is_empty());
    assert!(kafka.stop(LONG));
}

#[test]
fn a_feed_that_nobody_empties_is_paused_and_loses_nothing() {
    let broker = broker("milestones", 2);
    produce(&broker, 0, 0, 40_000, 10);
    produce(&broker, 1, 0, 10, 10);
    let kafka = source(&broker.bootstrap_servers());
    let feeds = start(&kafka, &StartAt::Earliest);
    let counters = kafka.counters();
    until("pause", || counters.pauses.load(Ordering::Relaxed) > 0);
    // The other partition flows on.
    begun(&feeds[&1]);
    read(&feeds[&1], 0, 10);
    produce(&broker, 1, 10, 20, 10);
    read(&feeds[&1], 10, 20);
    produce(&broker, 0, 40_000, 50_000, 10);
    begun(&feeds[&0]);
    read(&feeds[&0], 0, 50_000);
    assert!(kafka.stop(LONG));
}

#[test]
fn what_retention_took_is_a_gap() {
    let broker = broker("milestones", 1);
    produce(&broker, 0, 0, 12_000, 1_000); // the mock keeps 5 MiB
    let kafka = source(&broker.bootstrap_servers());
    let feeds = start(&kafka, &StartAt::Offset { offset: 17, topic_id: None });
    let (offset, gap) = begun(&feeds[&0]);
    assert!(offset > 17);
    assert_eq!(gap, Some(Gap { partition: 0, from: 17, to: offset, kind: GapKind::Retention }));
    read(&feeds[&0], offset, 12_000);
    assert_eq!(kafka.counters().gaps[1].load(Ordering::Relaxed), 1);
    assert!(kafka.stop(LONG));
}

#[test]
fn a_beginning_above_the_first_offset_is_a_gap() {
    let broker = broker("milestones", 1);
    produce(&broker, 0, 0, 12_000, 1_000);
    let kafka = source(&broker.bootstrap_servers());
    let feeds = start(&kafka, &StartAt::Earliest);
    let (offset, gap) = begun(&feeds[&0]);
    assert!(offset > 0);
    assert_eq!(gap, Some(Gap { partition: 0, from: 0, to: offset, kind: GapKind::Beginning }));
    assert!(kafka.stop(LONG));
}

#[test]
fn a_partition_that_the_broker_stopped_goes_on() {
    let broker = broker("milestones", 1);
    produce(&broker, 0, 0, 3_000, 1_000);
    let kafka = source(&broker.bootstrap_servers());
    let feeds = start(&kafka, &StartAt::Earliest);
    begun(&feeds[&0]);
    read(&feeds[&0], 0, 3_000);
    broker.request_errors(
        rdkafka::types::RDKafkaApiKey::Fetch,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE; 1],
    );
    produce(&broker, 0, 3_000, 3_010, 1_000);
    // The log still holds all, so there is no gap, and reading must go on all the same.
    read(&feeds[&0], 3_000, 3_010);
    assert!(kafka.stop(LONG));
}

#[test]
fn an_offset_beyond_the_end_is_a_topic_made_anew() {
    let broker = broker("milestones", 1);
    produce(&broker, 0, 0, 10, 10);
    let kafka = source(&broker.bootstrap_servers());
    let feeds = start(&kafka, &StartAt::Offset { offset: 1_000, topic_id: None });
    let gap = Gap { partition: 0, from: 1_000, to: 0, kind: GapKind::MadeAnew };
    assert_eq!(begun(&feeds[&0]), (0, Some(gap)));
    read(&feeds[&0], 0, 10);
    assert!(kafka.stop(LONG));
}

#[test]
fn latest_begins_at_the_end() {
    let broker = broker("milestones", 1);
    produce(&broker, 0, 0, 10, 10);
    let kafka = source(&broker.bootstrap_servers());
    let feeds = start(&kafka, &StartAt::Latest);
    assert_eq!(begun(&feeds[&0]).0, 10);
    produce(&broker, 0, 10, 12, 10);
    read(&feeds[&0], 10, 12);
    assert!(kafka.stop(LONG));
}

#[test]
fn an_unreachable_broker_is_said() {
    let kafka = source("127.0.0.1:1");
    until("trouble", || kafka.troubles().iter().any(|t| t.contains("no connection")));
    let texts = kafka.troubles();
    assert!(
        texts[0].starts_with("kafka 127.0.0.1:1: ") && texts[0].contains("check kafka.bootstrap_servers"),
        "{texts:?}"
    );
    assert!(kafka.stop(LONG));
}

#[test]
fn a_missing_topic_is_said_until_it_is_there() {
    let broker = broker("milestones", 1);
    broker.topic_error("milestones", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let kafka = source(&broker.bootstrap_servers());
    until("trouble", || kafka.troubles().iter().any(|t| t.contains("there is no topic milestones")));
    broker.topic_error("milestones", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    let feeds = start(&kafka, &StartAt::Earliest);
    begun(&feeds[&0]);
    until("no trouble", || kafka.troubles().is_empty());
    assert!(kafka.stop(LONG));
}

#[test]
fn without_a_broker_there_is_no_new_certificate() {
    let broker = broker("milestones", 1);
    let kafka = source(&broker.bootstrap_servers());
    let feeds = start(&kafka, &StartAt::Earliest);
    begun(&feeds[&0]);
    until("certificate", || feeds[&0].watch.certificate().is_some());
    broker.broker_down(1).unwrap();
    until("trouble", || kafka.troubles().iter().any(|t| t.contains("kafka")));
    let last = feeds[&0].watch.certificate().unwrap();
    until("still the last one", || last.at.elapsed() > Duration::from_secs(2));
    assert_eq!(feeds[&0].watch.certificate().unwrap(), last);
    broker.broker_up(1).unwrap();
    until("a new certificate", || feeds[&0].watch.certificate().is_some_and(|c| c.taken > last.taken));
    until("no trouble", || kafka.troubles().is_empty());
    assert!(kafka.stop(LONG));
}
