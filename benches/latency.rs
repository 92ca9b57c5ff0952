//! How soon somebody knows, on an idle system: from the moment a deadline has passed to its webhook, and from the moment
//! the satisfying record was appended to the webhook that resolves. A real Kafka (LogAppendTime), the program itself in
//! a process of its own, `group_wait: 0s`, `time.skew: 1s`.
//!
//! `cargo bench --bench latency -- --parcels 100`. Nothing is asserted.

#[path = "../tests/it/parts/mod.rs"]
mod parts;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parcelwatch::model::Time;
use parts::daemon::Setup;
use parts::kafka::{Kafka, Options};
use parts::webhook::{Hook, Webhooks};

const TOPIC: &str = "milestones";
const SKEW: i64 = 1_000;
/// From the anchor to the deadline.
const WITHIN: i64 = 3_000;
/// Between two parcels: one after the other, so that none waits for another.
const APART: Duration = Duration::from_millis(173);

const RULES: &str = "rules:
  - {id: late, title: Late, after: import_customs_cleared, expect: delivered, tolerance: any, grace: 0s, within: 3s, severity: high, owner: ops}
";

fn policies(url: &str) -> String {
    format!(
        "receivers:
  - {{id: hook, webhook: {{url: \"{url}\"}}}}
policies:
  - {{id: p, group_by: [rule, parcel_id], group_wait: 0s, group_interval: 1s, steps: [{{after: 0m, notify: [hook]}}]}}
default_policy: p
"
    )
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// When a webhook came in, in milliseconds since 1970.
fn arrived(hook: &Hook) -> i64 {
    now() - i64::try_from(hook.at.elapsed().as_millis()).unwrap_or(0)
}

/// Parcel → when it was told, of the messages of one type.
fn told(hooks: &[Hook], change: &str) -> BTreeMap<String, i64> {
    let mut told = BTreeMap::new();
    for hook in hooks {
        let body = hook.json();
        for exception in body["data"]["exceptions"].as_array().into_iter().flatten() {
            if exception["change"] == change
                && let Some(parcel) = exception["parcel_id"].as_str()
            {
                told.entry(parcel.to_owned()).or_insert_with(|| arrived(hook));
            }
        }
    }
    told
}

fn event(parcel: &str, milestone: &str, at: i64) -> Vec<u8> {
    format!(r#"{{"parcel_id":"{parcel}","milestone":"{milestone}","event_time":"{}"}}"#, Time(at))
        .into_bytes()
}

/// Sends one milestone of each parcel, one after the other, and waits for as many messages. Parcel → the record's event time.
fn send(
    kafka: &Kafka,
    hooks: &Webhooks,
    parcels: usize,
    milestone: &str,
    change: &str,
) -> BTreeMap<String, i64> {
    let mut sent = BTreeMap::new();
    let mut next = Instant::now();
    for n in 0..parcels {
        let (parcel, at) = (format!("P-{n}"), now());
        kafka.produce(TOPIC, &parcel, &event(&parcel, milestone, at), None, None);
        sent.insert(parcel, at);
        next += APART;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    hooks.wait_until(&format!("{parcels} {change}"), parts::PATIENCE, |hooks| {
        (told(hooks, change).len() >= parcels).then_some(())
    });
    sent
}

fn print(what: &str, mut delays: Vec<i64>, aim: &str) {
    delays.sort_unstable();
    let at = |p: usize| delays.get((delays.len() * p).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
    println!(
        "  {what:<52} p50 {:5} ms   p99 {:5} ms   longest {:5} ms   (aim: {aim}; {} measured)",
        at(50),
        at(99),
        at(100),
        delays.len()
    );
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let parcels = args
        .iter()
        .position(|a| a == "--parcels")
        .and_then(|i| args.get(i + 1)?.parse().ok())
        .unwrap_or(100usize);
    let kafka = Kafka::start(&Options::default());
    kafka.create_topic(TOPIC, 12, true, &[]);
    let hooks = Webhooks::start();
    let mut setup = Setup::new();
    setup.kafka(&kafka.bootstrap(), TOPIC).set("time.skew", "1s");
    setup.rules("late.yaml", RULES).rules("policies.yaml", &policies(&hooks.url("/ok")));
    let mut daemon = setup.start();
    daemon.wait_ready();
    println!(
        "{parcels} parcels, one every {} ms, 12 partitions, skew 1 s, group_wait 0 s:",
        APART.as_millis()
    );

    let anchored = send(&kafka, &hooks, parcels, "import_customs_cleared", "opened");
    let opened = told(&hooks.hooks(), "opened");
    let late = anchored.iter().filter_map(|(p, at)| Some(opened.get(p)? - (at + WITHIN))).collect();
    print("deadline passed to webhook delivered", late, &format!("skew + 500 = {} ms", SKEW + 500));

    let _ = send(&kafka, &hooks, parcels, "delivered", "resolved");
    let resolved = told(&hooks.hooks(), "resolved");
    // The broker's own time of each record, which is the last one of its parcel.
    let mut appended = BTreeMap::new();
    for record in kafka.read_all(TOPIC) {
        let key = String::from_utf8_lossy(&record.key.unwrap_or_default()).into_owned();
        appended.insert(key, record.timestamp.to_millis().unwrap_or(0));
    }
    let took = appended.iter().filter_map(|(p, at)| Some(resolved.get(p)? - at)).collect();
    print("satisfying record appended to resolve delivered", took, "500 ms");
    println!("  the daemon ended with {:?}", daemon.terminate());
}
