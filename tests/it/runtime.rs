//! The daemon's own parts joined, in this process, against a real Kafka.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parcelwatch::cases::{Filter, StateFilter};
use parcelwatch::engine::Lifetimes;
use parcelwatch::http::ports::Daemon as _;
use parcelwatch::rules::{SourceFile, compile};
use parcelwatch::runtime::clock::{SystemClock, WallClock};
use parcelwatch::runtime::daemon::{Daemon, InForce, Settings};
use parcelwatch::source::kafka::{Options, StartAt};
use serde_json::Value;

use crate::parts::kafka::{self, Kafka, Record};
use crate::parts::{PATIENCE, poll};

/// A deadline soon after the anchor, and a clock that follows closely.
const RULES: &str = "
rules:
  - {id: late, title: Late, after: import_customs_cleared, expect: delivered, grace: 0s, within: 2s, severity: high, owner: ops}
";
/// What `RULES` becomes: the same id, told later and worse.
const OTHER_RULES: &str = "
rules:
  - {id: late, title: Late, after: import_customs_cleared, expect: delivered, grace: 0s, within: 100d, severity: high, owner: ops}
  - {id: unseen, title: Unseen, after: import_customs_cleared, expect: domestic_scan, grace: 0s, within: 1s, severity: info, owner: ops}
";

struct Running {
    daemon: Daemon,
    runtime: tokio::runtime::Runtime,
}

/// What a daemon is started from, again and again.
struct Setup {
    dir: tempfile::TempDir,
    options: Options,
    rules: String,
    cases: parcelwatch::cases::Options,
    clock: Arc<dyn WallClock>,
}

impl Setup {
    fn new(kafka: &Kafka, topic: &str) -> Setup {
        let dir = tempfile::Builder::new().prefix("state-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut options = Options::new(&kafka.bootstrap(), topic, &format!("group-of-{topic}"), "");
        options.metadata_every = Duration::from_secs(1);
        Setup {
            dir,
            options,
            rules: RULES.to_owned(),
            cases: parcelwatch::cases::Options::default(),
            clock: Arc::new(SystemClock),
        }
    }

    fn state(&self) -> &Path {
        self.dir.path()
    }

    fn start(&self) -> Running {
        self.try_start().unwrap()
    }

    fn try_start(&self) -> anyhow::Result<Running> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let file = SourceFile {
            path: "rules.yaml".into(),
            content: Ok(self.rules.clone().into_bytes()),
            context: false,
        };
        let loaded = compile(&[file]);
        assert!(!loaded.has_errors(), "{:?}", loaded.problems);
        let settings = Settings {
            kafka: self.options.clone(),
            start: StartAt::Earliest,
            state: self.state().to_owned(),
            snapshots: None,
            snapshots_every: Duration::from_secs(300),
            snapshots_keep: 3,
            database: None,
            cases: self.cases.clone(),
            cases_keep: i64::MAX / 2,
            lifetimes: Lifetimes::default(),
            skew: 200,
            certificate_ttl: Duration::from_secs(15),
            listen: "127.0.0.1:0".parse().unwrap(),
            public_url: None,
            tokens: Vec::new(),
            dry_run: true,
            threads: 2,
            reload: None,
        };
        let in_force = InForce::of(loaded).unwrap();
        let daemon = runtime.block_on(Daemon::start(
            settings,
            in_force,
            &|_| Ok(Vec::new()),
            Arc::clone(&self.clock),
        ))?;
        Ok(Running { daemon, runtime })
    }
}

impl Running {
    fn status(&self) -> Value {
        self.runtime.block_on(self.daemon.port().status())
    }

    fn ready(&self) {
        poll("the daemon to be ready", PATIENCE, || self.daemon.port().ready());
    }

    fn exceptions(&self, state: StateFilter) -> Vec<Value> {
        let filter = Filter { state, ..Filter::default() };
        let page = self.daemon.cases.exceptions(&filter, 1_000, None, SystemClock.now_ms());
        self.runtime.block_on(page).unwrap().items
    }

    fn wait(&self, state: StateFilter, n: usize) -> Vec<Value> {
        poll(&format!("{n} exceptions {state:?}"), PATIENCE, || {
            let found = self.exceptions(state);
            if found.len() == n {
                Ok(found)
            } else {
                Err(format!("{}\n{found:#?}\n{:#}", found.len(), self.status()))
            }
        })
    }

