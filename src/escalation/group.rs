//! Which group an exception belongs to, and when a group speaks next.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{Group, NEVER};
use crate::model::Severity;
use crate::rules::policies::{Policies, Policy};

/// What the group of an exception is made of, known when it opens.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// The rule's id.
    pub rule: &'a str,
    /// The parcel.
    pub parcel_id: &'a str,
    /// The rule's owner.
    pub owner: &'a str,
    /// The severity it opens with.
    pub severity: Severity,
    /// The parcel's facts then.
    pub facts: &'a Map<String, Value>,
}

/// The policy of an exception: the one its rule names, else the default one; `None`: there is none.
#[must_use]
pub fn policy_of<'a>(policies: &'a Policies, named: Option<&str>) -> Option<&'a Policy> {
    named
        .and_then(|id| policies.policy(id))
        .or_else(|| policies.default_policy.as_deref().and_then(|id| policies.policy(id)))
}

/// The group of what opens under a policy. A fact that is missing is null.
#[must_use]
pub fn group_of(policy: &Policy, opening: &Opening<'_>) -> Group {
    let mut values = Map::new();
    for name in &policy.group_by {
        let value = match name.as_str() {
            "rule" => Value::from(opening.rule),
            "severity" => Value::from(opening.severity.name()),
            "owner" => Value::from(opening.owner),
            "parcel_id" => Value::from(opening.parcel_id),
            fact => opening.facts.get(fact).cloned().unwrap_or(Value::Null),
        };
        values.insert(name.clone(), value);
    }
    let id = group_id(&policy.id, &values);
    Group { id, policy: policy.id.clone(), values, told: 0, last_ms: 0, flush_ms: NEVER }
}

/// 32 hexadecimal digits of the SHA-256 over the policy's id and the values, names in their order. It holds nothing
/// that an edit of a policy's steps or of a list's order would change.
fn group_id(policy: &str, values: &Map<String, Value>) -> String {
    let mut sorted: Vec<_> = values.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(b.0));
    let mut hash = Sha256::new();
    hash.update(policy.as_bytes());
    for (name, value) in sorted {
        hash.update([0]);
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update(value.to_string().as_bytes());
    }
    hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect()
}

impl Group {
    /// Brings the next flush forward for news seen at `now`. The first news of a group of which nothing is told waits
    /// `group_wait`; messages of one group are `group_interval` apart. Where there is a
    /// daily digest, all waits for that.
    pub fn schedule(&mut self, policy: &Policy, now: i64) {
        if let Some(digest) = policy.next_digest(now) {
            self.flush_ms = self.flush_ms.min(digest);
            return;
        }
        let first = if self.told == 0 { now.saturating_add(policy.group_wait) } else { now };
        let apart =
            if self.last_ms == 0 { first } else { self.last_ms.saturating_add(policy.group_interval) };
        self.flush_ms = self.flush_ms.min(first.max(apart));
    }

    /// The subject of its mails: the same for every message, so that clients keep one thread.
    #[must_use]
    pub fn subject(&self) -> String {
        let values: Vec<String> = self
            .values
            .values()
            .filter(|v| !v.is_null())
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
            .collect();
        let what = if values.is_empty() { self.policy.clone() } else { values.join(", ") };
        let clean: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).take(150).collect();
        format!("[parcelwatch] {clean}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(group_by: &[&str]) -> Policy {
        Policy {
            id: "handoff".into(),
            group_by: group_by.iter().map(|n| (*n).to_owned()).collect(),
            group_wait: 30,
            group_interval: 300,
            repeat_every: None,
            ack_timeout: None,
            steps: Vec::new(),
            show: Vec::new(),
            ..Policy::default()
        }
    }

    fn group(group_by: &[&str], facts: &Value) -> Group {
        let empty = Map::new();
        let facts = facts.as_object().unwrap_or(&empty);
        let opening =
            Opening { rule: "late", parcel_id: "P1", owner: "carrier", severity: Severity::High, facts };
        group_of(&policy(group_by), &opening)
    }

    #[test]
    fn a_group_is_its_policy_and_values_whatever_their_order() {
        let facts = json!({"lane": "CN-ES", "items": [1], "broker": "b"});
        let a = group(&["rule", "lane"], &facts);
        assert_eq!(a.id, group(&["lane", "rule"], &facts).id);
        assert_ne!(a.id, group(&["rule"], &facts).id);
        assert_ne!(a.id, group(&["rule", "lane"], &json!({"lane": "CN-FR"})).id);
        let missing = group(&["lane", "severity", "owner", "parcel_id"], &json!({}));
        let values = json!({"lane": null, "severity": "high", "owner": "carrier", "parcel_id": "P1"});
        assert_eq!(Value::Object(missing.values.clone()), values);
        assert_ne!(
            missing.id,
            group(&["lane", "severity", "owner", "parcel_id"], &json!({"lane": "null"})).id
        );
    }

    #[test]
    fn the_first_news_waits_the_rest_keeps_apart_and_nothing_is_put_off() {
        let policy = policy(&[]);
        let mut group = group(&[], &json!({}));
        group.schedule(&policy, 1_000);
        assert_eq!(group.flush_ms, 1_030);
        group.schedule(&policy, 1_010);
        assert_eq!(group.flush_ms, 1_030, "later news does not put the flush off");
        (group.flush_ms, group.last_ms, group.told) = (NEVER, 1_030, 1);
        group.schedule(&policy, 1_100);
        assert_eq!(group.flush_ms, 1_330);
        (group.flush_ms, group.last_ms) = (NEVER, 1_330);
        group.schedule(&policy, 9_000);
        assert_eq!(group.flush_ms, 9_000, "what was told long ago does not wait");
        (group.flush_ms, group.told) = (NEVER, 0);
        group.schedule(&policy, 9_000);
        assert_eq!(group.flush_ms, 9_030, "all of it ended: the next is a first again");
    }

    #[test]
    fn a_subject_holds_no_line_break() {
        let group = group(&["lane"], &json!({"lane": "a\r\nBcc: x"}));
        assert_eq!(group.subject(), "[parcelwatch] a  Bcc: x");
    }
}
