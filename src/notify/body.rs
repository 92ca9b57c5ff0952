//! A message's body read back (DESIGN §11), for those who render it: mails and, later, chat.
//!
//! Lenient on purpose: a field that is missing or null is empty, one that is not known is ignored, so that a message written
//! by another version still reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::model::Time;

/// `{"type","timestamp","data"}`.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are DESIGN §11's")]
pub struct Body {
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    #[serde(deserialize_with = "time")]
    pub timestamp: Option<Time>,
    #[serde(deserialize_with = "nullable")]
    pub data: Data,
}

/// What was decided, and about which exceptions.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are DESIGN §11's")]
pub struct Data {
    #[serde(deserialize_with = "nullable")]
    pub policy: String,
    pub step: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
    #[serde(deserialize_with = "nullable")]
    pub group: BTreeMap<String, Value>,
    #[serde(deserialize_with = "nullable")]
    pub group_state: String,
    #[serde(deserialize_with = "nullable")]
    pub counts: Counts,
    #[serde(deserialize_with = "nullable")]
    pub truncated: u64,
    #[serde(deserialize_with = "nullable")]
    pub exceptions: Vec<Listed>,
    /// Of a digest: its counts, in lines.
    #[serde(deserialize_with = "nullable")]
    pub summary: Vec<String>,
}

/// Of the whole group.
#[derive(Deserialize, Clone, Copy, Debug, Default)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are DESIGN §11's")]
pub struct Counts {
    pub open: u64,
    pub acknowledged: u64,
    pub resolved: u64,
}

/// One exception of the message.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are DESIGN §11's")]
pub struct Listed {
    #[serde(deserialize_with = "nullable")]
    pub exception_id: String,
    #[serde(deserialize_with = "nullable")]
    pub change: String,
    #[serde(deserialize_with = "nullable")]
    pub rule: String,
    #[serde(deserialize_with = "nullable")]
    pub title: String,
    pub runbook: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub parcel_id: String,
    #[serde(deserialize_with = "nullable")]
    pub severity: String,
    #[serde(deserialize_with = "nullable")]
    pub state: String,
    #[serde(deserialize_with = "nullable")]
    pub owner: String,
    #[serde(deserialize_with = "time")]
    pub due: Option<Time>,
    #[serde(deserialize_with = "time")]
    pub at: Option<Time>,
    #[serde(deserialize_with = "nullable")]
    pub overdue_seconds: i64,
    pub resolution: Option<String>,
    pub acknowledged_by: Option<String>,
    pub tracking_number: Option<String>,
    pub carrier_code: Option<String>,
    pub order_id: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub expected: Vec<String>,
    pub last: Option<Last>,
    #[serde(deserialize_with = "nullable")]
    pub facts: BTreeMap<String, Value>,
    pub evidence: Option<String>,
}

/// The parcel's latest milestone.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are DESIGN §11's")]
pub struct Last {
    #[serde(deserialize_with = "nullable")]
    pub milestone: String,
    #[serde(deserialize_with = "time")]
    pub time: Option<Time>,
    pub facility: Option<String>,
}

impl Body {
    /// Reads a body.
    ///
    /// # Errors
    /// Where it is no JSON object of this shape.
    pub fn read(text: &str) -> Result<Body, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The oldest `at` of the news in it: of what opened, was raised or resolved, where the message is about news and not
    /// a reminder of what was told before.
    #[must_use]
    pub fn oldest_news(&self) -> Option<Time> {
        if !matches!(self.data.reason.as_str(), "new" | "raised" | "resolved") {
            return None;
        }
        self.data.exceptions.iter().filter(|e| e.change != "reminder").filter_map(|e| e.at).min()
    }
}

fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

fn time<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Time>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.and_then(|t| Time::parse(&t)))
}
