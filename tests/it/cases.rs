//! The database: restart, replay, damage, locks, a full disk, the outbox.

use std::time::Duration;

use parcelwatch::cases::{Acted, Cases, Filter, OutboxRow, Outcome, Rejected, StateFilter};
use parcelwatch::model::{Severity, Time};
use serde_json::json;

use crate::world::{MINUTE, START, World, change, empty, ended, opened, policies, raised, step};

mod file;

fn plain() -> parcelwatch::rules::Policies {
    policies(vec![step(0, &["erp"], None)])
}

#[tokio::test]
async fn a_replay_after_a_restart_changes_nothing() {
    let mut world = World::new(plain()).await;
    let (a, b, c) = (opened("P1", 1), raised("P1", 5, 2, Severity::High), ended("P1", 9));
    assert_eq!(world.commit(0, &[a.clone(), opened("P2", 2), b.clone()]).await.new, [true, true, true]);
    world.commit(0, std::slice::from_ref(&c)).await;
    let before = world.cases.exception(&a.exception_id(), START).await.expect("read").expect("there");
    assert_eq!(before["state"], "resolved");
    assert_eq!(before["changes"].as_array().map(Vec::len), Some(3));

    world.restart().await;
    assert_eq!(world.commit(0, &[a.clone(), opened("P2", 2)]).await.new, [false, false]);
    assert_eq!(world.commit(0, &[b]).await.new, [false]);
    let after = world.cases.exception(&a.exception_id(), START).await.expect("read").expect("there");
    assert_eq!(before, after, "an older change does not take the row back");
    let recorded = world.cases.recorded(0).await.expect("read").expect("there");
    assert_eq!(recorded.position, 10, "nor the position");
    assert_eq!(world.cases.open_counts().get(&("late".into(), Severity::Warning)), Some(&1));
    // What is new in a replay acts.
    assert_eq!(world.commit(0, &[c, opened("P1", 12)]).await.new, [false, true]);
    let again = world.cases.exception(&a.exception_id(), START).await.expect("read").expect("there");
    assert_eq!(
        (&again["state"], &again["change"], &again["resolved_at"]),
        (&json!("open"), &json!("opened"), &json!(null))
    );
}

#[tokio::test]
async fn a_batch_may_name_an_exception_twice_and_be_larger_than_a_transaction() {
    let world = World::new(plain()).await;
    let changes: Vec<_> =
        (0..10_100).map(|i| opened(&format!("P{i}"), i)).chain([ended("P5", 20_000)]).collect();
    let committed = world.commit(0, &changes).await;
    assert_eq!(committed.new.len(), 10_101);
    assert!(committed.new.iter().all(|new| *new));
    assert_eq!(world.cases.standing(0).await.expect("read").len(), 10_099);
    assert_eq!(world.cases.open_counts().values().sum::<i64>(), 10_099);
    let page = world.cases.exceptions(&Filter::default(), 1_000, None, START).await.expect("a page");
    assert_eq!(page.items.len(), 1_000);
    assert!(page.next_cursor.is_some());
}

#[tokio::test]
async fn what_an_operator_resolved_stands_until_the_engine_raises_it() {
    let world = World::new(plain()).await;
    let change = opened("P1", 1);
    let id = change.exception_id();
    world.commit(0, &[change]).await;
    assert_eq!(
        world.cases.resolve(&id, "ann", "seen at the desk", START + 5).await.expect("acts"),
        Acted::Done
    );
    assert_eq!(world.cases.resolve(&id, "ann", "", START + 6).await.expect("acts"), Acted::Already);
    assert_eq!(world.cases.acknowledge(&id, "ann", "", START + 6).await.expect("acts"), Acted::Resolved);
    assert_eq!(world.cases.acknowledge("nobody's", "ann", "", START).await.expect("acts"), Acted::NotFound);
    let standing = world.cases.standing(0).await.expect("read");
    assert!(standing[0].by_operator, "the engine still counts it as standing");
    // The engine's own end is recorded and changes nothing.
    world.commit(0, &[ended("P1", 3)]).await;
    let seen = world.cases.exception(&id, START).await.expect("read").expect("there");
    assert_eq!(seen["resolution"], "by_operator");
    assert_eq!(seen["changes"].as_array().map(Vec::len), Some(3));
    assert_eq!(seen["actions"][0]["by"], "ann");
    assert!(world.cases.standing(0).await.expect("read").is_empty());
    // Another one, raised after the operator's word.
    world.commit(0, &[opened("P2", 4)]).await;
    let id = opened("P2", 4).exception_id();
    world.cases.resolve(&id, "ann", "", START + 5).await.expect("acts");
    world.commit(0, &[raised("P2", 5, 2, Severity::Warning)]).await;
    let seen = world.cases.exception(&id, START).await.expect("read").expect("there");
    assert_eq!((&seen["state"], &seen["change"]), (&json!("open"), &json!("raised")));
}

