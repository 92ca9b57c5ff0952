//! Values as JSON text, and the ids that records are known by (SEMANTICS 1.4, 2.1).

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::model::json::{Reader, Token, each_element, each_member};
use crate::model::{Event, FactValue};

/// A value as compact JSON text.
pub(super) fn json_text(value: &FactValue<'_>) -> String {
    match value {
        FactValue::Text(t) => serde_json::to_string(&**t).unwrap_or_default(),
        FactValue::Number(t) => (*t).to_owned(),
        FactValue::Bool(b) => b.to_string(),
        FactValue::Json(t) => canonical(t, false),
    }
}

/// A list or object without white space; members in the order of their names where `sorted`.
fn canonical(raw: &str, sorted: bool) -> String {
    let Ok(value) = Reader::new(raw).value() else { return String::new() };
    match value {
        Token::Text(..) => serde_json::to_string(&value.text().unwrap_or_default()).unwrap_or_default(),
        Token::List(raw) => {
            let mut parts = Vec::new();
            each_element(raw, |v| parts.push(canonical_token(v, sorted)));
            format!("[{}]", parts.join(","))
        }
        Token::Object(raw) => {
            let mut members: Vec<(String, String)> = Vec::new();
            each_member(raw, |key, v| {
                members.retain(|(k, _)| k != key);
                members.push((key.to_owned(), canonical_token(v, sorted)));
            });
            if sorted {
                members.sort();
            }
            let parts: Vec<String> = members
                .iter()
                .map(|(k, v)| format!("{}:{v}", serde_json::to_string(k).unwrap_or_default()))
                .collect();
            format!("{{{}}}", parts.join(","))
        }
        other => canonical_token(other, sorted),
    }
}

fn canonical_token(token: Token<'_>, sorted: bool) -> String {
    match token {
        Token::Text(..) => serde_json::to_string(&token.text().unwrap_or_default()).unwrap_or_default(),
        Token::Number(raw) => raw.to_owned(),
        Token::Bool(b) => b.to_string(),
        Token::Null => "null".to_owned(),
        Token::List(raw) | Token::Object(raw) => canonical(raw, sorted),
    }
}

const ID_BITS: u64 = (1 << 48) - 1;

/// The 48 bits kept of an id that a record names.
#[must_use]
pub fn named_id(id: &str) -> u64 {
    xxh3_64_with_seed(id.as_bytes(), 1) & ID_BITS
}

/// The id of a record: its own, else derived from (milestone, event time, location) for one that can be an occurrence
/// (SEMANTICS 1.4); nothing else's derived id is ever remembered.
pub(super) fn record_id(e: &Event<'_>) -> Option<u64> {
    if let Some(id) = &e.event_id {
        return Some(named_id(id));
    }
    let milestone = e.milestone?;
    let mut hash = Xxh3::with_seed(2);
    hash.update(&[milestone as u8]);
    hash.update(&e.event_time.0.to_le_bytes());
    if let Some(location) = e.location {
        hash.update(canonical(location, true).as_bytes());
    }
    Some(hash.digest() & ID_BITS)
}
