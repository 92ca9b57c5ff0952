//! What keeps quiet: calendars, silences, causes. And what does not: a resolve.

use parcelwatch::cases::{NewSilence, Reach, Who};
use parcelwatch::model::{Change, Severity};
use parcelwatch::rules::Policies;
use parcelwatch::rules::calendar::Calendar;
use parcelwatch::rules::condition::Condition;
use parcelwatch::rules::policies::{Inhibit, Mute};
use serde_json::{Value, json};

use crate::world::{HOUR, MINUTE, START, World, ended, lines, opened, policies, raised, step};

/// 07:00 UTC of a Wednesday is 09:00 in Madrid.
const NINE: i64 = START;

fn nights(on: &Value) -> Policies {
    let days = [true, true, true, true, true, false, false];
    let hours = vec![(8 * HOUR, 18 * HOUR)];
    // The Thursday is a holiday.
    let holiday = (NINE + 24 * HOUR).div_euclid(24 * HOUR);
    let calendar =
        Calendar::new("es", "Europe/Madrid", days, hours, vec![holiday], Vec::new()).expect("a zone");
    let on = Condition::from_json(on).expect("a condition");
    let mut policies = policies(vec![step(0, &["erp"], None), step(4 * HOUR, &["pager"], None)]);
    policies.mute.push(Mute { id: "nights".into(), calendar, outside: true, on });
    policies
}

async fn reasons(world: &World, parcel: &str) -> Vec<String> {
    let id = opened(parcel, 1).exception_id();
    let seen = world.cases.exception(&id, world.now()).await.expect("read").expect("there");
    let unsent = seen["unsent"].as_array().cloned().unwrap_or_default();
    unsent.iter().map(|u| u["reason"].as_str().unwrap_or("").to_owned()).collect()
}

#[tokio::test]
async fn a_mute_ends_with_what_is_still_open_and_nothing_else() {
    let mut world = World::new(nights(&json!({"severity": "warning"}))).await;
    // By day it is told at once; 18:00 in Madrid is nine hours on.
    world.commit(0, &[opened("P0", 1)]).await;
    world.run_for(HOUR).await;
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P0"]);
    world.run_to(NINE + 10 * HOUR).await;
    world.sent("pager").await;
    world.commit(0, &[opened("P1", 2), opened("P2", 3)]).await;
    // A raise that is no longer only a warning passes.
    world.commit(0, &[opened("P3", 4)]).await;
    world.run_for(HOUR).await;
    world.commit(0, &[raised("P3", 5, 2, Severity::High)]).await;
    world.run_for(HOUR).await;
    assert_eq!(lines(&world.sent("erp").await), ["raised exceptions.raised 1 P3"]);
    assert_eq!(reasons(&world, "P1").await, ["muted"]);
    // What ends in the night is told to nobody, whoever was told before hears of it at once.
    world.commit(0, &[ended("P2", 6), ended("P0", 7)]).await;
    let end = world.now();
    world.run_for(HOUR).await;
    let sent = world.sent("erp").await;
    assert_eq!(lines(&sent), ["resolved exceptions.resolved null P0"]);
    assert!(sent[0].at - end <= 5 * MINUTE, "a mute holds no resolve up");
    assert_eq!(reasons(&world, "P2").await, ["muted", "resolved_before_send"]);
    assert_eq!(lines(&world.sent("pager").await), ["resolved exceptions.resolved null P0"]);
    world.restart().await;
    // Over the holiday and the night after it: Friday, 08:00.
    world.run_to(NINE + 47 * HOUR - 1).await;
    assert!(world.sent("erp").await.is_empty());
    world.run_to(NINE + 48 * HOUR).await;
    let sent = world.sent("erp").await;
    assert_eq!(lines(&sent), ["mute_ended exceptions.opened 1 P1"]);
    assert!((0..=5 * MINUTE).contains(&(sent[0].at - (NINE + 47 * HOUR))), "{}", sent[0].at);
    let pager = world.sent("pager").await;
    assert_eq!(lines(&pager), ["step exceptions.raised 2 P3", "mute_ended exceptions.opened 2 P1"]);
    assert_eq!(reasons(&world, "P1").await, ["muted"], "said once, whatever looked at it");
}

#[tokio::test]
async fn an_acknowledgement_in_the_night_is_heeded_in_the_morning() {
    let mut world = World::new(nights(&json!({"rule": "late"}))).await;
    world.run_to(NINE + 10 * HOUR).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(HOUR).await;
    world.cases.acknowledge(&opened("P1", 1).exception_id(), "ann", "", world.now()).await.expect("acts");
    world.run_for(72 * HOUR).await;
    assert!(world.sent("erp").await.is_empty());
    assert_eq!(reasons(&world, "P1").await, ["muted", "acknowledged"]);
}