#[tokio::test]
async fn a_worse_stage_ends_an_acknowledgement_an_equal_one_does_not() {
    let world = World::new(plain()).await;
    let id = opened("P1", 1).exception_id();
    world.commit(0, &[opened("P1", 1)]).await;
    assert_eq!(world.cases.acknowledge(&id, "ann", "mine", START + 5).await.expect("acts"), Acted::Done);
    assert_eq!(world.cases.acknowledge(&id, "bob", "", START + 6).await.expect("acts"), Acted::Already);
    world.commit(0, &[raised("P1", 2, 2, Severity::Warning)]).await;
    let seen = world.cases.exception(&id, START).await.expect("read").expect("there");
    assert_eq!((&seen["state"], &seen["acknowledged_by"]), (&json!("acknowledged"), &json!("ann")));
    world.commit(0, &[raised("P1", 3, 3, Severity::Critical)]).await;
    let seen = world.cases.exception(&id, START).await.expect("read").expect("there");
    assert_eq!((&seen["state"], &seen["acknowledged_by"]), (&json!("open"), &json!(null)));
}

#[tokio::test]
async fn lists_are_filtered_by_owner_severity_order_and_group() {
    let world = World::new(plain()).await;
    let critical = raised("P2", 4, 3, Severity::Critical);
    world.commit(0, &[opened("P1", 1), opened("P2", 2), opened("P3", 3), critical, ended("P3", 5)]).await;
    let list = |filter: Filter| {
        let cases = world.cases.clone();
        async move {
            let page = cases.exceptions(&filter, 10, None, START).await.expect("a page");
            let parcels = page.items.iter().map(|i| i["parcel_id"].as_str().unwrap_or("").to_owned());
            parcels.collect::<Vec<_>>().join(" ")
        }
    };
    let all = || Filter { state: StateFilter::All, ..Filter::default() };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(list(Filter { owner: some("carrier"), ..all() }).await, "P3 P2 P1");
    assert_eq!(list(Filter { owner: some("broker"), ..all() }).await, "");
    assert_eq!(list(Filter { severity: Some(Severity::Critical), ..all() }).await, "P2");
    assert_eq!(list(Filter { severity: Some(Severity::Warning), ..Filter::default() }).await, "P1");
    assert_eq!(list(Filter { order_id: some("O-1"), ..Filter::default() }).await, "P2 P1");
    assert_eq!(list(Filter { order_id: some("O-2"), ..all() }).await, "");
    let sql = "SELECT group_id FROM exceptions WHERE parcel_id = 'P1'";
    let group = crate::world::text(&world, sql).await;
    assert_eq!(list(Filter { group_id: some(&group), ..all() }).await, "P3 P2 P1");
    assert_eq!(list(Filter { group_id: some(&group), state: StateFilter::Resolved, ..all() }).await, "P3");
    assert_eq!(list(Filter { group_id: some("other"), ..all() }).await, "");
    let narrow = Filter {
        owner: some("carrier"),
        severity: Some(Severity::Warning),
        order_id: some("O-1"),
        group_id: some(&group),
        rule: some("late"),
        parcel_id: some("P1"),
        ..all()
    };
    assert_eq!(list(narrow).await, "P1");
}

