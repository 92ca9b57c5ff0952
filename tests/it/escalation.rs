//! Who is told what: scenarios with a clock that stands, then random ones against a naive account.

use parcelwatch::cases::Outcome;
use parcelwatch::model::Severity;
use serde_json::json;

use crate::world::{
    HOUR, MINUTE, Message, SECOND, START, World, change, commit, ended, lines, opened, policies, raised, step,
};

mod auditor;
mod desk;
mod digest;
mod feeds;
mod fence;
mod letters;
mod outbox;
mod quiet;
mod random;

fn one_step() -> parcelwatch::rules::Policies {
    policies(vec![step(0, &["erp"], None)])
}

#[tokio::test]
async fn the_first_news_of_a_group_waits_and_the_rest_keeps_its_distance() {
    let mut world = World::new(one_step()).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(10 * SECOND).await;
    world.commit(1, &[opened("P2", 1)]).await;
    world.run_for(19 * SECOND).await;
    assert!(world.sent("erp").await.is_empty(), "group_wait has not passed");
    world.run_for(SECOND).await;
    let first = world.sent("erp").await;
    assert_eq!(lines(&first), ["new exceptions.opened 1 P1,P2"]);
    assert_eq!(first[0].at, START + 30 * SECOND);
    // Further news: group_interval after that message, together.
    world.commit(0, &[opened("P3", 2)]).await;
    world.run_for(MINUTE).await;
    world.commit(0, &[ended("P1", 3)]).await;
    world.run_for(HOUR).await;
    let more = world.sent("erp").await;
    assert_eq!(lines(&more), ["resolved exceptions.resolved null P1", "new exceptions.opened 1 P3"]);
    assert!(more.iter().all(|m| m.at == START + 30 * SECOND + 5 * MINUTE));
    // Long after, nothing holds a resolve up.
    world.commit(0, &[ended("P2", 4)]).await;
    let now = world.now();
    world.run_for(SECOND).await;
    assert_eq!(world.sent("erp").await[0].at, now);
}

