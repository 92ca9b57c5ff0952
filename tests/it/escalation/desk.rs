//! What operators do over the listener and by the command line, down to the rows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parcelwatch::cli::client::Daemon as Client;
use parcelwatch::cli::silence::Silence;
use parcelwatch::cli::{audit, silence};
use parcelwatch::http::ports::{Daemon, ReloadError};
use parcelwatch::http::{Server, Site};
use parcelwatch::metrics::Metrics;
use parcelwatch::runtime::clock::WallClock;
use parcelwatch::runtime::ports::Api;
use serde_json::{Value, json};

use crate::world::{HOUR, MINUTE, World, lines, opened, policies, step};

struct NoDaemon;

impl Daemon for NoDaemon {
    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
    fn status(&self) -> BoxFuture<'_, Value> {
        Box::pin(std::future::ready(Value::Null))
    }
    fn parcel<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Option<Value>> {
        Box::pin(std::future::ready(None))
    }
    fn explain<'a>(
        &'a self,
        _id: &'a str,
        _rule: Option<&'a str>,
        _at: Option<parcelwatch::model::Time>,
    ) -> BoxFuture<'a, Option<Value>> {
        Box::pin(async { None })
    }
    fn reload<'a>(&'a self, _: &'a str, _: Option<&'a str>) -> BoxFuture<'a, Result<Value, ReloadError>> {
        Box::pin(std::future::ready(Err(ReloadError::NotNow("there is none".into()))))
    }
}

pub(super) async fn serve(world: &World) -> (Server, Client) {
    let clock = Arc::clone(&world.clock) as Arc<dyn WallClock>;
    let now = Arc::clone(&world.clock);
    let site = Site {
        daemon: Arc::new(NoDaemon),
        cases: Arc::new(Api {
            cases: world.cases.clone(),
            clock,
            policies: tokio::sync::watch::channel(Arc::clone(&world.policies)).1,
            public_url: Some("https://watch.example.org".into()),
            dry_run: false,
        }),
        metrics: Arc::new(Metrics::new().expect("metrics")),
        tokens: Vec::new(),
        link_key: None,
        now_ms: Arc::new(move || now.now_ms()),
    };
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let server = Server::start(any, site).await.expect("listens");
    let client = Client::at(&format!("http://{}", server.address()));
    (server, client)
}

/// The client blocks.
pub(super) async fn ask(
    client: &Client,
    method: &'static str,
    path: &str,
    body: Value,
) -> anyhow::Result<Value> {
    let (client, path) = (client.clone(), path.to_owned());
    let body = (!body.is_null()).then_some(body);
    tokio::task::spawn_blocking(move || client.ask(method, &path, body.as_ref())).await.expect("no panic")
}

