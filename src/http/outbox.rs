//! `/api/v1/outbox`: messages, and what operators do with them.

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::api::{self, Id, RawBody};
use super::auth::Caller;
use super::ports::{ApiError, Operator, Page};
use super::problem::Problem;
use crate::metrics::OUTBOX_STATES;
use crate::model::Time;

/// What operators do with the outbox.
pub trait Outbox: Send + Sync {
    /// Messages, newest first; `state` is one of [`OUTBOX_STATES`].
    fn messages<'a>(
        &'a self,
        state: Option<&'a str>,
        receiver: Option<&'a str>,
        limit: u32,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, ApiError>>;

    /// One message; `None`: there is none of this id.
    fn message<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Value>, ApiError>>;

    /// What a message told of, the oldest first, as it stands now; `None`: there is no message of this id.
    fn exceptions<'a>(
        &'a self,
        id: &'a str,
        limit: u32,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<Page>, ApiError>>;

    /// Has a dead letter tried again.
    fn retry<'a>(&'a self, id: &'a str, who: &'a Operator) -> BoxFuture<'a, Result<Handled, ApiError>>;

    /// The same for many; returns how many.
    fn retry_all<'a>(
        &'a self,
        which: &'a DeadLetters,
        who: &'a Operator,
    ) -> BoxFuture<'a, Result<u64, ApiError>>;

    /// Drops a message that is pending or dead.
    fn drop_message<'a>(&'a self, id: &'a str, who: &'a Operator)
    -> BoxFuture<'a, Result<Handled, ApiError>>;
}

/// Which dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadLetters {
    /// Of this receiver.
    pub receiver: String,
    /// Written at this time or later.
    pub from_ms: Option<i64>,
    /// Written before this time.
    pub to_ms: Option<i64>,
}

/// What a wish about a message met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handled {
    /// It is done.
    Done,
    /// The message is in this state, for which it makes no sense.
    Unfit(String),
    /// There is none of this id.
    NotFound,
}

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/api/v1/outbox", get(list))
        .route("/api/v1/outbox/retry", post(retry_all))
        .route("/api/v1/outbox/{id}", get(one))
        .route("/api/v1/outbox/{id}/retry", post(retry))
        .route("/api/v1/outbox/{id}/drop", post(drop_one))
}

pub(super) fn outbox(site: &Shared) -> Result<&dyn Outbox, Problem> {
    site.cases.outbox().ok_or_else(|| Problem::new(StatusCode::NOT_IMPLEMENTED, "this is not offered here"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    state: Option<String>,
    receiver: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

async fn list(State(site): State<Shared>, uri: Uri) -> Result<Response, Problem> {
    let query: ListQuery = api::query(&uri)?;
    let state = api::filled(query.state);
    if let Some(state) = &state
        && !OUTBOX_STATES.contains(&state.as_str())
    {
        let why = format!("state {} is none of {}", api::shown(state), OUTBOX_STATES.join(", "));
        return Err(Problem::bad_request(why));
    }
    let (receiver, cursor) = (api::filled(query.receiver), api::filled(query.cursor));
    let limit = api::limit(query.limit.as_deref())?;
    let page =
        outbox(&site)?.messages(state.as_deref(), receiver.as_deref(), limit, cursor.as_deref()).await?;
    Ok(api::list(page))
}

async fn one(State(site): State<Shared>, id: Id) -> Result<Response, Problem> {
    let found = outbox(&site)?.message(id.text()).await?.ok_or_else(|| missing(&id))?;
    Ok(Json(found).into_response())
}

async fn retry(
    State(site): State<Shared>,
    Extension(caller): Extension<Caller>,
    id: Id,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, Problem> {
    let who = api::operator(caller, &headers, body)?;
    let outbox = outbox(&site)?;
    let handled = outbox.retry(id.text(), &who).await?;
    after(outbox, &id, handled, "only a dead one is tried again").await
}

async fn drop_one(
    State(site): State<Shared>,
    Extension(caller): Extension<Caller>,
    id: Id,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, Problem> {
    let who = api::operator(caller, &headers, body)?;
    let outbox = outbox(&site)?;
    let handled = outbox.drop_message(id.text(), &who).await?;
    after(outbox, &id, handled, "only one that is pending or dead can be dropped").await
}

/// The message as it is now, or why nothing was done.
async fn after(outbox: &dyn Outbox, id: &Id, handled: Handled, rule: &str) -> Result<Response, Problem> {
    match handled {
        Handled::Done => {}
        Handled::NotFound => return Err(missing(id)),
        Handled::Unfit(state) => {
            let why = format!("message {} is {state}: {rule}", api::shown(id.text()));
            return Err(Problem::new(StatusCode::CONFLICT, why));
        }
    }
    let now = outbox.message(id.text()).await?.ok_or_else(|| missing(id))?;
    Ok(Json(now).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryAll {
    receiver: String,
    state: Option<String>,
    from: Option<String>,
    to: Option<String>,
    by: Option<String>,
    comment: Option<String>,
}

async fn retry_all(
    State(site): State<Shared>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, Problem> {
    let body = api::json_body(&headers, body)?;
    let asked: RetryAll = serde_json::from_slice(&body).map_err(|e| {
        let wanted = "{\"receiver\", \"state\": \"dead\", \"from\", \"to\", \"by\", \"comment\"}";
        Problem::bad_request(format!("the body is not {wanted} as JSON: {e}"))
    })?;
    if let Some(state) = asked.state.filter(|state| state != "dead") {
        let why = format!("state {}: only dead letters are tried again", api::shown(&state));
        return Err(Problem::bad_request(why));
    }
    let time = |text: Option<&str>, what: &str| {
        let read = |text: &str| {
            Time::parse(text).map(|t| t.0).ok_or_else(|| {
                let like = "an RFC 3339 time with a zone, like 2026-10-14T07:10:00Z";
                Problem::bad_request(format!("\"{what}\" is not {like}"))
            })
        };
        text.map(read).transpose()
    };
    let which = DeadLetters {
        from_ms: time(asked.from.as_deref(), "from")?,
        to_ms: time(asked.to.as_deref(), "to")?,
        receiver: asked.receiver,
    };
    let who = api::named(caller, asked.by, asked.comment)?;
    let retried = outbox(&site)?.retry_all(&which, &who).await?;
    Ok(Json(json!({ "receiver": which.receiver, "retried": retried })).into_response())
}

pub(super) fn missing(id: &Id) -> Problem {
    Problem::not_found(format!("there is no message {} in the outbox", api::shown(id.text())))
}
