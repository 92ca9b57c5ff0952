//! Very many become few: the daily digest, a storm, and what flaps.

use std::collections::BTreeSet;

use parcelwatch::model::Severity;
use parcelwatch::rules::Policies;
use parcelwatch::rules::calendar::Calendar;
use parcelwatch::rules::policies::Rate;
use serde_json::{Value, json};

use crate::world::{
    HOUR, MINUTE, Message, SECOND, START, World, change, ended, lines, opened, policies, raised, step,
};
use parcelwatch::model::{Change, ChangeKind};

fn one_step(receiver: &str) -> Policies {
    policies(vec![step(0, &[receiver], None)])
}

fn with(receiver: &str, edit: impl FnOnce(&mut Policies)) -> Policies {
    let mut policies = one_step(receiver);
    edit(&mut policies);
    policies
}

/// `n` openings, every seventh of them more serious.
fn many(n: i64, lane: &str) -> Vec<Change> {
    let severity = |i: i64| if i % 7 == 0 { Severity::High } else { Severity::Warning };
    (0..n)
        .map(|i| {
            let mut c = change(ChangeKind::Opened, &format!("{lane}-{i:05}"), i, 1, severity(i));
            let evidence = c.evidence.as_deref().expect("it has some").replace("CN-ES", lane);
            c.evidence = Some(evidence.into());
            c
        })
        .collect()
}

fn digest(message: &Message) -> &Value {
    assert_eq!(message.body["type"], "exceptions.digest", "{}", message.line());
    assert_eq!((&message.body["data"]["reason"], message.kind.as_str()), (&json!("digest"), "digest"));
    crate::templates::knows(&message.body);
    &message.body["data"]["digest"]
}

/// What a message told of, read in pages.
async fn everything(world: &World, id: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let page =
            world.cases.outbox_exceptions(id, 999, cursor.as_deref()).await.expect("read").expect("there");
        assert!(page.items.len() <= 999);
        all.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return all;
        }
    }
}

#[tokio::test]
async fn a_storm_is_one_digest_a_group_and_so_is_its_end() {
    let mut world = World::new(one_step("ops_mail")).await;
    let lanes = ["CN-ES", "CN-FR", "TR-DE"];
    for lane in lanes {
        world.commit(0, &many(2_500, lane)).await;
    }
    world.run_for(MINUTE).await;
    let sent = world.sent("ops_mail").await;
    assert_eq!(
        sent.len(),
        6,
        "three lanes, two recipients: {:?}",
        sent.iter().map(|m| m.kind.clone()).collect::<Vec<_>>()
    );
    for m in &sent {
        let d = digest(m);
        assert_eq!((&d["cause"], &d["total"], &d["opened"]), (&json!("storm"), &json!(2_500), &json!(2_500)));
        let lane = m.body["data"]["group"]["lane"].as_str().expect("one lane");
        assert_eq!(d["by_lane"], json!([{"lane": lane, "count": 2_500}]));
        assert_eq!(d["by_rule"], json!([{"rule": "late", "count": 2_500}]));
        assert_eq!(
            d["by_carrier"],
            json!([{"carrier": "correos", "count": 2_250}, {"carrier": "seur", "count": 250}])
        );
        assert_eq!((m.exceptions().len(), &m.body["data"]["truncated"]), (20, &json!(2_480)));
        assert!(m.exceptions().iter().all(|e| e["severity"] == "high"), "the worst by name");
        assert!(m.body.to_string().len() < 40_000);
    }
    // Every one of them is on record, with the message that told it, and why it had none of its own.
    let seen = many(2_500, "CN-ES")[2_321].exception_id();
    let told = world.cases.notifications(Some(&seen), 10, None).await.expect("a page").items;
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|n| n["change"] == "opened" && n["state"] == "delivered"));
    let exception = world.cases.exception(&seen, world.now()).await.expect("read").expect("there");
    assert_eq!(exception["unsent"][0]["reason"], "rate_limited");
    // All that a digest counts can be read, page by page, where it says.
    let french = sent.iter().find(|m| m.body["data"]["group"]["lane"] == "CN-FR").expect("one of this lane");
    let url = format!("https://pw.example/api/v1/outbox/{}/exceptions.csv", french.id);
    assert_eq!(digest(french)["csv_url"], url);
    let all = everything(&world, &french.id).await;
    let parcels: BTreeSet<&str> = all.iter().filter_map(|e| e["parcel_id"].as_str()).collect();
    assert_eq!((all.len(), parcels.len()), (2_500, 2_500));
    let expected = json!({
        "exception_id": many(8, "CN-FR")[7].exception_id(), "rule": "late", "title": "Title of late",
        "parcel_id": "CN-FR-00007", "severity": "high", "state": "open", "told": "opened", "owner": "carrier",
        "acknowledged_by": "", "resolution": "", "due": "2026-10-13T07:00:00Z", "opened_at": "2026-10-14T07:00:07Z",
        "lane": "CN-FR", "origin": null, "destination": "ES", "domestic_carrier": "seur", "carrier_code": null,
        "tracking_number": "TN1", "order_id": "O-1",
    });
    assert_eq!(all[7], expected);
    assert!(parcels.iter().all(|p| p.starts_with("CN-FR-")));
    assert_eq!(world.cases.outbox_exceptions("nobody", 10, None).await.expect("read"), None);
    // It ends: whoever was told hears of each end, in one message again.
    world.run_for(HOUR).await;
    for lane in lanes {
        let ends: Vec<_> = many(2_500, lane).iter().map(|c| ended(&c.parcel_id, c.offset + 9_000)).collect();
        world.commit(0, &ends).await;
    }
    world.run_for(10 * MINUTE).await;
    let sent = world.sent("ops_mail").await;
    assert_eq!(sent.len(), 6);
    let ends: u64 = sent.iter().filter_map(|m| digest(m)["resolved"].as_u64()).sum();
    assert_eq!(ends, 15_000);
    assert!(sent.iter().all(|m| m.body["data"]["group_state"] == "resolved"));
    // What an earlier message told of is shown as it stands now.
    let now = everything(&world, &french.id).await;
    assert_eq!((now.len(), &now[7]["told"], &now[7]["state"]), (2_500, &json!("opened"), &json!("resolved")));
}

