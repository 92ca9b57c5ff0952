//! What is bounded stays bounded, and what is extreme is survived: SEMANTICS 3.1, DESIGN §3.

use std::sync::Arc;

use parcelwatch::engine::{Lifetimes, Shard};
use parcelwatch::model::{ChangeKind, DAY, HOUR, MINUTE, Severity, Time};
use parcelwatch::rules::RuleSet;
use parcelwatch::rules::ruleset::{Span, Stage};
use serde_json::Value;

use crate::properties::fold;
use crate::random::Random;
use crate::rulebook::{PLAIN, Rulebook};
use crate::stream::EPOCH;

fn rules() -> Arc<RuleSet> {
    Rulebook::new(&mut Random::new(1)).build()
}

/// The plain rule alone, with stages at these spans and neither grace nor tolerance.
fn plain(spans: &[Span]) -> Arc<RuleSet> {
    let mut rules = Arc::into_inner(rules()).expect("nobody else has it");
    rules.rules.retain(|r| &*r.id == PLAIN);
    let body = &mut rules.rules[0].bodies[0];
    body.grace = 0;
    body.stages = spans.iter().map(|at| Stage { at: *at, severity: Severity::High }).collect();
    Arc::new(rules)
}

fn shard(rules: Arc<RuleSet>) -> Shard {
    Shard::new(rules, Lifetimes::default(), true)
}

fn event(parcel: &str, milestone: &str, at: i64, more: &str) -> (i64, String) {
    let parcel = Value::from(parcel);
    let json = format!(
        "{{\"parcel_id\":{parcel},\"milestone\":\"{milestone}\",\"event_time\":\"{}\"{more}}}",
        Time(at)
    );
    (at, json)
}

fn parcel(shard: &Shard, id: &str) -> Value {
    serde_json::from_str(&shard.parcel_json(id).expect("it is known")).expect("an object")
}

#[test]
fn of_too_many_occurrences_the_first_and_last_of_each_kind_stay() {
    let mut shard = shard(rules());
    let mut records = vec![event("P", "picked_up", EPOCH, "")];
    records.extend((1..=200).map(|i| event("P", "in_transit_scan", EPOCH + i * MINUTE, "")));
    records.push(event("P", "domestic_scan", EPOCH + 300 * MINUTE, ""));
    fold(&mut shard, &records);
    let known = parcel(&shard, "P");
    let occurrences = known["occurrences"].as_array().expect("a list");
    assert_eq!(occurrences.len(), 64);
    assert_eq!(shard.stats().dropped.occurrences, 202 - 64);
    let time = |i: usize| occurrences[i]["event_time"].as_str().expect("a text").to_owned();
    assert_eq!(occurrences[0]["milestone"], "picked_up");
    assert_eq!(time(1), Time(EPOCH + MINUTE).to_string(), "the first scan stays");
    assert_eq!(time(62), Time(EPOCH + 200 * MINUTE).to_string(), "the last scan stays");
    assert_eq!(occurrences[63]["milestone"], "domestic_scan");
    // The oldest between went: those left are the latest.
    assert_eq!(time(2), Time(EPOCH + (200 - 60) * MINUTE).to_string());
}

#[test]
fn of_too_many_holds_documents_facts_and_retractions_the_excess_is_counted() {
    let mut shard = shard(rules());
    let hold = |i: i64| format!(",\"hold\":{{\"id\":\"h{i}\"}}");
    let mut records: Vec<_> =
        (0..50).map(|i| event("P", "import_customs_held", EPOCH + i * MINUTE, &hold(i))).collect();
    let types: Vec<String> = (0..100).map(|i| format!("{{\"type\":\"t{i}\"}}")).collect();
    let documents = format!(",\"documents\":[{}]", types.join(","));
    let control = |more: &str| {
        let json = format!("{{\"parcel_id\":\"P\",\"event_time\":\"{}\"{more}}}", Time(EPOCH + HOUR));
        (EPOCH + HOUR, json)
    };
    records.push(control(&format!(",\"control\":\"parcel_facts\"{documents}")));
    records.push(control(&format!(",\"control\":\"parcel_facts\",\"order_id\":\"{}\"", "x".repeat(4_097))));
    records.push(control(&format!(",\"control\":\"parcel_facts\",\"seller_id\":\"{}\"", "y".repeat(4_096))));
    let ids: Vec<String> = (0..100).map(|i| format!("\"gone{i}\"")).collect();
    records.push(control(&format!(",\"control\":\"event_retracted\",\"retracts\":[{}]", ids.join(","))));
    fold(&mut shard, &records);
    let known = parcel(&shard, "P");
    assert_eq!(known["holds"].as_array().map(Vec::len), Some(32));
    assert_eq!(known["facts"]["documents"].as_array().map(Vec::len), Some(64));
    assert_eq!(known["facts"]["order_id"], Value::Null);
    assert_eq!(known["facts"]["seller_id"].as_str().map(str::len), Some(4_096));
    let dropped = shard.stats().dropped;
    assert_eq!((dropped.holds, dropped.documents, dropped.facts, dropped.retractions), (18, 36, 1, 36));
}

