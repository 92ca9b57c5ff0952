//! `run` catching up from a real Kafka: the program itself in a process of its own, with the shipped rules and twenty made
//! up, against a bare consumer that polls and decodes with serde_json.
//!
//! `cargo bench --bench catch_up -- --records 1000000 --in-flight 200000 --compression lz4`. The stream ends now and carries
//! its own append times (CreateTime), so that deadlines pass while it is read, as they would have. Its parcels take 40 hours
//! from step to step and a third of them are cleared with the duty assessed, which the shipped rules call late; so that few
//! records cause a change, as in a network that works, the shipped stages are stretched and the duty is paid.
//! `--rules shipped` takes rules and records as they are: one record in twenty then causes a change, and the database is
//! what is measured. Nothing is asserted.

#[path = "bare/mod.rs"]
mod bare;
#[path = "../tests/it/parts/mod.rs"]
mod parts;
#[allow(dead_code, reason = "its rules are those of another bench")]
#[path = "workload/mod.rs"]
mod workload;

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bare::Bare;
use parcelwatch::model::HOUR;
use parts::daemon::{Daemon, Setup};
use parts::kafka::{Kafka, Options, Record};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};
use workload::{EPOCH, Item, LIFE, Network};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TOPIC: &str = "milestones";
const PARTITIONS: i32 = 12;
/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(900);

/// Rate and CPU of whoever read the topic.
struct Figure {
    records: u64,
    wall: Duration,
    cpu: Duration,
}

impl Figure {
    fn rate(&self) -> f64 {
        self.records as f64 / self.wall.as_secs_f64()
    }

    fn print(&self, what: &str, note: &str) {
        let (n, cpu) = (self.records as f64, self.cpu.as_secs_f64());
        println!(
            "  {what:<42} {:7.0} k/s   {:5.2} µs CPU each   ({:.2} s wall, {cpu:.2} s CPU){note}",
            self.rate() / 1e3,
            cpu * 1e6 / n,
            self.wall.as_secs_f64(),
        );
    }
}

/// Produces the last so many records of the network that there are now. How many, of how many bytes, over how many hours.
fn produce(kafka: &Kafka, network: Network, records: u64, as_it_is: bool) -> (u64, u64, i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let per_hour = (network.in_flight as f64 * 13.0 / 480.0 * 1.01).max(1.0);
    let hours = (records as f64 / per_hour).ceil() as i64;
    let end = (now - EPOCH) / HOUR;
    let (mut sent, mut bytes) = (0, 0);
    let mut items: Vec<Item> = Vec::new();
    let mut one = Vec::new();
    for hour in end - hours..end {
        network.hour(hour, &mut items);
        items.truncate((records - sent) as usize);
        let rendered: Vec<(String, Vec<u8>, i64)> = items
            .iter()
            .map(|item| {
                network.render(*item, &mut one);
                if !as_it_is {
                    pay(&mut one);
                }
                (format!("P{:013x}", workload::mix(item.parcel)), one.clone(), item.append)
            })
            .collect();
        kafka.produce_all(
            TOPIC,
            rendered.iter().map(|(key, payload, append)| Record {
                key,
                payload,
                partition: None,
                timestamp: Some(*append),
            }),
        );
        sent += items.len() as u64;
        bytes += rendered.iter().map(|r| r.1.len() as u64).sum::<u64>();
    }
    (sent, bytes, hours)
}

/// The duty that is assessed is paid.
fn pay(record: &mut [u8]) {
    const OWED: &[u8] = b"\"duty_status\":\"assessed\"";
    const PAID: &[u8] = b"\"duty_status\":\"paid\"    ";
    if let Some(at) = record.windows(OWED.len()).position(|w| w == OWED) {
        record[at..at + OWED.len()].copy_from_slice(PAID);
    }
}

/// Stages for parcels that take 40 hours from step to step.
fn stretch(rules: &str) -> String {
    [
        ("{at: 72h,", "{at: 9d,"),
        ("{at: 48h,", "{at: 7d,"),
        ("{at: 24h,", "{at: 5d,"),
        ("{at: 5d, severity: high}", "{at: 8d, severity: high}"),
    ]
    .iter()
    .fold(rules.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The baseline: poll, decode, forget. The client's settings are the daemon's.
fn bare(kafka: &Kafka, records: u64) -> Figure {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", "bare")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.max.messages.kbytes", "32768")
        .set("queued.min.messages", "20000");
    let consumer: BaseConsumer = config.create().expect("the settings are good");
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(TOPIC, partition, Offset::Beginning).expect("an offset");
    }
    let before = own_cpu();
    consumer.assign(&list).expect("the topic is there");
    let (mut read, mut good, mut started) = (0, 0u64, None);
    while read < records {
        let Some(message) = consumer.poll(parts::PATIENCE) else {
            panic!("nothing comes after {read} records")
        };
        let message = message.unwrap_or_else(|e| panic!("after {read} records: {e}"));
        started.get_or_insert_with(Instant::now);
        let payload = message.payload().unwrap_or_default();
        good += u64::from(std::hint::black_box(serde_json::from_slice::<Bare<'_>>(payload)).is_ok());
        read += 1;
    }
    let wall = started.map_or(Duration::ZERO, |s| s.elapsed());
    assert_eq!(good, records, "a baseline that does not decode is none");
    Figure { records, wall, cpu: own_cpu() - before }
}

fn own_cpu() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock id is valid and `t` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) };
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// The CPU time of all threads of a process, and of those it had: to the nanosecond, which /proc/PID/stat is not.
fn cpu_of(pid: i32) -> Duration {
    let mut clock = 0;
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both places are valid for the calls, and the clock is what the first one gave.
    let done =
        unsafe { libc::clock_getcpuclockid(pid, &mut clock) == 0 && libc::clock_gettime(clock, &mut t) == 0 };
    assert!(done, "process {pid} has no CPU clock: it has ended");
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// What a look at the daemon showed.
#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    cpu: Duration,
    folded: u64,
    /// All folded, all up to the end that the broker named.
    caught_up: bool,
}

