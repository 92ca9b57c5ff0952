//! A real Apache Kafka: one process in KRaft mode, on its own ports, with its data in a directory of its own.

use super::process::{Process, free_port};
use super::{PATIENCE, block_on, cache, lock, need, poll, tls};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication, TopicResult};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Offset, Timestamp, TopicPartitionList};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tempfile::TempDir;

/// The one user of the SASL_SSL listener.
pub const USER: &str = "tester";
pub const PASSWORD: &str = "s3cret";

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A second listener with TLS and SCRAM-SHA-512, beside the plain one.
    pub sasl: bool,
    /// More lines for `server.properties`; of equal keys the last counts.
    pub properties: Vec<(String, String)>,
}

pub struct Kafka {
    dir: TempDir,
    port: u16,
    sasl_port: u16,
    broker: Mutex<Option<Process>>,
    /// Made when first needed, and anew after a change of topics: a producer remembers for long what it once learnt of them.
    producer: Mutex<Option<Arc<ThreadedProducer<Acks>>>>,
    /// The topics that stand: two tests with one name would see each other's records, or wait for the other's partitions.
    topics: Mutex<BTreeSet<String>>,
}

/// A record to produce. Without a partition the key decides, without a timestamp the producer's clock.
#[derive(Clone, Debug, Default)]
pub struct Record<'a> {
    pub key: &'a str,
    pub payload: &'a [u8],
    pub partition: Option<i32>,
    pub timestamp: Option<i64>,
}

/// A record as the broker keeps it.
#[derive(Clone, Debug)]
pub struct Stored {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub timestamp: Timestamp,
}

impl Kafka {
    /// A broker of one's own, for a test that stops it or changes it for others.
    pub fn start(options: &Options) -> Kafka {
        need("kafka");
        let dir = tempfile::Builder::new().prefix("kafka-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (port, sasl_port, controller) = (free_port(), free_port(), free_port());
        let properties = properties(dir.path(), port, sasl_port, controller, options);
        std::fs::write(dir.path().join("server.properties"), properties).unwrap();
        std::fs::write(dir.path().join("log4j2.properties"), LOG).unwrap();
        if options.sasl {
            let certificate = tls::certificate();
            let store = format!("{}{}", certificate.key_pem, certificate.pem);
            std::fs::write(dir.path().join("broker.pem"), store).unwrap();
        }
        format(dir.path(), options);
        let kafka = Kafka {
            dir,
            port,
            sasl_port,
            broker: Mutex::default(),
            producer: Mutex::default(),
            topics: Mutex::default(),
        };
        kafka.restart();
        kafka
    }

    /// The broker that all tests of this program share: topics with names of their own keep them apart. Never stop it.
    pub fn shared() -> &'static Kafka {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        // A static is not dropped; what it holds must still not stay behind on the disk.
        extern "C" fn clean_up() {
            if let Some(kafka) = SHARED.get() {
                kafka.kill();
                let _ = std::fs::remove_dir_all(kafka.dir.path());
            }
        }
        SHARED.get_or_init(|| {
            // SAFETY: the handler takes no arguments, does not unwind, and what it touches lives in a static.
            unsafe { libc::atexit(clean_up) };
            Kafka::start(&Options::default())
        })
    }

    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The listener with TLS and SCRAM, where `Options::sasl` asked for one.
    pub fn sasl_bootstrap(&self) -> String {
        format!("localhost:{}", self.sasl_port)
    }

