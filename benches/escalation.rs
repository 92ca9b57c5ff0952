//! The way from a storm of changes to messages that arrived: escalator, outbox and dispatcher as they are, before a local sink.
//!
//! `cargo bench --bench escalation -- --exceptions 100000 --messages 20000 --standing 1000000`; 0 leaves a part out, as a peak of
//! memory asks for. The baselines, from the same run: committing the same changes with nobody to tell, and bare HTTP requests to
//! the same sink. Nothing is asserted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parcelwatch::cases::{Batch, Cases, OutboxRow, Recorded};
use parcelwatch::config::read_rules;
use parcelwatch::metrics::Metrics;
use parcelwatch::model::{Change, ChangeKind, DAY, HOUR, Severity, Time};
use parcelwatch::notify::webhook::{Webhook, WebhookClient, WebhookSettings};
use parcelwatch::rules::compile;
use parcelwatch::runtime::clock::{SystemClock, WallClock};
use parcelwatch::runtime::daemon::InForce;
use parcelwatch::runtime::dispatcher::{Dispatcher, Options, Route};
use parcelwatch::runtime::escalator::{Backlog, Escalator, Memory};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RULES: &str = "
rules:
  - id: late
    title: Cleared, but not delivered
    after: import_customs_cleared
    expect: [delivered]
    within: 48h
    severity: high
    owner: carrier
