//! Streams of milestones as dirty as real ones, on a grid of whole hours, so that ties with fire times are common.
use super::{AT_CUSTOMS, Random, Theme};
use crate::oracle_impl::time::{DAY, HOUR, MINUTE, Millis, SECOND, print_instant};
use crate::oracle_impl::vocabulary::{MILESTONES, TERMINAL};
use chrono::{DateTime, FixedOffset};
use serde_json::{Map, Value, json};

/// A line with the append time it is meant to have.
struct Draft {
    append: Millis,
    time: Millis,
    body: Map<String, Value>,
}

/// All lines in order of arrival, and the last append time.
pub fn lines(random: &mut Random, theme: &Theme) -> (Vec<Vec<u8>>, Millis) {
    let parcels = if theme.small { random.between(2, 4) } else { random.between(2, 6) };
    let mut drafts: Vec<Draft> =
        (0..parcels).flat_map(|n| parcel(random, theme, &format!("P-{n}"))).collect();
    drafts.sort_by_key(|draft| draft.append);
    let mut last = drafts.last().map_or(theme.start, |draft| draft.append);
    let wait =
        *random.one(&[0, HOUR, DAY, 3 * DAY, 3 * DAY, 10 * DAY, 10 * DAY, 45 * DAY, 101 * DAY, 460 * DAY]);
    last += wait;
    let mut clock = Map::new();
    clock.insert("parcel_id".into(), json!("P-CLOCK"));
    clock.insert("milestone".into(), json!("order_created"));
    clock.insert("event_time".into(), json!(print_instant(last)));

    let mut lines: Vec<Vec<u8>> = Vec::new();
    for draft in &drafts {
        lines.push(written(random, &draft.body));
        if random.percent(3) {
            lines.push(rejected(random, draft));
        }
    }
    lines.push(written(random, &clock));
    // 1.2: a line that goes back is put in order; only its place among equal append times is that of the file
    if random.percent(30) {
        for _ in 0..random.between(1, 4) {
            let (a, b) = (random.below(lines.len()), random.below(lines.len()));
            lines.swap(a, b);
        }
    }
    (lines, last)
}

/// As text; now and then with a key that comes twice, of which the last counts.
fn written(random: &mut Random, body: &Map<String, Value>) -> Vec<u8> {
    let text = Value::Object(body.clone()).to_string();
    let twice = [("event_time", "\"garbage\""), ("duty_status", "\"paid\""), ("milestone", "\"cancelled\"")];
    let (key, value) = random.one(&twice);
    if body.contains_key(*key) && random.percent(4) {
        return format!("{{\"{key}\":{value},{}", &text[1..]).into_bytes();
    }
    text.into_bytes()
}

/// DESIGN 3: every kind of record that is rejected or that belongs to no parcel, with a time that can be read or without.
fn rejected(random: &mut Random, near: &Draft) -> Vec<u8> {
    let mut body = near.body.clone();
    // most move the clock, a little
    let later = print_instant(near.append + *random.one(&[0, 0, SECOND, HOUR, 5 * HOUR]));
    body.insert("received_time".into(), json!(later));
    match random.below(11) {
        0 => return Vec::new(),
        1 => return b"{\"parcel_id\": \"P-0\", \"milestone\"".to_vec(),
        2 => return b"[1, 2]".to_vec(),
        3 => return b"{\"parcel_id\": \"P-0\", \"text\": \"\xff\xfe\"}".to_vec(),
        4 => {
            // too deep: whether its time can be read makes no difference
            body.insert("received_time".into(), json!(print_instant(near.append)));
            body.insert("deep".into(), (0..80).fold(json!(1), |inner, _| json!([inner])));
        }
        5 => drop(body.insert("parcel_id".into(), json!(7))),
        6 => drop(body.remove("parcel_id")),
        7 => {
            body.remove("control");
            body.insert("milestone".into(), json!(null));
        }
        8 => drop(body.insert("event_time".into(), json!("2026-10-01T10:00:00"))),
        9 => drop(body.insert("control".into(), json!("parcel_lost"))),
        _ => {
            body.remove("parcel_id");
            body.remove("milestone");
            body.insert("control".into(), json!("feed_health"));
            body.insert("feed_status".into(), json!("failing"));
        }
    }
    Value::Object(body).to_string().into_bytes()
}

