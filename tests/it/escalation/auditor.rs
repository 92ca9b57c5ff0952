//! What is overdue is noticed and said, and a sign of life is given only while nothing is.

use std::sync::Arc;

use parcelwatch::metrics::Metrics;
use parcelwatch::rules::Policies;
use parcelwatch::runtime::auditor::{Auditor, Memory};
use parcelwatch::runtime::clock::WallClock;
use tokio::sync::watch;

use crate::world::{HOUR, MINUTE, SECOND, START, World, ended, opened, policies, sql, step};

fn watched() -> Policies {
    let mut policies = policies(vec![step(0, &["erp"], None), step(4 * HOUR, &["erp"], None)]);
    policies.auditor.fallback = Some("ops_mail".into());
    policies.auditor.dead_mans_switch = Some("pager".into());
    policies.auditor.every = 5 * MINUTE;
    policies
}

/// The auditor of a world; nothing else shares its memory.
fn auditor(world: &World) -> (Auditor, Memory, watch::Sender<Arc<Policies>>) {
    let (sender, policies) = watch::channel(Arc::clone(&world.policies));
    let auditor = Auditor {
        cases: world.cases.clone(),
        policies,
        clock: Arc::clone(&world.clock) as Arc<dyn WallClock>,
        backlog: world.escalator.backlog.clone(),
        metrics: Arc::new(Metrics::new().expect("metrics")),
        dry_run: false,
    };
    (auditor, Memory::starting(START), sender)
}

#[tokio::test]
async fn a_clean_audit_gives_a_sign_of_life_now_and_then() {
    let mut world = World::new(watched()).await;
    let (mut auditor, mut memory, _policies) = auditor(&world);
    world.commit(0, &[opened("P1", 1), opened("P2", 2)]).await;
    let mut signs = 0;
    for _ in 0..40 {
        world.run_for(30 * SECOND).await;
        assert_eq!(auditor.round(&mut memory).await.expect("looks").overdue, 0);
        signs += world.sent("pager").await.len();
    }
    assert_eq!(signs, 5, "each five minutes, and at the first look");
    assert!(world.sent("ops_mail").await.is_empty());
    // One that nobody takes is not followed by more.
    for _ in 0..100 {
        world.run_for(30 * SECOND).await;
        auditor.round(&mut memory).await.expect("looks");
    }
    assert_eq!(world.sent("pager").await.len(), 1);
}

#[tokio::test]
async fn an_escalator_that_stands_still_is_noticed_within_a_minute_or_two() {
    let mut world = World::new(watched()).await;
    let (mut auditor, mut memory, _policies) = auditor(&world);
    world.run_for(MINUTE).await;
    world.commit(0, &[opened("P1", 1), opened("P2", 2)]).await;
    // From here on it does nothing.
    let mut noticed = None;
    for half in 0..10 {
        world.clock.set(world.now() + 30 * SECOND);
        let found = auditor.round(&mut memory).await.expect("looks");
        if found.overdue > 0 && noticed.is_none() {
            noticed = Some(half);
            assert_eq!(found.overdue, 2);
            assert_eq!(auditor.metrics.escalation_steps_overdue.get(), 2);
        }
    }
    assert_eq!(noticed, Some(2), "after a minute and a half");
    let mails = world.sent("ops_mail").await;
    assert_eq!(mails.len(), 2, "one message, once, to each recipient");
    let summary = mails[0].body["data"]["summary"][0].as_str().expect("a line");
    assert!(summary.contains("2 exceptions wait"), "{summary}");
    assert_eq!(world.sent("pager").await.len(), 1, "no sign of life since it was noticed");
    // It is said again later, and not when it is over.
    world.clock.set(world.now() + 20 * MINUTE);
    auditor.round(&mut memory).await.expect("looks");
    assert_eq!(world.sent("ops_mail").await.len(), 2);
    world.run_for(MINUTE).await;
    assert_eq!(auditor.round(&mut memory).await.expect("looks").overdue, 0);
    assert_eq!(auditor.metrics.escalation_steps_overdue.get(), 0);
    assert_eq!(world.sent("pager").await.len(), 1, "and lives again");
}

#[tokio::test]
async fn a_timer_that_was_lost_is_found_told_and_made_good() {
    let mut world = World::new(watched()).await;
    let (mut auditor, mut memory, _policies) = auditor(&world);
    world.commit(0, &[opened("P1", 1), opened("P2", 2), opened("P3", 3)]).await;
    world.run_for(HOUR).await;
    world.sent("erp").await;
    sql(&world, "UPDATE exceptions SET next_ms = 9223372036854775807 WHERE parcel_id = 'P2'").await;
    world.run_for(4 * HOUR).await;
    assert_eq!(world.sent("erp").await[0].exceptions().len(), 2, "the second step of the others");
    let found = auditor.round(&mut memory).await.expect("looks");
    assert_eq!(found.overdue, 1);
    assert_eq!(found.some[0], (opened("P2", 2).exception_id(), START + 4 * HOUR));
    world.run_for(10 * MINUTE).await;
    let sent = world.sent("erp").await;
    assert_eq!(sent[0].line(), "step exceptions.opened 2 P2");
    assert_eq!(auditor.round(&mut memory).await.expect("looks").overdue, 0);
    // An acknowledgement without a timeout, an end that was told: nothing waits.
    world.cases.acknowledge(&opened("P1", 1).exception_id(), "ann", "", world.now()).await.expect("acts");
    world.commit(0, &[ended("P3", 9)]).await;
    world.run_for(24 * HOUR).await;
    assert_eq!(auditor.round(&mut memory).await.expect("looks").overdue, 0);
}

#[tokio::test]
async fn a_backlog_is_not_overdue() {
    let mut world = World::new(watched()).await;
    let (mut auditor, mut memory, _policies) = auditor(&world);
    world.escalator.backlog.begins(0);
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(10 * MINUTE).await;
    assert_eq!(auditor.round(&mut memory).await.expect("looks").overdue, 0);
}
