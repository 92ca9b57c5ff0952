//! Messages that failed: seen, tried again, dropped, over the listener and by the command line, down to the rows.

use std::time::Duration;

use parcelwatch::cases::{OutboxRow, Outcome};
use parcelwatch::cli::client::Daemon as Client;
use parcelwatch::cli::outbox::{self, Format, Outbox, Who};
use serde_json::{Value, json};

use super::desk::{ask, serve};
use crate::world::{World, policies, step};

fn row(id: &str, thread: &str, created_ms: i64) -> OutboxRow {
    OutboxRow {
        id: id.into(),
        receiver: "erp".into(),
        integration: "webhook".into(),
        recipient: String::new(),
        kind: "new".into(),
        subject: "late".into(),
        body: format!("{{\"body of\":\"{id}\"}}"),
        thread: thread.into(),
        attempts: 0,
        created_ms,
        due_ms: created_ms,
    }
}

async fn dead(world: &World, id: &str) {
    let outcome = Outcome::Dead { reason: "permanent".into(), detail: "404".into() };
    world.cases.outbox_done(id, world.now(), outcome).await.expect("writes");
}

async fn due(world: &World) -> Vec<OutboxRow> {
    world.cases.outbox_due("erp", world.now(), 10, 1_000).await.expect("reads")
}

async fn states(client: &Client) -> Vec<String> {
    let list = ask(client, "GET", "/api/v1/outbox", Value::Null).await.expect("lists");
    let text = |m: &Value, name: &str| m[name].as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().expect("items");
    items.iter().map(|m| format!("{} {}", text(m, "id"), text(m, "state"))).collect()
}

async fn run(outbox: Outbox) -> u8 {
    tokio::task::spawn_blocking(move || outbox::run(&outbox).expect("answers")).await.expect("no panic")
}

fn retry(client: &Client, ids: &[&str], from: Option<&str>) -> Outbox {
    let all = ids.is_empty();
    Outbox::Retry {
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        all,
        receiver: all.then(|| "erp".to_owned()),
        from: from.map(str::to_owned),
        to: None,
        who: Who { by: Some("ann".into()), comment: Some("repaired".into()) },
        daemon: client.clone(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_seen_tried_again_in_its_order_and_a_message_is_dropped() {
    let mut world = World::new(policies(vec![step(0, &["erp"], None)])).await;
    let (server, client) = serve(&world).await;
    let start = world.now();
    world
        .cases
        .outbox_put(&[row("m1", "g", start), row("m2", "g", start), row("m3", "h", start)])
        .await
        .expect("puts");
    assert_eq!(due(&world).await.len(), 2, "the second of a thread waits");
    dead(&world, "m1").await;
    dead(&world, "m3").await;
    let list = ask(&client, "GET", "/api/v1/outbox?state=dead&limit=1", Value::Null).await.expect("lists");
    let newest = &list["items"][0];
    assert_eq!(
        (&newest["id"], &newest["reason"], &newest["detail"]),
        (&json!("m3"), &json!("permanent"), &json!("404"))
    );
    let path = format!("/api/v1/outbox?state=dead&cursor={}", list["next_cursor"].as_str().expect("more"));
    let rest = ask(&client, "GET", &path, Value::Null).await.expect("lists");
    assert_eq!((rest["items"][0]["id"].as_str(), &rest["next_cursor"]), (Some("m1"), &Value::Null));
    // Put back long after: its age counts anew, and what is younger in its thread waits for it again.
    world.run_for(48 * 3_600_000).await;
    assert_eq!(run(retry(&client, &["m1"], None)).await, 0);
    let first = due(&world).await;
    assert_eq!(first.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(), ["m1"]);
    assert_eq!((first[0].attempts, first[0].created_ms, first[0].due_ms), (0, world.now(), world.now()));
    assert_eq!(first[0].body, row("m1", "g", 0).body);
    world.cases.outbox_done("m1", world.now(), Outcome::Delivered).await.expect("writes");
    assert_eq!(due(&world).await[0].id, "m2");
    // What is sent is past being tried again or dropped; the others of a call are done all the same.
    assert_eq!(run(retry(&client, &["m1", "nope", "m3"], None)).await, 1);
    world.cases.outbox_put(&[row("m4", "h", start)]).await.expect("puts");
    let drop = |id: &str| Outbox::Drop {
        ids: vec![id.to_owned()],
        who: Who { by: Some("bob".into()), comment: None },
        daemon: client.clone(),
    };
    assert_eq!((run(drop("m1")).await, run(drop("m3")).await), (1, 0));
    assert_eq!(due(&world).await[0].id, "m4", "the next goes where the one before is dropped");
    assert_eq!(states(&client).await, ["m4 pending", "m3 dropped", "m2 pending", "m1 delivered"]);
    let audit = ask(&client, "GET", "/api/v1/audit", Value::Null).await.expect("shows");
    let deeds: Vec<String> = audit["items"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|r| format!("{} {} {}", r["by"], r["action"], r["object"]).replace('"', ""))
        .collect();
    assert_eq!(deeds, ["ann retry message m1", "ann retry message m3", "bob drop message m3"]);
    server.stop(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_of_a_receiver_are_replayed_by_range() {
    let world = World::new(policies(vec![step(0, &["erp"], None)])).await;
    let (server, client) = serve(&world).await;
    let start = world.now();
    let rows: Vec<_> =
        (0..1_200_i64).map(|i| row(&format!("m{i:04}"), &format!("g{}", i % 7), start + i)).collect();
    world.cases.outbox_put(&rows).await.expect("puts");
    for r in &rows {
        dead(&world, &r.id).await;
    }
    let from = parcelwatch::model::Time(start + 200).to_string();
    assert_eq!(run(retry(&client, &[], Some(&from))).await, 0);
    let stats = world.cases.outbox_stats().await.expect("counts");
    assert_eq!((stats.rows["pending"], stats.rows["dead"]), (1_000, 200));
    let first: Vec<String> = due(&world).await.into_iter().map(|m| m.id).collect();
    let expected: Vec<String> = (200..207).map(|i| format!("m{i:04}")).collect();
    assert_eq!(first, expected, "the oldest of each thread");
    let list = Outbox::List {
        state: Some("dead".into()),
        receiver: Some("erp".into()),
        limit: 3,
        cursor: None,
        format: Format::Table,
        daemon: client.clone(),
    };
    assert_eq!(run(list).await, 0);
    let audit = ask(&client, "GET", "/api/v1/audit", Value::Null).await.expect("shows");
    assert_eq!(audit["items"].as_array().map(Vec::len), Some(1));
    assert!(audit["items"][0]["detail"].as_str().expect("a text").contains("1000"), "{audit}");
    server.stop(Duration::from_secs(1)).await;
}
