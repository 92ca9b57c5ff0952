//! The listener over a real socket, before a daemon and cases in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::auth::Role;
use super::ports::{Acted, Action, ApiError, Filter, LinkedMessage, Operator, Page, StateFilter};
use super::*;
use crate::model::Time;
use crate::notify::link::Purpose;

pub(super) const NOW: i64 = 1_800_000_000_000;

#[derive(Default)]
pub(super) struct Fake {
    exceptions: Mutex<BTreeMap<String, Value>>,
    acts: Mutex<Vec<(Action, String, Operator)>>,
    asked: Mutex<Vec<(Filter, u32, Option<String>)>>,
    down: Mutex<bool>,
    unready: Mutex<Option<String>>,
}

impl Fake {
    fn with(ids: &[&str]) -> Arc<Fake> {
        let fake = Fake::default();
        for id in ids {
            let e = json!({
                "exception_id": id, "state": "open", "severity": "high", "parcel_id": format!("P-{id}"),
                "title": "Not <scanned>", "due": "2026-10-14T07:10:00Z", "owner": "carrier", "acknowledged_by": null,
            });
            fake.exceptions.lock().unwrap().insert((*id).to_owned(), e);
        }
        Arc::new(fake)
    }

    fn state(&self, id: &str) -> String {
        self.exceptions.lock().unwrap()[id]["state"].as_str().unwrap().to_owned()
    }

    fn apply(&self, action: Action, id: &str, who: &Operator) -> Acted {
        let mut all = self.exceptions.lock().unwrap();
        let Some(e) = all.get_mut(id) else { return Acted::NotFound };
        let (state, wanted) = (
            e["state"].as_str().unwrap().to_owned(),
            match action {
                Action::Acknowledge => "acknowledged",
                Action::Unacknowledge => "open",
                Action::Resolve => "resolved",
            },
        );
        if state == wanted {
            return Acted::Already;
        }
        if state == "resolved" {
            return Acted::Resolved;
        }
        e["state"] = json!(wanted);
        e["acknowledged_by"] = json!(who.by);
        self.acts.lock().unwrap().push((action, id.to_owned(), who.clone()));
        Acted::Done
    }

    fn check(&self) -> Result<(), ApiError> {
        if *self.down.lock().unwrap() {
            Err(ApiError::Unavailable("/var/cases.sqlite is full".into()))
        } else {
            Ok(())
        }
    }
}

impl CasesApi for Fake {
    fn exceptions<'a>(
        &'a self,
        filter: &'a Filter,
        limit: u32,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, ApiError>> {
        Box::pin(async move {
            self.check()?;
            self.asked.lock().unwrap().push((filter.clone(), limit, cursor.map(str::to_owned)));
            if cursor == Some("bad") {
                return Err(ApiError::Invalid("the cursor is not one of ours".into()));
            }
            let items: Vec<Value> = self.exceptions.lock().unwrap().values().cloned().collect();
            Ok(Page { items, next_cursor: Some("next".into()) })
        })
    }

    fn rules_loads(&self, _limit: u32) -> BoxFuture<'_, Result<Vec<Value>, ApiError>> {
        Box::pin(async { Ok(vec![json!({"rules": "abc", "by": "start"})]) })
    }
    fn rules_texts<'a>(&'a self, hash: &'a str) -> BoxFuture<'a, Result<Option<Value>, ApiError>> {
        Box::pin(async move { Ok((hash == "abc").then(|| json!({"hash": "abc", "files": {}}))) })
    }
    fn exception<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Value>, ApiError>> {
        Box::pin(async move { Ok(self.exceptions.lock().unwrap().get(id).cloned()) })
    }

    fn notifications<'a>(
        &'a self,
        id: Option<&'a str>,
        _limit: u32,
        _cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, ApiError>> {
        Box::pin(async move { Ok(Page { items: vec![json!({ "exception_id": id })], next_cursor: None }) })
    }

    fn act<'a>(
        &'a self,
        action: Action,
        id: &'a str,
        who: &'a Operator,
    ) -> BoxFuture<'a, Result<Acted, ApiError>> {
        Box::pin(async move {
            self.check()?;
            Ok(self.apply(action, id, who))
        })
    }

    fn outbox(&self) -> Option<&dyn outbox::Outbox> {
        Some(self)
    }

    fn message<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<LinkedMessage>, ApiError>> {
        let body = json!({"data": {"truncated": 99_980, "exceptions": [
            {"exception_id": "a", "change": "opened"}, {"exception_id": "b", "change": "reminder"},
            {"exception_id": "c", "change": "resolved"}, {"exception_id": "gone", "change": "opened"},
        ]}});
        let message = LinkedMessage {
            recipient: "ops@example.org".into(),
            subject: "Parcels <late>".into(),
            body: body.to_string(),
        };
        Box::pin(async move { Ok((id == "row-1").then_some(message)) })
    }
}