fn parcel(random: &mut Random, theme: &Theme, id: &str) -> Vec<Draft> {
    let count = if theme.small { random.between(5, 16) } else { random.between(5, 40) };
    let mut drafts: Vec<Draft> = Vec::new();
    let mut cursor = theme.start + random.below(30) as Millis * HOUR;
    for number in 0..count {
        cursor += *random.one(&[
            0,
            0,
            HOUR,
            HOUR,
            2 * HOUR,
            3 * HOUR,
            6 * HOUR,
            6 * HOUR,
            12 * HOUR,
            23 * HOUR,
            DAY,
            2 * DAY,
        ]);
        if random.percent(8) {
            cursor += random.one(&[SECOND, 1, 30 * MINUTE, -SECOND, 59 * MINUTE]);
        }
        if theme.with_long_gaps && random.percent(10) {
            cursor += random.one(&[30 * DAY, 31 * DAY, 60 * DAY, 90 * DAY, 95 * DAY, 400 * DAY, 401 * DAY]);
        }
        let again = !drafts.is_empty() && random.percent(7);
        let draft = if again {
            let earlier = random.below(drafts.len());
            repeated(random, theme, &drafts[earlier], cursor)
        } else {
            record(random, theme, id, number, count, cursor)
        };
        drafts.push(draft);
    }
    settle_claims(&mut drafts);
    drafts
}

/// The same id again: as it was, or with other content.
fn repeated(random: &mut Random, theme: &Theme, earlier: &Draft, cursor: Millis) -> Draft {
    let append = cursor.max(earlier.append) + *random.one(&[0, 0, HOUR]);
    let mut body = earlier.body.clone();
    body.insert("received_time".into(), json!(print_instant(append)));
    if random.percent(40) {
        match random.below(4) {
            0 => drop(body.insert("milestone".into(), json!(random.one(&theme.milestones)))),
            1 => drop(body.insert("duty_status".into(), json!("unpaid"))),
            2 => drop(body.insert("evidence_class".into(), json!("physical_scan"))),
            _ => drop(body.remove("classifier")),
        }
    }
    Draft { append, time: earlier.time, body }
}

/// Two claims at the same event and append times have no order that the semantics name (3.9): the later line makes none.
fn settle_claims(drafts: &mut [Draft]) {
    let mut seen: Vec<(Millis, Millis)> = Vec::new();
    for draft in drafts {
        if draft.body.contains_key("next_expected_by") {
            let time = if draft.time > draft.append + 15 * MINUTE { draft.append } else { draft.time };
            if seen.contains(&(time, draft.append)) {
                draft.body.remove("next_expected_by");
            }
            seen.push((time, draft.append));
        }
    }
}

fn record(
    random: &mut Random,
    theme: &Theme,
    id: &str,
    number: usize,
    count: usize,
    cursor: Millis,
) -> Draft {
    let mut body = Map::new();
    body.insert("parcel_id".into(), json!(id));
    let (mut time, mut append) = (cursor, cursor);
    match random.below(100) {
        0..=49 => {}
        50..=76 => append += random.one(&[SECOND, HOUR, 2 * HOUR, 6 * HOUR, 14 * HOUR, 2 * DAY, 4 * DAY]),
        77..=92 => time -= random.one(&[HOUR, 3 * HOUR, 12 * HOUR, 2 * DAY, 5 * DAY]),
        _ => time += random.one(&[15 * MINUTE, 15 * MINUTE + 1, 15 * MINUTE + SECOND, HOUR, 3 * DAY]),
    }
    body.insert("event_time".into(), json!(spelt(random, time)));
    if append != time || random.percent(90) {
        body.insert("received_time".into(), json!(spelt(random, append)));
    }
    if random.percent(88) {
        body.insert("event_id".into(), json!(format!("{id}-{number}")));
    }
    what(random, theme, &mut body, id, number, count);
    let facts = match random.below(10) {
        _ if number == 0 => random.between(1, 4),
        0..=5 => random.between(1, 3),
        _ => 0,
    };
    for _ in 0..facts {
        fact(random, theme, &mut body, time);
    }
    if theme.toggling && random.percent(60) {
        toggled(random, &mut body);
    }
    if number == 0 && random.percent(60) {
        // what `before` counts back from
        let start = theme.start - random.below(3) as Millis * DAY;
        body.insert("guarantee_start".into(), json!(spelt(random, start)));
        body.insert("guarantee_days".into(), json!(random.between(4, 12)));
        let due = start + random.between(3, 9) as Millis * DAY;
        body.insert("duty_due_by".into(), json!(spelt(random, due)));
    }
    if random.percent(3) {
        spoil(random, &mut body);
    }
    Draft { append, time, body }
}

/// A fact that changes from one of two values to the other and back.
fn toggled(random: &mut Random, body: &mut Map<String, Value>) {
    let (name, values) = *random.one(&[
        ("duty_status", ["unpaid", "paid"]),
        ("duty_status", ["unpaid", "paid"]),
        ("feed_status", ["success", "stopped"]),
        ("destination", ["ES", "US"]),
        ("domestic_carrier", ["correos", "usps"]),
    ]);
    body.insert(name.into(), json!(random.one(&values)));
}

