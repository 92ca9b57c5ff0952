//! `/api/v1/silences`, what is done to a whole group, the feeds, and the audit trail.

use axum::extract::{Extension, Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router, body::Bytes};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::api::{self, Id, RawBody};
use super::auth::Caller;
use super::ports::{Acted, Action, ApiError, Operator};
use super::problem::Problem;
use crate::model::Time;
use crate::rules::condition::Condition;
use crate::rules::duration;

/// A silence over more than this share of what stands has to be forced.
pub const BROAD_PERCENT: u64 = 30;
/// Nor is one asked about that fits fewer: a quiet day has few exceptions, and one is soon a third of them.
pub const BROAD_LEAST: u64 = 20;

/// What operators do besides acting on one exception.
pub trait Desk: Send + Sync {
    /// Silences, newest first: those that have not ended, or all.
    fn silences(&self, ended_too: bool) -> BoxFuture<'_, Result<Vec<Value>, ApiError>>;

    /// How many standing exceptions a condition fits, and how many stand.
    fn reach<'a>(&'a self, on: &'a Condition) -> BoxFuture<'a, Result<(u64, u64), ApiError>>;

    /// Makes a silence.
    fn silence<'a>(
        &'a self,
        new: &'a NewSilence,
        who: &'a Operator,
    ) -> BoxFuture<'a, Result<Value, ApiError>>;

    /// Ends a silence; `None`: there is none of this number.
    fn end_silence<'a>(
        &'a self,
        number: i64,
        who: &'a Operator,
    ) -> BoxFuture<'a, Result<Option<Value>, ApiError>>;

    /// Acts on all members of a group that stand now; `None`: there is no such group. Else how many stood, how many it changed.
    fn act_on_group<'a>(
        &'a self,
        action: Action,
        group: &'a str,
        who: &'a Operator,
    ) -> BoxFuture<'a, Result<Option<(usize, usize, Acted)>, ApiError>>;

    /// What is known of feeds, by source and lane.
    fn feeds(&self) -> BoxFuture<'_, Result<Vec<Value>, ApiError>>;

    /// Rows of the audit trail after this one, in order.
    fn audit(&self, after: i64, limit: u32) -> BoxFuture<'_, Result<Vec<Value>, ApiError>>;
}

/// A silence that is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSilence {
    /// As written.
    pub matchers: Value,
    /// The same, read.
    pub on: Condition,
    /// Wall time.
    pub starts_ms: i64,
    /// Wall time.
    pub ends_ms: i64,
}

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/api/v1/silences", get(list).post(add))
        .route("/api/v1/silences/{id}", delete(end))
        .route("/api/v1/exceptions/{id}/unack", post(unacknowledge))
        .route("/api/v1/groups/{id}/ack", post(acknowledge_group))
        .route("/api/v1/groups/{id}/unack", post(unacknowledge_group))
        .route("/api/v1/groups/{id}/resolve", post(resolve_group))
        .route("/api/v1/feeds", get(feeds))
        .route("/api/v1/audit", get(audit))
}