";
/// With minutes between messages of a group, what opens after its first one would wait by the policy, and no turn here would
/// flush it.
const POLICIES: &str = "
receivers: [{id: erp, webhook: {url: \"http://127.0.0.1:1/\"}}]
policies: [{id: desk, group_by: [rule, lane], group_wait: 1s, group_interval: 1s, steps: [{after: 0m, notify: [erp]}]}]
default_policy: desk
";
const PARTITIONS: u64 = 12;

/// A server that says yes after a while; counts what it was asked and knows when it was first.
#[derive(Clone)]
struct Sink {
    url: String,
    seen: Arc<AtomicU64>,
    first_ms: Arc<AtomicU64>,
}

impl Sink {
    async fn start(delay: Duration) -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let sink = Sink { url, seen: Arc::default(), first_ms: Arc::default() };
        let state = sink.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(state.clone().serve(stream, delay));
            }
        });
        sink
    }

    async fn serve(self, mut stream: TcpStream, delay: Duration) {
        let mut buffer = Vec::new();
        let mut chunk = vec![0; 65_536];
        loop {
            let whole = loop {
                if let Some(end) = find(&buffer, b"\r\n\r\n") {
                    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
                    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
                    let whole = end + 4 + length.unwrap_or(0usize);
                    if buffer.len() >= whole {
                        break whole;
                    }
                }
                match stream.read(&mut chunk).await {
                    Ok(n) if n > 0 => buffer.extend_from_slice(&chunk[..n]),
                    _ => return,
                }
            };
            buffer.drain(..whole);
            tokio::time::sleep(delay).await;
            let now = SystemClock.now_ms() as u64;
            let _ = self.first_ms.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst);
            self.seen.fetch_add(1, Ordering::SeqCst);
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                return;
            }
        }
    }

    async fn until(&self, n: u64) {
        while self.seen.load(Ordering::SeqCst) < n {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

fn dispatcher(cases: &Cases, sink: &Sink) -> Dispatcher {
    let allow: Vec<ipnet::IpNet> = vec!["127.0.0.0/8".parse().expect("a network")];
    let settings = WebhookSettings { allow: allow.into(), ..WebhookSettings::default() };
    let client = WebhookClient::new(settings).expect("a client");
    let notifier = Arc::new(Webhook::new(&client, &sink.url, None).expect("a receiver"));
    let route = Route { receiver: "erp".into(), integration: "webhook", notifier, restated: Vec::new() };
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    metrics.set_receivers([("erp", "webhook")]);
    let clock: Arc<dyn WallClock> = Arc::new(SystemClock);
    Dispatcher::start(cases, vec![route], &clock, &metrics, &Options::default())
}

fn opened(n: u64, lanes: u64, now: i64) -> Change {
    // Ids of parcels come in no order.
    let mixed = (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let evidence = format!(
        "{{\"facts\":{{\"lane\":\"CN-{}\",\"order_id\":\"00{n}\",\"tracking_number\":\"LP{n:014}ES\",\"domestic_carrier\":\"correos\"}},\
         \"last\":{{\"milestone\":\"import_customs_cleared\",\"time\":\"2026-10-12T07:00:00Z\",\"facility\":null}}}}",
        n % lanes
    );
    Change {
        kind: ChangeKind::Opened,
        rule: "late".into(),
        body: Some((0, 0)),
        parcel_id: format!("P{mixed:016x}").into(),
        episode: None,
        offset: n as i64,
        at: Time(now),
        stage: 1,
        severity: Severity::High,
        anchor: Time(now - 3 * DAY),
        due: Time(now - HOUR),
        incomplete: false,
        evidence: Some(evidence.into()),
    }
}

/// Commits `n` openings over `lanes` lanes. How long the commits took.
async fn commit(cases: &Cases, in_force: &InForce, n: u64, lanes: u64) -> Duration {
    let mut took = Duration::ZERO;
    let mut next = 0;
    while next < n {
        let now = SystemClock.now_ms();
        let end = n.min(next + Cases::MAX_BATCH as u64);
        let changes: Vec<Change> = (next..end).map(|i| opened(i, lanes, now)).collect();
        let recorded =
            Recorded { position: end as i64, watermark: Time(now), rules_hash: in_force.rules.hash.clone() };
        let batch = Batch {
            partition: (next / Cases::MAX_BATCH as u64 % PARTITIONS) as i32,
            changes: &changes,
            rules: &in_force.rules,
            policies: &in_force.policies,
            recorded: &recorded,
            now_ms: now,
            heard: &[],
        };
        let started = Instant::now();
        cases.commit(&batch).await.expect("the database takes it");
        took += started.elapsed();
        next = end;
    }
    took
}

fn escalator(
    cases: &Cases,
    in_force: &InForce,
) -> (Escalator, watch::Sender<Arc<parcelwatch::rules::Policies>>) {
    let backlog = Backlog::default();
    (0..PARTITIONS as i32).for_each(|p| backlog.over(p, 0));
    let (sender, policies) = watch::channel(Arc::clone(&in_force.policies));
    let escalator = Escalator {
        cases: cases.clone(),
        policies,
        clock: Arc::new(SystemClock),
        backlog,
        public_url: None,
        dry_run: false,
    };
    (escalator, sender)
}

async fn storm(folder: &Path, in_force: &InForce, n: u64) {
    let quiet = Cases::open(&folder.join("quiet.sqlite")).await.expect("a database");
    let bare = commit(&quiet, in_force, n, 8).await;
    quiet.close().await;
    let cases = Cases::open(&folder.join("storm.sqlite")).await.expect("a database");
    let sink = Sink::start(Duration::from_millis(20)).await;
    let delivery = dispatcher(&cases, &sink);
    let (mut escalator, _policies) = escalator(&cases, in_force);
    let begun = SystemClock.now_ms();
    let started = Instant::now();
    let all_in = AtomicBool::new(false);
    let committed = async {
        let took = commit(&cases, in_force, n, 8).await;
        all_in.store(true, Ordering::SeqCst);
        took
    };
    let decided = async {
        let mut memory = Memory::starting(begun - HOUR);
        loop {
            // Asked before the turn: what is committed during one is seen by the next.
            let last = all_in.load(Ordering::SeqCst);
            let next = escalator.turn(&mut memory).await.expect("a turn");
            if last && next > SystemClock.now_ms() + 2_000 {
                return started.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (took, decided) = tokio::join!(committed, decided);
    let stats = cases.outbox_stats().await.expect("figures");
    sink.until(1).await;
    let first = sink.first_ms.load(Ordering::SeqCst) as i64 - begun;
    println!(
        "storm of {n}: commits {took:.2?} (with nobody to tell {bare:.2?}); first message {first} ms after the first commit began; \
              all decided after {decided:.2?}; outbox {:?}; peak {} MiB",
        stats.rows,
        peak()
    );
    delivery.stop(Duration::from_secs(5)).await;
    cases.close().await;
}

async fn outbox(folder: &Path, n: u64) {
    let delay = Duration::from_millis(20);
    let sink = Sink::start(delay).await;
    let started = Instant::now();
    let each = n / 64;
    let address = sink.url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let bare = (0..64).map(|_| {
        let address = address.clone();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(&address).await.expect("the sink");
            let body = "x".repeat(1_000);
            let request =
                format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let mut answer = [0; 256];
            for _ in 0..each {
                stream.write_all(request.as_bytes()).await.expect("sent");
                let _ = stream.read(&mut answer).await.expect("answered");
            }
        })
    });
    for task in bare.collect::<Vec<_>>() {
        task.await.expect("done");
    }
    let bare = (each * 64) as f64 / started.elapsed().as_secs_f64();

    let cases = Cases::open(&folder.join("outbox.sqlite")).await.expect("a database");
    let now = SystemClock.now_ms();
    let row = |i: u64| OutboxRow {
        id: format!("m{i:08}"),
        receiver: "erp".into(),
        integration: "webhook".into(),
        recipient: String::new(),
        kind: "new".into(),
        subject: String::new(),
        body: format!("{{\"type\":\"exceptions.opened\",\"data\":{{\"note\":{:?}}}}}", "x".repeat(1_000)),
        thread: format!("g{i:08}"),
        attempts: 0,
        created_ms: now,
        due_ms: now,
    };
    for chunk in (0..n).collect::<Vec<_>>().chunks(5_000) {
        let rows: Vec<OutboxRow> = chunk.iter().map(|i| row(*i)).collect();
        cases.outbox_put(&rows).await.expect("rows");
    }
    let before = sink.seen.load(Ordering::SeqCst);
    let started = Instant::now();
    let delivery = dispatcher(&cases, &sink);
    sink.until(before + n).await;
    let rate = n as f64 / started.elapsed().as_secs_f64();
    println!(
        "outbox of {n} webhooks, answered after 20 ms: {rate:.0}/s; bare requests over 64 connections {bare:.0}/s; ratio {:.2}",
        rate / bare
    );
    delivery.stop(Duration::from_secs(5)).await;
    cases.close().await;
}

async fn standing(folder: &Path, in_force: &InForce, n: u64) {
    let groups = (n / 100).max(1);
    let cases = Cases::open(&folder.join("standing.sqlite")).await.expect("a database");
    commit(&cases, in_force, n, groups).await;
    let (mut escalator, _policies) = escalator(&cases, in_force);
    let mut memory = Memory::starting(SystemClock.now_ms() - HOUR);
    let started = Instant::now();
    let mut next = escalator.turn(&mut memory).await.expect("a turn");
    while next <= SystemClock.now_ms() + 2_000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        next = escalator.turn(&mut memory).await.expect("a turn");
    }
    let all = started.elapsed();
    // One more exception in one of the groups, and the turn that looks at it and flushes its group.
    let messages = || async { cases.outbox_stats().await.expect("figures").rows.values().sum::<i64>() };
    let before = messages().await;
    let mut ticks = Vec::new();
    for i in 0..20 {
        let now = SystemClock.now_ms();
        let recorded = Recorded {
            position: (n + i + 1) as i64,
            watermark: Time(now),
            rules_hash: in_force.rules.hash.clone(),
        };
        let change = opened(n + i, groups, now);
        let batch = Batch {
            partition: 0,
            changes: &[change],
            rules: &in_force.rules,
            policies: &in_force.policies,
            recorded: &recorded,
            now_ms: now,
            heard: &[],
        };
        cases.commit(&batch).await.expect("the database takes it");
        let started = Instant::now();
        escalator.turn(&mut memory).await.expect("a turn");
        ticks.push(started.elapsed());
    }
    ticks.sort();
    println!(
        "{n} standing in {groups} groups (decided in {all:.2?}): a turn that flushes one, median {:.2?}, longest {:.2?} ({} turns, {} messages); peak {} MiB",
        ticks[ticks.len() / 2],
        ticks[ticks.len() - 1],
        ticks.len(),
        messages().await - before,
        peak()
    );
    cases.close().await;
}

/// The most memory this process has held, MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn argument(name: &str, default: u64) -> u64 {
    let mut args = std::env::args().skip_while(|a| a != name);
    args.nth(1).and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn main() {
    let folder = tempfile::tempdir().expect("a directory");
    let rules = folder.path().join("rules");
    std::fs::create_dir(&rules).expect("a directory");
    std::fs::write(rules.join("rules.yaml"), RULES).expect("rules");
    std::fs::write(rules.join("policies.yaml"), POLICIES).expect("policies");
    let in_force = InForce::of(compile(&read_rules(&rules).expect("files"))).expect("good rules");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        match argument("--exceptions", 100_000) {
            0 => {}
            n => storm(folder.path(), &in_force, n).await,
        }
        match argument("--messages", 20_000) {
            0 => {}
            n => outbox(folder.path(), n).await,
        }
        match argument("--standing", 1_000_000) {
            0 => {}
            n => standing(folder.path(), &in_force, n).await,
        }
    });
}