#[tokio::test]
async fn lists_are_filtered_paged_and_shaped() {
    let world = World::new(plain()).await;
    world.commit(0, &[opened("P1", 1), opened("P2", 2), opened("P3", 3), ended("P3", 4)]).await;
    world.cases.acknowledge(&opened("P2", 2).exception_id(), "ann", "", START).await.expect("acts");
    let list = |state, parcel: Option<&str>| {
        let filter = Filter {
            state,
            rule: Some("late".into()),
            parcel_id: parcel.map(str::to_owned),
            ..Filter::default()
        };
        let cases = world.cases.clone();
        async move {
            let page = cases.exceptions(&filter, 10, None, START).await.expect("a page");
            page.items
                .iter()
                .map(|i| i["parcel_id"].as_str().unwrap_or("").to_owned())
                .collect::<Vec<_>>()
                .join(" ")
        }
    };
    assert_eq!(list(StateFilter::Standing, None).await, "P2 P1");
    assert_eq!(list(StateFilter::Open, None).await, "P1");
    assert_eq!(list(StateFilter::Acknowledged, None).await, "P2");
    assert_eq!(list(StateFilter::Resolved, None).await, "P3");
    assert_eq!(list(StateFilter::All, None).await, "P3 P2 P1");
    assert_eq!(list(StateFilter::All, Some("P1")).await, "P1");
    let all = Filter { state: StateFilter::All, ..Filter::default() };
    let first = world.cases.exceptions(&all, 2, None, START).await.expect("a page");
    let second = world.cases.exceptions(&all, 2, first.next_cursor.as_deref(), START).await.expect("a page");
    assert_eq!((first.items.len(), second.items.len(), second.next_cursor), (2, 1, None));

    let item = &second.items[0];
    let fields: Vec<&str> = item.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut wanted = vec![
        "exception_id",
        "change",
        "rule",
        "rule_hash",
        "title",
        "runbook",
        "labels",
        "parcel_id",
        "episode",
        "stage",
        "severity",
        "state",
        "owner",
        "anchor",
        "due",
        "at",
        "overdue_seconds",
        "resolution",
        "acknowledged_by",
        "tracking_number",
        "carrier_code",
        "order_id",
        "expected",
        "last",
        "facts",
        "url",
        "opened_at",
        "resolved_at",
        "changes",
    ];
    wanted.sort_unstable();
    assert_eq!(fields, wanted);
    assert_eq!(item["facts"], json!({"destination": "ES", "lane": "CN-ES", "order_id": "O-1"}));
    assert_eq!(item["overdue_seconds"], json!(24 * 3600));
    assert_eq!(item["opened_at"], "2026-10-14T07:00:01Z");
    let change = json!({"change": "opened", "stage": 1, "severity": "warning", "at": "2026-10-14T07:00:01Z", "resolution": null});
    assert_eq!(item["changes"], json!([change]));
}

fn message(id: &str, thread: &str, created_ms: i64) -> OutboxRow {
    OutboxRow {
        id: id.into(),
        receiver: "erp".into(),
        integration: "webhook".into(),
        recipient: String::new(),
        kind: "new".into(),
        subject: "s".into(),
        body: "{}".into(),
        thread: thread.into(),
        attempts: 0,
        created_ms,
        due_ms: created_ms,
    }
}