#[tokio::test]
async fn steps_of_a_policy_with_a_calendar_count_in_it() {
    let mut policies = nights(&json!({"rule": "another"}));
    policies.policies[0].calendar = Some(policies.mute[0].calendar.clone());
    let mut world = World::new(policies).await;
    // Nine working hours are left of the Wednesday; Thursday is a holiday.
    world.run_to(NINE + 7 * HOUR).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_to(NINE + 47 * HOUR + 2 * HOUR - 1).await;
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P1"], "at once is at once");
    assert!(world.sent("pager").await.is_empty());
    world.run_for(MINUTE).await;
    assert_eq!(lines(&world.sent("pager").await), ["step exceptions.opened 2 P1"]);
}

fn bob() -> Who<'static> {
    Who { by: "bob", ..Who::default() }
}

fn two_steps() -> Policies {
    policies(vec![step(0, &["erp"], None), step(4 * HOUR, &["pager"], None)])
}

fn silence(world: &World, matchers: &Value, hours: i64) -> NewSilence {
    let on = Condition::from_json(matchers).expect("a condition");
    let (starts_ms, ends_ms) = (world.now(), world.now() + hours * HOUR);
    NewSilence {
        matchers: matchers.clone(),
        on,
        starts_ms,
        ends_ms,
        by: "ann".into(),
        comment: "works".into(),
        via: String::new(),
    }
}

#[tokio::test]
async fn a_silence_ends_with_what_is_still_open_and_lets_resolves_pass() {
    let mut world = World::new(two_steps()).await;
    world.commit(0, &[opened("P0", 1), opened("P7", 2)]).await;
    world.run_for(HOUR).await;
    world.sent("erp").await;
    // P7 has another carrier.
    let new = silence(&world, &json!({"rule": "late", "domestic_carrier": "correos"}), 10);
    assert_eq!(world.cases.reach(&new.on).await.expect("counts"), Reach { matching: 1, standing: 2 });
    let made = world.cases.silence(&new, world.now()).await.expect("makes");
    assert_eq!((&made["id"], &made["state"]), (&json!("1"), &json!("active")));
    world.commit(0, &[opened("P1", 3), opened("P2", 4), opened("P17", 5)]).await;
    world.run_for(3 * HOUR).await;
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P17"]);
    assert_eq!(
        lines(&world.sent("pager").await),
        ["step exceptions.opened 2 P7"],
        "P0's second step is silenced"
    );
    world.commit(0, &[ended("P0", 6), ended("P2", 7)]).await;
    world.run_for(HOUR).await;
    assert_eq!(lines(&world.sent("erp").await), ["resolved exceptions.resolved null P0"]);
    assert_eq!(reasons(&world, "P0").await, ["silenced"]);
    world.restart().await;
    world.run_to(NINE + 11 * HOUR - 1).await;
    assert!(world.sent("erp").await.is_empty());
    world.run_for(HOUR).await;
    let sent = world.sent("erp").await;
    assert_eq!(lines(&sent), ["mute_ended exceptions.opened 1 P1"]);
    assert!((0..=5 * MINUTE).contains(&(sent[0].at - (NINE + 11 * HOUR))), "{}", sent[0].at);
    assert!(world.cases.silences(false, world.now()).await.expect("reads").is_empty());
    assert_eq!(world.cases.silences(true, world.now()).await.expect("reads")[0]["state"], "ended");
}

#[tokio::test]
async fn a_silence_ended_early_ends_at_once() {
    let mut world = World::new(two_steps()).await;
    let new = silence(&world, &json!({"severity": ["warning", "info"]}), 100);
    let made = world.cases.silence(&new, world.now()).await.expect("makes");
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(HOUR).await;
    assert!(world.sent("erp").await.is_empty());
    let number = made["id"].as_str().and_then(|n| n.parse().ok()).expect("a number");
    let ended =
        world.cases.end_silence(number, &bob(), world.now()).await.expect("ends").expect("it is there");
    assert_eq!((&ended["state"], &ended["ended_by"]), (&json!("ended"), &json!("bob")));
    world.run_for(MINUTE).await;
    assert_eq!(lines(&world.sent("erp").await), ["mute_ended exceptions.opened 1 P1"]);
    assert!(world.cases.end_silence(99, &bob(), world.now()).await.expect("asks").is_none());
}

/// As [`opened`], by another rule of the same parcel.
fn by(rule: &str, mut change: Change) -> Change {
    change.rule = rule.into();
    change
}

