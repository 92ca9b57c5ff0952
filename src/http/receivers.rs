//! Trying receivers: a message that only tests one, and what an exception would send now.

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;

use super::Shared;
use super::api::{self, Id, RawBody};
use super::auth::Caller;
use super::ports::{ApiError, Operator};
use super::problem::Problem;

/// Who sends a test, and shows what would be sent.
pub trait Receivers: Send + Sync {
    /// Puts a test into the outbox for each recipient of a receiver, or with `dry_run` only shows it. `None`: there is no such receiver.
    fn test<'a>(
        &'a self,
        receiver: &'a str,
        dry_run: bool,
        who: &'a Operator,
    ) -> BoxFuture<'a, Result<Option<Value>, ApiError>>;

    /// What an exception would send now, to this receiver or the first of its policy. `None`: there is no such exception.
    fn preview<'a>(
        &'a self,
        exception_id: &'a str,
        receiver: Option<&'a str>,
        format: Format,
    ) -> BoxFuture<'a, Result<Option<Value>, ApiError>>;
}

/// How a message is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A mail's text.
    Text,
    /// A mail's HTML.
    Html,
    /// A webhook's body.
    Json,
}

impl Format {
    fn from_name(name: &str) -> Option<Format> {
        match name {
            "text" => Some(Format::Text),
            "html" => Some(Format::Html),
            "json" => Some(Format::Json),
            _ => None,
        }
    }
}

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/api/v1/receivers/{id}/test", post(test))
        .route("/api/v1/exceptions/{id}/preview", get(preview))
}

fn receivers(site: &Shared) -> Result<&dyn Receivers, Problem> {
    site.cases
        .receivers()
        .ok_or_else(|| Problem::new(StatusCode::NOT_IMPLEMENTED, "this is not offered here"))
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct TestBody {
    by: Option<String>,
    comment: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

async fn test(
    State(site): State<Shared>,
    Extension(caller): Extension<Caller>,
    id: Id,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, Problem> {
    let body = api::json_body(&headers, body)?;
    let asked: TestBody = match body.is_empty() {
        true => TestBody::default(),
        false => serde_json::from_slice(&body).map_err(|e| {
            Problem::bad_request(format!("the body is not {{\"by\", \"comment\", \"dry_run\"}} as JSON: {e}"))
        })?,
    };
    let who = api::named(caller, asked.by, asked.comment)?;
    let sent = receivers(&site)?.test(id.text(), asked.dry_run, &who).await?;
    let missing = || {
        let name = api::shown(id.text());
        Problem::not_found(format!("there is no receiver {name} in the policies in force"))
    };
    Ok(Json(sent.ok_or_else(missing)?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PreviewQuery {
    receiver: Option<String>,
    format: Option<String>,
}

async fn preview(State(site): State<Shared>, id: Id, uri: Uri) -> Result<Response, Problem> {
    let query: PreviewQuery = api::query(&uri)?;
    let name = api::filled(query.format).unwrap_or_else(|| "text".to_owned());
    let format = Format::from_name(&name).ok_or_else(|| {
        Problem::bad_request(format!("format {} is none of text, html, json", api::shown(&name)))
    })?;
    let receiver = api::filled(query.receiver);
    let shown = receivers(&site)?.preview(id.text(), receiver.as_deref(), format).await?;
    // The content is a text in JSON whatever its format: a browser does not take it for a page of ours.
    Ok(Json(shown.ok_or_else(|| api::no_exception(id.text()))?).into_response())
}