fn look(daemon: &Daemon) -> Seen {
    let status = daemon.get("/api/v1/status").json();
    let partitions = status["partitions"].as_array().cloned().unwrap_or_default();
    let folded = partitions.iter().filter_map(|p| p["position"].as_u64()).sum();
    let caught_up =
        partitions.len() == PARTITIONS as usize && partitions.iter().all(|p| p["caught_up"] == true);
    Seen { at: Instant::now(), cpu: cpu_of(daemon.pid()), folded, caught_up }
}

/// Looks until `wish` comes true; also the last look at which nothing was folded yet, where there was one.
fn wait(daemon: &Daemon, start: &mut Option<Seen>, wish: impl Fn(&Seen) -> bool) -> Seen {
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = look(daemon);
        if seen.folded == 0 || start.is_none() {
            *start = Some(seen);
        }
        if wish(&seen) {
            return seen;
        }
        assert!(Instant::now() < end, "{} records folded in {PATIENCE:?}\n{}", seen.folded, daemon.tail());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Rules beside those shipped, so that a parcel has as many deadlines as in a large installation.
fn made_up(count: usize) -> String {
    let mut text = "rules:\n".to_owned();
    for i in 0..count {
        let (after, expect) = (LIFE[i % 11], LIFE[i % 11 + 1 + i % 2]);
        let scope = if i % 3 == 2 { "scope: {lane: \"CN-*\"}, " } else { "" };
        let _ = writeln!(
            text,
            "  - {{id: made_up_{i:02}, title: Made up, {scope}after: {after}, expect: [{{from: {expect}}}], tolerance: 14h, grace: \
             2h, stages: [{{at: 96h, severity: warning}}, {{at: 192h, severity: high}}], owner: ops}}"
        );
    }
    text
}

fn setup(kafka: &Kafka, synthetic: usize, as_it_is: bool) -> Setup {
    let mut setup = Setup::new();
    setup
        .kafka(&kafka.bootstrap(), TOPIC)
        .set("smtp.url", "smtp://127.0.0.1:9")
        .set("smtp.from", "bench@example.org");
    setup.arg("--dry-run");
    for entry in std::fs::read_dir(parts::repository().join("rules")).expect("the shipped rules") {
        let path = entry.expect("a file").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a text");
        setup.rules(&name, &if as_it_is { text } else { stretch(&text) });
    }
    if synthetic > 0 {
        setup.rules("made_up.yaml", &made_up(synthetic));
    }
    setup
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let option = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let number = |name: &str, default: u64| option(name).and_then(|v| v.parse().ok()).unwrap_or(default);
    let records = number("--records", 1_000_000);
    let network = Network { in_flight: number("--in-flight", 200_000) };
    let synthetic = number("--synthetic", 20) as usize;
    let compression = option("--compression").map_or("lz4", String::as_str);

    let as_it_is = option("--rules").is_some_and(|r| r == "shipped");

    let kafka = Kafka::start(&Options::default());
    // The broker compresses, in the batches of the producer; and keeps records however old they say they are.
    let configs = [
        ("compression.type", if compression == "none" { "uncompressed" } else { compression }),
        ("retention.ms", "-1"),
    ];
    kafka.create_topic(TOPIC, PARTITIONS, false, &configs);
    let (records, bytes, hours) = produce(&kafka, network, records, as_it_is);
    println!(
        "{records} records of {} bytes, {PARTITIONS} partitions, compression {compression}, {hours} hours of {} parcels in flight, \
         shipped rules{} and {synthetic} made up",
        bytes / records.max(1),
        network.in_flight,
        if as_it_is { "" } else { ", stretched," }
    );
    let before = bare(&kafka, records);
    before.print("bare consumer, serde_json borrowed", "   (baseline)");

    let setup = setup(&kafka, synthetic, as_it_is);
    let mut daemon = setup.start();
    let mut start = None;
    let folded = wait(&daemon, &mut start, |seen| seen.folded >= records);
    let opened = daemon.metrics().sum("exceptions_opened_total", &[]).unwrap_or(0.0);
    let ended = daemon.metrics().sum("exceptions_resolved_total", &[]).unwrap_or(0.0);
    let whole = wait(&daemon, &mut start, |seen| seen.caught_up);
    let start = start.unwrap_or(folded);
    let figure = |until: Seen| Figure {
        records: records - start.folded,
        wall: until.at - start.at,
        cpu: until.cpu - start.cpu,
    };
    let ours = figure(folded);
    ours.print("run, until all is folded", "");
    figure(whole).print("run, until the broker's end is certified", "");
    let after = bare(&kafka, records);
    after.print("bare consumer again", "   (baseline)");
    let baseline = (before.rate() + after.rate()) / 2.0;
    let cpu = (before.cpu + after.cpu).as_secs_f64() / 2.0 / records as f64;
    println!(
        "  rate {:.0} % of the baseline's, CPU {:.2} x; {opened:.0} opened and {ended:.0} resolved on the way, {:.2} % of the records",
        100.0 * ours.rate() / baseline,
        ours.cpu.as_secs_f64() / ours.records.max(1) as f64 / cpu,
        100.0 * (opened + ended) / records as f64
    );
    let all = daemon.metrics().sum("exceptions_opened_total", &[]).unwrap_or(0.0);
    println!(
        "  after the clock went on to now: {all:.0} opened; the daemon ended with {:?}",
        daemon.terminate()
    );
}
