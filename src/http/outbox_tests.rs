//! The outbox over a real socket; the rows behind it have their own tests.

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::auth::{Role, Token};
use super::outbox::{DeadLetters, Handled, Outbox};
use super::ports::{ApiError, Operator, Page};
use super::tests::{Fake, start};

impl Outbox for Fake {
    fn messages<'a>(
        &'a self,
        state: Option<&'a str>,
        receiver: Option<&'a str>,
        limit: u32,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, ApiError>> {
        let asked = json!({"state": state, "receiver": receiver, "limit": limit, "cursor": cursor});
        Box::pin(async move { Ok(Page { items: vec![asked], next_cursor: None }) })
    }

    fn message<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Value>, ApiError>> {
        Box::pin(async move { Ok((id == "m1").then(|| json!({"id": id, "state": "pending"}))) })
    }

    fn retry<'a>(&'a self, id: &'a str, who: &'a Operator) -> BoxFuture<'a, Result<Handled, ApiError>> {
        assert_eq!(who.via.as_deref(), Some("token desk"));
        Box::pin(async move {
            Ok(match id {
                "m1" => Handled::Done,
                "m2" => Handled::Unfit("delivered".into()),
                _ => Handled::NotFound,
            })
        })
    }

    fn retry_all<'a>(
        &'a self,
        which: &'a DeadLetters,
        _who: &'a Operator,
    ) -> BoxFuture<'a, Result<u64, ApiError>> {
        assert_eq!((which.receiver.as_str(), which.to_ms), ("erp", None));
        assert_eq!(which.from_ms, Some(1_791_961_800_000));
        Box::pin(async { Ok(7) })
    }

    fn drop_message<'a>(
        &'a self,
        id: &'a str,
        who: &'a Operator,
    ) -> BoxFuture<'a, Result<Handled, ApiError>> {
        self.retry(id, who)
    }
}

#[tokio::test]
async fn messages_are_listed_retried_and_dropped() {
    let tokens = vec![Token::new("look", Role::Viewer, "v"), Token::new("desk", Role::Operator, "o")];
    let s = start(tokens).await;
    let (look, desk) =
        ("Authorization: Bearer v\r\n", "Authorization: Bearer o\r\nContent-Type: application/json\r\n");
    let get = |path: &'static str| s.request("GET", path, look, "");
    let list = get("/api/v1/outbox?state=dead&receiver=erp&limit=5&cursor=9").await.json();
    assert_eq!(list["items"][0], json!({"state": "dead", "receiver": "erp", "limit": 5, "cursor": "9"}));
    get("/api/v1/outbox?state=lost").await.problem(400, "withdrawn");
    assert_eq!(get("/api/v1/outbox/m1").await.json()["id"], "m1");
    get("/api/v1/outbox/m9").await.problem(404, "m9");
    s.request("POST", "/api/v1/outbox/m1/retry", look, "").await.problem(403, "operator");
    let post = |path: &'static str, body: &'static str| s.request("POST", path, desk, body);
    for what in ["/api/v1/outbox/m1/retry", "/api/v1/outbox/m1/drop"] {
        assert_eq!(post(what, r#"{"comment":"fixed"}"#).await.json()["state"], "pending");
    }
    post("/api/v1/outbox/m2/retry", "").await.problem(409, "delivered");
    post("/api/v1/outbox/m2/drop", "").await.problem(409, "pending or dead");
    post("/api/v1/outbox/m9/drop", "").await.problem(404, "m9");
    let all =
        post("/api/v1/outbox/retry", r#"{"receiver":"erp","state":"dead","from":"2026-10-14T07:10:00Z"}"#);
    assert_eq!(all.await.json()["retried"], 7);
    post("/api/v1/outbox/retry", r#"{"receiver":"erp","from":"today"}"#).await.problem(400, "\"from\"");
    post("/api/v1/outbox/retry", r#"{"receiver":"erp","state":"pending"}"#).await.problem(400, "dead");
    post("/api/v1/outbox/retry", "{}").await.problem(400, "receiver");
}
