//! The daemon as its users run it, whole: the program, a real Kafka before it, mail and webhooks behind it.

mod broken;
mod kill;
mod ladder;
mod outage;
mod path;
mod plan;
mod reload;
mod shared;
mod start;
mod storm;
mod view;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::parts::daemon::{Daemon, Setup};
use crate::parts::exim::Exim;
use crate::parts::kafka::{Kafka, Record};
use crate::parts::poll;
use crate::parts::smtp;
use crate::parts::webhook::Webhooks;
use crate::parts::{PATIENCE, http};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Late two seconds after the clearance; of a second severity where a test asks for it.
const RULES: &str = "
rules:
  - id: late
    title: Cleared, but not delivered
    after: import_customs_cleared
    expect: [delivered]
    within: 2s
    severity: high
    owner: carrier
";

/// Receiver `erp` alone, told at once.
pub const POLICY: &str = "
policies:
  - {id: desk, group_by: [rule], group_wait: 0s, group_interval: 1s, steps: [{after: 0m, notify: [erp]}]}
default_policy: desk
";

/// A daemon of one rule that tells `hooks`, by receiver `erp`.
pub fn setup(kafka: &Kafka, topic: &str, hooks: &Webhooks) -> Setup {
    let mut setup = Setup::new();
    setup.kafka(&kafka.bootstrap(), topic).set("time.skew", "1s").rules("rules.yaml", RULES);
    std::fs::write(setup.path("erp.secret"), SECRET).unwrap();
    policies(&setup, hooks, "", POLICY);
    setup
}

/// Writes `policies.yaml`: `erp` and what `receivers` adds, then the text.
pub fn policies(setup: &Setup, hooks: &Webhooks, receivers: &str, text: &str) {
    let secret = setup.path("erp.secret");
    let erp =
        format!("  - {{id: erp, webhook: {{url: {:?}, secret: {{file: {secret:?}}}}}}}", hooks.url("/erp"));
    let text = format!("receivers:\n{erp}\n{receivers}\n{text}");
    std::fs::write(setup.path("rules/policies.yaml"), text).unwrap();
}

/// Mail through a server that wants a login over TLS.
fn mail_through(setup: &mut Setup, exim: &Exim) {
    std::fs::write(setup.path("mail.password"), smtp::PASSWORD).unwrap();
    let mut secret = serde_yaml::Mapping::new();
    secret.insert("file".into(), setup.path("mail.password").display().to_string().into());
    setup
        .set("smtp.url", exim.url())
        .set("smtp.from", "Parcel watch <watch@example.test>")
        .set("smtp.username", smtp::USER)
        .set("smtp.password", secret);
}

pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

pub fn event(parcel: &str, milestone: &str, at_ms: i64) -> Vec<u8> {
    let at = parcelwatch::model::Time(at_ms);
    let event = format!(
        r#"{{"parcel_id":"{parcel}","milestone":"{milestone}","event_time":"{at}","lane":"{}"}}"#,
        lane(parcel)
    );
    event.into_bytes()
}

/// Four lanes, by the last digit of the parcel.
fn lane(parcel: &str) -> &'static str {
    let digit = parcel.bytes().last().unwrap_or(b'0');
    ["CN-ES", "CN-FR", "CN-DE", "CN-US"][usize::from(digit % 4)]
}

/// Produces a milestone that happens now.
fn tell(kafka: &Kafka, topic: &str, parcel: &str, milestone: &str) {
    kafka.produce(topic, parcel, &event(parcel, milestone, now()), None, None);
}

fn items(daemon: &Daemon, path: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer =
            daemon.get(&format!("{path}{}limit=1000{cursor}", if path.contains('?') { "&" } else { "?" }));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let json = answer.json();
        all.extend(json["items"].as_array().unwrap().iter().cloned());
        match json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&{}", http::query("cursor", next)),
            None => return all,
        }
    }
}