fn one_step() -> parcelwatch::rules::Policies {
    policies(vec![step(0, &["erp"], None)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broad_silence_asks_and_a_narrow_one_is_made_listed_and_ended() {
    let mut world = World::new(one_step()).await;
    let (server, client) = serve(&world).await;
    let changes: Vec<_> = (0..40).map(|i| opened(&format!("P{i}"), i)).collect();
    world.commit(0, &changes).await;
    world.run_for(MINUTE).await;
    world.sent("erp").await;
    let post = |body: Value| ask(&client, "POST", "/api/v1/silences", body);
    let preview =
        post(json!({"matchers": {"rule": "late"}, "duration": "1h", "by": "ann", "dry_run": true})).await;
    assert_eq!(preview.expect("counts"), json!({"matching": 40, "standing": 40, "broad": true}));
    for (body, words) in [
        (json!({"matchers": {"rule": "late"}, "duration": "1h", "by": "ann", "comment": "x"}), "--force"),
        (json!({"matchers": {"parcel_id": "P1"}, "by": "ann", "comment": "x"}), "needs an end"),
        (json!({"matchers": {"parcel_id": "P1"}, "duration": "1h", "by": "ann"}), "\"comment\" is missing"),
        (json!({"matchers": {"parcel_id": "P1"}, "duration": "1h", "comment": "x"}), "\"by\" is missing"),
        (json!({"matchers": {}, "duration": "1h", "by": "ann", "comment": "x"}), "must be a mapping"),
        (
            json!({"matchers": {"rule": "late"}, "ends_at": "2020-01-01T00:00:00Z", "by": "a", "comment": "x"}),
            "has ended",
        ),
        (json!({"matchers": {"rule": "late"}, "until": "x", "by": "a", "comment": "x"}), "unknown field"),
    ] {
        let said = post(body.clone()).await.expect_err("refused").to_string();
        assert!(said.contains(words), "{body}: {said}");
    }
    let forced =
        json!({"matchers": {"rule": "late"}, "duration": "1h", "by": "ann", "comment": "x", "force": true});
    assert_eq!(post(forced).await.expect("made")["reach"]["matching"], 40);
    // By the command line.
    let add = |dry_run| Silence::Add {
        matches: vec!["rule=late".into(), "domestic_carrier=correos,seur".into()],
        matchers: None,
        duration: Some("2h".into()),
        until: None,
        from: None,
        comment: Some("a strike".into()),
        by: Some("bob".into()),
        force: true,
        dry_run,
        daemon: client.clone(),
    };
    let (dry, real) = (add(true), add(false));
    let expire = Silence::Expire { id: "1".into(), by: Some("bob".into()), daemon: client.clone() };
    let done = tokio::task::spawn_blocking(move || {
        [&dry, &real, &expire].map(|s| silence::run(s).expect("the daemon takes it"))
    });
    assert_eq!(done.await.expect("no panic"), [0; 3]);
    let listed = ask(&client, "GET", "/api/v1/silences", Value::Null).await.expect("lists");
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed["items"][0]["created_by"], "bob");
    assert_eq!(listed["items"][0]["matchers"]["domestic_carrier"], json!(["correos", "seur"]));
    let said =
        ask(&client, "DELETE", "/api/v1/silences/77", Value::Null).await.expect_err("none").to_string();
    assert!(said.contains("no silence"), "{said}");
    server.stop(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_acknowledged_given_back_and_resolved_as_it_stands() {
    let mut policies = one_step();
    policies.policies[0].comment_needed = true;
    let mut world = World::new(policies).await;
    let (server, client) = serve(&world).await;
    let changes: Vec<_> = (0..1_200).map(|i| opened(&format!("P{i}"), i)).collect();
    world.commit(0, &changes).await;
    world.run_for(MINUTE).await;
    let group = world.sent("erp").await[0].body["data"]["group_id"].as_str().expect("an id").to_owned();
    let act = |what: &str, body: Value| {
        let path = format!("/api/v1/groups/{group}/{what}");
        let client = client.clone();
        async move { ask(&client, "POST", &path, body).await }
    };
    let said = act("ack", json!({"by": "ann"})).await.expect_err("no comment").to_string();
    assert!(said.contains("comment"), "{said}");
    let done = act("ack", json!({"by": "ann", "comment": "calling"})).await.expect("acts");
    assert_eq!((&done["members"], &done["changed"]), (&json!(1_200), &json!(1_200)));
    // A later one is none of those that were acknowledged.
    world.commit(0, &[opened("P9999", 5_000)]).await;
    world.run_for(HOUR).await;
    assert_eq!(lines(&world.sent("erp").await), ["new exceptions.opened 1 P9999"]);
    let id = opened("P5", 5).exception_id();
    let path = format!("/api/v1/exceptions/{id}/unack");
    let back = ask(&client, "POST", &path, json!({"by": "ann"})).await.expect("acts");
    assert_eq!((&back["state"], &back["acknowledged_by"]), (&json!("open"), &json!(null)));
    world.run_for(HOUR).await;
    let again = world.sent("erp").await;
    assert_eq!(lines(&again), ["ack_expired exceptions.reminder 1 P5"], "its ladder began anew");
    let done = act("resolve", json!({"by": "ann"})).await.expect("acts");
    assert_eq!((&done["members"], &done["changed"]), (&json!(1_201), &json!(1_201)));
    world.run_for(HOUR).await;
    let ends: usize = world.sent("erp").await.iter().map(|m| m.exceptions().len()).sum();
    assert_eq!(ends, 1_201, "each end is told");
    let said = ask(&client, "POST", "/api/v1/groups/nope/ack", json!({"by": "x"})).await.expect_err("none");
    assert!(said.to_string().contains("no group"), "{said}");
    server.stop(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_trail_shows_what_was_touched() {
    let mut world = World::new(one_step()).await;
    let (server, client) = serve(&world).await;
    world.commit(0, &[opened("P1", 1), opened("P2", 2)]).await;
    world.run_for(MINUTE).await;
    for (parcel, what) in [("P1", "ack"), ("P1", "unack"), ("P2", "resolve")] {
        let path = format!("/api/v1/exceptions/{}/{what}", opened(parcel, 1).exception_id());
        ask(&client, "POST", &path, json!({"by": "ann", "comment": "x"})).await.expect("acts");
    }
    let silence = json!({"matchers": {"rule": "late"}, "duration": "1h", "by": "ann", "comment": "works"});
    ask(&client, "POST", "/api/v1/silences", silence).await.expect("makes");
    ask(&client, "DELETE", "/api/v1/silences/1", Value::Null).await.expect("ends");
    let rows = ask(&client, "GET", "/api/v1/audit", Value::Null).await.expect("shows");
    let actions: Vec<_> =
        rows["items"].as_array().expect("rows").iter().map(|r| r["action"].clone()).collect();
    assert_eq!(actions, ["acknowledge", "unacknowledge", "resolve", "silence", "end_silence"]);
    let last = rows["items"][4]["hash"].as_str().expect("a hash").to_owned();
    let verify = |expect: Option<String>| {
        let daemon = client.clone();
        async move {
            let run = move || audit::run(&audit::Audit::Verify { expect, daemon }).expect("answers");
            tokio::task::spawn_blocking(run).await.expect("no panic")
        }
    };
    assert_eq!((verify(None).await, verify(Some(last.clone())).await), (0, 0));
    assert_eq!(verify(Some("00".into())).await, 1);
    // Each of these is what somebody with the file could do.
    for (tamper, undo) in [
        (
            "UPDATE audit SET remark_by = 'bob' WHERE seq = 2",
            "UPDATE audit SET remark_by = 'ann' WHERE seq = 2",
        ),
        ("UPDATE audit SET seq = 9 WHERE seq = 5", "UPDATE audit SET seq = 5 WHERE seq = 9"),
        (
            "UPDATE audit SET at_ms = at_ms + 1000 WHERE seq = 1",
            "UPDATE audit SET at_ms = at_ms - 1000 WHERE seq = 1",
        ),
    ] {
        crate::world::sql(&world, tamper).await;
        assert_eq!(verify(None).await, 1, "{tamper}");
        crate::world::sql(&world, undo).await;
        assert_eq!(verify(None).await, 0, "{undo}");
    }
    crate::world::sql(&world, "DELETE FROM audit WHERE seq = 5").await;
    assert_eq!((verify(None).await, verify(Some(last)).await), (0, 1), "only who kept a hash sees a cut");
    server.stop(Duration::from_secs(1)).await;
}
