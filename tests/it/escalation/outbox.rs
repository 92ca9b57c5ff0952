//! Messages that failed: seen, tried again, dropped, over the listener and by the command line, down to the rows.

use std::collections::BTreeSet;
use std::time::Duration;

use parcelwatch::cases::{OutboxRow, Outcome};
use parcelwatch::cli::client::Daemon as Client;
use parcelwatch::cli::notify::{self, Notify};
use parcelwatch::cli::outbox::{self, Format, Outbox, Who};
use serde_json::{Value, json};

use super::desk::{ask, serve};
use crate::world::{MINUTE, World, on_postgres, opened, policies, step};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_that_the_trail_does_not_take_is_not_sent_and_the_other_way_round() {
    use sqlx::Connection as _;
    let world = World::new(policies(vec![step(0, &["erp"], None)])).await;
    let (server, client) = serve(&world).await;
    let mut file = sqlx::AnyConnection::connect(&world.url).await.expect("opens");
    for table in ["audit", "outbox"] {
        let (refuse, take) = if on_postgres() {
            let refuse = format!("ALTER TABLE {table} ADD CONSTRAINT refuse CHECK (false) NOT VALID");
            (refuse, format!("ALTER TABLE {table} DROP CONSTRAINT refuse"))
        } else {
            let refuse = format!(
                "CREATE TRIGGER refuse BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'refused'); END"
            );
            (refuse, "DROP TRIGGER refuse".to_owned())
        };
        sqlx::query(sqlx::AssertSqlSafe(refuse)).execute(&mut file).await.expect("refuses from now on");
        let asked = ask(&client, "POST", "/api/v1/receivers/erp/test", json!({"by": "ann"})).await;
        assert!(asked.is_err(), "{table}: {asked:?}");
        sqlx::query(sqlx::AssertSqlSafe(take)).execute(&mut file).await.expect("takes again");
        assert!(states(&client).await.is_empty(), "{table}");
        let audit = ask(&client, "GET", "/api/v1/audit", Value::Null).await.expect("shows");
        assert_eq!(audit["items"], json!([]), "{table}");
    }
    server.stop(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_goes_to_each_recipient_and_a_preview_is_what_is_sent() {
    let mut world = World::new(policies(vec![step(0, &["erp"], None)])).await;
    let (server, client) = serve(&world).await;
    let test = |receiver: &str, dry_run: bool| {
        let notify = Notify::Test {
            receiver: receiver.into(),
            dry_run,
            timeout: 0,
            who: Who { by: Some("ann".into()), comment: Some("new key".into()) },
            daemon: client.clone(),
        };
        tokio::task::spawn_blocking(move || notify::run(&notify).map_err(|e| e.to_string()))
    };
    assert_eq!(test("ops_mail", true).await.expect("no panic"), Ok(0));
    assert!(states(&client).await.is_empty(), "a dry run writes nothing");
    assert_eq!(test("ops_mail", false).await.expect("no panic"), Ok(1), "nobody delivers here");
    let said = test("nobody", false).await.expect("no panic").expect_err("none");
    assert!(said.contains("no receiver \"nobody\""), "{said}");
    let rows = world.cases.outbox_due("ops_mail", world.now(), 10, 1_000).await.expect("reads");
    let to: Vec<&str> = rows.iter().map(|r| r.recipient.as_str()).collect();
    assert_eq!(to, ["a@example.org", "b@example.org"]);
    let body: Value = serde_json::from_str(&rows[0].body).expect("JSON");
    assert_eq!(
        (&body["type"], &body["data"]["reason"], rows[0].kind.as_str()),
        (&json!("test"), &json!("test"), "test")
    );
    assert!(body["data"]["summary"][0].as_str().is_some_and(|s| s.contains("ann")), "{body}");
    let audit = ask(&client, "GET", "/api/v1/audit", Value::Null).await.expect("shows");
    assert_eq!(audit["items"].as_array().map(Vec::len), Some(1), "a dry run does nothing: {audit}");
    assert_eq!(audit["items"][0]["object"], "receiver ops_mail");

    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(60_000).await;
    let sent = world.sent("erp").await;
    let id = opened("P1", 1).exception_id();
    let preview = |query: &str| {
        let (client, path) = (client.clone(), format!("/api/v1/exceptions/{id}/preview{query}"));
        async move { ask(&client, "GET", &path, Value::Null).await }
    };
    let shown = preview("?format=json").await.expect("shows");
    let mut body: Value = serde_json::from_str(shown["content"].as_str().expect("a text")).expect("JSON");
    let mut same = sent[0].body.clone();
    for b in [&mut body, &mut same] {
        // What differs: when it was rendered, and the id.
        b["timestamp"] = Value::Null;
        b["data"]["notification_id"] = Value::Null;
        b["data"]["exceptions"][0]["overdue_seconds"] = Value::Null;
        b["data"]["exceptions"][0]["url"] = Value::Null;
    }
    assert_eq!(body, same);
    let mail = preview("?receiver=ops_mail").await.expect("shows");
    let text = mail["content"].as_str().expect("a text");
    assert!(text.starts_with("OPEN, warning: 1 open") && text.contains("receiver ops_mail"), "{text}");
    for (query, words) in [("?receiver=x", "ops_mail"), ("?format=pdf", "html"), ("?form=text", "form")] {
        let said = preview(query).await.expect_err("refused").to_string();
        assert!(said.contains(words), "{query}: {said}");
    }
    let file = world.dir.path().join("mail.html");
    let out = Notify::Preview {
        exception_id: id.clone(),
        receiver: None,
        format: notify::Format::Html,
        out: Some(file.clone()),
        daemon: client.clone(),
    };
    let done = tokio::task::spawn_blocking(move || notify::run(&out).expect("answers")).await;
    assert_eq!(done.expect("no panic"), 0);
    assert!(std::fs::read_to_string(file).expect("a file").starts_with("<!DOCTYPE html>"));
    server.stop(Duration::from_secs(1)).await;
}

/// HTTP/1.0 knows no pieces: the answer ends with the connection.
async fn read_all(server: &parcelwatch::http::Server, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.expect("connects");
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes()).await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    text
}

#[tokio::test]
async fn all_that_a_digest_tells_of_is_read_over_the_listener() {
    let mut world = World::new(policies(vec![step(0, &["ops_mail"], None)])).await;
    let changes: Vec<_> = (0..2_345).map(|i| opened(&format!("=P{i:04}"), i)).collect();
    world.commit(0, &changes).await;
    world.run_for(MINUTE).await;
    let sent = world.sent("ops_mail").await;
    let digest = sent.iter().find(|m| m.kind == "digest").expect("a digest");
    let (server, _) = serve(&world).await;
    let path = format!("/api/v1/outbox/{}/exceptions.csv", digest.id);
    let url = digest.body["data"]["digest"]["csv_url"].as_str().expect("a link");
    assert!(url.ends_with(&path), "{url}");
    let answer = read_all(&server, &path).await;
    let (head, table) = answer.split_once("\r\n\r\n").expect("a header");
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    let parcels: BTreeSet<&str> = table.lines().skip(1).filter_map(|l| l.split(',').nth(3)).collect();
    assert_eq!((table.lines().count(), parcels.len()), (2_346, 2_345));
    assert_eq!((parcels.first(), parcels.last()), (Some(&"'=P0000"), Some(&"'=P2344")));
    let nobody = read_all(&server, "/api/v1/outbox/nobody/exceptions.csv").await;
    assert!(nobody.starts_with("HTTP/1.0 404"), "{nobody}");
    server.stop(Duration::from_secs(1)).await;
}
