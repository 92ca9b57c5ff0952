//! What a receiver could not be told is told to others.

use std::sync::Arc;

use parcelwatch::cases::Outcome;
use parcelwatch::metrics::Metrics;
use parcelwatch::rules::Policies;
use parcelwatch::runtime::auditor::{Auditor, Memory};
use parcelwatch::runtime::clock::WallClock;
use serde_json::json;
use tokio::sync::watch;

use crate::world::{HOUR, MINUTE, Message, START, World, ended, lines, opened, policies, step};

fn two_steps() -> Policies {
    let mut policies = policies(vec![step(0, &["erp"], None), step(4 * HOUR, &["pager"], None)]);
    policies.auditor.fallback = Some("correos_desk".into());
    policies
}

/// Everything to a receiver is given up.
async fn bury(world: &World, receiver: &str) -> usize {
    let rows = world.cases.outbox_due(receiver, world.now(), 100, MINUTE).await.expect("rows");
    for row in &rows {
        let dead = Outcome::Dead { reason: "permanent".into(), detail: "HTTP 404".into() };
        world.cases.outbox_done(&row.id, world.now(), dead).await.expect("done");
    }
    rows.len()
}

/// A round of the auditor, as after a start.
async fn audit(world: &World) {
    let (_sender, policies) = watch::channel(Arc::clone(&world.policies));
    let mut auditor = Auditor {
        cases: world.cases.clone(),
        policies,
        clock: Arc::clone(&world.clock) as Arc<dyn WallClock>,
        backlog: world.escalator.backlog.clone(),
        metrics: Arc::new(Metrics::new().expect("metrics")),
        dry_run: false,
    };
    auditor.round(&mut Memory::starting(START)).await.expect("looks");
}

fn summary(message: &Message) -> &str {
    message.body["data"]["summary"][0].as_str().unwrap_or("")
}

#[tokio::test]
async fn others_are_told_once_and_hear_the_end_too() {
    let mut world = World::new(two_steps()).await;
    world.commit(0, &[opened("P1", 1), opened("P2", 2), opened("P3", 3)]).await;
    world.run_for(MINUTE).await;
    assert_eq!(bury(&world, "erp").await, 1);
    world.cases.acknowledge(&opened("P3", 3).exception_id(), "ann", "", world.now()).await.expect("acts");
    audit(&world).await;
    world.restart().await;
    audit(&world).await;
    let told = world.sent("pager").await;
    assert_eq!(lines(&told), ["digest exceptions.digest null P1,P2"], "somebody is on P3 already");
    assert_eq!(
        summary(&told[0]),
        "Receiver erp could not be reached: 1 messages were given up, the latest because of permanent (HTTP 404)."
    );
    assert_eq!(told[0].body["data"]["counts"], json!({"open": 2, "acknowledged": 0, "resolved": 0}));
    assert!(world.sent("correos_desk").await.is_empty(), "the fallback is for what nobody else is there for");
    world.commit(0, &[ended("P1", 4)]).await;
    world.run_for(HOUR).await;
    assert_eq!(bury(&world, "erp").await, 1, "its end could not be told either");
    audit(&world).await;
    assert_eq!(lines(&world.sent("pager").await), ["resolved exceptions.resolved null P1"]);
    assert!(world.sent("correos_desk").await.is_empty(), "nothing of it stands");
}

#[tokio::test]
async fn many_dead_letters_are_one_summary_in_a_quarter_of_an_hour() {
    let mut world = World::new(two_steps()).await;
    // A quarter of an hour begins with START.
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(MINUTE).await;
    world.commit(0, &[opened("P2", 2)]).await;
    world.run_for(5 * MINUTE).await;
    assert_eq!((bury(&world, "erp").await, bury(&world, "erp").await), (1, 1));
    audit(&world).await;
    assert_eq!(lines(&world.sent("pager").await), ["digest exceptions.digest null P1,P2"]);
    for i in 3..6 {
        world.commit(0, &[opened(&format!("P{i}"), i)]).await;
        world.run_for(2 * MINUTE).await;
        bury(&world, "erp").await;
        audit(&world).await;
    }
    assert!(world.sent("pager").await.is_empty(), "it has been told of");
    world.run_for(10 * MINUTE).await;
    bury(&world, "erp").await;
    audit(&world).await;
    assert_eq!(lines(&world.sent("pager").await), ["digest exceptions.digest null P3,P4,P5"]);
}

#[tokio::test]
async fn where_nobody_is_left_the_fallback_is_told_and_nobody_in_a_circle() {
    let mut policies = two_steps();
    policies.policies[0].repeat_every = Some(HOUR);
    let mut world = World::new(policies).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(MINUTE).await;
    bury(&world, "erp").await;
    audit(&world).await;
    // The summary cannot be delivered: nobody but the fallback is left, and after it nobody.
    assert_eq!(bury(&world, "pager").await, 1);
    audit(&world).await;
    assert_eq!(bury(&world, "correos_desk").await, 1);
    audit(&world).await;
    world.run_for(30 * MINUTE).await;
    for receiver in ["erp", "pager", "correos_desk"] {
        bury(&world, receiver).await;
        audit(&world).await;
        assert!(world.cases.unreachable().await.expect("read").is_empty());
    }
    // Reminders that die as well are no news.
    world.run_for(2 * HOUR).await;
    let pending = world.cases.outbox_stats().await.expect("stats").rows["pending"];
    for _ in 0..2 {
        for receiver in ["erp", "pager", "correos_desk"] {
            bury(&world, receiver).await;
            audit(&world).await;
        }
    }
    assert!(pending > 0);
    assert_eq!(world.cases.outbox_stats().await.expect("stats").rows["pending"], 0);
}
