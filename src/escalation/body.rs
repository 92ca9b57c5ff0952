//! The JSON of DESIGN §11: webhook bodies, and exceptions as the API lists them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Case, Counts, Evidence, Group, Reason, State, Word};
use crate::model::Time;

/// What a body says about itself.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// The message's id.
    pub id: &'a str,
    /// The receiver's id.
    pub receiver: &'a str,
    /// From 1; 0: none.
    pub step: u32,
    /// Why it is sent.
    pub reason: Reason,
    /// The weightiest of what it says.
    pub word: Word,
    /// Of its group.
    pub counts: &'a Counts,
    /// Wall time.
    pub now: i64,
}

/// A message of our own, about no group: a test, a sign of life, a feed, a receiver that is not reached.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    /// The body's `type`.
    pub kind: &'a str,
    /// Why it is sent.
    pub reason: &'a str,
    /// The message's id.
    pub id: &'a str,
    /// The receiver's id.
    pub receiver: &'a str,
    /// What it is one of: its `group_id`.
    pub thread: &'a str,
    /// Whether what it tells of stands.
    pub state: State,
    /// What it says, in lines.
    pub summary: &'a [String],
    /// Wall time.
    pub now: i64,
}

/// The body of a message of our own, in the shape of all others.
#[must_use]
pub fn own(own: &Own<'_>) -> Value {
    json!({
        "type": own.kind,
        "timestamp": Time(own.now).to_string(),
        "data": {
            "notification_id": own.id,
            "receiver": own.receiver,
            "policy": "",
            "step": null,
            "reason": own.reason,
            "group_id": own.thread,
            "group": {},
            "group_state": own.state.name(),
            "counts": {"open": 0, "acknowledged": 0, "resolved": 0},
            "truncated": 0,
            "exceptions": [],
            "summary": own.summary,
        },
    })
}

/// A whole body.
#[must_use]
pub fn whole(envelope: &Envelope<'_>, group: &Group, exceptions: Vec<Value>) -> String {
    let counts = envelope.counts;
    let state = match counts {
        Counts { open: 1.., .. } => State::Open,
        Counts { acknowledged: 1.., .. } => State::Acknowledged,
        _ => State::Resolved,
    };
    json!({
        "type": format!("exceptions.{}", envelope.word.name()),
        "timestamp": Time(envelope.now).to_string(),
        "data": {
            "notification_id": envelope.id,
            "receiver": envelope.receiver,
            "policy": group.policy,
            "step": (envelope.step > 0).then_some(envelope.step),
            "reason": envelope.reason.name(),
            "group_id": group.id,
            "group": group.values,
            "group_state": state.name(),
            "counts": {"open": counts.open, "acknowledged": counts.acknowledged, "resolved": counts.resolved},
            "truncated": 0,
            "exceptions": exceptions,
        },
    })
    .to_string()
}

/// A whole body without some of the ends it tells.
#[must_use]
pub fn without_ends(text: &str, exceptions: &BTreeSet<String>) -> String {
    let Ok(mut body) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
    let data = &mut body["data"];
    let Some(listed) = data["exceptions"].as_array_mut() else { return text.to_owned() };
    let before = listed.len();
    listed.retain(|e| !e["exception_id"].as_str().is_some_and(|id| exceptions.contains(id)));
    let fewer = i64::try_from(before - listed.len()).unwrap_or(0);
    let counted = data["counts"]["resolved"].as_i64().unwrap_or(0);
    data["counts"]["resolved"] = Value::from((counted - fewer).max(0));
    body.to_string()
}

/// One exception in a body. `at` is that of the change that is told.
#[must_use]
pub fn listed(
    case: &Case,
    evidence: &Evidence,
    word: Word,
    at: Time,
    now: i64,
    public_url: Option<&str>,
) -> Value {
    let fact = |name: &str| evidence.facts.get(name).cloned().unwrap_or(Value::Null);
    let facts: Map<String, Value> = case
        .body
        .facts
        .iter()
        .filter_map(|name| Some((name.clone(), evidence.facts.get(name)?.clone())))
        .collect();
    let until = case.resolved.filter(|_| case.state == State::Resolved).map_or(now, |(at, _)| at.0);
    let mut listed = json!({
        "exception_id": case.exception_id,
        "change": word.name(),
        "rule": case.rule,
        "rule_hash": case.body.rule_hash,
        "title": case.body.title,
        "runbook": case.body.runbook,
        "labels": case.body.labels,
        "parcel_id": case.parcel_id,
        "episode": case.episode,
        "stage": case.stage,
        "severity": case.severity.name(),
        "state": case.state.name(),
        "owner": case.body.owner,
        "anchor": case.anchor.to_string(),
        "due": case.due.to_string(),
        "at": at.to_string(),
        "overdue_seconds": until.saturating_sub(case.due.0).max(0) / 1_000,
        "resolution": case.resolved.map(|(_, r)| r.name()),
        "acknowledged_by": case.ack.as_ref().map(|a| &a.by),
        "tracking_number": fact("tracking_number"),
        "carrier_code": fact("carrier_code"),
        "order_id": fact("order_id"),
        "expected": case.body.expected,
        "last": evidence.last,
        "facts": facts,
        "url": public_url.map(|base| format!("{}/api/v1/exceptions/{}", base.trim_end_matches('/'), case.exception_id)),
    });
    if case.body.shadow {
        // Nobody is told; the API shows what would have been.
        listed["shadow"] = Value::from(true);
    }
    if case.incomplete {
        // A gap in the log: said only where it is so (DESIGN §4.7).
        listed["evidence"] = Value::from("incomplete");
    }
    listed
}

/// A fact as the plain text that routes and subjects compare.
#[must_use]
pub fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
