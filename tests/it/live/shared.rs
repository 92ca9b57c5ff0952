//! Several processes over one PostgreSQL: they share the partitions, one leads the escalation, and whichever of them stops, sleeps or
//! dies, everybody is told everything once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{POLICY, SECRET, items, policies, setup, tell, wait_owed, wait_sent};
use crate::parts::PATIENCE;
use crate::parts::daemon::{Daemon, Setup};
use crate::parts::kafka::Kafka;
use crate::parts::poll;
use crate::parts::postgres::Postgres;
use crate::parts::webhook::{Hook, Webhooks};

/// What a fail-over of the escalation may take.
const FAIL_OVER: Duration = Duration::from_secs(15);

/// Two processes of one group over one database and one place of snapshots.
fn two(kafka: &Kafka, topic: &str, hooks: &Webhooks, database: &str) -> [Setup; 2] {
    let mut two = [setup(kafka, topic, hooks), setup(kafka, topic, hooks)];
    let snapshots = two[0].path("snapshots");
    std::fs::create_dir(&snapshots).unwrap();
    for setup in &mut two {
        policies(setup, hooks, "", POLICY);
        setup.set("kafka.group_id", topic).set("cases.url", database);
        setup.set("snapshots.to", format!("file://{}", snapshots.display())).set("snapshots.every", "2s");
        // The least that a broker allows: how long a process is missed before its partitions go to another one.
        setup.kafka_property("session.timeout.ms", "6000");
    }
    two
}

fn leads(daemon: &Daemon) -> bool {
    daemon.metrics().sum("escalation_leader", &[]) == Some(1.0)
}

fn partitions(daemon: &Daemon) -> f64 {
    daemon.metrics().sum("partitions_assigned", &[]).unwrap_or(0.0)
}

/// Waits until the partitions are shared and everything has caught up.
fn wait_shared(daemons: [&Daemon; 2], of: f64) {
    poll("the partitions to be shared", PATIENCE, || {
        let have = daemons.map(partitions);
        let ready = daemons.iter().all(|d| d.get("/-/ready").status == 200);
        let shared = have.iter().all(|n| *n > 0.0) && have.iter().sum::<f64>() == of;
        if shared && ready { Ok(()) } else { Err(format!("{have:?}, ready: {ready}")) }
    });
}

/// How often each exception was told to be open, repeats of an id dropped.
fn openings(hooks: &[Hook]) -> BTreeMap<String, usize> {
    let mut told = BTreeMap::new();
    let mut bodies: BTreeMap<String, &[u8]> = BTreeMap::new();
    for hook in hooks {
        hook.verify(SECRET).unwrap();
        if let Some(before) = bodies.insert(hook.id().to_owned(), &hook.body) {
            assert_eq!(before, &hook.body[..], "a repeat says something else");
            continue;
        }
        for e in hook.json()["data"]["exceptions"].as_array().unwrap() {
            if e["change"] == "opened" {
                *told.entry(e["parcel_id"].as_str().unwrap().to_owned()).or_insert(0) += 1;
            }
        }
    }
    told
}

fn late(kafka: &Kafka, topic: &str, parcels: std::ops::Range<u32>) {
    for n in parcels {
        tell(kafka, topic, &format!("P-{n}"), "import_customs_cleared");
    }
}

fn wait_told(hooks: &Webhooks, n: usize, daemons: &[&Daemon]) {
    poll(&format!("{n} parcels to be told"), PATIENCE, || match openings(&hooks.hooks()).len() {
        told if told >= n => Ok(()),
        told => Err(format!("{told}; {}", daemons.iter().map(|d| d.tail()).collect::<Vec<_>>().join("\n"))),
    });
}