/// Waits until so many exceptions are in this state.
fn wait_exceptions(daemon: &Daemon, state: &str, n: usize) -> Vec<Value> {
    poll(&format!("{n} exceptions {state}"), PATIENCE, || {
        let found = items(daemon, &format!("/api/v1/exceptions?state={state}"));
        if found.len() == n {
            Ok(found)
        } else {
            Err(format!("{} {found:#?}\n{}", found.len(), daemon.tail()))
        }
    })
}

/// Every change of every exception as text: `late P-1 opened 1 AT resolution`.
type Changes = BTreeSet<String>;

fn change(exception: &Value, change: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
    format!(
        "{} {} {:?} {} {} {} {}",
        text(&exception["rule"]),
        text(&exception["parcel_id"]),
        exception["episode"].as_str().unwrap_or(""),
        text(&change["change"]),
        change["stage"],
        text(&change["at"]),
        text(&change["resolution"])
    )
}

/// What the daemon decided so far.
fn decided(daemon: &Daemon) -> Changes {
    let exceptions = items(daemon, "/api/v1/exceptions?state=all");
    let changes =
        exceptions.iter().flat_map(|e| e["changes"].as_array().unwrap().iter().map(move |c| change(e, c)));
    changes.collect()
}

/// What a backtest of the topic's records, as the broker stamped them, owes by `until`.
fn owed(kafka: &Kafka, topic: &str, setup: &Setup, until: i64) -> Changes {
    let mut records = kafka.read_all(topic);
    records.sort_by_key(|r| r.timestamp.to_millis());
    let mut lines = String::new();
    for record in records {
        let mut value: Value = serde_json::from_slice(&record.payload.unwrap()).unwrap();
        let append = parcelwatch::model::Time(record.timestamp.to_millis().unwrap());
        value["received_time"] = append.to_string().into();
        lines += &format!("{value}\n");
    }
    let file: PathBuf = setup.path("records.ndjson");
    std::fs::write(&file, lines).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_parcelwatch"))
        .args(["backtest", "--format", "jsonl", "--until"])
        .arg(parcelwatch::model::Time(until).to_string())
        .arg("--rules")
        .arg(setup.path("rules"))
        .arg("--events")
        .arg(file)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).map(|c| change(&c, &c)).collect()
}

/// Waits until the daemon has decided just what is owed of everything that has fallen due by now.
fn wait_owed(daemon: &Daemon, kafka: &Kafka, topic: &str, setup: &Setup) -> Changes {
    let owed = owed(kafka, topic, setup, now() + 3_600_000);
    poll("what is owed to be decided", PATIENCE, || {
        let decided = decided(daemon);
        if decided == owed {
            return Ok(());
        }
        let (missing, invented) = (owed.difference(&decided), decided.difference(&owed));
        let (missing, invented): (Vec<_>, Vec<_>) = (missing.collect(), invented.collect());
        Err(format!("missing {missing:#?}, invented {invented:#?}\n{}", daemon.tail()))
    });
    owed
}

/// Waits until nothing is to be sent any more.
fn wait_sent(daemon: &Daemon) -> Vec<Value> {
    poll("the outbox to be empty", PATIENCE, || {
        let all = items(daemon, "/api/v1/notifications");
        let open: Vec<_> = all.iter().filter(|n| n["state"] == "pending").collect();
        if open.is_empty() { Ok(all.clone()) } else { Err(format!("{open:#?}\n{}", daemon.tail())) }
    })
}

/// A value of the configuration that is kept in a file.
fn secret_file(setup: &Setup, name: &str, value: &str) -> serde_yaml::Value {
    std::fs::write(setup.path(name), value).unwrap();
    let mut secret = serde_yaml::Mapping::new();
    secret.insert("file".into(), setup.path(name).display().to_string().into());
    secret.into()
}

fn record<'a>(key: &'a str, payload: &'a [u8], timestamp: Option<i64>) -> Record<'a> {
    Record { key, payload, partition: None, timestamp }
}