/// The same instant in several spellings.
fn spelt(random: &mut Random, at: Millis) -> String {
    let offset_hours = match random.below(10) {
        0 => 8,
        1 => 2,
        2 => -4,
        _ => return print_instant(at),
    };
    let zone = FixedOffset::east_opt(offset_hours * 3600).expect("an offset");
    let local = DateTime::from_timestamp_millis(at).expect("a time").with_timezone(&zone);
    // finer digits than milliseconds are cut
    let fraction = format!(".{:03}{}", at.rem_euclid(1000), random.one(&["", "4", "999999"]));
    let whole = local.format("%Y-%m-%dT%H:%M:%S");
    format!("{whole}{fraction}{}", local.format("%:z"))
}

/// Milestone or control, and what goes with it.
fn what(
    random: &mut Random,
    theme: &Theme,
    body: &mut Map<String, Value>,
    id: &str,
    number: usize,
    count: usize,
) {
    match random.below(100) {
        0..=7 => control(random, body, "parcel_facts"),
        8..=12 => {
            control(random, body, "event_retracted");
            // records before, records to come, retractions, and what never was
            let ids: Vec<String> =
                (0..random.between(1, 2)).map(|_| format!("{id}-{}", random.below(number + 4))).collect();
            body.insert("retracts".into(), json!(ids));
            if random.percent(10) {
                body.insert("milestone".into(), json!("in_transit_scan"));
                body.insert("event_id".into(), json!(format!("{id}-{number}")));
                body.insert("retracts".into(), json!([format!("{id}-{}", number + 1)]));
            }
        }
        13..=16 => {
            control(random, body, "feed_health");
            body.insert("feed_status".into(), json!(random.one(&["success", "failing", "stopped"])));
        }
        17..=19 => {
            control(random, body, "guarantee_updated");
            body.insert("guarantee_days".into(), json!(random.between(3, 15)));
        }
        20 => control(random, body, "tracking_linked"),
        21 => control(random, body, "duty_regime_changed"),
        22..=24 => {
            body.insert("milestone".into(), json!(random.one(&["unmapped", "LABEL_PRINTED", "Delivered"])));
            body.insert("raw".into(), json!({"code": "X1"}));
        }
        _ => happened(random, theme, body, number, count),
    }
    if random.percent(2) {
        body.insert("is_test".into(), json!(true));
    }
}

fn control(random: &mut Random, body: &mut Map<String, Value>, name: &str) {
    body.insert("control".into(), json!(name));
    // 1.5: control and milestone in one record
    if name != "event_retracted" && random.percent(6) {
        body.insert("milestone".into(), json!("in_transit_scan"));
    }
}

fn happened(random: &mut Random, theme: &Theme, body: &mut Map<String, Value>, number: usize, count: usize) {
    let near_the_end = number + 3 > count;
    let name = match random.below(100) {
        0..=2 => random.one(&TERMINAL),
        3..=40 if near_the_end => random.one(&TERMINAL),
        3..=35 if theme.with_holds => random.one(&AT_CUSTOMS),
        3..=9 => &random.one(&MILESTONES).0,
        _ => random.one(&theme.milestones),
    };
    body.insert("milestone".into(), json!(name));
    match random.below(10) {
        0..=4 => drop(body.insert("evidence_class".into(), json!("physical_scan"))),
        5 | 6 => drop(body.insert("evidence_class".into(), json!("electronic_notice"))),
        7 => drop(body.insert("evidence_class".into(), json!("claim"))),
        _ => {}
    }
    if random.percent(7) {
        body.insert("classifier".into(), json!(random.one(&["estimated", "planned"])));
    } else if random.percent(20) {
        body.insert("classifier".into(), json!("actual"));
    }
    if random.percent(40) {
        let facility = random.one(&["ESMAD", "ESMAD", "USJFKA", "CNHKG", "unknown"]);
        body.insert(
            "location".into(),
            json!({"country": random.one(&["ES", "US", "CN"]), "facility": facility}),
        );
    }
    if random.percent(15) {
        body.insert("tz_provenance".into(), json!(random.one(&["assumed", "assumed", "country"])));
    }
    let of_hold = name.starts_with("import_customs_h") || name.starts_with("import_customs_in");
    if of_hold && random.percent(75) {
        body.insert("hold".into(), hold(random, theme));
    }
}

/// 3.3 to 3.5: with an id and without, with a reason or none.
fn hold(random: &mut Random, theme: &Theme) -> Value {
    let mut hold = Map::new();
    if random.percent(65) {
        hold.insert("id".into(), json!(random.one(&["A", "A", "B"])));
    }
    if random.percent(60) {
        let reason = random.one(&["duty_unpaid", "value_query", "duty_unpaid", "unknown"]);
        hold.insert("reason".into(), json!(reason));
    }
    if random.percent(40) {
        hold.insert("authority".into(), json!(random.one(&["CBP", "AEAT"])));
    }
    if random.percent(40) {
        let respond_by = theme.start + random.between(12, 240) as Millis * HOUR;
        hold.insert("respond_by".into(), json!(print_instant(respond_by)));
    }
    Value::Object(hold)
}