impl Daemon for Fake {
    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }
    fn ready(&self) -> Result<(), String> {
        self.unready.lock().unwrap().clone().map_or(Ok(()), Err)
    }
    fn status(&self) -> BoxFuture<'_, Value> {
        Box::pin(async { json!({"partitions": []}) })
    }
    fn parcel<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Option<Value>> {
        Box::pin(async move {
            assert_ne!(id, "panic", "as the test wants it");
            (id == "P/1 é").then(|| json!({ "parcel_id": id }))
        })
    }
    fn explain<'a>(
        &'a self,
        id: &'a str,
        rule: Option<&'a str>,
        at: Option<Time>,
    ) -> BoxFuture<'a, Option<Value>> {
        let at = at.map(|t| t.to_string());
        Box::pin(async move { (id == "P-1").then(|| json!({"rule": rule, "at": at})) })
    }
    fn reload<'a>(
        &'a self,
        by: &'a str,
        accept: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Value, ReloadError>> {
        Box::pin(async move {
            let brake = || ReloadError::Brake {
                hash: "abc".into(),
                openings: 2_000,
                foreseen: json!({"late": {"opened": 2_000}}),
            };
            match accept {
                Some("abc") => Ok(json!({ "by": by })),
                Some("broken") => Err(ReloadError::Refused("rules.yaml:3:1: no such key".into())),
                _ => Err(brake()),
            }
        })
    }
}

pub(super) struct Running {
    server: Server,
    fake: Arc<Fake>,
}

pub(super) fn key() -> LinkKey {
    LinkKey::new([3; 32])
}

pub(super) async fn start(tokens: Vec<Token>) -> Running {
    let fake = Fake::with(&["a", "b", "c"]);
    let site = Site {
        daemon: fake.clone(),
        cases: fake.clone(),
        metrics: Arc::new(Metrics::new().unwrap()),
        tokens,
        link_key: Some(key()),
        now_ms: Arc::new(|| NOW),
    };
    let server = Server::start("127.0.0.1:0".parse().unwrap(), site).await.unwrap();
    Running { server, fake }
}

pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    body: String,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|l| l.split_once(": "));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    /// The body of an answer that came in pieces.
    #[track_caller]
    pub(super) fn unchunked(&self) -> String {
        assert_eq!((self.status, self.header("transfer-encoding")), (200, Some("chunked")), "{}", self.body);
        let (mut out, mut rest) = (String::new(), self.body.as_str());
        loop {
            let (size, more) = rest.split_once("\r\n").expect("a size");
            let size = usize::from_str_radix(size, 16).expect("a number");
            if size == 0 {
                return out;
            }
            out.push_str(&more[..size]);
            rest = &more[size + 2..];
        }
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    #[track_caller]
    pub(super) fn problem(&self, status: u16, says: &str) {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let body = self.json();
        assert_eq!(body["status"], status);
        assert_eq!(body["type"], "about:blank");
        assert!(body["detail"].as_str().unwrap().contains(says), "{body} does not say {says}");
    }
}

impl Running {
    /// All that comes until the connection ends.
    pub(super) async fn bytes(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.server.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    async fn send(&self, request: &str) -> Answer {
        let text = self.bytes(request).await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "", "").await
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.request("POST", path, "Content-Type: application/json\r\n", body).await
    }

    pub(super) async fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        self.send(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        ))
        .await
    }
}

#[tokio::test]
async fn health_readiness_and_metrics_are_open_and_never_cached() {
    let s = start(vec![Token::new("erp", Role::Viewer, "s3cret")]).await;
    for (path, says) in
        [("/-/healthy", "healthy"), ("/-/ready", "ready"), ("/metrics", "parcelwatch_build_info")]
    {
        let answer = s.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.body.contains(says), "{path}: {}", answer.body);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    assert_eq!(s.get("/metrics").await.header("content-type"), Some("text/plain; version=0.0.4"));
    *s.fake.unready.lock().unwrap() = Some("partition 3 is not restored".into());
    s.get("/-/ready").await.problem(503, "partition 3");
    assert_eq!(s.get("/-/healthy").await.status, 200);
}

