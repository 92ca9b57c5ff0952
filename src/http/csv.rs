//! What a message told of as a table (RFC 4180): for programs by `/api/v1/outbox/{id}/exceptions.csv`, for the reader of a mail
//! by the link in it. Written page by page as it is read, so that 100,000 lines take no memory and hold up nobody.

use std::fmt::Write as _;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use serde_json::Value;

use super::Shared;
use super::ack::{Refusal, linked};
use super::api::Id;
use super::outbox::{missing, outbox};
use super::ports::{ApiError, Page};
use super::problem::Problem;
use crate::notify::link::Purpose;

/// Lines of a page.
const PAGE: u32 = 1_000;
/// Tells a spreadsheet that the text is UTF-8; a program would take it for a part of the first name.
const MARK: &str = "\u{feff}";
/// The columns: fields of an exception.
const COLUMNS: [&str; 19] = [
    "exception_id",
    "rule",
    "title",
    "parcel_id",
    "severity",
    "state",
    "told",
    "owner",
    "acknowledged_by",
    "due",
    "opened_at",
    "resolution",
    "lane",
    "origin",
    "destination",
    "domestic_carrier",
    "carrier_code",
    "tracking_number",
    "order_id",
];

/// Behind a token.
pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/api/v1/outbox/{id}/exceptions.csv", get(by_id))
}

/// Behind a link.
pub(super) fn link_routes() -> Router<Shared> {
    Router::new().route(Purpose::List.path(), get(by_link))
}

async fn by_id(State(site): State<Shared>, id: Id) -> Result<Response, Problem> {
    let first = outbox(&site)?.exceptions(id.text(), PAGE, None).await?.ok_or_else(|| missing(&id))?;
    Ok(table(site, id.text().to_owned(), first, ""))
}

async fn by_link(State(site): State<Shared>, uri: Uri) -> Result<Response, Refusal> {
    let (link, _) = linked(&site, Purpose::List, &uri).await?;
    let outbox = site.cases.outbox().ok_or_else(Refusal::gone)?;
    let first = outbox.exceptions(&link.row, PAGE, None).await?.ok_or_else(Refusal::gone)?;
    Ok(table(site, link.row, first, MARK))
}

/// The page that is written next, and where the one after it begins.
struct Rest {
    site: Shared,
    id: String,
    page: Option<Page>,
    cursor: Option<String>,
}

fn table(site: Shared, id: String, first: Page, mark: &str) -> Response {
    let name: String = id.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    let mut head = mark.to_owned();
    line(&mut head, COLUMNS.into_iter());
    let rest = Rest { site, id, page: Some(first), cursor: None };
    let pages = stream::try_unfold((Some(head), rest), |(head, mut rest)| async move {
        if let Some(head) = head {
            return Ok(Some((Bytes::from(head), (None, rest))));
        }
        let page = match (rest.page.take(), rest.cursor.take()) {
            (Some(page), _) => page,
            (None, Some(cursor)) => rest.page_at(&cursor).await?,
            (None, None) => return Ok(None),
        };
        rest.cursor = page.next_cursor;
        let mut lines = String::new();
        for item in &page.items {
            line(&mut lines, COLUMNS.into_iter().map(|name| text(&item[name])));
        }
        Ok::<_, std::io::Error>(Some((Bytes::from(lines), (None, rest))))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"parcelwatch-{name}.csv\"")),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ];
    (headers, Body::from_stream(pages)).into_response()
}

impl Rest {
    /// An error ends the connection in the middle of the answer: whoever reads it sees that something is missing.
    async fn page_at(&self, cursor: &str) -> Result<Page, std::io::Error> {
        let failed = |why: &str| {
            tracing::error!(message = self.id, why, "a table was cut off while it was read");
            std::io::Error::other("cut off")
        };
        let outbox = self.site.cases.outbox().ok_or_else(|| failed("it is not offered"))?;
        match outbox.exceptions(&self.id, PAGE, Some(cursor)).await {
            Ok(Some(page)) => Ok(page),
            Ok(None) => Err(failed("the message is no longer kept")),
            Err(ApiError::Invalid(why) | ApiError::Unavailable(why)) => Err(failed(&why)),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn line<'c>(out: &mut String, cells: impl Iterator<Item = &'c str>) {
    for (at, text) in cells.enumerate() {
        if at > 0 {
            out.push(',');
        }
        cell(out, text);
    }
    out.push_str("\r\n");
}

/// A cell. What a spreadsheet would take for a formula becomes a text by a `'` before it: ids and names come from outside.
fn cell(out: &mut String, text: &str) {
    let quote = if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']) {
        "'"
    } else {
        ""
    };
    let inside = [',', ';', '"', '\r', '\n', '\t'];
    if text.contains(inside) || text.starts_with(' ') || text.ends_with(' ') {
        let _ = write!(out, "\"{quote}{}\"", text.replace('"', "\"\""));
    } else {
        let _ = write!(out, "{quote}{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_no_formulas() {
        let written = |text: &str| {
            let mut out = String::new();
            cell(&mut out, text);
            out
        };
        for (text, cell) in [
            ("", ""),
            ("P-ES-0001", "P-ES-0001"),
            ("a,b", "\"a,b\""),
            ("a;b", "\"a;b\""),
            ("say \"no\"", "\"say \"\"no\"\"\""),
            ("a\r\nb", "\"a\r\nb\""),
            (" a ", "\" a \""),
            ("=1+1", "'=1+1"),
            ("+49 30", "'+49 30"),
            ("-2", "'-2"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "\"'\t=1\""),
            ("\n=1", "\"'\n=1\""),
            ("＝1", "'＝1"),
            ("=HYPERLINK(\"http://x\",\"y\")", "\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\""),
            ("2026-10-14T07:10:00Z", "2026-10-14T07:10:00Z"),
        ] {
            assert_eq!(written(text), cell, "{text:?}");
        }
    }
}
