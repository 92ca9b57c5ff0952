//! One incident of a feed is told in place of its parcels: what the feed says of itself, and what its silence says.

use std::collections::BTreeSet;

use parcelwatch::escalation::Why;
use parcelwatch::escalation::feeds::{Health, Heard};
use parcelwatch::model::Change;
use parcelwatch::rules::Policies;
use parcelwatch::rules::condition::Condition;
use parcelwatch::rules::policies::FeedWatch;
use serde_json::{Value, json};

use crate::world::{HOUR, MINUTE, START, World, ended, lines, opened, policies, step};

fn watched() -> Policies {
    let mut policies = policies(vec![step(0, &["erp"], None)]);
    policies.feeds = Some(FeedWatch {
        notify: vec!["ops_mail".into()],
        silent_after: 2 * HOUR,
        target: Condition::default(),
    });
    policies
}

/// A change of a parcel that last spoke through this feed.
fn through(source: &str, mut change: Change) -> Change {
    let mut evidence: Value = serde_json::from_str(change.evidence.as_deref().unwrap()).unwrap();
    evidence["facts"]["source.system"] = source.into();
    change.evidence = Some(evidence.to_string().into());
    change
}

fn said(source: &str, lane: &str, at: i64, health: Health) -> Heard {
    Heard { source: source.into(), lane: lane.into(), health: Some((at, health)), ..Heard::default() }
}

/// It spoke in each hour from one to another, both counted from the start.
fn spoke(source: &str, from: i64, to: i64) -> Heard {
    let hours: BTreeSet<i64> = (from..=to).map(|h| START / HOUR + h).collect();
    let ms = |h: i64| START + h * HOUR;
    Heard {
        source: source.into(),
        lane: "CN-ES".into(),
        spoke: Some((ms(from), ms(to))),
        hours,
        ..Heard::default()
    }
}

