//! What happened since the last look: exceptions that opened, climbed or ended, and messages that arrived.

use std::collections::BTreeMap;

use serde_json::Value;

use super::inbox::Arrival;
use crate::model::{Severity, Time};

/// A line for the terminal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Happening {
    /// On the fast clock.
    pub at: Time,
    /// `opened`, `raised`, `resolved`, `mail` or `webhook`.
    pub what: &'static str,
    /// How bad, where it says so.
    pub severity: Option<Severity>,
    /// The rest of the line.
    pub text: String,
}

/// What stands, as last seen.
#[derive(Default, Debug)]
pub struct Standing {
    /// By exception's id: how many changes it had.
    seen: BTreeMap<String, usize>,
    by_severity: BTreeMap<Severity, usize>,
}

impl Standing {
    /// Takes what stands; returns what is new, in order, and the ids of what stands no more.
    pub fn look(&mut self, standing: &[Value]) -> (Vec<Happening>, Vec<String>) {
        let mut news = Vec::new();
        let mut seen = BTreeMap::new();
        self.by_severity.clear();
        for exception in standing {
            let id = exception["exception_id"].as_str().unwrap_or_default().to_owned();
            let changes = exception["changes"].as_array().map_or(&[][..], Vec::as_slice);
            let known = self.seen.remove(&id).unwrap_or(0);
            news.extend(changes.iter().skip(known).filter_map(|change| happening(exception, change)));
            seen.insert(id, changes.len());
            if let Some(severity) = exception["severity"].as_str().and_then(Severity::from_name) {
                *self.by_severity.entry(severity).or_default() += 1;
            }
        }
        let gone = std::mem::replace(&mut self.seen, seen).into_keys().collect();
        news.sort_by_key(|h| h.at);
        (news, gone)
    }

    /// How many stand at a severity.
    #[must_use]
    pub fn at(&self, severity: Severity) -> usize {
        self.by_severity.get(&severity).copied().unwrap_or(0)
    }
}

/// How an exception that stands no more ended.
#[must_use]
pub fn ended(exception: &Value) -> Option<Happening> {
    happening(exception, exception["changes"].as_array()?.last()?)
}

fn happening(exception: &Value, change: &Value) -> Option<Happening> {
    let what = match change["change"].as_str()? {
        "opened" => "opened",
        "raised" => "raised",
        "resolved" => "resolved",
        _ => return None,
    };
    let parcel = exception["parcel_id"].as_str()?;
    let said = match change["resolution"].as_str() {
        Some(resolution) => format!("{}: {}", exception["rule"].as_str()?, resolution.replace('_', " ")),
        None => exception["title"].as_str()?.to_owned(),
    };
    let severity = change["severity"].as_str().and_then(Severity::from_name).filter(|_| what != "resolved");
    Some(Happening {
        at: Time::parse(change["at"].as_str()?)?,
        what,
        severity,
        text: format!("{parcel}  {said}"),
    })
}

/// A message that arrived at this time.
#[must_use]
pub fn arrived(arrival: &Arrival, at: Time) -> Happening {
    let worst = arrival.notices.iter().filter_map(|n| Severity::from_name(&n.severity)).max();
    let over = arrival.notices.iter().all(|n| n.change == "resolved");
    let count = match arrival.notices.len() {
        1 => arrival.notices[0].parcel_id.clone(),
        n => format!("{n} parcels"),
    };
    let step = arrival.step.filter(|s| *s > 1).map_or(String::new(), |s| format!(", step {s}"));
    let (what, text) = match arrival.recipient.as_str() {
        "" => ("webhook", format!("{} {count}{step}", arrival.title)),
        to => (
            "mail",
            format!("to {to}: {} ({count}{step})", arrival.title.trim_start_matches("[parcelwatch] ")),
        ),
    };
    Happening { at, what, severity: worst.filter(|_| !over), text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn exception(id: &str, severity: &str, changes: &[(&str, &str)]) -> Value {
        let changes: Vec<Value> = changes
            .iter()
            .map(|(change, at)| json!({"change": change, "at": at, "severity": severity, "resolution": null}))
            .collect();
        json!({"exception_id": id, "parcel_id": "P-1", "title": "Late", "rule": "late", "severity": severity, "changes": changes})
    }

    #[test]
    fn a_look_tells_what_is_new_and_what_is_gone() {
        let mut standing = Standing::default();
        let (one, two) = (("opened", "2026-11-02T01:00:00Z"), ("raised", "2026-11-02T02:00:00Z"));
        let (news, gone) =
            standing.look(&[exception("a", "warning", &[one]), exception("b", "info", &[one])]);
        assert_eq!((news.len(), gone.len()), (2, 0));
        let (news, gone) = standing.look(&[exception("a", "high", &[one, two])]);
        let told: Vec<_> = news.iter().map(|h| (h.what, h.severity, h.text.as_str())).collect();
        assert_eq!(told, [("raised", Some(Severity::High), "P-1  Late")]);
        assert_eq!(gone, ["b"]);
        assert_eq!((standing.at(Severity::High), standing.at(Severity::Info)), (1, 0));
        let mut over = exception("b", "info", &[one, ("resolved", "2026-11-02T03:00:00Z")]);
        over["changes"][1]["resolution"] = json!("satisfied_late");
        let end = ended(&over).unwrap();
        assert_eq!(
            (end.what, end.severity, end.text.as_str()),
            ("resolved", None, "P-1  late: satisfied late")
        );
    }
}