async fn due(cases: &Cases, now: i64) -> String {
    let rows = cases.outbox_due("erp", now, 10, MINUTE).await.expect("rows");
    rows.iter().map(|r| format!("{}:{}", r.id, r.attempts)).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn messages_of_a_thread_arrive_in_order_and_leases_run_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let cases = empty(dir.path()).await;
    let rows = [
        message("a1", "a", START),
        message("b1", "b", START),
        message("a2", "a", START),
        message("a3", "a", START),
    ];
    let woken = cases.outbox_filled();
    let woken = woken.notified();
    cases.outbox_put(&rows).await.expect("put");
    tokio::time::timeout(Duration::from_secs(5), woken).await.expect("the dispatcher is woken");
    cases.outbox_put(&rows).await.expect("a second time is a no-op");
    assert_eq!(due(&cases, START).await, "a1:0 b1:0");
    assert_eq!(due(&cases, START).await, "", "leased");
    assert_eq!(cases.outbox_next("erp").await.expect("read"), Some(START + MINUTE));
    assert_eq!(due(&cases, START + MINUTE).await, "a1:0 b1:0", "the lease ran out");
    let retry = Outcome::Retry { at_ms: START + 5 * MINUTE, reason: "http_500".into(), detail: "x".into() };
    cases.outbox_done("a1", START + MINUTE, retry).await.expect("done");
    cases.outbox_done("b1", START + MINUTE, Outcome::Delivered).await.expect("done");
    assert_eq!(due(&cases, START + 4 * MINUTE).await, "", "a2 waits for a1");
    assert_eq!(due(&cases, START + 5 * MINUTE).await, "a1:1");
    let dead = Outcome::Dead { reason: "http_404".into(), detail: "gone".into() };
    cases.outbox_done("a1", START + 5 * MINUTE, dead).await.expect("done");
    assert_eq!(due(&cases, START + 5 * MINUTE).await, "a2:0", "a dead letter holds nothing up");
    // A late answer to what is finished changes nothing.
    cases.outbox_done("a1", START + 6 * MINUTE, Outcome::Delivered).await.expect("done");
    // The lease of a process that died ends with it.
    cases.close().await;
    let cases = empty(dir.path()).await;
    assert_eq!(due(&cases, START + 5 * MINUTE).await, "a2:0");
    cases.outbox_done("a2", START + 5 * MINUTE, Outcome::Delivered).await.expect("done");
    assert_eq!(due(&cases, START + 5 * MINUTE).await, "a3:0");
    let stats = cases.outbox_stats().await.expect("stats");
    let figures: Vec<String> = stats.rows.iter().map(|(state, n)| format!("{state} {n}")).collect();
    assert_eq!(figures, ["dead 1", "delivered 2", "dropped 0", "dry_run 0", "pending 1", "withdrawn 0"]);
    assert_eq!(stats.oldest_pending_ms, Some(START));
}

#[tokio::test]
async fn keys_rules_and_rejected_records_are_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let cases = empty(dir.path()).await;
    let key = cases.link_key().await.expect("a key");
    assert_ne!(key, [0; 32]);
    let texts = [("rules.yaml".to_owned(), "rules: []".to_owned())].into();
    cases.keep_rules("h1", &texts, START).await.expect("kept");
    let record = |offset: i64| Rejected {
        partition: 0,
        offset,
        append: Time(START),
        reason: "not_json",
        key: "P1".into(),
        head: "{".into(),
    };
    let records: Vec<_> = (0..Cases::MAX_REJECTED + 5).map(record).collect();
    cases.reject(&records, START).await.expect("kept");
    cases.reject(&records[records.len() - 3..], START).await.expect("a replay is a no-op");
    cases.close().await;
    let cases = empty(dir.path()).await;
    assert_eq!(cases.link_key().await.expect("a key"), key);
    assert_eq!(cases.rules_texts("h1").await.expect("read"), Some(texts));
    assert_eq!(cases.rules_texts("h2").await.expect("read"), None);
    let kept = cases.rejected(20_000).await.expect("read");
    assert_eq!(kept.len() as i64, Cases::MAX_REJECTED);
    assert_eq!(kept[0]["offset"], json!(Cases::MAX_REJECTED + 4));
}

#[tokio::test]
async fn old_resolved_exceptions_are_forgotten_with_all_about_them() {
    let mut world = World::new(plain()).await;
    world.commit(0, &[opened("P1", 1), opened("P2", 2)]).await;
    world.run_for(MINUTE).await;
    world.commit(0, &[ended("P1", 3)]).await;
    world.run_for(10 * MINUTE).await;
    assert_eq!(world.sent("erp").await.len(), 2);
    assert_eq!(world.cases.purge(START, 100).await.expect("purged"), 0, "too young");
    assert_eq!(world.cases.purge(world.now() + 1, 100).await.expect("purged"), 1);
    assert!(world.cases.exception(&opened("P1", 1).exception_id(), START).await.expect("read").is_none());
    assert!(world.cases.exception(&opened("P2", 2).exception_id(), START).await.expect("read").is_some());
}

#[tokio::test]
async fn a_rule_that_is_gone_keeps_its_words_and_a_gap_is_told() {
    let world = World::new(plain()).await;
    let mut last = ended("P1", 2);
    last.body = None;
    let mut open = change(parcelwatch::model::ChangeKind::Opened, "P1", 1, 1, Severity::Info);
    open.incomplete = true;
    world.commit(0, &[open.clone(), last]).await;
    let seen = world.cases.exception(&open.exception_id(), START).await.expect("read").expect("there");
    assert_eq!((&seen["title"], &seen["evidence"]), (&json!("Title of late"), &json!("incomplete")));
}