#[test]
fn a_leader_that_falls_asleep_is_replaced_and_when_it_wakes_writes_nothing() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("asleep", 4, true, &[]);
    let setups = two(kafka, "asleep", &hooks, &Postgres::shared().schema());
    let mut first = setups[0].start();
    first.wait_metric("escalation_leader", |n| n == 1.0);
    let mut second = setups[1].start();
    wait_shared([&first, &second], 4.0);
    assert!(!leads(&second));

    late(kafka, "asleep", 0..40);
    wait_told(&hooks, 40, &[&first, &second]);
    // In the midst of a storm, with messages under way and partitions of its own.
    late(kafka, "asleep", 40..240);
    hooks.wait_until("the storm", PATIENCE, |all| (openings(all).len() > 40).then_some(()));
    first.signal(libc::SIGSTOP);
    let asleep = Instant::now();
    second.wait_metric("escalation_leader", |n| n == 1.0);
    let took = asleep.elapsed();
    assert!(took <= FAIL_OVER, "fail-over took {took:?}");
    eprintln!("fail-over took {took:?}");
    second.wait_metric("partitions_assigned", |n| n == 4.0);
    late(kafka, "asleep", 240..260);
    wait_told(&hooks, 260, &[&second]);

    first.signal(libc::SIGCONT);
    poll("the sleeper to notice", PATIENCE, || match leads(&first) {
        false => Ok(()),
        true => Err(first.tail()),
    });
    assert!(first.is_running(), "{}", first.tail());
    wait_shared([&first, &second], 4.0);
    assert!(leads(&second));
    late(kafka, "asleep", 260..280);
    wait_told(&hooks, 280, &[&first, &second]);
    wait_owed(&second, kafka, "asleep", &setups[1]);
    let rows = wait_sent(&second);
    assert!(rows.iter().all(|r| r["state"] == "delivered"), "{rows:#?}");
    let told = openings(&hooks.hooks());
    assert!(told.len() == 280 && told.values().all(|n| *n == 1), "{told:#?}");

    // Who stops in peace leaves the lead at once.
    let stopped = Instant::now();
    assert_eq!(second.terminate(), Some(0), "{}", second.tail());
    first.wait_metric("escalation_leader", |n| n == 1.0);
    eprintln!("a lead that is left was taken after {:?}", stopped.elapsed());
    first.wait_metric("partitions_assigned", |n| n == 4.0);
    late(kafka, "asleep", 280..300);
    wait_told(&hooks, 300, &[&first]);
    let listed = items(&first, "/api/v1/exceptions?state=all");
    assert_eq!(listed.len(), 300);
}

/// The server goes down as in a power cut and comes back: both processes wait, and go on.
#[test]
fn a_database_that_goes_away_loses_nothing() {
    let (kafka, hooks, postgres) = (Kafka::shared(), Webhooks::start(), Postgres::start());
    kafka.create_topic("away", 4, true, &[]);
    let setups = two(kafka, "away", &hooks, &postgres.schema());
    let daemons = [setups[0].start(), setups[1].start()];
    wait_shared([&daemons[0], &daemons[1]], 4.0);
    late(kafka, "away", 0..40);
    wait_told(&hooks, 40, &[&daemons[0], &daemons[1]]);

    postgres.kill();
    late(kafka, "away", 40..80);
    for daemon in &daemons {
        daemon.wait_get("/-/ready", "wait for the database", |answer| (answer.status != 200).then_some(()));
        assert_eq!(daemon.get("/-/healthy").status, 200, "waiting is healthy\n{}", daemon.tail());
    }
    postgres.again();
    wait_shared([&daemons[0], &daemons[1]], 4.0);
    wait_told(&hooks, 80, &[&daemons[0], &daemons[1]]);
    let leader = poll("one to lead", PATIENCE, || match daemons.iter().position(leads) {
        Some(n) => Ok(n),
        None => Err(daemons[0].tail()),
    });
    assert!(!leads(&daemons[1 - leader]), "both lead");
    wait_owed(&daemons[0], kafka, "away", &setups[0]);
    let rows: Vec<Value> = wait_sent(&daemons[1]);
    assert!(rows.iter().all(|r| r["state"] == "delivered"), "{rows:#?}");
    let told = openings(&hooks.hooks());
    assert!(told.len() == 80 && told.values().all(|n| *n == 1), "{told:#?}");
}