    /// Client settings for that listener: right ones, to be spoilt at will.
    pub fn sasl_properties(&self) -> Vec<(String, String)> {
        let ca = tls::certificate().file().display().to_string();
        let pairs = [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", USER),
            ("sasl.password", PASSWORD),
            ("ssl.ca.location", &ca),
        ];
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    /// Returns once every partition has a leader. With `log_append_time` the broker's clock stamps each record.
    pub fn create_topic(&self, name: &str, partitions: i32, log_append_time: bool, configs: &[(&str, &str)]) {
        assert!(lock(&self.topics).insert(name.to_owned()), "two tests make the topic {name}: rename one");
        let stamp = if log_append_time { "LogAppendTime" } else { "CreateTime" };
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in [("message.timestamp.type", stamp)].iter().chain(configs) {
            topic = topic.set(key, value);
        }
        self.ask(&format!("create topic {name}"), |admin| {
            match block_on(admin.create_topics([&topic], &admin_options()))?.remove(0) {
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(()), // our own first try, whose answer was lost
                other => one(other),
            }
        });
        self.wait_topic(name, Some(partitions));
    }

    /// Returns once the broker no longer knows it, so that one of the same name can be made anew.
    pub fn delete_topic(&self, name: &str) {
        self.ask(&format!("delete topic {name}"), |admin| {
            match block_on(admin.delete_topics(&[name], &admin_options()))?.remove(0) {
                Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => Ok(()),
                other => one(other),
            }
        });
        self.wait_topic(name, None);
        lock(&self.topics).remove(name);
        lock(&self.producer).take();
    }

    /// Raises the number of partitions to `total`.
    pub fn add_partitions(&self, topic: &str, total: i32) {
        self.ask(&format!("{total} partitions for {topic}"), |admin| {
            let more = NewPartitions::new(topic, usize::try_from(total).unwrap());
            one(block_on(admin.create_partitions([&more], &admin_options()))?.remove(0))
        });
        self.wait_topic(topic, Some(total));
        lock(&self.producer).take();
    }

    /// What retention does: the partition begins at offset `before` from now on.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        self.ask(&format!("delete records of {topic}/{partition} below {before}"), |admin| {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, Offset::Offset(before))?;
            let done = block_on(admin.delete_records(&list, &admin_options()))?;
            done.elements()[0].error()
        });
    }

    /// One record, acknowledged by the broker: its partition and offset.
    pub fn produce(
        &self,
        topic: &str,
        key: &str,
        payload: &[u8],
        partition: Option<i32>,
        timestamp: Option<i64>,
    ) -> (i32, i64) {
        self.produce_all(topic, [Record { key, payload, partition, timestamp }])[0]
    }

    /// Many records, in order, all acknowledged: their partitions and offsets.
    pub fn produce_all<'a>(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = Record<'a>>,
    ) -> Vec<(i32, i64)> {
        let make = || {
            let mut config = self.client();
            config.set("enable.idempotence", "true").set("linger.ms", "1").set("message.timeout.ms", "60000");
            Arc::new(config.create_with_context(Acks).unwrap())
        };
        let producer = lock(&self.producer).get_or_insert_with(make).clone();
        let (acks, acked) = channel();
        let mut sent = 0;
        for record in records {
            let mut next = base_record(topic, &record, Box::new((sent, acks.clone())));
            while let Err((error, back)) = producer.send(next) {
                let full = error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
                assert!(full, "produce to {topic}: {error}");
                std::thread::sleep(Duration::from_millis(5));
                next = back;
            }
            sent += 1;
        }
        drop(acks);
        let mut places = vec![(-1, -1); sent];
        for (index, place) in acked {
            places[index] = place.unwrap_or_else(|e| panic!("produce to {topic}: {e}\n{}", self.tail()));
        }
        places
    }

    /// A transaction, ended by commit or abort: either leaves control records in the log, which hold offsets that no consumer
    /// is ever given.
    pub fn transaction(&self, topic: &str, records: &[Record<'_>], commit: bool) {
        let mut config = self.client();
        config.set("transactional.id", format!("tx-{}", free_port()));
        let producer: ThreadedProducer<Acks> = config.create_with_context(Acks).unwrap();
        // "Coordinator load in progress" in a young broker: retried by librdkafka until the time is over.
        producer.init_transactions(PATIENCE).unwrap();
        producer.begin_transaction().unwrap();
        let (acks, acked) = channel();
        for record in records {
            producer
                .send(base_record(topic, record, Box::new((0, acks.clone()))))
                .map_err(|(e, _)| e)
                .unwrap();
        }
        drop(acks);
        producer.flush(PATIENCE).unwrap();
        acked.iter().for_each(|(_, place)| assert!(place.is_ok(), "{place:?}"));
        let ended =
            if commit { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) };
        ended.unwrap();
    }

    /// First and end offset of a partition.
    pub fn offsets(&self, topic: &str, partition: i32) -> (i64, i64) {
        let consumer: BaseConsumer = self.client().create().unwrap();
        consumer.fetch_watermarks(topic, partition, PATIENCE).unwrap()
    }

    /// Everything that a topic holds, by partition and offset.
    pub fn read_all(&self, topic: &str) -> Vec<Stored> {
        let mut config = self.client();
        config
            .set("group.id", "reader")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true");
        let consumer: BaseConsumer = config.create().unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
        }
        let mut open = list.count();
        consumer.assign(&list).unwrap();
        let mut stored = Vec::new();
        while open > 0 {
            match consumer.poll(PATIENCE) {
                Some(Ok(m)) => stored.push(Stored {
                    partition: m.partition(),
                    offset: m.offset(),
                    key: m.key().map(<[u8]>::to_vec),
                    payload: m.payload().map(<[u8]>::to_vec),
                    timestamp: m.timestamp(),
                }),
                Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
                Some(Err(e)) => panic!("read {topic}: {e}\n{}", self.tail()),
                None => panic!("read {topic}: nothing for {PATIENCE:?}\n{}", self.tail()),
            }
        }
        stored.sort_by_key(|s| (s.partition, s.offset));
        stored
    }

    /// `kill -9`, and gone when this returns.
    pub fn kill(&self) {
        if let Some(mut broker) = lock(&self.broker).take() {
            broker.kill();
        }
    }

    /// An orderly stop.
    pub fn stop(&self) {
        if let Some(mut broker) = lock(&self.broker).take() {
            broker.terminate(PATIENCE);
        }
    }

    /// Up again on the same data and ports, every partition with its leader. Also ends a broker that still runs.
    pub fn restart(&self) {
        self.kill();
        let mut command = java();
        command
            .args(["-Xms128m", "-Xmx512m"])
            .arg(format!(
                "-Dlog4j2.configurationFile={}",
                self.dir.path().join("log4j2.properties").display()
            ))
            .arg("kafka.Kafka")
            .arg(self.dir.path().join("server.properties"))
            .current_dir(self.dir.path());
        *lock(&self.broker) = Some(Process::start("Kafka", command));
        let consumer: BaseConsumer = self.client().create().unwrap();
        poll("Kafka to serve every partition", PATIENCE * 2, || {
            if let Some(broker) = lock(&self.broker).as_mut()
                && let Some(status) = broker.ended()
            {
                panic!("Kafka ended while starting: {status}\n{}", broker.tail());
            }
            let metadata = consumer.fetch_metadata(None, Duration::from_secs(1));
            let metadata = metadata.map_err(|e| format!("{e}\n{}", self.tail()))?;
            let led = |t: &rdkafka::metadata::MetadataTopic| t.partitions().iter().all(|p| p.leader() >= 0);
            match !metadata.brokers().is_empty() && metadata.topics().iter().all(led) {
                true => Ok(()),
                false => Err(format!("not all led\n{}", self.tail())),
            }
        });
    }

    /// Hangs: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// What the broker logged last.
    pub fn tail(&self) -> String {
        lock(&self.broker).as_ref().map_or_else(|| "Kafka is stopped".into(), Process::tail)
    }

    fn signal(&self, signal: i32) {
        lock(&self.broker).as_ref().expect("Kafka runs").signal(signal);
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.bootstrap())
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "200");
        config
    }

    /// Asks the controller, and again while it is busy starting.
    fn ask(
        &self,
        what: &str,
        mut call: impl FnMut(&AdminClient<DefaultClientContext>) -> Result<(), KafkaError>,
    ) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        poll(what, PATIENCE, || call(&admin).map_err(|e| format!("{e}\n{}", self.tail())));
    }

    /// Waits for a topic to have so many partitions, each with a leader; `None`: to be gone.
    fn wait_topic(&self, name: &str, partitions: Option<i32>) {
        let consumer: BaseConsumer = self.client().create().unwrap();
        poll(&format!("topic {name} to have {partitions:?} partitions"), PATIENCE, || {
            // All topics: asking for one by name would be a wish to have it made.
            let metadata =
                consumer.fetch_metadata(None, Duration::from_secs(5)).map_err(|e| e.to_string())?;
            let topic = metadata.topics().iter().find(|t| t.name() == name);
            let led = topic.map(|t| t.partitions().iter().filter(|p| p.leader() >= 0).count());
            match led == partitions.map(|n| usize::try_from(n).unwrap()) {
                true => Ok(()),
                false => Err(format!("{led:?}")),
            }
        });
    }
}