fn desk(site: &Shared) -> Result<&dyn Desk, Problem> {
    site.cases.desk().ok_or_else(|| Problem::new(StatusCode::NOT_IMPLEMENTED, "this is not offered here"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    state: Option<String>,
}

async fn list(State(site): State<Shared>, uri: Uri) -> Result<Response, Problem> {
    let query: ListQuery = api::query(&uri)?;
    let ended_too = match query.state.as_deref().unwrap_or("") {
        "" | "current" => false,
        "all" => true,
        other => {
            return Err(Problem::bad_request(format!(
                "state {:?} is none of current, all",
                api::shown(other)
            )));
        }
    };
    let items = desk(&site)?.silences(ended_too).await?;
    Ok(Json(json!({ "items": items, "next_cursor": null })).into_response())
}

async fn feeds(State(site): State<Shared>) -> Result<Response, Problem> {
    let items = desk(&site)?.feeds().await?;
    Ok(Json(json!({ "items": items, "next_cursor": null })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    matchers: Value,
    starts_at: Option<String>,
    ends_at: Option<String>,
    duration: Option<String>,
    comment: Option<String>,
    by: Option<String>,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    dry_run: bool,
}

impl Asked {
    fn read(&self, now_ms: i64) -> Result<NewSilence, Problem> {
        let on = Condition::from_json(&self.matchers)
            .map_err(|why| Problem::bad_request(format!("\"matchers\": {why}")))?;
        let time = |text: &str, what: &str| {
            Time::parse(text).map(|t| t.0).ok_or_else(|| {
                let why =
                    format!("\"{what}\" is not an RFC 3339 time with a zone, like 2026-10-14T07:10:00Z");
                Problem::bad_request(why)
            })
        };
        let starts_ms = self.starts_at.as_deref().map_or(Ok(now_ms), |t| time(t, "starts_at"))?;
        let ends_ms = match (self.ends_at.as_deref(), self.duration.as_deref()) {
            (Some(at), None) => time(at, "ends_at")?,
            (None, Some(text)) => {
                let ms = duration::parse_elapsed(text)
                    .map_err(|(why, help)| Problem::bad_request(format!("\"duration\": {why}; {help}")))?;
                starts_ms.saturating_add(ms)
            }
            _ => {
                let why =
                    "a silence needs an end: either \"ends_at\" or \"duration\", as in \"duration\": \"2h\"";
                return Err(Problem::bad_request(why));
            }
        };
        if ends_ms <= starts_ms || ends_ms <= now_ms {
            return Err(Problem::bad_request("the silence would end before it begins, or has ended by now"));
        }
        Ok(NewSilence { matchers: self.matchers.clone(), on, starts_ms, ends_ms })
    }
}

async fn add(
    State(site): State<Shared>,
    Extension(caller): Extension<Caller>,
    headers: axum::http::HeaderMap,
    body: RawBody,
) -> Result<Response, Problem> {
    let body = api::json_body(&headers, body)?;
    let wanted = "{\"matchers\", \"ends_at\" or \"duration\", \"comment\", \"by\"}";
    let asked: Asked = serde_json::from_slice(&body)
        .map_err(|e| Problem::bad_request(format!("the body is not {wanted} as JSON: {e}")))?;
    let new = asked.read((site.now_ms)())?;
    let who = api::named(caller, asked.by.clone(), asked.comment.clone())?;
    if who.comment.trim().is_empty() && !asked.dry_run {
        return Err(Problem::bad_request("\"comment\" is missing: say why it is to be quiet"));
    }
    let desk = desk(&site)?;
    let (matching, standing) = desk.reach(&new.on).await?;
    let broad = matching >= BROAD_LEAST && matching * 100 > standing * BROAD_PERCENT;
    let reach = json!({"matching": matching, "standing": standing, "broad": broad});
    if asked.dry_run {
        return Ok(Json(reach).into_response());
    }
    if broad && !asked.force {
        let why = format!(
            "the silence fits {matching} of {standing} standing exceptions, more than {BROAD_PERCENT} %: narrow its matchers, or \
             force it (\"force\": true, --force)"
        );
        return Err(Problem::new(StatusCode::CONFLICT, why));
    }
    let mut made = desk.silence(&new, &who).await?;
    made["reach"] = reach;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

async fn end(
    State(site): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: axum::http::HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Response, Problem> {
    let missing = || Problem::not_found(format!("there is no silence {}", api::shown(&id)));
    let number: i64 = id.parse().map_err(|_| missing())?;
    let who = api::operator_or(caller, &headers, body, "somebody without a name")?;
    let ended = desk(&site)?.end_silence(number, &who).await?.ok_or_else(missing)?;
    Ok(Json(ended).into_response())
}

async fn unacknowledge(
    State(site): State<Shared>,
    Extension(caller): Extension<Caller>,
    id: Id,
    headers: axum::http::HeaderMap,
    body: RawBody,
) -> Result<Response, Problem> {
    let who = api::operator(caller, &headers, body)?;
    api::act(&site, Action::Unacknowledge, id.text(), who).await
}

async fn acknowledge_group(
    State(site): State<Shared>,
    Extension(caller): Extension<Caller>,
    id: Id,
    headers: axum::http::HeaderMap,
    body: RawBody,
) -> Result<Response, Problem> {
    group(&site, Action::Acknowledge, &id, &api::operator(caller, &headers, body)?).await
}

async fn unacknowledge_group(
    State(site): State<Shared>,
    Extension(caller): Extension<Caller>,
    id: Id,
    headers: axum::http::HeaderMap,
    body: RawBody,
) -> Result<Response, Problem> {
    group(&site, Action::Unacknowledge, &id, &api::operator(caller, &headers, body)?).await
}

async fn resolve_group(
    State(site): State<Shared>,
    Extension(caller): Extension<Caller>,
    id: Id,
    headers: axum::http::HeaderMap,
    body: RawBody,
) -> Result<Response, Problem> {
    group(&site, Action::Resolve, &id, &api::operator(caller, &headers, body)?).await
}

async fn group(site: &Shared, action: Action, id: &Id, who: &Operator) -> Result<Response, Problem> {
    let done = desk(site)?.act_on_group(action, id.text(), who).await?;
    let missing = || Problem::not_found(format!("there is no group {}", api::shown(id.text())));
    let (members, changed, acted) = done.ok_or_else(missing)?;
    if acted == Acted::CommentNeeded {
        return Err(api::comment_needed());
    }
    Ok(Json(json!({"group_id": id.text(), "members": members, "changed": changed})).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    after: Option<i64>,
    limit: Option<String>,
}

async fn audit(State(site): State<Shared>, uri: Uri) -> Result<Response, Problem> {
    let query: AuditQuery = api::query(&uri)?;
    let limit = api::limit(query.limit.as_deref())?;
    let items = desk(&site)?.audit(query.after.unwrap_or(0), limit).await?;
    let full = items.len() >= limit as usize;
    let next = items.last().filter(|_| full).map(|last| last["seq"].to_string());
    Ok(Json(json!({ "items": items, "next_cursor": next })).into_response())
}