#[tokio::test]
async fn many_groups_beyond_the_rate_are_one_digest_when_it_allows() {
    let rate = Rate { messages: 5, per_ms: 10 * MINUTE };
    let policies = with("erp", |p| {
        p.policies[0].group_by = vec!["parcel_id".into()];
        p.policies[0].group_interval = 0;
        p.rates.insert("erp".into(), rate);
    });
    let mut world = World::new(policies).await;
    world.commit(0, &many(40, "CN-ES")).await;
    world.run_for(MINUTE).await;
    let first = world.sent("erp").await;
    assert_eq!(first.len(), 5, "as many as it takes");
    world.restart().await;
    // Two end before the digest is sent: it says so, and is their only word.
    let told: BTreeSet<String> = first
        .iter()
        .flat_map(|m| m.exceptions())
        .filter_map(|e| e["parcel_id"].as_str())
        .map(str::to_owned)
        .collect();
    let untold: Vec<_> = many(40, "CN-ES").into_iter().filter(|c| !told.contains(&*c.parcel_id)).collect();
    assert_eq!(untold.len(), 35);
    world.commit(0, &[ended(&untold[0].parcel_id, 500), ended(&untold[1].parcel_id, 501)]).await;
    world.run_to(START + 2 * MINUTE + 30 * SECOND - 1).await;
    assert!(world.sent("erp").await.is_empty());
    world.run_for(MINUTE).await;
    let sent = world.sent("erp").await;
    assert_eq!(sent.len(), 1);
    let d = digest(&sent[0]);
    assert_eq!((&d["total"], &d["opened"], &d["resolved"]), (&json!(37), &json!(35), &json!(2)));
    assert_eq!(sent[0].at, START + 2 * MINUTE + 30 * SECOND, "one message in two minutes");
    // Time fills it up again.
    world.run_for(HOUR).await;
    world.commit(0, &[ended(&untold[2].parcel_id, 600)]).await;
    world.run_for(MINUTE).await;
    let sent = world.sent("erp").await;
    assert_eq!(lines(&sent), [format!("resolved exceptions.resolved null {}", untold[2].parcel_id)]);
}