    /// The sum of a metric's series whose line holds `label`.
    fn metric(&self, name: &str, label: &str) -> f64 {
        self.runtime.block_on(self.daemon.port().before_scrape());
        let text = self.daemon.metrics.text();
        let line = |l: &&str| l.starts_with(&format!("parcelwatch_{name}")) && l.contains(label);
        text.lines().filter(line).filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    fn stop(self) {
        self.runtime.block_on(self.daemon.stop(Duration::from_secs(10)));
    }

    /// As a kill would: nothing more is written or saved.
    fn kill(self) {
        self.runtime.shutdown_timeout(Duration::ZERO);
    }
}

fn event(parcel: &str, milestone: &str, at_ms: i64) -> Vec<u8> {
    let at = parcelwatch::model::Time(at_ms);
    format!(r#"{{"parcel_id":"{parcel}","milestone":"{milestone}","event_time":"{at}"}}"#).into_bytes()
}

fn now() -> i64 {
    SystemClock.now_ms()
}

fn cleared(kafka: &Kafka, topic: &str, parcels: impl IntoIterator<Item = usize>) {
    for n in parcels {
        let id = format!("P-{n}");
        kafka.produce(topic, &id, &event(&id, "import_customs_cleared", now()), None, None);
    }
}

#[test]
fn what_is_late_opens_while_nothing_comes_and_resolves_when_it_comes() {
    let kafka = Kafka::shared();
    kafka.create_topic("late", 3, true, &[]);
    let setup = Setup::new(kafka, "late");
    let run = setup.start();
    run.ready();
    cleared(kafka, "late", 0..4);
    kafka.produce("late", "P-0", &event("P-0", "delivered", now()), None, None);
    kafka.produce("late", "x", b"no json", None, None);
    let open = run.wait(StateFilter::Open, 3);
    assert!(open.iter().all(|e| e["rule"] == "late" && e["severity"] == "high"), "{open:#?}");
    assert!(open.iter().all(|e| e["parcel_id"] != "P-0"));
    kafka.produce("late", "P-1", &event("P-1", "delivered", now()), None, None);
    run.wait(StateFilter::Resolved, 1);
    assert_eq!(run.metric("exceptions_opened_total", "late"), 3.0);
    assert_eq!(run.metric("records_rejected_total", "not_json"), 1.0);
    assert_eq!(run.metric("parcels_tracked", ""), 4.0);
    assert_eq!(run.metric("exceptions_open{", "late"), 2.0);
    assert_eq!(run.metric("consumer_lag_records", ""), 0.0);
    let parcel = run.runtime.block_on(run.daemon.port().parcel("P-2")).unwrap();
    assert_eq!(parcel["parcel_id"], "P-2", "{parcel:#}");
    assert_eq!(run.runtime.block_on(run.daemon.port().parcel("P-99")), None);
    let status = run.status();
    assert_eq!(status["replay_equality"], "guaranteed", "{status:#}");
    run.stop();

    // Again, twice: nothing opens anew, what comes meanwhile counts.
    kafka.produce("late", "P-2", &event("P-2", "delivered", now()), None, None);
    let run = setup.start();
    run.wait(StateFilter::Resolved, 2);
    assert_eq!(run.metric("exceptions_opened_total", "late"), 0.0);
    run.kill();
    let run = setup.start();
    run.ready();
    kafka.produce("late", "P-3", &event("P-3", "delivered", now()), None, None);
    run.wait(StateFilter::Resolved, 3);
    assert_eq!(run.exceptions(StateFilter::All).len(), 3);
    assert_eq!(run.metric("exceptions_opened_total", "late"), 0.0);
    run.stop();
}

#[test]
fn markers_of_transactions_at_the_end_do_not_hold_the_clock() {
    let kafka = Kafka::shared();
    kafka.create_topic("markers", 1, true, &[]);
    let setup = Setup::new(kafka, "markers");
    let run = setup.start();
    run.ready();
    let payload = event("P-1", "import_customs_cleared", now());
    let record = [Record { key: "P-1", payload: &payload, ..Record::default() }];
    kafka.transaction("markers", &record, true);
    let undone = event("P-1", "delivered", now());
    kafka.transaction("markers", &[Record { key: "P-1", payload: &undone, ..Record::default() }], false);
    run.wait(StateFilter::Open, 1);
    run.stop();
}

#[test]
fn a_broker_that_is_gone_opens_nothing() {
    let kafka = Kafka::start(&kafka::Options::default());
    kafka.create_topic("gone", 2, true, &[]);
    let mut setup = Setup::new(&kafka, "gone");
    setup.rules = RULES.replace("within: 2s", "within: 15s");
    let run = setup.start();
    run.ready();
    cleared(&kafka, "gone", 0..3);
    poll("the records to be folded", PATIENCE, || match run.metric("parcels_tracked", "") {
        3.0 => Ok(()),
        n => Err(n.to_string()),
    });
    kafka.kill();
    assert_eq!(run.exceptions(StateFilter::All), Vec::<Value>::new(), "killed too late");
    let (killed, mut troubles) = (now(), 0);
    let waited = poll("the deadline to pass without a broker", PATIENCE, || {
        troubles = run.status()["kafka"]["troubles"].as_array().map_or(0, Vec::len);
        if now() < killed + 20_000 { Err("not yet".to_owned()) } else { Ok(run.exceptions(StateFilter::All)) }
    });
    assert_eq!(waited, Vec::<Value>::new(), "{:#}", run.status());
    assert_eq!(troubles, 1);
    assert_eq!(run.daemon.port().healthy(), Ok(()));
    kafka.restart();
    run.wait(StateFilter::Open, 3);
    poll("the trouble to be over", PATIENCE, || match run.status()["kafka"]["troubles"].as_array() {
        Some(t) if t.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    run.stop();
}

/// A clock that is set by hand against the machine's.
struct Askew(AtomicI64);

impl WallClock for Askew {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms() + self.0.load(Ordering::Relaxed)
    }

    fn until(&self, ms: i64) -> Duration {
        SystemClock.until(ms - self.0.load(Ordering::Relaxed))
    }
}

#[test]
fn a_brokers_clock_far_ahead_stops_the_shard_until_ours_has_caught_up() {
    let kafka = Kafka::shared();
    kafka.create_topic("ahead", 1, true, &[]);
    let mut setup = Setup::new(kafka, "ahead");
    let clock = Arc::new(Askew(AtomicI64::new(-300_000)));
    setup.clock = Arc::clone(&clock) as Arc<dyn WallClock>;
    let run = setup.start();
    cleared(kafka, "ahead", 0..1);
    poll("the shard to stand", PATIENCE, || match run.daemon.port().ready() {
        Err(why) if why.contains("more than a minute ahead") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(run.metric("folding_waits", "clock_ahead"), 1.0);
    assert_eq!(run.metric("clock_violations_total", "ahead"), 1.0);
    assert_eq!(run.daemon.port().healthy(), Ok(()));
    assert_eq!(run.metric("parcels_tracked", ""), 0.0);
    clock.0.store(0, Ordering::Relaxed);
    run.wait(StateFilter::Open, 1);
    run.ready();
    assert_eq!(run.metric("folding_waits", "clock_ahead"), 0.0);
    run.stop();
}

#[test]
fn a_full_disk_makes_folding_wait_and_loses_nothing() {
    let kafka = Kafka::shared();
    kafka.create_topic("no-room", 1, true, &[]);
    let mut setup = Setup::new(kafka, "no-room");
    setup.rules = RULES.replace("within: 2s", "within: 0s");
    // Tables and indexes fit, exceptions soon do not.
    setup.cases.max_page_count = Some(110);
    let run = setup.start();
    run.ready();
    cleared(kafka, "no-room", 0..400);
    poll("folding to wait", PATIENCE, || match run.daemon.port().ready() {
        Err(why) if why.contains("disk is full") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(run.metric("folding_waits", "disk"), 1.0);
    assert_eq!(run.daemon.port().healthy(), Ok(()));
    let written = run.exceptions(StateFilter::All).len();
    assert!(written < 400, "{written}");
    run.stop();
    setup.cases.max_page_count = None;
    let run = setup.start();
    run.wait(StateFilter::Open, 400);
    run.stop();
}

#[test]
fn records_that_retention_took_are_a_gap() {
    let kafka = Kafka::shared();
    kafka.create_topic("trimmed", 1, true, &[]);
    let setup = Setup::new(kafka, "trimmed");
    let run = setup.start();
    run.ready();
    cleared(kafka, "trimmed", 0..2);
    run.wait(StateFilter::Open, 2);
    run.stop();
    cleared(kafka, "trimmed", 2..6);
    kafka.delete_records("trimmed", 0, 5);
    let run = setup.start();
    // Of 2 to 5 only the last is left; the two of before may have been delivered in what was lost.
    let open = run.wait(StateFilter::Open, 3);
    assert_eq!(run.metric("gaps_total", "retention"), 1.0);
    let gaps = run.status()["partitions"][0]["gaps"].to_string();
    assert!(gaps.contains("records 2 to 4 were deleted"), "{gaps}");
    assert!(open.iter().any(|e| e["parcel_id"] == "P-5"));
    run.stop();
}

#[test]
fn a_topic_made_anew_is_seen_and_read_from_its_beginning() {
    let kafka = Kafka::shared();
    kafka.create_topic("anew", 1, true, &[]);
    let setup = Setup::new(kafka, "anew");
    let run = setup.start();
    run.ready();
    cleared(kafka, "anew", 0..5);
    run.wait(StateFilter::Open, 5);
    run.stop();
    kafka.delete_topic("anew");
    kafka.create_topic("anew", 1, true, &[]);
    cleared(kafka, "anew", 10..12);
    let run = setup.start();
    run.wait(StateFilter::Open, 7);
    assert_eq!(run.metric("gaps_total", "topic_recreated"), 1.0, "{:#}", run.status());
    // Positions of the new log are recorded: the next start reads on in it.
    run.stop();
    kafka.produce("anew", "P-10", &event("P-10", "delivered", now()), None, None);
    let run = setup.start();
    run.wait(StateFilter::Resolved, 1);
    assert_eq!(run.metric("gaps_total", ""), 0.0, "{:#}", run.status());
    run.stop();
}

#[test]
fn more_partitions_stop_the_clocks() {
    let kafka = Kafka::shared();
    kafka.create_topic("wider", 1, true, &[]);
    let setup = Setup::new(kafka, "wider");
    let run = setup.start();
    run.ready();
    kafka.add_partitions("wider", 2);
    poll("the clocks to stand", PATIENCE, || match run.daemon.port().ready() {
        Err(why) if why.contains("had 1 partitions and now has 2") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(run.metric("folding_waits", "partition_count_changed"), 1.0);
    assert_eq!(run.daemon.port().healthy(), Ok(()));
    cleared(kafka, "wider", 0..1);
    let seen = now();
    let none = poll("its deadline to pass", PATIENCE, || {
        if now() < seen + 4_000 { Err("not yet".to_owned()) } else { Ok(run.exceptions(StateFilter::All)) }
    });
    assert_eq!(none, Vec::<Value>::new());
    run.stop();
}

#[test]
fn rules_that_changed_while_it_was_down_apply_to_what_is_in_flight() {
    let kafka = Kafka::shared();
    kafka.create_topic("reruled", 2, true, &[]);
    let mut setup = Setup::new(kafka, "reruled");
    let run = setup.start();
    run.ready();
    cleared(kafka, "reruled", 0..3);
    run.wait(StateFilter::Open, 3);
    run.stop();
    setup.rules = OTHER_RULES.to_owned();
    let run = setup.start();
    run.wait(StateFilter::Resolved, 3);
    let open = run.wait(StateFilter::Open, 3);
    assert!(open.iter().all(|e| e["rule"] == "unseen"), "{open:#?}");
    run.kill();
    // A crash before the next snapshot: the same rules at the same places, so the same changes.
    let run = setup.start();
    run.ready();
    assert_eq!(run.exceptions(StateFilter::All).len(), 6);
    assert_eq!(run.metric("exceptions_opened_total", ""), 0.0);
    run.stop();
}

#[test]
fn a_wrong_password_is_said_and_nothing_dies() {
    let kafka = Kafka::start(&kafka::Options { sasl: true, ..kafka::Options::default() });
    kafka.create_topic("locked", 1, true, &[]);
    let mut setup = Setup::new(&kafka, "locked");
    setup.options.bootstrap_servers = kafka.sasl_bootstrap();
    setup.options.properties = kafka.sasl_properties().into_iter().collect();
    setup.options.properties.insert("sasl.password".to_owned(), "not this one".to_owned());
    let run = setup.start();
    let text = poll("the refused login to be said", PATIENCE, || {
        let troubles = run.status()["kafka"]["troubles"].to_string();
        if troubles.contains("refuses the login") { Ok(troubles) } else { Err(troubles) }
    });
    assert!(text.contains("sasl.password") && !text.contains("not this one"), "{text}");
    assert_eq!(run.daemon.port().healthy(), Ok(()));
    assert!(run.daemon.port().ready().is_err());
    run.stop();
    setup.options.properties.extend(kafka.sasl_properties());
    let run = setup.start();
    run.ready();
    assert_eq!(run.status()["kafka"]["troubles"], serde_json::json!([]));
    run.stop();
}

#[test]
fn a_topic_that_is_not_there_yet_is_waited_for() {
    let kafka = Kafka::shared();
    let setup = Setup::new(kafka, "to-come");
    let run = setup.start();
    poll("the missing topic to be said", PATIENCE, || {
        let troubles = run.status()["kafka"]["troubles"].to_string();
        if troubles.contains("there is no topic to-come") { Ok(()) } else { Err(troubles) }
    });
    kafka.create_topic("to-come", 1, true, &[]);
    run.ready();
    run.stop();
}

#[test]
fn a_second_member_is_told_that_it_needs_postgresql() {
    let kafka = Kafka::shared();
    kafka.create_topic("shared-out", 2, true, &[]);
    let first = Setup::new(kafka, "shared-out");
    let run = first.start();
    run.ready();
    let other = Setup::new(kafka, "shared-out");
    let second = other.start();
    let failed = async { tokio::time::timeout(PATIENCE, second.daemon.failed()).await };
    let why = second.runtime.block_on(failed).expect("the second one to give up");
    assert!(why.contains("PostgreSQL"), "{why}");
    second.stop();
    run.stop();
}

/// Every file of a folder and the folders in it.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] }).collect()
}

#[test]
fn damaged_snapshots_are_passed_over_and_the_log_is_read_again() {
    let kafka = Kafka::shared();
    kafka.create_topic("damaged", 2, true, &[]);
    let setup = Setup::new(kafka, "damaged");
    let run = setup.start();
    run.ready();
    cleared(kafka, "damaged", 0..4);
    run.wait(StateFilter::Open, 4);
    run.stop();
    let data = files(&setup.state().join("snapshots"));
    let data: Vec<_> = data.iter().filter(|f| f.extension().is_some_and(|e| e == "data")).collect();
    assert!(data.len() >= 4, "{data:?}");
    for file in &data {
        let mut bytes = std::fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(file, bytes).unwrap();
    }
    let run = setup.start();
    run.ready();
    assert_eq!(run.metric("parcels_tracked", ""), 4.0);
    kafka.produce("damaged", "P-1", &event("P-1", "delivered", now()), None, None);
    run.wait(StateFilter::Resolved, 1);
    assert_eq!(run.wait(StateFilter::Open, 3).len(), 3);
    assert_eq!(run.metric("exceptions_opened_total", "late"), 0.0);
    assert_eq!(run.metric("exceptions_resolved_total", "satisfied_late"), 1.0);
    run.stop();
}

#[test]
fn a_lost_database_is_made_anew_from_what_the_shards_know() {
    let kafka = Kafka::shared();
    kafka.create_topic("lost", 1, true, &[]);
    let setup = Setup::new(kafka, "lost");
    let run = setup.start();
    run.ready();
    cleared(kafka, "lost", 0..3);
    let before = run.wait(StateFilter::Open, 3);
    run.stop();
    for file in files(setup.state()).iter().filter(|f| f.to_string_lossy().contains("cases.sqlite")) {
        std::fs::remove_file(file).unwrap();
    }
    let run = setup.start();
    run.ready();
    let ids = |list: &[Value]| {
        let mut ids: Vec<String> = list.iter().map(|e| e["exception_id"].to_string()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&run.wait(StateFilter::Open, 3)), ids(&before));
    run.stop();
}

#[test]
fn two_daemons_never_share_a_state() {
    let kafka = Kafka::shared();
    kafka.create_topic("one-state", 1, true, &[]);
    let setup = Setup::new(kafka, "one-state");
    let run = setup.start();
    let second = setup.try_start().err().expect("it is refused");
    assert!(format!("{second:#}").contains("another parcelwatch runs on"), "{second:#}");
    run.stop();
}
