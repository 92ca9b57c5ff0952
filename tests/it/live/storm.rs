//! `kill -9` twenty times in the middle of a storm, before a real mail server and webhooks: what each of those who are told saw is right.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::view::{Known, Seen, wrongs};
use super::{SECRET, event, items, mail_through, now, policies, setup, wait_owed, wait_sent};
use crate::parts::PATIENCE;
use crate::parts::daemon::{Daemon, Setup};
use crate::parts::exim::Exim;
use crate::parts::kafka::Kafka;
use crate::parts::webhook::Webhooks;
use crate::parts::{http, lock, poll};

const KILLS: u32 = 20;
const PARCELS: u64 = 2_000;

const RECEIVERS: &str = "  - {id: ops_mail, email: {to: [ops@example.test]}}
  - {id: boss, webhook: {url: BOSS, secret: {file: SECRET}}}";

/// A second step soon after the first, for what is acknowledged or has ended by then.
const POLICY: &str = "
policies:
  - id: desk
    group_by: [rule, lane]
    group_wait: 1s
    group_interval: 2s
    steps: [{after: 0m, notify: [erp, ops_mail]}, {after: 15s, notify: [boss]}]
default_policy: desk
";

/// A small generator of random numbers: the same seed, the same moments.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn seed() -> u64 {
    let given = std::env::var("PARCELWATCH_SEED").ok().and_then(|s| s.parse().ok());
    given.unwrap_or_else(|| getrandom::u64().unwrap() % 100_000)
}

/// Who acknowledged what, and when it was confirmed.
type Acknowledged = Mutex<BTreeMap<String, i64>>;

#[test]
fn killed_twenty_times_in_a_storm_everybody_sees_what_is_true() {
    let seed = seed();
    eprintln!("PARCELWATCH_SEED={seed}");
    let (kafka, hooks, exim) = (Kafka::shared(), Webhooks::start(), Exim::start());
    kafka.create_topic("storm", 3, true, &[]);
    let mut setup = setup(kafka, "storm", &hooks);
    mail_through(&mut setup, &exim);
    let secret = format!("{:?}", setup.path("erp.secret"));
    let receivers =
        RECEIVERS.replace("BOSS", &format!("{:?}", hooks.url("/boss"))).replace("SECRET", &secret);
    policies(&setup, &hooks, &receivers, POLICY);
    setup.set("snapshots.every", "1s");

    let (acknowledged, done) = (Acknowledged::default(), AtomicBool::new(false));
    let daemon = std::thread::scope(|s| {
        s.spawn(|| stream(kafka, seed, &done));
        lives(&setup, &hooks, &exim, Dice(seed), &acknowledged);
        done.store(true, Ordering::SeqCst);
        setup.start()
    });
    wait_owed(&daemon, kafka, "storm", &setup);
    let rows = quiet(&daemon);
    let strange: Vec<_> =
        rows.iter().filter(|r| !matches!(r["state"].as_str(), Some("delivered" | "withdrawn"))).collect();
    assert!(strange.is_empty(), "PARCELWATCH_SEED={seed}: {strange:#?}");

    let known = known(&daemon, &lock(&acknowledged));
    assert!(known.len() as u64 > PARCELS * 9 / 10, "only {} exceptions", known.len());
    assert!(known.values().filter(|k| k.resolved).count() > 300 && lock(&acknowledged).len() > 5);
    for (who, ids) in arrived(&hooks, &exim) {
        let mut told = Tell { daemon: &daemon, rows: &rows, read: BTreeMap::new() };
        let seen: Vec<Seen> = ids.iter().map(|id| told.of(id)).collect();
        let wrongs = wrongs(&seen, &known);
        assert!(
            wrongs.is_empty(),
            "PARCELWATCH_SEED={seed}: {who} saw {} wrong things:\n{:#?}",
            wrongs.len(),
            &wrongs[..wrongs.len().min(20)]
        );
        // Everybody who is told at once knows of everything that stands unacknowledged.
        if who != "boss" {
            let news: BTreeMap<&String, ()> =
                seen.iter().flat_map(|s| s.told.keys().map(|k| (k, ()))).collect();
            let missing = known
                .iter()
                .filter(|(id, k)| !k.resolved && k.acknowledged_ms.is_none() && !news.contains_key(id));
            assert_eq!(missing.count(), 0, "PARCELWATCH_SEED={seed}: {who} was not told of everything");
        }
    }
    let audit = audit(&daemon);
    assert!(audit.contains("each as it was written"), "{audit}");
}