#[test]
fn hostile_ids_are_ids_like_others() {
    let mut shard = shard(plain(&[Span { ms: HOUR, ..Span::default() }]));
    let long = "l".repeat(1_000_000);
    let ids =
        ["", " ", "\0", "a\0b", "a", "💥", "\u{202e}", "../../etc/passwd", "'; DROP TABLE", &long, "\"\\"];
    let records: Vec<_> = ids.iter().map(|id| event(id, "departed_origin_country", EPOCH, "")).collect();
    let mut out = fold(&mut shard, &records);
    shard.advance(Time(EPOCH + DAY), usize::MAX, &mut out);
    let mut told: Vec<&str> = out.iter().map(|c| &*c.parcel_id).collect();
    told.sort_unstable();
    let mut wanted: Vec<&str> = ids.into_iter().filter(|id| !id.is_empty()).collect();
    wanted.sort_unstable();
    assert_eq!(told, wanted, "each tells once; without an id there is no parcel");
    for id in wanted {
        assert_eq!(parcel(&shard, id)["parcel_id"], id);
    }
}

#[test]
fn spans_without_end_neither_overflow_nor_hang() {
    let spans = [
        Span { ms: HOUR, ..Span::default() },
        Span { days: 365_000_000, ..Span::default() },
        Span { days: u32::MAX, ms: i64::MAX, ..Span::default() },
    ];
    let mut shard = shard(plain(&spans));
    let mut out = fold(
        &mut shard,
        &[
            event("P", "departed_origin_country", EPOCH, ""),
            event("Q", "departed_origin_country", -62_135_596_800_000, ""),
        ],
    );
    // A million years later the second stage has come, at its very millisecond.
    shard.advance(Time(EPOCH + 365_000_000 * DAY + 1), usize::MAX, &mut out);
    let told: Vec<_> =
        out.iter().filter(|c| &*c.parcel_id == "P").map(|c| (c.kind, c.stage, c.at.0 - EPOCH)).collect();
    assert_eq!(told[0], (ChangeKind::Opened, 1, HOUR));
    // It was abandoned long before (SEMANTICS 8.1).
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(matches!(told[1].0, ChangeKind::Resolved(_)));
    assert!(shard.advance(Time::MAX, usize::MAX, &mut out));
    assert_eq!((shard.watermark(), shard.parcels()), (Time::MAX, 0));
}

#[test]
fn deadlines_of_the_year_9999_are_met_like_any_other() {
    let year_9999 = Time::parse("9999-12-31T20:00:00Z").expect("a time").0;
    for begin in [EPOCH, Time::parse("6060-01-01T00:00:00Z").expect("a time").0, year_9999] {
        let mut shard =
            shard(plain(&[Span { ms: HOUR, ..Span::default() }, Span { ms: 2 * HOUR, ..Span::default() }]));
        let mut out = fold(&mut shard, &[event("P", "departed_origin_country", begin, "")]);
        shard.advance(Time(begin + HOUR), usize::MAX, &mut out);
        assert_eq!(out.len(), 0, "what is told exactly then is in time");
        shard.advance(Time(begin + 3 * HOUR), usize::MAX, &mut out);
        let told: Vec<_> = out.iter().map(|c| (c.stage, c.at.0 - begin)).collect();
        assert_eq!(told, [(1, HOUR), (2, 2 * HOUR)], "from {}", Time(begin));
    }
}