/// 2: facts, most of them what the rules look at.
fn fact(random: &mut Random, theme: &Theme, body: &mut Map<String, Value>, time: Millis) {
    let mut put = |name: &str, value: Value| drop(body.insert(name.to_string(), value));
    let money = |random: &mut Random, amounts: &[&str]| json!({"amount": random.one(amounts), "currency": random.one(&["EUR", "EUR", "EUR", "USD"])});
    match random.below(29) {
        0..=4 => {
            let states =
                ["unpaid", "unpaid", "paid", "prepaid", "assessed", "collect_on_delivery", "unknown"];
            put("duty_status", json!(random.one(&states)));
        }
        5 | 6 => put("lane", json!(random.one(&["CN-ES", "CN-US-air", "CN-FR", "GB"]))),
        7 => put("destination", json!(random.one(&["ES", "US", "BR"]))),
        8 => put("entry_type", json!(random.one(&["h7", "postal", "bonded_72h", "unknown"]))),
        9 => put("domestic_carrier", json!(random.one(&["correos", "usps"]))),
        10 => put("declared_value", money(random, &["18.40", "20", "25.5"])),
        11 => put("landed_cost_quoted", money(random, &["25.00", "10.00", "30", "0"])),
        12 => put("landed_cost_actual", money(random, &["27.50", "11.00", "25", "40.00"])),
        13 => put("parcel_index", random.one(&[json!(1), json!(2), json!("1")]).clone()),
        14 => {
            let start = theme.start - random.below(5) as Millis * DAY + random.below(3) as Millis * HOUR;
            put("guarantee_start", json!(spelt(random, start)));
            if random.percent(70) {
                put(
                    "guarantee_days",
                    random.one(&[json!(5), json!(9), json!(12), json!("12"), json!(2.5)]).clone(),
                );
            }
        }
        15 => {
            put("category_forced_labour", random.one(&[json!(true), json!(false), json!("cotton")]).clone())
        }
        16 => {
            let kinds = ["certificate_of_origin", "supplier_declaration", "commercial_invoice"];
            let count = random.between(0, 2);
            let list: Vec<Value> =
                random.some(&kinds, count).iter().map(|kind| json!({"type": kind})).collect();
            put("documents", json!(list));
        }
        17 => {
            let texts =
                ["Ceramic desk lamp with a long cable", "Toys", "as per invoice", "a b c d e", "two words"];
            let count = random.between(0, 2);
            let list: Vec<Value> =
                random.some(&texts, count).iter().map(|text| json!({"description": text})).collect();
            put("items", json!(list));
        }
        18 => put("warehouse_zone", json!(random.one(&["A1", "B2", "B3"]))),
        19 => put("customs", json!({"office": random.one(&["ES002801", "US1001"])})),
        20 => put(
            "source",
            json!({"system": random.one(&["cainiao", "usps"]), "role": random.one(&["carrier", "broker"])}),
        ),
        21 => put("tracking_number", json!(random.one(&["7", "3", "9.5", "LP7ES"]))),
        22 => put("linked_tracking", json!([{"tracking_number": "9261", "carrier_code": "usps"}])),
        23 => {
            let due = time + random.between(6, 120) as Millis * HOUR;
            put("duty_due_by", json!(spelt(random, due)));
        }
        24 => put("duty_status", json!(null)),
        25 => put("location", json!({"country": random.one(&["ES", "US", "CN"])})),
        _ if theme.with_claims => {
            let by = time + random.between(1, 72) as Millis * HOUR;
            put(
                "next_expected_by",
                json!(if random.percent(95) { spelt(random, by) } else { "soon".into() }),
            );
            let claimed = random.one(&theme.milestones);
            put("next_expected_milestone", json!(if random.percent(95) { *claimed } else { "teleported" }));
        }
        _ => put("service_level", json!("express")),
    }
}

/// DESIGN 3: a field of a wrong type counts as missing.
fn spoil(random: &mut Random, body: &mut Map<String, Value>) {
    match random.below(7) {
        0 => drop(body.insert("location".into(), json!("Madrid"))),
        1 => drop(body.insert("hold".into(), json!("A"))),
        2 => drop(body.insert("evidence_class".into(), json!(5))),
        3 => drop(body.insert("classifier".into(), json!(true))),
        4 => drop(body.insert("is_test".into(), json!("true"))),
        5 => drop(body.insert("event_id".into(), json!(77))),
        _ => drop(body.insert("tz_provenance".into(), json!(["assumed"]))),
    }
}
