//! What happened, and what was expected, in words: as a line that could stand in the file.

use std::fmt::Write as _;

use super::run::Happened;
use super::{Expectation, Kind};
use crate::model::{DAY, HOUR, MINUTE, SECOND, Time};

/// `+1d12h`, or the time where it is no whole second away.
pub fn offset(at: Time, start: Time) -> String {
    let ms = at.0.saturating_sub(start.0);
    if ms % SECOND != 0 || ms.unsigned_abs() > 3_000 * DAY.unsigned_abs() {
        return at.to_string();
    }
    format!("{}{}", if ms < 0 { '-' } else { '+' }, span(ms.abs()))
}

/// `10d12h`; up to three days in hours, as deadlines are spoken of.
pub fn span(ms: i64) -> String {
    let mut rest = ms;
    let mut text = String::new();
    for (unit, name) in [(DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s")] {
        if rest >= unit && (unit != DAY || ms > 3 * DAY) {
            let _ = write!(text, "{}{name}", rest / unit);
            rest %= unit;
        }
    }
    if text.is_empty() { "0h".to_owned() } else { text }
}

/// As it would be expected.
pub fn line(h: &Happened, start: Time) -> String {
    let mut text = format!("- {{at: {}, {}: {}", offset(h.at, start), h.kind.name(), h.subject);
    if h.kind == Kind::Notify || h.parcel_id != super::file::PARCEL {
        let _ = write!(text, ", parcel_id: {}", scalar(&h.parcel_id));
    }
    if !h.episode.is_empty() && h.kind != Kind::Notify {
        let _ = write!(text, ", episode: {}", scalar(&h.episode));
    }
    match h.kind {
        Kind::Opened | Kind::Raised => {
            let _ = write!(
                text,
                ", stage: {}, severity: {}, due: {}",
                h.stage,
                h.severity.name(),
                offset(h.due, start)
            );
        }
        Kind::Resolved => {
            let _ = write!(text, ", resolution: {}", h.resolution.map_or("", |r| r.name()));
        }
        Kind::Notify => {
            if h.step > 0 {
                let _ = write!(text, ", step: {}", h.step);
            }
            let _ = write!(text, ", reason: {}, change: {}, rule: {}", h.reason, h.change, h.rule);
        }
    }
    if h.incomplete && h.kind != Kind::Notify {
        text += ", evidence: incomplete";
    }
    text + "}"
}

/// A text as a YAML value.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain);
    if good { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// In a sentence.
pub fn sentence(h: &Happened, start: Time) -> String {
    let at = offset(h.at, start);
    match h.kind {
        Kind::Notify => format!("at {at} `{}` is told that `{}` {}", h.subject, h.rule, h.change),
        kind => format!("at {at} `{}` {} for {}", h.subject, kind.name(), h.parcel_id),
    }
}

/// An expectation in a sentence.
pub fn expected(e: &Expectation, start: Time) -> String {
    let when = match (e.from, e.to) {
        (Some(a), Some(b)) if a == b => format!(" at {}", offset(a, start)),
        (Some(a), Some(b)) => format!(" between {} and {}", offset(a, start), offset(b, start)),
        (Some(a), None) => format!(" from {}", offset(a, start)),
        (None, Some(b)) => format!(" until {}", offset(b, start)),
        (None, None) => String::new(),
    };
    let mut text = format!("{} {}{when}", e.kind.name(), e.subject);
    let mut say = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = write!(text, ", {name}: {value}");
        }
    };
    say("parcel_id", e.parcel_id.clone().filter(|p| p != super::file::PARCEL));
    say("episode", e.episode.clone());
    say("stage", e.stage.map(|s| s.to_string()));
    say("severity", e.severity.map(|s| s.name().to_owned()));
    say("due", e.due.map(|t| offset(t, start)));
    say("anchor", e.anchor.map(|t| offset(t, start)));
    say("evidence", e.incomplete.map(|i| if i { "incomplete".to_owned() } else { "complete".to_owned() }));
    say("owner", e.owner.clone());
    say("policy", e.policy.clone());
    say("resolution", e.resolution.map(|r| r.name().to_owned()));
    say("step", e.step.map(|s| s.to_string()));
    say("reason", e.reason.clone());
    say("rule", e.rule.clone());
    say("change", e.change.clone());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_read_as_people_write_them() {
        let at = |ms| offset(Time(ms), Time(0));
        assert_eq!(at(0), "+0h");
        assert_eq!(at(48 * HOUR), "+48h");
        assert_eq!(at(48 * HOUR + 1_000), "+48h1s");
        assert_eq!(at(72 * HOUR), "+72h");
        assert_eq!(at(10 * DAY + 90 * MINUTE), "+10d1h30m");
        assert_eq!(at(-2 * HOUR), "-2h");
        assert_eq!(at(1), "1970-01-01T00:00:00.001Z");
    }
}
