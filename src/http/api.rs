//! `/api/v1`: exceptions, parcels, status, notifications (DESIGN §11).

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Shared;
use super::auth::Caller;
use super::ports::{Acted, Action, Filter, Operator, Page, StateFilter};
use super::problem::Problem;
use crate::model::{Severity, Time};

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1000;
/// Characters of a name and of a comment.
pub(super) const BY_MAX: usize = 200;
pub(super) const COMMENT_MAX: usize = 2000;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/api/v1/exceptions", get(exceptions))
        .route("/api/v1/exceptions/{id}", get(exception))
        .route("/api/v1/exceptions/{id}/ack", post(acknowledge))
        .route("/api/v1/exceptions/{id}/resolve", post(resolve))
        .route("/api/v1/parcels/{id}", get(parcel))
        .route("/api/v1/parcels/{id}/explain", get(explain))
        .route("/api/v1/rules", get(rules_loads))
        .route("/api/v1/rules/{hash}", get(rules_texts))
        .route("/api/v1/status", get(status))
        .route("/api/v1/notifications", get(notifications))
}

/// The `{id}` of a path, decoded.
pub(super) struct Id(String);

impl Id {
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Id, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Id(id)),
            Err(rejected) => Err(Problem::new(rejected.status(), rejected.body_text())),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExceptionsQuery {
    state: Option<String>,
    rule: Option<String>,
    parcel_id: Option<String>,
    owner: Option<String>,
    severity: Option<String>,
    order_id: Option<String>,
    group_id: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NotificationsQuery {
    exception_id: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ActBody {
    by: Option<String>,
    comment: Option<String>,
}

async fn exceptions(State(site): State<Shared>, uri: Uri) -> Result<Response, Problem> {
    let query: ExceptionsQuery = query(&uri)?;
    let state = match filled(query.state).as_deref() {
        None => StateFilter::default(),
        Some(name) => StateFilter::from_name(name).ok_or_else(|| {
            Problem::bad_request(format!(
                "state {name:?} is none of standing, open, acknowledged, resolved, all"
            ))
        })?,
    };
    let severity = |name: String| {
        Severity::from_name(&name).ok_or_else(|| {
            let all = Severity::ALL.map(Severity::name).join(", ");
            Problem::bad_request(format!("severity {} is none of {all}", shown(&name)))
        })
    };
    let filter = Filter {
        state,
        rule: filled(query.rule),
        parcel_id: filled(query.parcel_id),
        owner: filled(query.owner),
        severity: filled(query.severity).map(severity).transpose()?,
        order_id: filled(query.order_id),
        group_id: filled(query.group_id),
    };
    let limit = limit(query.limit.as_deref())?;
    let page = site.cases.exceptions(&filter, limit, filled(query.cursor).as_deref()).await?;
    Ok(list(page))
}

async fn notifications(State(site): State<Shared>, uri: Uri) -> Result<Response, Problem> {
    let query: NotificationsQuery = query(&uri)?;
    let limit = limit(query.limit.as_deref())?;
    let (id, cursor) = (filled(query.exception_id), filled(query.cursor));
    let page = site.cases.notifications(id.as_deref(), limit, cursor.as_deref()).await?;
    Ok(list(page))
}

async fn exception(State(site): State<Shared>, Id(id): Id) -> Result<Response, Problem> {
    let found = site.cases.exception(&id).await?.ok_or_else(|| no_exception(&id))?;
    Ok(Json(found).into_response())
}

async fn parcel(State(site): State<Shared>, Id(id): Id) -> Result<Response, Problem> {
    let missing = || Problem::not_found(format!("nothing is known of a parcel {}", shown(&id)));
    Ok(Json(site.daemon.parcel(&id).await.ok_or_else(missing)?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainQuery {
    rule: Option<String>,
    at: Option<String>,
}

async fn explain(State(site): State<Shared>, Id(id): Id, uri: Uri) -> Result<Response, Problem> {
    let query: ExplainQuery = query(&uri)?;
    let at =
        match filled(query.at) {
            None => None,
            Some(text) => Some(Time::parse(&text).ok_or_else(|| {
                Problem::bad_request(format!("at {text:?} is no RFC 3339 time with a zone"))
            })?),
        };
    let missing = || Problem::not_found(format!("nothing is known of a parcel {}", shown(&id)));
    let found = site.daemon.explain(&id, filled(query.rule).as_deref(), at).await.ok_or_else(missing)?;
    Ok(Json(found).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitQuery {
    limit: Option<String>,
}

async fn rules_loads(State(site): State<Shared>, uri: Uri) -> Result<Response, Problem> {
    let query: LimitQuery = query(&uri)?;
    let items = site.cases.rules_loads(limit(query.limit.as_deref())?).await?;
    Ok(list(Page { items, next_cursor: None }))
}

async fn rules_texts(State(site): State<Shared>, Id(hash): Id) -> Result<Response, Problem> {
    let missing = || Problem::not_found(format!("no rules are kept under the hash {}", shown(&hash)));
    let found = site.cases.rules_texts(&hash).await?.ok_or_else(missing)?;
    Ok(Json(found).into_response())
}

async fn status(State(site): State<Shared>) -> Json<Value> {
    Json(site.daemon.status().await)
}

pub(super) type RawBody = Result<Bytes, BytesRejection>;

async fn acknowledge(
    State(site): State<Shared>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, Problem> {
    act(&site, Action::Acknowledge, &id, operator(caller, &headers, body)?).await
}

async fn resolve(
    State(site): State<Shared>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, Problem> {
    act(&site, Action::Resolve, &id, operator(caller, &headers, body)?).await
}

pub(super) async fn act(site: &Shared, action: Action, id: &str, who: Operator) -> Result<Response, Problem> {
    match site.cases.act(action, id, &who).await? {
        Acted::Done | Acted::Already => {}
        Acted::NotFound => return Err(no_exception(id)),
        Acted::CommentNeeded => return Err(comment_needed()),
        Acted::Resolved => {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "the exception is resolved; there is nothing to acknowledge",
            ));
        }
    }
    let now = site.cases.exception(id).await?.ok_or_else(|| no_exception(id))?;
    Ok(Json(now).into_response())
}

/// Its policy asks for a comment.
pub(super) fn comment_needed() -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "the policy asks for a \"comment\": say what is being done",
    )
}

/// Who acts, from the body `{"by","comment"}` and the token.
pub(super) fn operator(caller: Caller, headers: &HeaderMap, body: RawBody) -> Result<Operator, Problem> {
    let body = act_body(headers, body)?;
    named(caller, body.by, body.comment)
}

/// As [`operator`], with a name for those who give none.
pub(super) fn operator_or(
    caller: Caller,
    headers: &HeaderMap,
    body: RawBody,
    nobody: &str,
) -> Result<Operator, Problem> {
    let body = act_body(headers, body)?;
    let by = body.by.filter(|b| !b.trim().is_empty()).or_else(|| caller.0.clone());
    named(caller, by.or_else(|| Some(nobody.to_owned())), body.comment)
}

fn act_body(headers: &HeaderMap, body: RawBody) -> Result<ActBody, Problem> {
    let body = json_body(headers, body)?;
    if body.is_empty() {
        return Ok(ActBody::default());
    }
    let problem = |e| Problem::bad_request(format!("the body is not {{\"by\", \"comment\"}} as JSON: {e}"));
    serde_json::from_slice(&body).map_err(problem)
}

/// A body that says it is JSON, or an empty one.
pub(super) fn json_body(headers: &HeaderMap, body: RawBody) -> Result<Bytes, Problem> {
    let body = body.map_err(|rejected| {
        let status = rejected.status();
        let detail = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "the body is larger than 64 KiB".to_owned(),
            _ => rejected.body_text(),
        };
        Problem::new(status, detail)
    })?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !body.is_empty() && !kind.eq_ignore_ascii_case("application/json") {
        let detail = "the body must be JSON: Content-Type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    Ok(body)
}

/// Who acts, as they say and by their token.
pub(super) fn named(
    caller: Caller,
    by: Option<String>,
    comment: Option<String>,
) -> Result<Operator, Problem> {
    let named = by.map(|b| b.trim().to_owned()).filter(|b| !b.is_empty());
    let by = named.or_else(|| caller.0.clone());
    let by = by.ok_or_else(|| Problem::bad_request("\"by\" is missing: say who acts"))?;
    let comment = comment.unwrap_or_default();
    if by.chars().count() > BY_MAX || comment.chars().count() > COMMENT_MAX {
        let detail = format!("\"by\" may have {BY_MAX} characters, \"comment\" {COMMENT_MAX}");
        return Err(Problem::bad_request(detail));
    }
    Ok(Operator { by, comment, via: caller.0.map(|name| format!("token {name}")) })
}

pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let Query(query) = Query::try_from_uri(uri).map_err(|e| Problem::bad_request(e.body_text()))?;
    Ok(query)
}

/// A parameter that is there but empty counts as absent, as forms send it.
pub(super) fn filled(parameter: Option<String>) -> Option<String> {
    parameter.filter(|p| !p.is_empty())
}

pub(super) fn limit(text: Option<&str>) -> Result<u32, Problem> {
    match text {
        None | Some("") => Ok(LIMIT_DEFAULT),
        Some(text) => text.parse().ok().filter(|n| (1..=LIMIT_MAX).contains(n)).ok_or_else(|| {
            Problem::bad_request(format!("limit {text:?} is no number from 1 to {LIMIT_MAX}"))
        }),
    }
}

pub(super) fn list(page: Page) -> Response {
    Json(json!({ "items": page.items, "next_cursor": page.next_cursor })).into_response()
}

pub(super) fn no_exception(id: &str) -> Problem {
    Problem::not_found(format!("there is no exception {}", shown(id)))
}

/// A client's own text, short enough to be given back.
pub(super) fn shown(id: &str) -> String {
    format!("{:?}", id.chars().take(100).collect::<String>())
}