#[tokio::test]
async fn a_daily_digest_is_all_that_a_policy_says_once_a_day() {
    let policies = with("ops_mail", |p| {
        p.policies[0].calendar =
            Calendar::new("es", "Europe/Madrid", [true; 7], vec![(0, 24 * HOUR)], Vec::new(), Vec::new());
        p.policies[0].digest_at = Some(10 * HOUR);
    });
    // It is nine in Madrid.
    let mut world = World::new(policies).await;
    world.commit(0, &many(3, "CN-ES")).await;
    world.commit(1, &many(150, "CN-FR")).await;
    world.commit(1, &[opened("GONE", 900)]).await;
    world.run_for(30 * MINUTE).await;
    world.commit(1, &[ended("GONE", 901)]).await;
    world.restart().await;
    world.run_to(START + HOUR - 1).await;
    assert!(world.sent("ops_mail").await.is_empty());
    world.run_to(START + HOUR).await;
    let sent = world.sent("ops_mail").await;
    assert_eq!(sent.len(), 2, "one for each recipient");
    let d = digest(&sent[0]);
    assert_eq!((&d["cause"], &d["total"]), (&json!("daily"), &json!(153)), "what ended before is none of it");
    assert_eq!(d["by_lane"], json!([{"lane": "CN-FR", "count": 150}, {"lane": "CN-ES", "count": 3}]));
    assert_eq!(sent[0].body["data"]["summary"][0], "153 opened");
    // The next day: ends, and what got worse.
    world
        .commit(0, &[ended("CN-ES-00001", 2_000), raised("CN-ES-00002", 2_001, 2, Severity::Critical)])
        .await;
    world.run_to(START + 25 * HOUR - 1).await;
    assert!(world.sent("ops_mail").await.is_empty());
    world.run_for(MINUTE).await;
    let sent = world.sent("ops_mail").await;
    assert_eq!(sent.len(), 2);
    let d = digest(&sent[0]);
    assert_eq!((&d["total"], &d["raised"], &d["resolved"]), (&json!(2), &json!(1), &json!(1)));
    assert_eq!(sent[0].exceptions()[0]["parcel_id"], "CN-ES-00002", "what stands before what ended");
    world.run_for(48 * HOUR).await;
    assert!(world.sent("ops_mail").await.is_empty(), "a day without news has no digest");
}

#[tokio::test]
async fn what_flaps_is_told_once_and_its_end_after_a_while() {
    let policies = with("erp", |p| {
        p.policies[0].hold_resolve = 20 * MINUTE;
        p.policies[0].reopen_within = 2 * HOUR;
        p.policies[0].group_by = vec!["severity".into()];
    });
    let mut world = World::new(policies).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(10 * MINUTE).await;
    let first = world.sent("erp").await;
    for i in 0..5 {
        world.commit(0, &[ended("P1", 10 + 2 * i)]).await;
        world.run_for(10 * MINUTE).await;
        if i == 2 {
            world.restart().await;
        }
        world.commit(0, &[opened("P1", 11 + 2 * i)]).await;
        world.run_for(10 * MINUTE).await;
    }
    assert!(world.sent("erp").await.is_empty(), "neither ends nor openings");
    world.commit(0, &[ended("P1", 100)]).await;
    let end = world.now();
    world.run_for(HOUR).await;
    let sent = world.sent("erp").await;
    assert_eq!(lines(&sent), ["resolved exceptions.resolved null P1"]);
    assert_eq!(sent[0].at, end + 20 * MINUTE);
    // Soon after, and worse: in the same group as before, told as new.
    world.commit(0, &[change(ChangeKind::Opened, "P1", 200, 1, Severity::High)]).await;
    world.run_for(HOUR).await;
    let again = world.sent("erp").await;
    assert_eq!(lines(&again), ["new exceptions.opened 1 P1"]);
    let group = |m: &Message| m.body["data"]["group_id"].clone();
    assert_eq!(group(&again[0]), group(&first[0]));
    // What an operator ends does not flap.
    world.cases.resolve(&opened("P1", 1).exception_id(), "ann", "", world.now()).await.expect("acts");
    world.run_for(MINUTE).await;
    assert_eq!(lines(&world.sent("erp").await), ["resolved exceptions.resolved null P1"]);
    // Much later it is a group of its own severity.
    world.commit(0, &[ended("P1", 300)]).await;
    world.run_for(5 * HOUR).await;
    world.commit(0, &[change(ChangeKind::Opened, "P1", 400, 1, Severity::High)]).await;
    world.run_for(HOUR).await;
    let later = world.sent("erp").await;
    assert_eq!(lines(&later), ["new exceptions.opened 1 P1"]);
    assert_ne!(group(&later[0]), group(&first[0]));
}

#[tokio::test]
async fn a_flap_that_gets_worse_begins_the_ladder_anew() {
    let policies = with("erp", |p| p.policies[0].hold_resolve = 20 * MINUTE);
    let mut world = World::new(policies).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(10 * MINUTE).await;
    world.sent("erp").await;
    world.commit(0, &[ended("P1", 2)]).await;
    world.run_for(10 * MINUTE).await;
    world.commit(0, &[change(ChangeKind::Opened, "P1", 3, 2, Severity::Critical)]).await;
    world.run_for(10 * MINUTE).await;
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P1"]);
    world.commit(0, &[ended("P1", 4)]).await;
    world.run_for(HOUR).await;
    assert_eq!(lines(&world.sent("erp").await), ["resolved exceptions.resolved null P1"]);
}