#[tokio::test]
async fn lists_have_items_and_a_cursor_and_pass_their_filter_on() {
    let s = start(vec![]).await;
    let body = s.get("/api/v1/exceptions").await.json();
    assert_eq!(body["items"].as_array().unwrap().len(), 3);
    assert_eq!(body["next_cursor"], "next");
    s.get("/api/v1/exceptions?state=all&rule=late&parcel_id=P%2F1&owner=carrier&severity=high&order_id=O-1&group_id=g&limit=1000&cursor=c").await;
    let asked = s.fake.asked.lock().unwrap().clone();
    assert_eq!(asked[0], (Filter::default(), 100, None));
    let filter = Filter {
        state: StateFilter::All,
        rule: Some("late".into()),
        parcel_id: Some("P/1".into()),
        owner: Some("carrier".into()),
        severity: Some(crate::model::Severity::High),
        order_id: Some("O-1".into()),
        group_id: Some("g".into()),
    };
    assert_eq!(asked[1], (filter, 1000, Some("c".into())));
    let body = s.get("/api/v1/notifications?exception_id=a").await.json();
    assert_eq!(body, json!({"items": [{"exception_id": "a"}], "next_cursor": null}));
}

#[tokio::test]
async fn wrong_requests_get_problem_details() {
    let s = start(vec![]).await;
    s.get("/api/v1/exceptions?limit=1001").await.problem(400, "1000");
    s.get("/api/v1/exceptions?limit=0").await.problem(400, "limit");
    s.get("/api/v1/exceptions?limit=-1").await.problem(400, "limit");
    s.get("/api/v1/exceptions?state=closed").await.problem(400, "acknowledged");
    s.get("/api/v1/exceptions?severity=bad").await.problem(400, "critical");
    s.get("/api/v1/exceptions?stat=open").await.problem(400, "stat");
    s.get("/api/v1/exceptions?cursor=bad").await.problem(400, "cursor");
    s.get("/api/v1/notifications?limit=x").await.problem(400, "limit");
    s.get("/api/v1/exceptions/nope").await.problem(404, "nope");
    s.get("/api/v1/parcels/nope").await.problem(404, "nope");
    s.get("/api/v1/parcels/%ff").await.problem(400, "UTF-8");
    s.get("/nowhere").await.problem(404, "/api/v1/");
    let wrong_method = s.request("DELETE", "/api/v1/exceptions/a", "", "").await;
    wrong_method.problem(405, "Allow");
    assert_eq!(wrong_method.header("allow"), Some("GET,HEAD"));
    s.post("/api/v1/exceptions/a/ack", "{").await.problem(400, "JSON");
    s.post("/api/v1/exceptions/a/ack", "{}").await.problem(400, "\"by\"");
    s.post("/api/v1/exceptions/a/ack", r#"{"by":"  "}"#).await.problem(400, "\"by\"");
    s.post("/api/v1/exceptions/a/ack", r#"{"by":"x","why":"y"}"#).await.problem(400, "why");
    s.request("POST", "/api/v1/exceptions/a/ack", "Content-Type: text/plain\r\n", r#"{"by":"x"}"#)
        .await
        .problem(415, "application/json");
    let long = format!(r#"{{"by":"{}"}}"#, "x".repeat(70_000));
    s.post("/api/v1/exceptions/a/ack", &long).await.problem(413, "64 KiB");
    let long = format!(r#"{{"by":"{}"}}"#, "x".repeat(201));
    s.post("/api/v1/exceptions/a/ack", &long).await.problem(400, "200");
    let refused = s.post("/-/reload", "").await;
    refused.problem(409, "accept=abc");
    s.post("/-/reload?accept=broken", "").await.problem(422, "rules.yaml:3:1");
    s.post("/-/reload?acept=abc", "").await.problem(400, "acept");
    assert!(s.fake.acts.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_panic_is_500_and_the_listener_lives_on() {
    let s = start(vec![]).await;
    s.get("/api/v1/parcels/panic").await.problem(500, "fault");
    assert_eq!(s.get("/api/v1/status").await.json(), json!({"partitions": []}));
    let metrics = s.get("/metrics").await.body;
    let line =
        "parcelwatch_http_requests_total{code=\"500\",handler=\"/api/v1/parcels/{id}\",method=\"GET\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    assert!(!metrics.contains("parcels/panic"), "a label holds a parcel");
}

#[tokio::test]
async fn a_parcels_id_may_hold_anything() {
    let s = start(vec![]).await;
    let body = s.get("/api/v1/parcels/P%2F1%20%C3%A9").await.json();
    assert_eq!(body["parcel_id"], "P/1 é");
}

#[tokio::test]
async fn acknowledging_and_resolving_answer_with_the_exception() {
    let s = start(vec![]).await;
    let answer = s.post("/api/v1/exceptions/a/ack", r#"{"by":"Maria","comment":"calling"}"#).await;
    assert_eq!((answer.status, answer.json()["state"].clone()), (200, json!("acknowledged")));
    // A second time changes nothing and is no error.
    assert_eq!(s.post("/api/v1/exceptions/a/ack", r#"{"by":"Max"}"#).await.status, 200);
    assert_eq!(s.post("/api/v1/exceptions/a/resolve", r#"{"by":"Max"}"#).await.json()["state"], "resolved");
    s.post("/api/v1/exceptions/a/ack", r#"{"by":"Max"}"#).await.problem(409, "resolved");
    s.post("/api/v1/exceptions/zz/ack", r#"{"by":"Max"}"#).await.problem(404, "zz");
    let acts = s.fake.acts.lock().unwrap().clone();
    assert_eq!(acts.len(), 2);
    assert_eq!(acts[0].2, Operator { by: "Maria".into(), comment: "calling".into(), via: None });
}

#[tokio::test]
async fn the_databases_trouble_is_503_without_its_words() {
    let s = start(vec![]).await;
    *s.fake.down.lock().unwrap() = true;
    let answer = s.get("/api/v1/exceptions").await;
    answer.problem(503, "try again");
    assert!(!answer.body.contains("sqlite"), "{}", answer.body);
    assert_eq!(answer.header("retry-after"), Some("5"));
}

#[tokio::test]
async fn tokens_bound_what_may_be_done() {
    let tokens = vec![
        Token::new("board", Role::Viewer, "v-secret\n"),
        Token::new("erp", Role::Operator, "o-secret"),
        Token::new("root", Role::Admin, "a-secret"),
    ];
    let s = start(tokens).await;
    let with = |method: &'static str, path: &'static str, token: &str| {
        let headers = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        let s = &s;
        async move { s.request(method, path, &headers, r#"{"comment":"x"}"#).await }
    };
    let bare = s.get("/api/v1/status").await;
    bare.problem(401, "token");
    assert_eq!(bare.header("www-authenticate"), Some("Bearer realm=\"parcelwatch\""));
    with("GET", "/api/v1/status", "wrong").await.problem(401, "not known");
    assert_eq!(with("GET", "/api/v1/status", "v-secret").await.status, 200);
    with("POST", "/api/v1/exceptions/a/ack", "v-secret").await.problem(403, "operator");
    assert_eq!(s.fake.state("a"), "open");
    assert_eq!(with("POST", "/api/v1/exceptions/a/ack", "o-secret").await.status, 200);
    with("POST", "/-/reload", "o-secret").await.problem(403, "admin");
    let answer = with("POST", "/-/reload?accept=abc", "a-secret").await;
    assert_eq!((answer.status, answer.json()["by"].as_str()), (200, Some("token root")));
    let acts = s.fake.acts.lock().unwrap().clone();
    assert_eq!(acts[0].2, Operator { by: "erp".into(), comment: "x".into(), via: Some("token erp".into()) });
}

#[tokio::test]
async fn another_origins_page_cannot_act() {
    let s = start(vec![]).await;
    for (origin, status) in [("http://evil.example", 403), ("null", 403), ("http://x", 200)] {
        let headers = format!("Origin: {origin}\r\nContent-Type: application/json\r\n");
        let answer = s.request("POST", "/api/v1/exceptions/a/ack", &headers, r#"{"by":"x"}"#).await;
        assert_eq!(answer.status, status, "{origin}");
    }
}

#[tokio::test]
async fn a_listener_that_others_reach_needs_a_token() {
    let site = |tokens| Site {
        daemon: Fake::with(&[]),
        cases: Fake::with(&[]),
        metrics: Arc::new(Metrics::new().unwrap()),
        tokens,
        link_key: None,
        now_ms: Arc::new(|| NOW),
    };
    let refused = Server::start("0.0.0.0:0".parse().unwrap(), site(vec![])).await.err().unwrap().to_string();
    assert!(refused.contains("http.tokens"), "{refused}");
    let first = Server::start("127.0.0.1:0".parse().unwrap(), site(vec![])).await.unwrap();
    let taken = Server::start(first.address(), site(vec![])).await.err().unwrap().to_string();
    assert!(taken.contains(&first.address().to_string()) && taken.contains("http.listen"), "{taken}");
}

fn link(created_ms: i64) -> String {
    let url = key().sign(Purpose::Acknowledge, "row-1", created_ms).url("http://x");
    url.strip_prefix("http://x").unwrap().to_owned()
}

#[tokio::test]
async fn following_a_link_shows_what_the_mail_listed_and_changes_nothing() {
    let s = start(vec![Token::new("erp", Role::Viewer, "s3cret")]).await;
    let page = s.get(&link(NOW)).await;
    assert_eq!(page.status, 200, "{}", page.body);
    for says in
        ["Parcels &lt;late&gt;", "P-a", "P-b", "Not &lt;scanned&gt;", "2026-10-14 07:10 UTC", "Your name"]
    {
        assert!(page.body.contains(says), "{says} is not in {}", page.body);
    }
    // Whoever acts on few of very many sees that, and where all of them are.
    assert!(page.body.contains("99,980 more"), "{}", page.body);
    let href = page.body.split_once("href=\"").and_then(|(_, rest)| rest.split_once('"')).unwrap().0;
    let table = s.get(&format!("/{}", href.replace("&amp;", "&"))).await;
    assert_eq!((table.status, href.starts_with("exceptions.csv?m=row-1&amp;")), (200, true), "{href}");
    assert!(!page.body.contains("P-c"), "what was resolved then is not listed: {}", page.body);
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
        "{policy}"
    );
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(page.header("x-frame-options"), Some("DENY"));
    assert!(s.fake.acts.lock().unwrap().is_empty());
}

#[tokio::test]
async fn posting_a_link_acknowledges_what_still_stands() {
    let s = start(vec![]).await;
    let form = "Content-Type: application/x-www-form-urlencoded\r\nOrigin: null\r\n";
    let post = |body: &'static str| {
        let s = &s;
        async move { s.request("POST", &link(NOW), form, body).await }
    };
    let nameless = post("by=+&action=acknowledge").await;
    assert_eq!(nameless.status, 400);
    assert!(nameless.body.contains("enter your name"), "{}", nameless.body);
    assert_eq!(post("by=Maria").await.status, 400);
    let done = post("by=Maria+L%C3%B3pez&comment=on+it&action=acknowledge").await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert!(done.body.contains("2 acknowledged by Maria López"), "{}", done.body);
    assert!(done.body.contains("1 no longer kept"), "{}", done.body);
    let acts = s.fake.acts.lock().unwrap().clone();
    assert_eq!(acts.iter().map(|a| a.1.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(acts[0].2.via.as_deref(), Some("link in message row-1 to ops@example.org"));
    assert_eq!(s.fake.state("c"), "open", "the mail told it as resolved");
    assert!(post("by=Max&action=acknowledge").await.body.contains("2 acknowledged before"));
    assert!(post("by=Max&action=resolve").await.body.contains("2 resolved by Max"));
}

#[tokio::test]
async fn links_that_are_old_or_not_ours_are_refused_with_a_page() {
    let s = start(vec![]).await;
    let week = 7 * 24 * 3_600_000;
    let old = s.get(&link(NOW - week)).await;
    assert_eq!(old.status, 403);
    assert!(old.body.contains("expired"), "{}", old.body);
    let forged = link(NOW).replace("m=row-1", "m=row-2");
    for path in [forged.as_str(), "/ack", "/ack?m=row-1&e=99999999999&s=", "/ack?m=row-1&e=x&s=y"] {
        let page = s.get(path).await;
        assert_eq!((page.status, page.body.contains("not genuine")), (403, true), "{path}: {}", page.body);
        let form = "Content-Type: application/x-www-form-urlencoded\r\n";
        assert_eq!(s.request("POST", path, form, "by=x&action=acknowledge").await.status, 403, "{path}");
    }
    let unknown = key().sign(Purpose::Acknowledge, "row-9", NOW).url("");
    assert_eq!(s.get(&unknown).await.status, 404);
    assert!(s.fake.acts.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_slow_request_and_a_stop_are_bounded() {
    let s = start(vec![]).await;
    // A client that never ends its request does not hold the stop up beyond its bound.
    let mut stuck = TcpStream::connect(s.server.address()).await.unwrap();
    stuck.write_all(b"GET /metrics HTT").await.unwrap();
    assert_eq!(s.get("/-/healthy").await.status, 200);
    let begun = Instant::now();
    s.server.stop(Duration::from_millis(200)).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
}