fn audit(daemon: &Daemon) -> String {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_parcelwatch"))
        .args(["audit", "verify", "--url", &format!("http://{}", daemon.address())])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// All parcels are cleared at once and so late at once; then most are delivered, in no order, while the daemon dies again and again.
fn stream(kafka: &Kafka, seed: u64, done: &AtomicBool) {
    let cleared = now();
    let id = |n: u64| format!("P-{n}");
    for n in 0..PARCELS {
        kafka.produce("storm", &id(n), &event(&id(n), "import_customs_cleared", cleared), None, None);
    }
    let (mut dice, begun) = (Dice(seed ^ 0x5eed), Instant::now());
    for n in 0_u64.. {
        // One in five is never delivered; those of early lives before they are told, of later ones after.
        let parcel = dice.below(PARCELS);
        if parcel % 5 != 0 {
            kafka.produce("storm", &id(parcel), &event(&id(parcel), "delivered", now()), None, None);
        }
        poll("the next moment", PATIENCE, || match begun.elapsed().as_millis() >= u128::from(n) * 20 {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        });
        if done.load(Ordering::SeqCst) {
            return;
        }
    }
}

/// Starts it and kills it, each time after so many more messages, or a while in which none came.
fn lives(setup: &Setup, hooks: &Webhooks, exim: &Exim, mut dice: Dice, acknowledged: &Acknowledged) {
    for _ in 0..KILLS {
        let mut daemon = setup.start();
        let messages = || hooks.hooks().len() + exim.mails().len();
        let (before, more) = (messages(), usize::try_from(dice.below(40)).unwrap());
        let (begun, at_most) = (Instant::now(), Duration::from_millis(200 + dice.below(2_300)));
        poll("its time to come", PATIENCE, || {
            assert!(daemon.is_running(), "{}", daemon.tail());
            let over = begun.elapsed() >= at_most || (more > 0 && messages() >= before + more);
            if over { Ok(()) } else { Err("alive".into()) }
        });
        if dice.below(2) == 0 {
            acknowledge(&daemon, &mut dice, acknowledged);
        }
        daemon.kill9();
    }
}

/// Somebody acknowledges some of what stands, and one group. What is not confirmed before the kill may have been done all the same.
fn acknowledge(daemon: &Daemon, dice: &mut Dice, acknowledged: &Acknowledged) {
    let page = format!("/api/v1/exceptions?state=open&limit={}", 20 + dice.below(30));
    let Ok(listed) = http::request(daemon.address(), "GET", &page, &[], b"") else { return };
    if listed.status != 200 {
        return;
    }
    for e in listed.json()["items"].as_array().unwrap().iter().step_by(4) {
        let id = e["exception_id"].as_str().unwrap();
        let answer =
            daemon.post(&format!("/api/v1/exceptions/{id}/ack"), &json!({"by": "ann", "comment": "seen"}));
        if answer.status == 200 && answer.json()["state"] == "acknowledged" {
            lock(acknowledged).entry(id.to_owned()).or_insert_with(now);
        }
    }
}

/// Waits until the second step's time has passed for the last of them and nothing is to be sent.
fn quiet(daemon: &Daemon) -> Vec<Value> {
    poll("the escalation to come to rest", PATIENCE, || {
        let rows = wait_sent(daemon);
        let still = now() - rows.iter().map(decided_ms).max().unwrap_or(0);
        if still > 20_000 { Ok(rows) } else { Err(format!("the last message is {still} ms old")) }
    })
}

fn decided_ms(row: &Value) -> i64 {
    parcelwatch::model::Time::parse(row["created_at"].as_str().unwrap()).unwrap().0
}

fn known(daemon: &Daemon, acknowledged: &BTreeMap<String, i64>) -> BTreeMap<String, Known> {
    items(daemon, "/api/v1/exceptions?state=all")
        .iter()
        .map(|e| {
            let id = e["exception_id"].as_str().unwrap().to_owned();
            let acknowledged_ms = acknowledged.get(&id).copied();
            (id, Known { resolved: e["state"] == "resolved", acknowledged_ms })
        })
        .collect()
}

/// The ids of what arrived, in order, by receiver.
fn arrived(hooks: &Webhooks, exim: &Exim) -> BTreeMap<&'static str, Vec<String>> {
    let at = |path: &str| {
        let of = hooks.hooks_at(path);
        of.iter().for_each(|h| h.verify(SECRET).unwrap());
        of.iter().map(|h| h.id().to_owned()).collect::<Vec<_>>()
    };
    let mails = exim.mails();
    let ids =
        mails.iter().map(|m| m.message_id().trim_matches(['<', '>']).split('@').next().unwrap().to_owned());
    BTreeMap::from([("erp", at("/erp")), ("boss", at("/boss")), ("ops_mail", ids.collect())])
}

/// Reads from the daemon what a message told of.
struct Tell<'a> {
    daemon: &'a Daemon,
    rows: &'a [Value],
    read: BTreeMap<String, Seen>,
}

impl Tell<'_> {
    fn of(&mut self, id: &str) -> Seen {
        if let Some(seen) = self.read.get(id) {
            return seen.clone();
        }
        let row = self.rows.iter().find(|r| r["notification_id"] == id);
        let row = row.unwrap_or_else(|| panic!("{id} arrived, and the outbox does not know it"));
        let table = self.daemon.get(&format!("/api/v1/outbox/{id}/exceptions.csv"));
        assert_eq!(table.status, 200, "{}", table.text());
        let told = table.text().lines().skip(1).map(cells).map(|c| (c[0].clone(), c[6].clone())).collect();
        let seen =
            Seen { id: id.to_owned(), digest: row["reason"] == "digest", decided_ms: decided_ms(row), told };
        self.read.insert(id.to_owned(), seen.clone());
        seen
    }
}

/// The cells of a line, which may stand in quotes.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells.last_mut().unwrap().push(c),
        }
    }
    cells
}
