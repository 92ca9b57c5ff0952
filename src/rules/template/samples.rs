//! Messages as they come, for trying templates on: each reason, each end, what a parcel may lack, and what means harm.

use serde_json::{Map, Value, json};

use super::{Context, Links};
use crate::model::{Resolution, Severity};

/// A text that would do harm where it is not escaped, and a line of its own where it is not held to one.
const HOSTILE: &str =
    "<script>alert(1)</script>\r\nBcc: x@example.org\n\"'`*_&<!channel> javascript:alert(1) {{ 1 }}";
/// As many as a message lists.
const MANY: usize = 100;

/// A message and what it is, for people.
pub(super) struct Sample {
    pub what: String,
    pub context: Context,
}

/// All of them, to this receiver. `group`: names that groups have.
pub(super) fn samples(receiver: &str, group: &[&str]) -> Vec<Sample> {
    let values = |value: &Value| -> Map<String, Value> {
        group.iter().map(|name| ((*name).to_owned(), value.clone())).collect()
    };
    let of = |what: &str, kind: &str, reason: &str, group: Map<String, Value>, exceptions: Vec<Value>| {
        let standing = exceptions.iter().filter(|e| e["change"] != "resolved").count();
        let body = json!({
            "type": kind, "timestamp": "2026-10-14T07:10:30Z",
            "data": {
                "notification_id": "8c1f0a", "receiver": receiver, "policy": "handoff",
                "step": if matches!(reason, "resolved" | "digest") { Value::Null } else { 1.into() },
                "reason": reason, "group_id": "5d2b7e", "group": group,
                "group_state": if standing > 0 { "open" } else { "resolved" },
                "counts": {"open": standing, "acknowledged": 0, "resolved": exceptions.len() - standing},
                "truncated": 0, "exceptions": exceptions,
            },
        });
        (what.to_owned(), body)
    };
    let known = || values(&"CN-ES".into());
    let mut all = Vec::new();
    for severity in Severity::ALL {
        let one = json!({"severity": severity.name()});
        let what = format!("a new exception of severity {}", severity.name());
        all.push(of(&what, "exceptions.opened", "new", known(), vec![exception(&one)]));
    }
    for (what, reason) in [
        ("a later step", "step"),
        ("a reminder", "reminder"),
        ("an acknowledgement that ran out", "ack_expired"),
        ("the end of a mute", "mute_ended"),
    ] {
        let again = json!({"change": if reason == "reminder" { "reminder" } else { "opened" }});
        let kind = if reason == "reminder" { "exceptions.reminder" } else { "exceptions.opened" };
        all.push(of(what, kind, reason, known(), vec![exception(&again)]));
    }
    let raised = json!({"change": "raised", "stage": 2, "severity": "critical"});
    all.push(of(
        "a raise",
        "exceptions.raised",
        "raised",
        known(),
        vec![exception(&raised), exception(&json!({}))],
    ));
    for end in Resolution::ALL {
        let ended = json!({"change": "resolved", "state": "resolved", "resolution": end.name()});
        let what = format!("an end ({})", end.name());
        all.push(of(&what, "exceptions.resolved", "resolved", known(), vec![exception(&ended)]));
    }
    all.push(of(
        "a parcel of which little is known",
        "exceptions.opened",
        "new",
        values(&Value::Null),
        vec![bare()],
    ));
    let hostile = vec![hostile()];
    all.push(of(
        "a parcel whose texts mean harm",
        "exceptions.opened",
        "new",
        values(&HOSTILE.into()),
        hostile,
    ));
    let many = (0..MANY).map(|n| exception(&json!({"parcel_id": format!("P-ES-{n:04}")}))).collect();
    let (what, mut body) = of("a hundred exceptions", "exceptions.opened", "new", known(), many);
    body["data"]["truncated"] = 12.into();
    all.push((what, body));
    all.extend(digests(
        of("a digest", "exceptions.digest", "digest", known(), vec![exception(&json!({}))]).1,
    ));
    all.extend(own(receiver));
    let subject = "[parcelwatch] cleared_no_domestic_scan, CN-ES";
    let ack = ("https://parcels.example.org/ack/8c1f0a", "2026-10-21T07:10:30Z");
    let list = ("https://parcels.example.org/list/8c1f0a", "2026-10-21T07:10:30Z");
    let sample = |(what, body): (String, Value)| {
        let thread = body["data"]["group_id"].as_str().unwrap_or_default();
        // As in mails: nobody acknowledges what ended, nor what is about no exception.
        let link = body["data"]["exceptions"][0]["evidence"].is_null() && body["data"]["counts"]["open"] != 0;
        let more = body["data"]["truncated"].as_i64().is_some_and(|n| n > 0);
        let links = Links { ack: link.then_some(ack), list: more.then_some(list) };
        Sample { what, context: Context::new(&body, subject, thread, links) }
    };
    all.into_iter().map(sample).collect()
}

