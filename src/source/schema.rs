//! JSON Schema of an event, made from the names that [`super::decode`] looks fields up by.

use serde_json::{Map, Value, json};

use super::decode::{SPECIALS, Special};
use crate::model::{Control, Evidence, FactKind, KNOWN_FACTS, Milestone, fact_words};

/// `schema event`.
#[must_use]
pub fn event() -> Value {
    let mut fields: Map<String, Value> =
        SPECIALS.into_iter().map(|(name, special)| (name.to_owned(), field(special))).collect();
    for name in KNOWN_FACTS.into_iter().filter(|n| !n.is_empty()) {
        let fact = fact(name);
        match name.split_once('.') {
            None => drop(fields.insert(name.to_owned(), fact)),
            // An object of which facts are read; anything else in it is kept.
            Some((outer, inner)) => {
                let object = json!({"type": ["object", "null"], "properties": {}});
                fields.entry(outer).or_insert(object)["properties"][inner] = fact;
            }
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event of parcelwatch",
        "description": "One record of the topic, one line of a file. Unknown fields are kept and ignored; a field of the wrong type counts as missing",
        "type": "object",
        "properties": fields,
        "required": ["event_time"],
        "anyOf": [{"required": ["milestone"]}, {"required": ["control"]}],
        "if": {"properties": {"control": {"const": Control::FeedHealth.name()}}, "required": ["control"]},
        "then": {},
        "else": {"required": ["parcel_id"]},
        "examples": [{
            "event_id": "brk-88",
            "parcel_id": "P-ES-0001",
            "milestone": "import_customs_cleared",
            "evidence_class": "electronic_notice",
            "event_time": "2026-10-12T09:10:00+02:00",
            "lane": "CN-ES",
            "duty_status": "prepaid",
        }],
    })
}

const TIME: &str =
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})$";

fn words<'a>(words: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Value> {
    words.map(|(word, about)| json!({"const": word, "description": about})).collect()
}

fn field(special: Special) -> Value {
    let time = |about: &str| json!({"type": "string", "pattern": TIME, "description": about, "examples": ["2026-10-12T09:10:00+02:00"]});
    match special {
        Special::ParcelId => {
            json!({"type": "string", "minLength": 1, "description": "The parcel; also the record's key"})
        }
        Special::Milestone => {
            let mut each = words(Milestone::ALL.into_iter().map(|m| (m.name(), m.about())));
            each.push(
                json!({"type": "string", "description": "Unmapped: kept and counted, satisfies nothing"}),
            );
            json!({"anyOf": each, "description": "What happened"})
        }
        Special::Control => {
            let each = words(Control::ALL.into_iter().map(|c| (c.name(), c.about())));
            json!({"oneOf": each, "description": "What a record that is no milestone does"})
        }
        Special::Classifier => {
            json!({"description": "estimated and planned ones are no occurrences", "examples": ["actual", "estimated", "planned"]})
        }
        Special::EvidenceClass => {
            json!({"description": "How it is known", "examples": Evidence::ALL.map(Evidence::name)})
        }
        Special::EventTime => time("When it happened: RFC 3339 with its offset"),
        Special::ReceivedTime => {
            json!({"description": "When it was told, in a file: RFC 3339", "examples": ["2026-10-12T07:12:00Z"]})
        }
        Special::TzProvenance => {
            json!({"description": "How the offset is known; assumed: it is a guess", "examples": ["explicit", "facility", "country", "assumed"]})
        }
        Special::EventId => {
            json!({"description": "Unique within the parcel: a second record with it changes nothing"})
        }
        Special::IsTest => json!({"description": "true: counted, never folded"}),
        Special::Location => {
            json!({"description": "Where", "properties": {}, "examples": [{"country": "ES", "facility": "ESMAD"}]})
        }
        Special::Hold => json!({
            "description": "A hold of customs: it opens with the milestones that hold, ask or inspect, and closes by its id",
            "examples": [{"id": "H1", "authority": "aeat", "reason": "value_query", "respond_by": "2026-10-20T00:00:00Z"}],
        }),
        Special::Retracts => {
            json!({"description": "Ids of records that event_retracted takes back", "examples": [["brk-88"]]})
        }
    }
}

/// A fact keeps whatever JSON type it has.
fn fact(name: &str) -> Value {
    let Some(words) = fact_words(name) else { return json!({}) };
    let usually = match words.kind {
        FactKind::Text => "a text",
        FactKind::Number => "a number",
        FactKind::Bool => "true or false",
        FactKind::BoolOrText => "true, false or a word",
        FactKind::List => "a list",
        FactKind::Money => "an amount with its currency",
        FactKind::Time => "a time, RFC 3339",
    };
    let mut schema = json!({"description": format!("{} (usually {usually})", words.about)});
    if !words.usual.is_empty() {
        schema["examples"] = json!(words.usual);
    } else if words.kind == FactKind::Money {
        schema["examples"] = json!([{"amount": "149.90", "currency": "EUR"}]);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_is_read_is_in_the_schema() {
        let schema = event();
        let fields = &schema["properties"];
        for (name, _) in SPECIALS {
            assert!(fields[name]["description"].is_string(), "{name}");
        }
        for name in KNOWN_FACTS.into_iter().filter(|n| !n.is_empty()) {
            let path = name.split('.').collect::<Vec<_>>().join("/properties/");
            let about = fields.pointer(&format!("/{path}/description")).and_then(Value::as_str);
            assert!(about.is_some_and(|a| a.contains("usually")), "{name}");
        }
    }
}
