//! What is known of a parcel as JSON: kept with each change so that it outlives the parcel's place in memory (DESIGN §6),
//! and shown by the API.
//!
//! Evidence: `{"facts":{name: value},"occurrences":[{"milestone","evidence_class","event_time","append_time","facility",
//! "future"}],"holds":[{"id","reason","authority","opened","closed","respond_by"}],"last":{"milestone","time","facility"}}`.

use serde_json::{Map, Value as Json, json};

use super::derive::{Derived, drift};
use super::intern::Interner;
use super::matching::{Seen, View};
use super::parcel::{Occurrence, Parcel, Text, Value};
use crate::model::{DerivedFact, DerivedTime, Evidence, FactRef, KNOWN_FACTS, Severity, Time};
use crate::rules::RuleSet;

/// What decided a change, as a JSON object.
#[must_use]
pub fn evidence(p: &Parcel, d: &Derived, interner: &Interner, rules: &RuleSet) -> String {
    Json::Object(known(p, d, interner, rules)).to_string()
}

/// Everything the shard keeps of a parcel, as a JSON object.
#[must_use]
pub fn parcel(p: &Parcel, d: &Derived, interner: &Interner, rules: &RuleSet) -> String {
    let mut all = known(p, d, interner, rules);
    all.insert("parcel_id".into(), p.id.clone().into());
    let times = DerivedTime::ALL.iter().filter_map(|t| Some((t.name().to_owned(), time(d.time(*t)?))));
    all.insert("times".into(), Json::Object(times.collect()));
    let standing = p.standing.iter().map(|s| {
        json!({
            "rule": interner.text(s.rule),
            "episode": s.episode.map(|t| t.to_string()).unwrap_or_default(),
            "stage": s.stage,
            "severity": Severity::from_code(s.severity).map(Severity::name),
            "due": time(s.due),
            "anchor": time(s.anchor),
        })
    });
    all.insert("standing".into(), standing.collect());
    all.insert("terminal".into(), d.terminal.into());
    all.insert("last_append_time".into(), time(Time(p.last_append)));
    all.insert("evidence".into(), if p.incomplete { "incomplete" } else { "complete" }.into());
    Json::Object(all).to_string()
}

fn time(t: Time) -> Json {
    t.to_string().into()
}

fn known(p: &Parcel, d: &Derived, interner: &Interner, rules: &RuleSet) -> Map<String, Json> {
    let mut all = Map::new();
    all.insert("facts".into(), Json::Object(facts(p, d, interner, rules)));
    all.insert("occurrences".into(), p.occurrences.iter().map(|o| occurrence(o, interner)).collect());
    let text = |t: Option<Text>| t.map(|t| p.text(t, interner).to_owned());
    let holds = d.holds.iter().map(|h| {
        json!({
            "id": text(p.hold_ids[usize::from(h.hold)]),
            "reason": text(h.reason).unwrap_or_else(|| "unknown".into()),
            "authority": text(h.authority),
            "opened": time(Time(h.opened)),
            "closed": h.closed.map(|t| time(Time(t))),
            "respond_by": h.respond_by.map(time),
        })
    });
    all.insert("holds".into(), holds.collect());
    let last = p.occurrences.last().map(|o| {
        json!({
            "milestone": d.last_milestone.unwrap_or(o.milestone).name(),
            "time": time(Time(o.stamp.event_time)),
            "facility": o.facility.map(|f| interner.text(f)),
        })
    });
    all.insert("last".into(), last.into());
    all
}

fn occurrence(o: &Occurrence, interner: &Interner) -> Json {
    json!({
        "milestone": o.milestone.name(),
        "evidence_class": Evidence::from_code(o.class).map(Evidence::name),
        "event_time": time(Time(o.stamp.event_time)),
        "append_time": time(Time(o.stamp.append)),
        "facility": o.facility.map(|f| interner.text(f)),
        "future": o.future,
    })
}

fn facts(p: &Parcel, d: &Derived, interner: &Interner, rules: &RuleSet) -> Map<String, Json> {
    let view = View { parcel: p, derived: d, interner, filter: None };
    let mut facts = Map::new();
    for f in &p.facts {
        let value = match f.value {
            Value::Text(t) => p.text(t, interner).into(),
            Value::Bool(b) => b.into(),
            Value::Number(t) | Value::Json(t) => {
                serde_json::from_str(p.text(t, interner)).unwrap_or(Json::Null)
            }
        };
        facts.insert(rules.fact_name(f.number).to_owned(), value);
    }
    // What follows from others: the parts of the lane, the set of documents, the derived facts.
    for (number, name) in KNOWN_FACTS.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
        if !facts.contains_key(*name)
            && let Some(value) = view.fact(FactRef::Stated(number as u16))
        {
            facts.insert((*name).to_owned(), seen(&value));
        }
    }
    for fact in DerivedFact::ALL {
        let value = match fact {
            DerivedFact::LandedCostDriftPercent => {
                drift(p, interner).and_then(|(a, b)| a.percent_of_text(b, 4)).map(|t| number(&t))
            }
            _ => view.derived_or_none(fact).as_ref().map(seen),
        };
        if let Some(value) = value {
            facts.insert(fact.name().to_owned(), value);
        }
    }
    facts
}

fn number(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or(Json::Null)
}

pub(super) fn seen(value: &Seen<'_>) -> Json {
    match value {
        Seen::Text(t) => t.as_ref().into(),
        Seen::Number(n) | Seen::Money(n) => number(&n.to_string()),
        Seen::Bool(b) => (*b).into(),
        Seen::Percent(a, b) => a.percent_of_text(*b, 4).map_or(Json::Null, |t| number(&t)),
        Seen::List(list) => list.iter().map(seen).collect(),
        Seen::Object => Json::Null,
    }
}
