//! The page behind the link in a mail. GET shows what the mail listed and how it stands now, and changes nothing, since
//! mail scanners follow links; POST acknowledges or resolves what the mail listed and still stands.

use std::sync::LazyLock;

use axum::Router;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Query, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Shared;
use super::api::{BY_MAX, COMMENT_MAX};
use super::ports::{Acted, Action, ApiError, LinkedMessage, Operator};
use crate::model::{Time, grouped};
use crate::notify::link::{Link, LinkError, Purpose};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route(Purpose::Acknowledge.path(), get(show).post(act))
}

#[derive(Deserialize)]
struct LinkQuery {
    m: String,
    e: i64,
    s: String,
}

#[derive(Deserialize)]
struct ActForm {
    #[serde(default)]
    by: String,
    #[serde(default)]
    comment: String,
    #[serde(default)]
    action: String,
}

/// A page that says why there is nothing to do.
pub(super) struct Refusal(StatusCode, &'static str, String);

impl Refusal {
    /// The message is no longer there.
    pub(super) fn gone() -> Refusal {
        let text = "The message that this link belongs to is no longer kept.";
        Refusal(StatusCode::NOT_FOUND, "Nothing to show", text.to_owned())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = html! {
            h1 { (self.1) }
            p { (self.2) }
        };
        page(self.0, self.1, &body)
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Refusal {
        let (ApiError::Invalid(error) | ApiError::Unavailable(error)) = error;
        tracing::error!(%error, "cannot show what a link in a mail names");
        let text = "The database refuses at present. Nothing was changed. Try again in a minute.";
        Refusal(StatusCode::SERVICE_UNAVAILABLE, "Try again later", text.to_owned())
    }
}

async fn show(State(site): State<Shared>, uri: Uri) -> Result<Response, Refusal> {
    let (link, message) = linked(&site, Purpose::Acknowledge, &uri).await?;
    let listed = listed(&site, &message).await?;
    let more = more(&site, &link, &message);
    Ok(page(StatusCode::OK, "Acknowledge", &overview(&message, &listed, &more, None)))
}

async fn act(
    State(site): State<Shared>,
    uri: Uri,
    form: Result<Form<ActForm>, FormRejection>,
) -> Result<Response, Refusal> {
    let (link, message) = linked(&site, Purpose::Acknowledge, &uri).await?;
    let (action, who) = match asked(form, &link, &message) {
        Ok(asked) => asked,
        Err(complaint) => {
            let listed = listed(&site, &message).await?;
            let body = overview(&message, &listed, &more(&site, &link, &message), Some(&complaint));
            return Ok(page(StatusCode::BAD_REQUEST, "Acknowledge", &body));
        }
    };
    let mut done = Vec::new();
    for id in ids(&message) {
        let acted = site.cases.act(action, &id, &who).await?;
        done.push((id, acted));
    }
    let listed = listed(&site, &message).await?;
    Ok(page(StatusCode::OK, "Done", &outcome(action, &who, &done, &listed)))
}

/// What a link names, where it is ours, for this purpose and still good.
pub(super) async fn linked(
    site: &Shared,
    purpose: Purpose,
    uri: &Uri,
) -> Result<(Link, LinkedMessage), Refusal> {
    let forged = || {
        let text = "The link is incomplete or was changed on its way. Open it from the mail itself, or acknowledge \
                    through the API.";
        Refusal(StatusCode::FORBIDDEN, "This link is not genuine", text.to_owned())
    };
    let key = site.link_key.as_ref().ok_or_else(forged)?;
    let Query(LinkQuery { m, e, s }) = Query::try_from_uri(uri).map_err(|_| forged())?;
    let link = Link { purpose, row: m, expires: e, signature: s };
    match key.check(&link, (site.now_ms)()) {
        Ok(()) => {}
        Err(LinkError::Forged) => return Err(forged()),
        Err(LinkError::Expired) => {
            let text = "Links in mails are good for seven days. If the problem still stands, a later mail has a link \
                        that works.";
            return Err(Refusal(StatusCode::FORBIDDEN, "This link has expired", text.to_owned()));
        }
    }
    let message = site.cases.message(&link.row).await?.ok_or_else(Refusal::gone)?;
    Ok((link, message))
}

/// What is asked for, or a sentence on what is missing.
fn asked(
    form: Result<Form<ActForm>, FormRejection>,
    link: &Link,
    message: &LinkedMessage,
) -> Result<(Action, Operator), String> {
    let Form(form) = form.map_err(|_| "The form could not be read.".to_owned())?;
    let action = match form.action.as_str() {
        "acknowledge" => Action::Acknowledge,
        "resolve" => Action::Resolve,
        _ => return Err("Choose one of the two buttons.".to_owned()),
    };
    let by = form.by.trim();
    if by.is_empty() {
        return Err("Please enter your name, so that others know who is on it.".to_owned());
    }
    if by.chars().count() > BY_MAX || form.comment.chars().count() > COMMENT_MAX {
        return Err(format!("A name may have {BY_MAX} characters, a comment {COMMENT_MAX}."));
    }
    let via = format!("link in message {} to {}", link.row, message.recipient);
    Ok((action, Operator { by: by.to_owned(), comment: form.comment.trim().to_owned(), via: Some(via) }))
}

/// The ids that the message listed and that still mattered then: what it told as resolved is nothing to act on.
fn ids(message: &LinkedMessage) -> Vec<String> {
    let body: Value = serde_json::from_str(&message.body).unwrap_or_default();
    let exceptions = body.pointer("/data/exceptions").and_then(Value::as_array);
    let standing = exceptions.into_iter().flatten().filter(|e| e["change"] != "resolved");
    standing.filter_map(|e| e["exception_id"].as_str().map(str::to_owned)).collect()
}

async fn listed(site: &Shared, message: &LinkedMessage) -> Result<Vec<Value>, ApiError> {
    let mut found = Vec::new();
    for id in ids(message) {
        found.extend(site.cases.exception(&id).await?);
    }
    Ok(found)
}

/// What the message told of and does not list, which the buttons do not reach.
fn more(site: &Shared, link: &Link, message: &LinkedMessage) -> Markup {
    let body: Value = serde_json::from_str(&message.body).unwrap_or_default();
    let left = body.pointer("/data/truncated").and_then(Value::as_u64).filter(|left| *left > 0);
    // Relative to this page, wherever it is reached.
    let table = site.link_key.as_ref().map(|key| key.other(link, Purpose::List).url(""));
    html! {
        @if let Some(left) = left {
            p {
                (grouped(left)) " more that the mail told of are not listed in it, and stay as they are"
                @if let Some(url) = table { ": " a href=(url.trim_start_matches('/')) { "all of them as a table (CSV)" } }
                "."
            }
        }
    }
}

fn overview(message: &LinkedMessage, listed: &[Value], more: &Markup, complaint: Option<&str>) -> Markup {
    let standing = listed.iter().filter(|e| e["state"] != "resolved").count();
    let open = listed.iter().filter(|e| e["state"] == "open").count();
    html! {
        h1 { (message.subject) }
        p {
            (listed.len()) " listed in the mail: " strong { (open) " open" } ", " (standing - open)
            " acknowledged, " (listed.len() - standing) " resolved."
        }
        (more)
        @if let Some(complaint) = complaint { p.complaint role="alert" { (complaint) } }
        @if standing > 0 { (act_form()) } @else { p { "All of it is resolved. There is nothing to do." } }
        (table(listed))
    }
}

fn act_form() -> Markup {
    html! {
        form method="post" action="" {
            label for="by" { "Your name" }
            input #by name="by" required maxlength=(BY_MAX) autocomplete="name";
            label for="comment" { "Comment (optional)" }
            input #comment name="comment" maxlength="500";
            p {
                button type="submit" name="action" value="acknowledge" { "Acknowledge" }
                " "
                button.second type="submit" name="action" value="resolve" { "Resolve" }
            }
            p.soft {
                "Acknowledge: you are on it, and nobody else is called for now. Resolve: it is dealt with, and comes back only if "
                "it gets worse or begins anew."
            }
        }
    }
}

fn outcome(action: Action, who: &Operator, done: &[(String, Acted)], listed: &[Value]) -> Markup {
    let count = |which: Acted| done.iter().filter(|(_, acted)| *acted == which).count();
    let verb = if action == Action::Acknowledge { "acknowledged" } else { "resolved" };
    let rest = [
        (count(Acted::Already), format!("{verb} before")),
        (count(Acted::Resolved), "resolved meanwhile".to_owned()),
        (count(Acted::NotFound), "no longer kept".to_owned()),
        (count(Acted::CommentNeeded), "left as they are: their policy asks for a comment".to_owned()),
    ];
    html! {
        h1 { (count(Acted::Done)) " " (verb) " by " (who.by) }
        @for (n, what) in rest.iter().filter(|(n, _)| *n > 0) {
            p { (n) " " (what) "." }
        }
        (table(listed))
    }
}

fn table(listed: &[Value]) -> Markup {
    if listed.is_empty() {
        return html! {};
    }
    html! {
        table {
            thead { tr { th { "State now" } th { "Severity" } th { "Parcel" } th { "What" } th { "Due" } th { "Owner" } } }
            tbody { @for e in listed { (row(e)) } }
        }
    }
}

fn row(e: &Value) -> Markup {
    let text = |name: &str| e[name].as_str().unwrap_or_default();
    let severity = match text("severity") {
        known @ ("info" | "warning" | "high" | "critical") => known,
        _ => "info",
    };
    let what = if text("title").is_empty() { text("rule") } else { text("title") };
    // On a phone there are no columns: each cell says what it is, where it does not speak for itself.
    html! {
        tr {
            td data-label="State now: " {
                (text("state"))
                @if let Some(by) = e["acknowledged_by"].as_str() { div.soft { "by " (by) } }
            }
            td { span class={ "badge " (severity) } { (severity) } }
            td.id { (text("parcel_id")) }
            td { (what) }
            td.time data-label="Due: " { (due(text("due"))) }
            td data-label="Owner: " { (text("owner")) }
        }
    }
}

/// "2026-10-14 07:10 UTC" of an RFC 3339 time.
fn due(text: &str) -> String {
    let minute = Time::parse(text).map(|t| t.to_string().replace('T', " "));
    minute.and_then(|t| t.get(..16).map(|t| format!("{t} UTC"))).unwrap_or_default()
}

fn page(status: StatusCode, title: &str, body: &Markup) -> Response {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) " · parcelwatch" }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    };
    let mut response = (status, markup.into_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    if let Ok(policy) = HeaderValue::from_str(&CONTENT_SECURITY_POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Nothing is loaded and nothing runs; the one style sheet is named by its hash.
static CONTENT_SECURITY_POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
});

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1f2328;--soft:#57606a;--line:#d0d7de;--go:#0550ae;--link:#0550ae}\
@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--soft:#9198a1;--line:#3d444d;--go:#1f6feb;--link:#79c0ff}}\
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}\
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem}\
h1{font-size:1.3rem;margin:0 0 .5rem;overflow-wrap:anywhere}\
.soft{color:var(--soft);font-size:.875rem}\
.complaint{border-left:4px solid #bc4c00;padding:.25rem .75rem}\
label{display:block;margin:.75rem 0 .25rem;font-weight:600}\
input{width:100%;max-width:26rem;box-sizing:border-box;padding:.5rem;font:inherit;color:inherit;background:transparent;\
border:1px solid var(--soft);border-radius:6px}\
button{padding:.5rem 1.25rem;font:inherit;font-weight:600;color:#fff;background:var(--go);border:1px solid var(--go);\
border-radius:6px;cursor:pointer}\
button.second{color:var(--fg);background:transparent;border-color:var(--soft)}\
a{color:var(--link)}\
table{border-collapse:collapse;width:100%;font-size:.9375rem;margin-top:1.5rem}\
th,td{text-align:left;padding:.5rem 1rem .5rem 0;border-bottom:1px solid var(--line);vertical-align:top}\
th{color:var(--soft);font-size:.875rem;white-space:nowrap}\
.id{font-weight:600;overflow-wrap:anywhere;min-width:7rem}\
.time{white-space:nowrap}\
@media(max-width:40rem){thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}\
table,tbody,tr,td{display:block}tr{padding:.5rem 0;border-bottom:1px solid var(--line)}td{padding:.125rem 0;border:0}\
td[data-label]::before{content:attr(data-label);color:var(--soft)}}\
.badge{display:inline-block;padding:0 .5rem;border-radius:10px;font-size:.8125rem;font-weight:600;color:#fff;background:#57606a}\
.critical{background:#a40e26}.high{background:#bc4c00}.warning{background:#f0c541;color:#1f2328}";