/// An exception of which all is known, with these fields instead.
fn exception(other: &Value) -> Value {
    let mut one = json!({
        "exception_id": "e4d909c290d0fb1c", "change": "opened", "rule": "cleared_no_domestic_scan", "rule_hash": "9f86d0",
        "title": "Cleared import customs, but the domestic carrier has not scanned it",
        "runbook": "https://wiki.example.org/handoff", "labels": {"team": "iberia"}, "parcel_id": "P-ES-0001",
        "episode": "2026-10-12T07:10:00Z", "stage": 1, "severity": "high", "state": "open", "owner": "carrier",
        "anchor": "2026-10-12T07:10:00Z", "due": "2026-10-14T07:10:00Z", "at": "2026-10-14T07:10:00Z", "overdue_seconds": 30,
        "resolution": null, "acknowledged_by": null, "tracking_number": "LX000000001CN", "carrier_code": "correos",
        "order_id": "O-1", "expected": ["domestic_scan", "delivered"],
        "last": {"milestone": "import_customs_cleared", "time": "2026-10-12T07:10:00Z", "facility": "ESMAD"},
        "facts": {"lane": "CN-ES", "destination": "ES", "domestic_carrier": "correos", "holds_open": 0},
        "url": "https://parcels.example.org/api/v1/exceptions/e4d909c290d0fb1c",
    });
    for (name, value) in other.as_object().into_iter().flatten() {
        one[name] = value.clone();
    }
    one
}

/// One of which only is known what is always known.
fn bare() -> Value {
    exception(&json!({
        "runbook": null, "labels": {}, "episode": "", "overdue_seconds": 0, "tracking_number": null, "carrier_code": null,
        "order_id": null, "expected": [], "last": null, "facts": {}, "url": null, "title": "", "owner": "",
        "evidence": "incomplete",
    }))
}

fn hostile() -> Value {
    exception(&json!({
        "runbook": HOSTILE, "labels": {"team": HOSTILE}, "title": HOSTILE, "parcel_id": HOSTILE, "episode": HOSTILE,
        "tracking_number": HOSTILE, "carrier_code": HOSTILE, "order_id": HOSTILE, "expected": [HOSTILE],
        "acknowledged_by": HOSTILE, "state": "acknowledged", "owner": HOSTILE,
        "last": {"milestone": HOSTILE, "time": "2026-10-12T07:10:00Z", "facility": HOSTILE},
        "facts": {"lane": HOSTILE, "destination": HOSTILE, "domestic_carrier": HOSTILE},
    }))
}

/// Digests: of a storm in one group, of a day, and what a receiver could not be told.
fn digests(storm: Value) -> Vec<(String, Value)> {
    let (mut storm, lines) =
        (storm, json!(["90 opened, 10 resolved", "Rule: cleared_no_domestic_scan 100", "Lane: CN-ES 100"]));
    storm["data"]["summary"] = lines;
    let mut letters = storm.clone();
    letters["data"]["group"] = json!({});
    letters["data"]["policy"] = "".into();
    storm["data"]["truncated"] = 99.into();
    storm["data"]["digest"] = json!({
        "cause": "storm", "since": "2026-10-14T07:00:00Z", "total": 100, "opened": 90, "raised": 0, "reminders": 0, "resolved": 10,
        "by_rule": [{"rule": "cleared_no_domestic_scan", "count": 100}], "by_lane": [{"lane": "CN-ES", "count": 100}],
        "by_carrier": [{"carrier": "correos", "count": 100}], "url": null,
    });
    let mut daily = storm.clone();
    daily["data"]["digest"]["cause"] = "daily".into();
    daily["data"]["group"] = json!({});
    let named = [
        ("a digest of a storm", storm),
        ("a day's digest", daily),
        ("what a receiver could not be told", letters),
    ];
    named.into_iter().map(|(what, body)| (what.to_owned(), body)).collect()
}

/// Messages about no exception.
fn own(receiver: &str) -> Vec<(String, Value)> {
    let of = |(what, kind, reason): (&str, &str, &str)| {
        let mut body = json!({
            "type": kind, "timestamp": "2026-10-14T07:10:30Z",
            "data": {
                "notification_id": "8c1f0a", "receiver": receiver, "policy": "", "step": null, "reason": reason,
                "group_id": "77aa", "group": {}, "group_state": if kind == "feed.resolved" { "resolved" } else { "open" },
                "counts": {"open": 0, "acknowledged": 0, "resolved": 0}, "truncated": 0, "exceptions": [],
                "summary": ["A line of a message about no parcel."],
            },
        });
        if kind.starts_with("feed.") {
            let ended = kind == "feed.resolved";
            body["data"]["group"] = json!({"source": "broker-iberia", "lane": null});
            body["data"]["feed"] = json!({
                "source": "broker-iberia", "lane": null, "incident": if ended { Value::Null } else { "silent".into() },
                "since": if ended { Value::Null } else { "2026-10-14T05:00:00Z".into() }, "last_record": "2026-10-14T04:59:00Z",
            });
        }
        (what.to_owned(), body)
    };
    [
        ("the test of a receiver", "test", "test"),
        ("a feed that does not work", "feed.incident", "feed.incident"),
        ("a feed that works again", "feed.resolved", "feed.resolved"),
        ("escalations that stand still", "exceptions.digest", "digest"),
        ("a sign of life", "alive", "alive"),
    ]
    .into_iter()
    .map(of)
    .collect()
}