#[tokio::test]
async fn a_body_has_the_fields_that_receivers_rely_on() {
    let mut world = World::new(one_step()).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(MINUTE).await;
    let sent = world.sent("erp").await;
    let body = &sent[0].body;
    let id = opened("P1", 1).exception_id();
    let group_id = body["data"]["group_id"].clone();
    assert_eq!(group_id.as_str().map(str::len), Some(32));
    let exception = json!({"exception_id": id, "change": "opened", "rule": "late", "rule_hash": "hash of late",
        "title": "Title of late", "runbook": "https://runbook.example/1", "labels": {"team": "es"}, "parcel_id": "P1",
        "episode": "", "stage": 1, "severity": "warning", "state": "open", "owner": "carrier",
        "anchor": "2026-10-12T07:00:00Z", "due": "2026-10-13T07:00:00Z", "at": "2026-10-14T07:00:01Z",
        "overdue_seconds": 86430, "resolution": null, "acknowledged_by": null, "tracking_number": "TN1",
        "carrier_code": null, "order_id": "O-1", "expected": ["domestic_scan"],
        "last": {"milestone": "import_customs_cleared", "time": "2026-10-12T07:00:00Z", "facility": null},
        "facts": {"lane": "CN-ES", "destination": "ES", "order_id": "O-1"},
        "url": format!("https://pw.example/api/v1/exceptions/{id}")});
    let data = json!({"notification_id": sent[0].id, "receiver": "erp", "policy": "handoff", "step": 1, "reason": "new",
        "group_id": group_id, "group": {"rule": "late", "lane": "CN-ES"}, "group_state": "open",
        "counts": {"open": 1, "acknowledged": 0, "resolved": 0}, "truncated": 0, "exceptions": [exception]});
    assert_eq!(
        *body,
        json!({"type": "exceptions.opened", "timestamp": "2026-10-14T07:00:30Z", "data": data})
    );
    world.commit(0, &[ended("P1", 5)]).await;
    world.run_for(HOUR).await;
    let body = &world.sent("erp").await[0].body;
    let data = &body["data"];
    assert_eq!(
        (&body["type"], &data["step"], &data["reason"]),
        (&json!("exceptions.resolved"), &json!(null), &json!("resolved"))
    );
    assert_eq!(data["group_state"], "resolved");
    assert_eq!(data["counts"], json!({"open": 0, "acknowledged": 0, "resolved": 1}));
    let exception = &data["exceptions"][0];
    assert_eq!(
        (&exception["resolution"], &exception["state"]),
        (&json!("satisfied_late"), &json!("resolved"))
    );
    assert_eq!(exception["overdue_seconds"], json!(86405), "until it ended");
    let told = world.cases.notifications(Some(&id), 10, None).await.expect("a page");
    let told: Vec<_> = told
        .items
        .iter()
        .map(|n| format!("{} {} {} {}", n["change"], n["reason"], n["step"], n["state"]))
        .collect();
    assert_eq!(told, [r#""resolved" "resolved" null "delivered""#, r#""opened" "new" 1 "delivered""#]);
}

#[tokio::test]
async fn no_webhook_is_over_20_kb_and_the_rest_goes_into_further_ones() {
    let mut world = World::new(one_step()).await;
    let changes: Vec<_> = (0..2_250).map(|i| opened(&format!("P{i:04}"), i)).collect();
    world.commit(0, &changes).await;
    world.run_for(31 * SECOND).await;
    let sent = world.sent("erp").await;
    // Standard Webhooks asks for less than 20 kB, which a hundred exceptions are not.
    let sizes: Vec<usize> = sent.iter().map(|m| m.body.to_string().len()).collect();
    assert!(sizes.iter().all(|size| *size < 20_000), "{sizes:?}");
    assert!(sent.iter().all(|m| (1..=100).contains(&m.exceptions().len())));
    assert!(sent.len() < 150, "{} messages", sent.len());
    assert!(sent.iter().all(|m| m.at == START + 30 * SECOND && m.body["data"]["truncated"] == 0));
    let listed: usize = sent.iter().map(|m| m.exceptions().len()).sum();
    assert_eq!(listed, 2_250);
    // Mails hold a hundred.
    let mut world = World::new(policies(vec![step(0, &["ops_mail"], None)])).await;
    world.commit(0, &changes[..450]).await;
    world.run_for(31 * SECOND).await;
    let sent = world.sent("ops_mail").await;
    assert_eq!(sent.iter().filter(|m| m.recipient == "a@example.org").count(), 5);
    assert!(sent.iter().all(|m| m.exceptions().len() <= 100));
}

#[tokio::test]
async fn what_ends_before_its_flush_is_told_to_nobody() {
    let mut world = World::new(one_step()).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(SECOND).await;
    world.commit(0, &[ended("P1", 2)]).await;
    world.commit(0, &[opened("P2", 3), ended("P2", 4)]).await;
    world.run_for(HOUR).await;
    assert!(world.sent("erp").await.is_empty());
    for parcel in ["P1", "P2"] {
        let id = opened(parcel, 1).exception_id();
        let seen = world.cases.exception(&id, START).await.expect("read").expect("there");
        assert_eq!(seen["unsent"][0]["reason"], "resolved_before_send", "{parcel}");
    }
}

#[tokio::test]
async fn the_ladder_climbs_until_somebody_acknowledges() {
    let steps = vec![
        step(0, &["erp"], None),
        step(HOUR, &["pager"], Some(Severity::High)),
        step(2 * HOUR, &["owner"], None),
    ];
    let mut world = World::new(policies(steps)).await;
    let high =
        |parcel, offset| change(parcelwatch::model::ChangeKind::Opened, parcel, offset, 2, Severity::High);
    world.commit(0, &[opened("P1", 1), high("P2", 2), high("P7", 3)]).await;
    world.run_for(HOUR).await;
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P2,P7,P1"], "the worst first");
    assert_eq!(lines(&world.sent("pager").await), ["step exceptions.opened 2 P2,P7"], "P1 is not bad enough");
    world.cases.acknowledge(&high("P2", 2).exception_id(), "ann", "", world.now()).await.expect("acts");
    world.run_for(2 * HOUR).await;
    let desk = world.sent("correos_desk").await;
    assert_eq!(lines(&desk), ["step exceptions.opened 3 P1"], "P2 is in hand, P7 has another carrier");
    assert_eq!(desk[0].at, START + 2 * HOUR);
    assert_eq!(desk[0].body["data"]["counts"], json!({"open": 2, "acknowledged": 1, "resolved": 0}));
    let mail = world.sent("ops_mail").await;
    assert_eq!(lines(&mail), ["step exceptions.opened 3 P7"; 2]);
    let mut recipients: Vec<_> = mail.iter().map(|m| m.recipient.as_str()).collect();
    recipients.sort_unstable();
    assert_eq!(recipients, ["a@example.org", "b@example.org"], "one recipient, one row");
    assert_ne!(mail[0].id, mail[1].id);
    // Everyone who was told hears the end, nobody else.
    world.commit(0, &[ended("P1", 10), ended("P2", 11), ended("P7", 12)]).await;
    world.run_for(HOUR).await;
    assert_eq!(lines(&world.sent("erp").await), ["resolved exceptions.resolved null P2,P7,P1"]);
    assert_eq!(lines(&world.sent("pager").await), ["resolved exceptions.resolved null P2,P7"]);
    assert_eq!(lines(&world.sent("correos_desk").await), ["resolved exceptions.resolved null P1"]);
    assert_eq!(lines(&world.sent("ops_mail").await), ["resolved exceptions.resolved null P7"; 2]);
}

#[tokio::test]
async fn a_raise_is_told_and_a_worse_one_begins_the_ladder_anew() {
    let steps = vec![step(0, &["erp"], None), step(HOUR, &["pager"], None)];
    let mut world = World::new(policies(steps)).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(90 * MINUTE).await;
    assert_eq!((world.sent("erp").await.len(), world.sent("pager").await.len()), (1, 1));
    // Equal: everyone told so far.
    world.commit(0, &[raised("P1", 2, 2, Severity::Warning)]).await;
    world.run_for(MINUTE).await;
    assert_eq!(lines(&world.sent("erp").await), ["raised exceptions.raised 2 P1"]);
    assert_eq!(lines(&world.sent("pager").await), ["raised exceptions.raised 2 P1"]);
    // Worse, though acknowledged: from the first step.
    world.cases.acknowledge(&opened("P1", 1).exception_id(), "ann", "", world.now()).await.expect("acts");
    world.run_for(HOUR).await;
    world.commit(0, &[raised("P1", 3, 3, Severity::Critical)]).await;
    let worse = world.now();
    world.run_for(MINUTE).await;
    assert_eq!(lines(&world.sent("erp").await), ["raised exceptions.raised 1 P1"]);
    assert!(world.sent("pager").await.is_empty());
    world.run_for(2 * HOUR).await;
    let pager = world.sent("pager").await;
    assert_eq!(lines(&pager), ["step exceptions.raised 2 P1"]);
    assert_eq!(pager[0].at, worse + HOUR);
    // Equal again, in hand: nobody.
    world.cases.acknowledge(&opened("P1", 1).exception_id(), "ann", "", world.now()).await.expect("acts");
    world.commit(0, &[raised("P1", 4, 4, Severity::Critical)]).await;
    world.run_for(24 * HOUR).await;
    assert!(world.sent("erp").await.is_empty());
}

#[tokio::test]
async fn reminders_and_acknowledgements_that_run_out() {
    let mut policies = policies(vec![step(0, &["erp"], None), step(6 * HOUR, &["pager"], None)]);
    policies.policies[0].repeat_every = Some(4 * HOUR);
    policies.policies[0].ack_timeout = Some(8 * HOUR);
    let mut world = World::new(policies).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(9 * HOUR).await;
    let erp = world.sent("erp").await;
    assert_eq!(
        lines(&erp),
        ["new exceptions.opened 1 P1", "reminder exceptions.reminder 1 P1"],
        "the second step counts as telling"
    );
    assert_eq!(erp[1].at, erp[0].at + 4 * HOUR);
    assert_eq!(lines(&world.sent("pager").await), ["step exceptions.opened 2 P1"]);
    world.cases.acknowledge(&opened("P1", 1).exception_id(), "ann", "", world.now()).await.expect("acts");
    let acknowledged = world.now();
    world.run_for(8 * HOUR - SECOND).await;
    assert!(world.sent("erp").await.is_empty() && world.sent("pager").await.is_empty());
    world.restart().await;
    world.run_for(MINUTE).await;
    let erp = world.sent("erp").await;
    assert_eq!(lines(&erp), ["ack_expired exceptions.reminder 1 P1"]);
    assert_eq!(erp[0].at, acknowledged + 8 * HOUR);
    assert_eq!(erp[0].exceptions()[0]["acknowledged_by"], json!(null));
    world.run_for(7 * HOUR).await;
    assert_eq!(
        lines(&world.sent("pager").await),
        ["reminder exceptions.reminder 1 P1", "step exceptions.reminder 2 P1"]
    );
    let ids: std::collections::BTreeSet<_> = world
        .cases
        .notifications(None, 100, None)
        .await
        .expect("a page")
        .items
        .iter()
        .map(|n| n["notification_id"].to_string())
        .collect();
    assert_eq!(ids.len(), 7, "each reminder is a message of its own");
    let seen =
        world.cases.exception(&opened("P1", 1).exception_id(), START).await.expect("read").expect("there");
    assert_eq!(seen["actions"][1]["action"], "ack_expired");
}

#[tokio::test]
async fn who_hears_of_it_first_after_an_acknowledgement_is_not_reminded_of_it() {
    let mut policies = policies(vec![step(0, &["erp"], None), step(6 * HOUR, &["pager"], None)]);
    policies.policies[0].ack_timeout = Some(8 * HOUR);
    let mut world = World::new(policies).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(MINUTE).await;
    world.cases.acknowledge(&opened("P1", 1).exception_id(), "ann", "", world.now()).await.expect("acts");
    world.run_for(24 * HOUR).await;
    assert_eq!(
        lines(&world.sent("erp").await),
        ["new exceptions.opened 1 P1", "ack_expired exceptions.reminder 1 P1"]
    );
    assert_eq!(lines(&world.sent("pager").await), ["step exceptions.opened 2 P1"]);
}

#[tokio::test]
async fn nothing_is_told_in_the_backlog_and_then_only_what_stands() {
    let mut world = World::new(one_step()).await;
    // Told before the restart.
    world.commit(0, &[opened("OLD1", 1), opened("OLD2", 2)]).await;
    world.run_for(HOUR).await;
    assert_eq!(world.sent("erp").await.len(), 1);
    world.restart().await;
    for partition in 0..4 {
        world.escalator.backlog.begins(partition);
    }
    let began = world.now();
    for i in 0..30 {
        world.commit(i % 2, &[opened(&format!("P{i:02}"), 10 + i64::from(i))]).await;
        if i % 3 > 0 {
            world.commit(i % 2, &[ended(&format!("P{i:02}"), 50 + i64::from(i))]).await;
        }
        world.run_for(SECOND).await;
    }
    world.commit(0, &[ended("OLD1", 200)]).await;
    world.run_for(MINUTE).await;
    assert!(world.sent("erp").await.is_empty(), "the backlog tells nobody");
    world.escalator.backlog.over(0, world.now());
    world.run_for(20 * SECOND).await;
    assert!(world.sent("erp").await.is_empty(), "the quick one waits for the others");
    for partition in 1..4 {
        world.escalator.backlog.over(partition, world.now());
    }
    world.run_for(10 * MINUTE).await;
    let sent = world.sent("erp").await;
    let parcels: Vec<String> = (0..30).step_by(3).map(|i| format!("P{i:02}")).collect();
    assert_eq!(
        lines(&sent),
        [
            "resolved exceptions.resolved null OLD1".to_owned(),
            format!("new exceptions.opened 1 {}", parcels.join(","))
        ]
    );
    assert!(sent[0].at > began);
}

#[tokio::test]
async fn a_backlog_that_never_ends_is_over_after_a_quarter_of_an_hour() {
    let mut world = World::new(one_step()).await;
    world.escalator.backlog.begins(0);
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(14 * MINUTE).await;
    assert!(world.sent("erp").await.is_empty());
    world.run_for(2 * MINUTE).await;
    let sent = world.sent("erp").await;
    assert_eq!(lines(&sent), ["new exceptions.opened 1 P1"]);
    assert_eq!(sent[0].at, START + 15 * MINUTE + 30 * SECOND);
}

#[tokio::test]
async fn shadow_rules_tell_nobody_and_a_dry_run_sends_nothing() {
    let mut world = World::new(one_step()).await;
    let mut quiet = opened("P1", 1);
    (quiet.rule, quiet.body) = ("quiet".into(), Some((1, 0)));
    world.commit(0, &[quiet.clone()]).await;
    world.run_for(HOUR).await;
    assert!(world.sent("erp").await.is_empty());
    let seen = world.cases.exception(&quiet.exception_id(), START).await.expect("read").expect("recorded");
    assert_eq!(seen["state"], "open");
    world.escalator.dry_run = true;
    world.commit(0, &[opened("P2", 2)]).await;
    world.run_for(HOUR).await;
    assert!(world.sent("erp").await.is_empty());
    assert_eq!(world.cases.outbox_stats().await.expect("stats").rows["dry_run"], 1);
    let told =
        world.cases.notifications(Some(&opened("P2", 2).exception_id()), 10, None).await.expect("a page");
    assert_eq!(told.items[0]["state"], "dry_run");
}

#[tokio::test]
async fn an_operators_resolve_is_told_once_and_a_raise_reopens() {
    let mut world = World::new(one_step()).await;
    let id = opened("P1", 1).exception_id();
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(HOUR).await;
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P1"]);
    world.cases.resolve(&id, "ann", "", world.now()).await.expect("acts");
    world.run_for(HOUR).await;
    let sent = world.sent("erp").await;
    assert_eq!(lines(&sent), ["resolved exceptions.resolved null P1"]);
    assert_eq!(sent[0].exceptions()[0]["resolution"], "by_operator");
    world.commit(0, &[raised("P1", 2, 2, Severity::Warning)]).await;
    world.run_for(HOUR).await;
    let mut sent: Vec<Message> = world.sent("erp").await;
    world.commit(0, &[ended("P1", 3)]).await;
    world.run_for(HOUR).await;
    sent.extend(world.sent("erp").await);
    assert_eq!(lines(&sent), ["raised exceptions.raised 1 P1", "resolved exceptions.resolved null P1"]);
}

#[tokio::test]
async fn what_was_told_is_resolved_whatever_became_of_the_policies() {
    let mut world = World::new(one_step()).await;
    world.commit(0, &[opened("P1", 1), opened("P2", 2)]).await;
    world.run_for(HOUR).await;
    world.sent("erp").await;
    // The only policy is gone, its steps with it; the receiver is still there.
    let mut fewer = one_step();
    fewer.hash = "policies-2".into();
    fewer.policies.clear();
    fewer.default_policy = None;
    world.policies = std::sync::Arc::new(fewer);
    world.restart().await;
    world.commit(0, &[ended("P1", 3), opened("P3", 4)]).await;
    world.run_for(HOUR).await;
    assert_eq!(lines(&world.sent("erp").await), ["resolved exceptions.resolved null P1"]);
    // The ladder of P2 goes on from where it was with new policies.
    let mut other = policies(vec![step(0, &["erp"], None), step(30 * MINUTE, &["pager"], None)]);
    other.hash = "policies-3".into();
    world.policies = std::sync::Arc::new(other);
    world.restart().await;
    world.run_for(MINUTE).await;
    assert!(world.sent("erp").await.is_empty(), "it was told by step 1 before");
    assert_eq!(lines(&world.sent("pager").await), ["step exceptions.opened 2 P2"]);
}

#[tokio::test]
async fn a_mail_thread_has_one_subject_and_one_root() {
    let mut world = World::new(policies(vec![step(0, &["correos_desk"], None)])).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(HOUR).await;
    world.commit(0, &[raised("P1", 2, 2, Severity::Warning)]).await;
    world.run_for(HOUR).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let rows = world.cases.outbox_due("correos_desk", world.now(), 10, MINUTE).await.expect("rows");
        assert_eq!(rows.len(), 1, "in order, one by one");
        assert_eq!(
            (rows[0].recipient.as_str(), rows[0].integration.as_str()),
            ("desk@correos.example", "email")
        );
        assert!(!rows[0].id.contains('.'));
        seen.push((rows[0].subject.clone(), rows[0].thread.clone()));
        world.cases.outbox_done(&rows[0].id, world.now(), Outcome::Delivered).await.expect("done");
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].0, "[parcelwatch] CN-ES, late");
}

#[tokio::test]
async fn the_loop_wakes_at_a_commit_and_stops_when_told() {
    let mut policies = one_step();
    policies.policies[0].group_wait = 0;
    let world = World::new(policies).await;
    let filled = world.cases.outbox_filled();
    let mut filled = std::pin::pin!(filled.notified());
    filled.as_mut().enable();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let World { cases, escalator, rules, policies, dir: _dir, .. } = world;
    let running = tokio::spawn(escalator.run(stopped));
    commit(&cases, (&rules, &policies), 0, &[opened("P1", 1)], START).await.expect("commits");
    let patience = std::time::Duration::from_secs(60);
    tokio::time::timeout(patience, filled).await.expect("the dispatchers are woken");
    assert_eq!(cases.outbox_due("erp", START, 10, MINUTE).await.expect("rows").len(), 1);
    stop.send(true).expect("it runs");
    tokio::time::timeout(patience, running).await.expect("it stops").expect("it did not panic");
}