fn causes(equal: &[&str]) -> Policies {
    let mut policies = two_steps();
    let condition = |json: Value| Condition::from_json(&json).expect("a condition");
    policies.inhibit.push(Inhibit {
        source: condition(json!({"rule": "silent"})),
        target: condition(json!({"rule": ["late", "silent"]})),
        equal: equal.iter().map(|n| (*n).to_owned()).collect(),
    });
    policies
}

#[tokio::test]
async fn a_cause_is_told_in_place_of_what_it_explains() {
    for equal in [&["parcel_id"][..], &["lane", "domestic_carrier"], &["order_id", "broker_reference"]] {
        let mut world = World::new(causes(equal)).await;
        // P7 has another parcel and another carrier than the cause.
        let cause = by("silent", opened("P1", 2));
        world.commit(0, &[opened("P1", 1), opened("P7", 3)]).await;
        world.commit(1, std::slice::from_ref(&cause)).await;
        world.run_for(HOUR).await;
        let erp = world.sent("erp").await;
        let told: Vec<_> =
            erp.iter().map(|m| m.body["data"]["group"]["rule"].as_str().unwrap_or("")).collect();
        let apart = equal[0] != "order_id";
        let mut expected = if apart { vec!["late", "silent"] } else { vec!["silent"] };
        let mut told = told;
        told.sort_unstable();
        expected.sort_unstable();
        assert_eq!(told, expected, "{equal:?}");
        assert_eq!(reasons(&world, "P1").await, ["inhibited"]);
        // A cause that gets worse, is acknowledged, outlives a restart, explains as before.
        world.commit(1, &[by("silent", raised("P1", 4, 2, Severity::High))]).await;
        world.run_for(HOUR).await;
        world.cases.acknowledge(&cause.exception_id(), "ann", "", world.now()).await.expect("acts");
        world.restart().await;
        world.run_for(6 * HOUR).await;
        let all: Vec<_> = world.sent("erp").await.iter().flat_map(|m| m.exceptions().to_vec()).collect();
        assert!(all.iter().all(|e| e["parcel_id"] == "P7" || e["rule"] == "silent"), "{all:?}");
        world.sent("pager").await;
        // It ends: what it explained and still stands is told now, both steps of it.
        world.commit(1, &[by("silent", ended("P1", 5))]).await;
        world.run_for(HOUR).await;
        let pager = world.sent("pager").await;
        let late: Vec<_> = pager
            .iter()
            .filter(|m| m.exceptions().iter().any(|e| e["rule"] == "late" && e["parcel_id"] == "P1"))
            .collect();
        assert_eq!(late.len(), 1, "{equal:?} {:?}", lines(&pager));
        assert!(late[0].line().starts_with("new exceptions.opened 2"), "{}", late[0].line());
    }
}

#[tokio::test]
async fn what_is_a_cause_and_explained_alike_silences_nobody_of_its_kind() {
    let mut world = World::new(causes(&["lane"])).await;
    world.commit(0, &[by("silent", opened("P1", 1)), by("silent", opened("P2", 2))]).await;
    world.run_for(HOUR).await;
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P1,P2"]);
    // An operator's end of the causes counts as well.
    world.commit(0, &[opened("P3", 3)]).await;
    world.run_for(HOUR).await;
    assert!(world.sent("erp").await.is_empty());
    let end = |parcel: &str| by("silent", opened(parcel, 1)).exception_id();
    world.cases.resolve(&end("P1"), "ann", "", world.now()).await.expect("acts");
    world.run_for(HOUR).await;
    assert_eq!(
        lines(&world.sent("erp").await),
        ["resolved exceptions.resolved null P1"],
        "P2 explains it as well"
    );
    world.cases.resolve(&end("P2"), "ann", "", world.now()).await.expect("acts");
    world.run_for(HOUR).await;
    assert_eq!(
        lines(&world.sent("erp").await),
        ["resolved exceptions.resolved null P2", "new exceptions.opened 1 P3"]
    );
}

#[tokio::test]
async fn an_explained_exception_that_was_told_before_hears_its_end() {
    let mut world = World::new(causes(&["parcel_id"])).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(HOUR).await;
    world.commit(1, &[by("silent", opened("P1", 2))]).await;
    world.run_for(5 * HOUR).await;
    let mut sent = world.sent("erp").await;
    world.commit(0, &[ended("P1", 3)]).await;
    world.run_for(HOUR).await;
    sent.extend(world.sent("erp").await);
    let late: Vec<_> = sent
        .iter()
        .filter(|m| m.body["data"]["group"]["rule"] == "late")
        .map(crate::world::Message::line)
        .collect();
    assert_eq!(late, ["new exceptions.opened 1 P1", "resolved exceptions.resolved null P1"]);
    assert_eq!(reasons(&world, "P1").await, ["inhibited"]);
}