/// Sends each acknowledgement to whoever waits for it.
struct Acks;

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = Box<(usize, Sender<(usize, Result<(i32, i64), KafkaError>)>)>;

    fn delivery(&self, result: &DeliveryResult<'_>, to: Self::DeliveryOpaque) {
        let place = result.as_ref().map(|m| (m.partition(), m.offset())).map_err(|(e, _)| e.clone());
        let _ = to.1.send((to.0, place));
    }
}

fn base_record<'a>(
    topic: &'a str,
    record: &Record<'a>,
    acks: <Acks as ProducerContext>::DeliveryOpaque,
) -> BaseRecord<'a, str, [u8], <Acks as ProducerContext>::DeliveryOpaque> {
    let mut base = BaseRecord::with_opaque_to(topic, acks).key(record.key).payload(record.payload);
    base.partition = record.partition;
    base.timestamp = record.timestamp;
    base
}

fn admin_options() -> AdminOptions {
    let patience = Some(Duration::from_secs(10));
    AdminOptions::new().request_timeout(patience).operation_timeout(patience)
}

fn one(result: TopicResult) -> Result<(), KafkaError> {
    result.map(|_| ()).map_err(|(_, code)| KafkaError::AdminOp(code))
}

fn java() -> Command {
    let mut command = Command::new("java");
    // The second compiler costs more than it gains in a broker that lives for a minute.
    command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-cp"]);
    command.arg(cache().join("kafka/libs/*"));
    command
}

