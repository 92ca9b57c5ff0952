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
    /// `group_wait`; messages of one group are `group_interval` apart.
    pub fn schedule(&mut self, policy: &Policy, now: i64) {
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
