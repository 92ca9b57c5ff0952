//! The database as a PostgreSQL: what is tested of the file holds here too, and of several processes that share it each writes what is its.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use parcelwatch::cases::{Cases, CasesError, Options, OutboxRow, Outcome, Place, Server};
use parcelwatch::rules::policies::Policies;

use crate::parts::postgres::Postgres;
use crate::world::{self, DATABASE, MINUTE, START, opened, options, policies, rules, step};

/// A process of its own, whose worlds are in a PostgreSQL: the variable is for all of its tests.
#[test]
fn what_holds_of_the_file_holds_of_postgresql() {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["cases::", "escalation::", "--skip", "cases::file::"])
        .env(DATABASE, "postgres")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    let failures = said.find("failures:").map_or(&*said, |at| &said[at..]);
    assert!(out.status.success(), "{failures}");
    let passed = said.matches(" ... ok").count();
    assert!(passed > 50, "only {passed} tests ran:\n{said}");
}

/// Two processes, as far as the database can tell.
async fn two() -> (Cases, Cases) {
    let place = Place::Server(Server::new(&Postgres::shared().schema(), None).unwrap());
    let options = Options { shared: true, ..options() };
    let open = async || Cases::connect(&place, &options).await.unwrap();
    (open().await, open().await)
}

fn plain() -> Policies {
    policies(vec![step(0, &["erp"], None)])
}

async fn commit(cases: &Cases, parcel: &str, offset: i64) -> Result<Vec<bool>, CasesError> {
    let (rules, policies) = (rules(), plain());
    let changes = [opened(parcel, offset)];
    world::commit(cases, (&rules, &policies), 0, &changes, START).await.map(|c| c.new)
}

fn deposed<T: std::fmt::Debug>(outcome: Result<T, CasesError>) {
    assert!(matches!(outcome, Err(CasesError::Deposed { .. })), "{outcome:?}");
}

fn message() -> OutboxRow {
    OutboxRow {
        id: "m1".into(),
        receiver: "erp".into(),
        integration: "webhook".into(),
        recipient: String::new(),
        kind: "digest".into(),
        subject: "s".into(),
        body: "{}".into(),
        thread: "t".into(),
        attempts: 0,
        created_ms: START,
        due_ms: START,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_leads_and_who_was_deposed_writes_nothing() {
    let (a, b) = two().await;
    deposed(a.escalation().await.map(|_| ()));
    assert_eq!(a.lead().await.unwrap(), None);
    assert!(a.take_lead("a", None).await.unwrap());
    assert!(!b.take_lead("b", None).await.unwrap(), "it was taken meanwhile");
    let seen = b.lead().await.unwrap().unwrap();
    assert_eq!((seen.holder.as_str(), seen.fence), ("a", 1));
    // It lives: who saw it before its beat does not get the lead.
    assert!(a.beat().await.unwrap());
    assert!(!b.take_lead("b", Some(&seen)).await.unwrap());
    assert!(a.leads() && !b.leads());

    a.outbox_put(&[message()]).await.unwrap();
    assert_eq!(a.outbox_due("erp", START, 10, MINUTE).await.unwrap().len(), 1, "handed out");
    let seen = b.lead().await.unwrap();
    assert!(b.take_lead("b", seen.as_ref()).await.unwrap());
    assert!(a.leads(), "it has not noticed");
    deposed(a.outbox_done("m1", START, Outcome::Delivered).await);
    assert!(!a.leads(), "now it has");
    assert!(!a.beat().await.unwrap());
    deposed(a.outbox_due("erp", START, 10, MINUTE).await);
    deposed(a.escalation().await.map(|_| ()));
    deposed(a.say(&message(), false).await);
    deposed(a.purge(i64::MAX, 10).await);
    // What the one before had handed out comes at once, under its own id, and not as one that nobody saw.
    let again = b.outbox_due("erp", START + 1, 10, MINUTE).await.unwrap();
    assert_eq!(again.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(), ["m1"]);
    b.outbox_done("m1", START + 2, Outcome::Delivered).await.unwrap();

    // Left in peace, it is anybody's at once.
    b.leave_lead().await.unwrap();
    let vacant = a.lead().await.unwrap().unwrap();
    assert_eq!(vacant.holder, "");
    assert!(a.take_lead("a", Some(&vacant)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lost_a_partition_commits_nothing_of_it() {
    let (a, b) = two().await;
    deposed(commit(&a, "P1", 1).await);
    a.claim(0, "a").await.unwrap();
    assert_eq!(commit(&a, "P1", 1).await.unwrap(), [true]);
    a.tell_caught_up(&BTreeMap::from([(0, START)])).await.unwrap();
    assert_eq!(b.caught_up().await.unwrap(), BTreeMap::from([(0, Some(START))]));

    b.claim(0, "b").await.unwrap();
    assert_eq!(b.caught_up().await.unwrap(), BTreeMap::from([(0, None)]), "its backlog begins anew");
    deposed(commit(&a, "P2", 2).await);
    deposed(a.forget_position(0).await);
    a.tell_caught_up(&BTreeMap::from([(0, START)])).await.unwrap();
    assert_eq!(b.caught_up().await.unwrap(), BTreeMap::from([(0, None)]), "nor does it say anything of it");
    assert_eq!(b.recorded(0).await.unwrap().map(|r| r.position), Some(2));
    // The same change decided again is none; words that only the other process had written are there.
    assert_eq!(commit(&b, "P1", 1).await.unwrap(), [false]);
    let id = opened("P1", 1).exception_id();
    let seen = b.exception(&id, START).await.unwrap().unwrap();
    assert_eq!(seen, a.exception(&id, START).await.unwrap().unwrap());
    assert!(!seen["owner"].as_str().unwrap().is_empty(), "{seen}");
    assert_eq!(
        b.exceptions(&parcelwatch::cases::Filter::default(), 10, None, START).await.unwrap().items.len(),
        1
    );
}

/// Stopped in the middle of a transaction it would hold the others up: the server ends it, and nothing of it is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_sleeps_within_a_transaction_holds_nobody_up() {
    let (a, b) = two().await;
    assert!(a.take_lead("a", None).await.unwrap());
    let asleep = a.escalation().await.unwrap();
    let seen = b.lead().await.unwrap();
    let taken = tokio::time::timeout(Duration::from_secs(20), b.take_lead("b", seen.as_ref())).await;
    assert!(taken.expect("in time").unwrap());
    let woken = asleep.commit().await;
    assert!(woken.is_err(), "{woken:?}");
    deposed(a.escalation().await.map(|_| ()));
    b.escalation().await.unwrap().commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_turns_us_away_is_said_plainly() {
    let place = |url: &str| Place::Server(Server::new(url, Some("hunter2")).unwrap());
    let none = place("postgres://parcelwatch@127.0.0.1:1/parcelwatch");
    let error = Cases::connect(&none, &options()).await.err().expect("nobody is there");
    let url = Postgres::shared().schema().replace("/postgres?", "/missing?");
    let missing = Cases::connect(&place(&url), &options()).await.err().expect("no such database");
    for error in [error, missing] {
        assert!(matches!(error, CasesError::Server { .. }) && error.is_transient(), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("cases.url") && !text.contains("hunter2"), "{text}");
    }
    assert!(Server::new("postgres://u:hunter2@h/d", None).is_err_and(|e| e.contains("cases.password")));
    assert!(!format!("{none:?}").contains("hunter2"));
}