/// Writes the cluster's id and users into the data directory.
fn format(dir: &Path, options: &Options) {
    let mut command = java();
    command
        .arg(format!("-Dlog4j2.configurationFile={}", dir.join("log4j2.properties").display()))
        .args(["kafka.tools.StorageTool", "format", "--standalone", "-t", "cGFyY2Vsd2F0Y2gtdGVzdA", "-c"])
        .arg(dir.join("server.properties"));
    if options.sasl {
        command.args(["--add-scram", &format!("SCRAM-SHA-512=[name={USER},password={PASSWORD}]")]);
    }
    let mut process = Process::start("Kafka's StorageTool", command);
    let status = process.wait(PATIENCE);
    assert!(status.success(), "{status}\n{}", process.tail());
}

fn properties(dir: &Path, port: u16, sasl_port: u16, controller: u16, options: &Options) -> String {
    let (sasl, sasl_map) = match options.sasl {
        true => (format!(",SASL_SSL://localhost:{sasl_port}"), ",SASL_SSL:SASL_SSL"),
        false => (String::new(), ""),
    };
    let (dir, plain) = (dir.display(), format!("PLAINTEXT://127.0.0.1:{port}"));
    // The two session settings let a broker that was killed come back in 6 s: the old registration has to run out first.
    let mut text = format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners={plain},CONTROLLER://127.0.0.1:{controller}{sasl}
advertised.listeners={plain}{sasl}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT{sasl_map}
log.dirs={dir}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=300
auto.create.topics.enable=false
"
    );
    if options.sasl {
        let _ = write!(
            text,
            "sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={dir}/broker.pem
"
        );
    }
    for (key, value) in &options.properties {
        let _ = writeln!(text, "{key}={value}");
    }
    text
}

const LOG: &str = "status=error
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %p %c: %m%n
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
";
