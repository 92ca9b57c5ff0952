//! The outbox over a real socket; the rows behind it have their own tests.

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::auth::{Role, Token};
use super::outbox::{DeadLetters, Handled, Outbox};
use super::ports::{ApiError, Operator, Page};
use super::tests::{Fake, NOW, key, start};
use crate::notify::link::Purpose;

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

    /// Three pages of a message; of another the database fails after the first.
    fn exceptions<'a>(
        &'a self,
        id: &'a str,
        limit: u32,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<Page>, ApiError>> {
        assert_eq!(limit, 1_000);
        let at: i32 = cursor.map_or(0, |c| c.parse().unwrap());
        let item = json!({
            "exception_id": format!("e{at}"), "parcel_id": "=cmd()", "rule": "late", "owner": "a \"b\", c", "severity": "high",
            "due": "2026-10-14T07:10:00Z", "lane": "CN-ES", "order_id": null,
        });
        Box::pin(async move {
            match (id, at) {
                ("row-1" | "m2", 0) | ("row-1", 1 | 2) => {
                    let next_cursor = (at < 2).then(|| (at + 1).to_string());
                    Ok(Some(Page { items: vec![item], next_cursor }))
                }
                ("m2", _) => Err(ApiError::Unavailable("the disk is full".into())),
                _ => Ok(None),
            }
        })
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

const LINE: &str = ",late,,'=cmd(),high,,,\"a \"\"b\"\", c\",,2026-10-14T07:10:00Z,,,CN-ES,,,,,,\r\n";

#[tokio::test]
async fn what_a_message_told_of_is_a_table_page_by_page() {
    let s = start(vec![Token::new("look", Role::Viewer, "v")]).await;
    let get = |path: &'static str| s.request("GET", path, "Authorization: Bearer v\r\n", "");
    s.request("GET", "/api/v1/outbox/row-1/exceptions.csv", "", "").await.problem(401, "token");
    get("/api/v1/outbox/m9/exceptions.csv").await.problem(404, "m9");
    let table = get("/api/v1/outbox/row-1/exceptions.csv").await;
    assert_eq!(table.header("content-type"), Some("text/csv; charset=utf-8; header=present"));
    let name = "attachment; filename=\"parcelwatch-row1.csv\"";
    assert_eq!(table.header("content-disposition"), Some(name));
    let head = "exception_id,rule,title,parcel_id,severity,state,told,owner,acknowledged_by,due,opened_at,resolution,lane,origin,\
                destination,domestic_carrier,carrier_code,tracking_number,order_id\r\n";
    assert_eq!(table.unchunked(), format!("{head}e0{LINE}e1{LINE}e2{LINE}"));
    // Half a table is never taken for a whole one: the end of the answer is missing.
    let cut = s
        .bytes("GET /api/v1/outbox/m2/exceptions.csv HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer v\r\n\r\n")
        .await;
    assert!(!cut.ends_with("0\r\n\r\n") && !cut.contains("the disk is full"), "{cut}");
}

#[tokio::test]
async fn a_link_in_a_mail_reads_the_table_and_no_more() {
    let s = start(vec![Token::new("look", Role::Viewer, "v")]).await;
    let link = |purpose, row| key().sign(purpose, row, NOW).url("");
    let table = s.request("GET", &link(Purpose::List, "row-1"), "", "").await.unchunked();
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("\u{feff}exception_id,rule,"),
        "a spreadsheet reads it as UTF-8: {}",
        lines[0]
    );
    assert_eq!((lines.len(), lines[3]), (4, format!("e2{LINE}").trim_end()));
    // A link to read acknowledges nothing, one to acknowledge reads nothing.
    for (of, to) in [(Purpose::List, "/ack"), (Purpose::Acknowledge, "/exceptions.csv")] {
        let other = link(of, "row-1").replace(of.path(), to);
        for method in ["GET", "POST"] {
            let answer = s.request(method, &other, "", "").await;
            assert!(matches!(answer.status, 403 | 405), "{method} {to}: {}", answer.status);
        }
    }
    assert_eq!(s.request("GET", &link(Purpose::List, "gone"), "", "").await.status, 404);
}
