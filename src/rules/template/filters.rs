//! Filters beside Jinja's own: times, spans, links.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::text_of;
use crate::model::{SECOND, Time};
use crate::rules::calendar::in_zone;

/// How a time is shown unless a template says otherwise, as in the built-in texts.
const PATTERN: &str = "%Y-%m-%d %H:%M UTC";

/// Names for "did you mean".
pub(super) const NAMES: [&str; 24] = [
    "batch",
    "capitalize",
    "default",
    "dictsort",
    "first",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "link",
    "list",
    "lower",
    "map",
    "replace",
    "selectattr",
    "sort",
    "span",
    "time",
    "title",
    "upper",
    "urlencode",
];

pub(super) fn add(env: &mut Environment<'static>) {
    // Nothing is printed as it is.
    env.remove_filter("safe");
    env.remove_global("debug");
    // What is printed is escaped anyway, once.
    env.add_filter("escape", Value::clone);
    env.add_filter("e", Value::clone);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("time", time);
    env.add_filter("span", |value: &Value| -> Result<String, Error> {
        if is_empty(value) {
            return Ok(String::new());
        }
        let seconds =
            value.as_i64().ok_or_else(|| invalid("`span` wants seconds, as `overdue_seconds` has"))?;
        Ok(span(seconds.saturating_mul(SECOND)))
    });
    // A `javascript:` URL is no link.
    env.add_filter("link", |value: &Value| {
        let text = if is_empty(value) { String::new() } else { text_of(value) };
        let is_link = ["https://", "http://"].iter().any(|s| text.to_ascii_lowercase().starts_with(s));
        if is_link { text } else { String::new() }
    });
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

fn is_empty(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::None | ValueKind::Undefined)
}

/// Jinja's own takes null for a value; here it is what a message does not know.
fn default(value: &Value, args: Rest<Value>) -> Value {
    let lax = args.get(1).is_some_and(Value::is_true);
    if is_empty(value) || (lax && !value.is_true()) {
        args.first().cloned().unwrap_or_else(|| Value::from(""))
    } else {
        value.clone()
    }
}

/// `{{ e.due | time(zone="Europe/Madrid", format="%d.%m.%Y %H:%M") }}`.
fn time(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let zone: Option<String> = kwargs.get("zone")?;
    let format: Option<String> = kwargs.get("format")?;
    kwargs.assert_all_used()?;
    let pattern = match (&format, &zone) {
        (Some(format), _) => format.as_str(),
        (None, Some(_)) => "%Y-%m-%d %H:%M",
        (None, None) => PATTERN,
    };
    // What is wrong with the zone or the pattern is wrong whatever the time is.
    let zone = zone.as_deref().unwrap_or("UTC");
    let of = |time| in_zone(time, zone, pattern).map_err(invalid);
    if is_empty(value) {
        return of(Time(0)).map(|_| String::new());
    }
    let text = text_of(value);
    let time = Time::parse(&text).ok_or_else(|| invalid(format!("`time` wants a time, not `{text}`")))?;
    of(time)
}

/// The two largest units of a span: "2 d 3 h", "45 min".
#[must_use]
pub fn span(ms: i64) -> String {
    let s = ms / SECOND;
    let parts = [(s / 86_400, "d"), (s / 3600 % 24, "h"), (s / 60 % 60, "min"), (s % 60, "s")];
    let first = parts.iter().position(|(n, _)| *n > 0).unwrap_or(3);
    let shown = parts[first..].iter().take(2).filter(|(n, _)| *n > 0).map(|(n, u)| format!("{n} {u}"));
    let text = shown.collect::<Vec<_>>().join(" ");
    if text.is_empty() { "0 s".to_owned() } else { text }
}