/// What a receiver got of feeds, in short.
async fn told(world: &World) -> Vec<String> {
    let mut all: Vec<String> = world
        .sent("ops_mail")
        .await
        .iter()
        .filter(|m| m.recipient == "a@example.org")
        .map(|m| {
            let data = &m.body["data"];
            assert_eq!(m.kind, m.body["type"]);
            crate::templates::knows(&m.body);
            format!(
                "{} {} {} {}",
                m.kind, data["feed"]["source"], data["feed"]["lane"], data["feed"]["incident"]
            )
            .replace('"', "")
        })
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn a_feed_that_says_it_failed_is_told_once_and_its_parcels_when_it_is_over() {
    let mut world = World::new(watched()).await;
    world.hear(0, &[said("17track", "", START, Health::Failing)]).await;
    let changes = [
        through("17track", opened("P1", 1)),
        through("17track", opened("P2", 2)),
        through("correos", opened("P3", 3)),
        through("17track", opened("P4", 4)),
    ];
    world.commit(0, &changes).await;
    world.run_for(10 * MINUTE).await;
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P3"]);
    assert_eq!(told(&world).await, ["feed.incident 17track null failing"]);
    let unsent = world.cases.take_suppressed();
    assert_eq!(unsent.get(&Why::Inhibited), Some(&3), "each of its three: {unsent:?}");
    // Nothing more while it stands, also over a restart; what ends meanwhile is never told.
    world.restart().await;
    world.commit(0, &[through("17track", ended("P4", 5))]).await;
    world.run_for(5 * HOUR).await;
    assert!(world.sent("erp").await.is_empty());
    assert!(told(&world).await.is_empty());
    let shown = world.cases.feeds().await.unwrap();
    assert_eq!(shown[0]["incident"]["what"], "failing");
    assert_eq!(world.cases.feed_incidents().values().sum::<i64>(), 1);
    // It is over: both are told.
    world.hear(1, &[said("17track", "", world.now(), Health::Success)]).await;
    world.run_for(10 * MINUTE).await;
    assert_eq!(told(&world).await, ["feed.resolved 17track null null"]);
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P1,P2"]);
    assert_eq!(world.cases.feed_incidents().values().sum::<i64>(), 0);
}

#[tokio::test]
async fn a_resolve_passes_the_incident_of_a_feed() {
    let mut world = World::new(watched()).await;
    world.commit(0, &[through("17track", opened("P1", 1))]).await;
    world.run_for(10 * MINUTE).await;
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P1"]);
    world.hear(0, &[said("17track", "", world.now(), Health::Stopped)]).await;
    world.commit(0, &[through("17track", ended("P1", 2))]).await;
    world.run_for(10 * MINUTE).await;
    assert_eq!(lines(&world.sent("erp").await), ["resolved exceptions.resolved null P1"]);
}

#[tokio::test]
async fn a_feed_of_one_lane_explains_that_lane_alone() {
    let mut world = World::new(watched()).await;
    world.hear(0, &[said("17track", "CN-US", START, Health::Failing)]).await;
    world.commit(0, &[through("17track", opened("P1", 1))]).await;
    world.run_for(10 * MINUTE).await;
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P1"], "its lane is CN-ES");
    assert_eq!(told(&world).await, ["feed.incident 17track CN-US failing"]);
}

#[tokio::test]
async fn a_feed_that_falls_silent_is_one_incident_though_it_has_lanes() {
    let mut world = World::new(watched()).await;
    world.hear(0, &[spoke("17track", -48, 0), spoke("correos", -48, 0)]).await;
    for hour in 1..6 {
        world.run_to(START + hour * HOUR).await;
        world.hear(0, &[spoke("correos", hour, hour)]).await;
        world.run_for(MINUTE).await;
        let silent: i64 = world.cases.feed_incidents().values().sum();
        assert_eq!(silent, if hour < 3 { 0 } else { 2 }, "after {hour} hours: the source and its lane");
    }
    assert_eq!(told(&world).await, ["feed.incident 17track null silent"]);
    world.commit(0, &[through("17track", opened("P1", 1))]).await;
    world.run_for(10 * MINUTE).await;
    assert!(world.sent("erp").await.is_empty());
    world.hear(1, &[spoke("17track", 5, 5)]).await;
    world.run_for(10 * MINUTE).await;
    assert_eq!(told(&world).await, ["feed.resolved 17track null null"]);
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P1"]);
}

#[tokio::test]
async fn a_partition_that_lags_makes_no_feed_silent() {
    let mut world = World::new(watched()).await;
    // The feed may well speak in partition 1, which is not read any further.
    world.hear(0, &[spoke("17track", -48, 0), spoke("correos", -48, 0)]).await;
    world.hear(1, &[]).await;
    for hour in 1..10 {
        world.run_to(START + hour * HOUR).await;
        world.hear(0, &[spoke("correos", hour, hour)]).await;
        world.run_for(MINUTE).await;
        assert!(world.cases.feed_incidents().is_empty());
    }
    world.hear(1, &[spoke("17track", 1, 9)]).await;
    world.run_for(MINUTE).await;
    assert!(world.cases.feed_incidents().is_empty(), "it spoke all the time");
}

#[tokio::test]
async fn without_feeds_in_the_policies_nothing_is_held_back_and_what_they_say_is_shown() {
    let mut world = World::new(Policies { feeds: None, ..watched() }).await;
    world.hear(0, &[said("17track", "", START, Health::Failing)]).await;
    world.commit(0, &[through("17track", opened("P1", 1))]).await;
    world.run_for(10 * MINUTE).await;
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P1"]);
    assert!(world.sent("ops_mail").await.is_empty());
    let shown = world.cases.feeds().await.unwrap();
    assert_eq!((&shown[0]["health"], &shown[0]["incident"]), (&json!("failing"), &Value::Null));
}

#[tokio::test]
async fn what_is_no_target_is_told_through_the_incident_of_its_feed() {
    let mut policies = watched();
    let target = Condition::from_json(&json!({"severity": ["info"]})).unwrap();
    policies.feeds = policies.feeds.map(|f| FeedWatch { target, ..f });
    let mut world = World::new(policies).await;
    world.hear(0, &[said("17track", "", START, Health::Failing)]).await;
    world.commit(0, &[through("17track", opened("P1", 1))]).await;
    world.run_for(10 * MINUTE).await;
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P1"]);
}
