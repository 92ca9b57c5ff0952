//! Valid rules that use every key and clause sooner or later.
use super::{Random, Theme};
use crate::oracle_impl::rules::SEVERITIES;
use crate::oracle_impl::time::{DAY, Millis, print_instant};
use crate::oracle_impl::vocabulary::{DERIVED_TIMES, MILESTONES, reaches};
use serde_json::{Map, Value, json};

/// rules.yaml, and policies.yaml where a rule names something of it.
pub fn directory(random: &mut Random, theme: &Theme) -> (Value, Option<Value>) {
    let count = if theme.small { random.between(1, 3) } else { random.between(3, 8) };
    let with_policies = theme.with_calendars || random.percent(10);
    let rules: Vec<Value> = (0..count).map(|n| rule(random, theme, n, with_policies)).collect();
    let file = json!({
        "sets": {"eu": ["ES", "FR"], "unpaid": ["unpaid", "collect_on_delivery"]},
        "facts": [{"name": "warehouse_zone", "type": "text"}, {"name": "customs.office", "type": "text"}],
        "rules": rules,
    });
    (file, with_policies.then(|| policies(random, theme)))
}

/// 6: calendars whose opening hours meet the whole hours of the stream; no bound between 00:00 and 06:00, where two
/// windows could overlap on the day of a clock change.
fn policies(random: &mut Random, theme: &Theme) -> Value {
    let hours = |random: &mut Random| match random.below(5) {
        0 => json!("09:00-18:00"),
        1 => json!(["09:00-14:00", "15:00-18:00"]),
        2 => json!(["00:00-06:00", "22:00-24:00"]),
        3 => json!("08:30-24:00"),
        _ => json!("00:00-24:00"),
    };
    let holidays = |random: &mut Random| {
        let days: Vec<String> = (0..random.between(1, 3))
            .map(|_| print_instant(theme.start + random.below(12) as Millis * DAY)[..10].to_string())
            .collect();
        json!(days)
    };
    let mut calendars = vec![
        json!({"id": "es", "zone": "Europe/Madrid", "country": "ES"}),
        json!({"id": "us", "zone": "America/New_York", "country": ["US", "FR"]}),
        json!({"id": "other", "zone": random.one(&["Africa/Cairo", "Asia/Shanghai", "UTC", "Australia/Lord_Howe", "America/St_Johns", "America/Sao_Paulo"]), "country": "any"}),
    ];
    for calendar in &mut calendars {
        if random.percent(50) {
            calendar["hours"] = hours(random);
        }
        if random.percent(50) {
            calendar["holidays"] = holidays(random);
        }
        // A day that is no holiday: one of the days after those that may be.
        if random.percent(30) {
            let day = print_instant(theme.start + (12 + random.below(8)) as Millis * DAY)[..10].to_string();
            calendar["working_days"] = json!([day]);
        }
        if random.percent(40) {
            calendar["days"] = match random.below(3) {
                0 => json!(["mon", "tue", "wed", "thu", "fri", "sat"]),
                1 => json!(["sun", "mon", "tue", "wed", "thu"]),
                _ => json!(["mon", "wed", "fri", "sat"]),
            };
        }
    }
    json!({
        "receivers": [{"id": "ops_mail", "email": {"to": ["ops@example.org"]}}],
        "policies": [{"id": "handoff", "group_by": ["rule"], "group_wait": "30s", "group_interval": "5m",
            "repeat_every": "4h", "steps": [{"after": "0m", "notify": ["ops_mail"]}]}],
        "default_policy": "handoff",
        "calendars": calendars,
    })
}

fn rule(random: &mut Random, theme: &Theme, number: usize, with_policies: bool) -> Value {
    let mut rule = Map::new();
    // two rules in five have few keys; small cases have more of them
    let plain = random.percent(if theme.small { 60 } else { 25 });
    let often = |random: &mut Random, chance: usize| random.percent(if plain { chance / 3 } else { chance });
    rule.insert("id".into(), json!(format!("rule_{number}")));
    rule.insert("title".into(), json!(format!("Rule {number} of this case")));
    rule.insert("owner".into(), json!(random.one(&["broker", "carrier", "seller", "ops", "compliance"])));
    rule.insert("severity".into(), json!(random.one(&SEVERITIES)));
    let anchors = anchor(random, theme, &mut rule);
    let counts_back = rule.contains_key("before");

    let calendar = (theme.with_calendars && random.percent(50)).then(|| calendar_name(random));
    stages_or_within(random, &mut rule, calendar.is_some(), counts_back);
    if let Some(name) = calendar {
        rule.insert("calendar".into(), json!(name));
    }
    if random.percent(80) {
        rule.insert("expect".into(), expect(random, theme, &anchors));
        if often(random, 35) {
            rule.insert("evidence".into(), evidence(random));
        }
        if often(random, 40) {
            rule.insert("tolerance".into(), json!(random.one(&["1h", "14h", "2d", "30m", "any"])));
        }
    }
    if often(random, 40) {
        rule.insert("grace".into(), json!(random.one(&["30m", "1h", "2h", "6h"])));
    }
    if often(random, 25) {
        rule.insert("reporting_delay".into(), json!(random.one(&["1h", "3h", "1d"])));
    }
    // Of two records of one append time the engine does not keep which came first; they could differ in their zones only, so a
    // list that holds a derived time, where such a tie can be, has no slack.
    let may_tie = anchors.len() > 1 && anchors.iter().any(|name| DERIVED_TIMES.contains(&name.as_str()));
    if !may_tie && often(random, 25) {
        rule.insert("zone_slack".into(), json!(random.one(&["1h", "14h"])));
    }
    if often(random, 25) {
        rule.insert("until".into(), json!(random.one(&["6h", "3d", "5d", "15d", "45d"])));
    }
    if often(random, 18) {
        rule.insert("after_terminal".into(), json!(true));
        rule.entry("until").or_insert_with(|| json!(random.one(&["2d", "15d", "45d", "100d"])));
    }
    if often(random, 12) {
        rule.insert("effective".into(), effective(random, theme));
    }
    if often(random, 20) {
        rule.insert("scope".into(), matcher(random, theme, 0));
    }
    if often(random, 32) {
        rule.insert("while".into(), matcher(random, theme, 0));
    }
    if often(random, 28) {
        rule.insert("unless".into(), matcher(random, theme, 0));
    }
    if !counts_back
        && (rule.contains_key("while") || rule.contains_key("unless"))
        && random.percent(if theme.toggling { 70 } else { 45 })
    {
        rule.insert("restart".into(), json!(true));
    }
    if theme.with_holds && often(random, 25) {
        rule.insert("holds".into(), hold_filter(random));
    }
    if often(random, if theme.toggling { 70 } else { 30 }) {
        let overrides: Vec<Value> = (0..random.between(1, if theme.toggling { 4 } else { 2 }))
            .map(|_| replacement(random, theme, &rule, &anchors, counts_back))
            .collect();
        rule.insert("overrides".into(), json!(overrides));
    }
    decorate(random, &mut rule, with_policies);
    Value::Object(rule)
}

/// Keys that decide no change but for `enabled`.
fn decorate(random: &mut Random, rule: &mut Map<String, Value>, with_policies: bool) {
    let mut now_and_then = |key: &str, value: Value, chance: usize| {
        if random.percent(chance) {
            rule.insert(key.into(), value);
        }
    };
    now_and_then("enabled", json!(false), 3);
    now_and_then("enabled", json!(true), 5);
    now_and_then("mode", json!("shadow"), 7);
    now_and_then("version", json!(3), 7);
    now_and_then("runbook", json!("https://example.org/runbooks/parcels"), 7);
    now_and_then("labels", json!({"team": "imports"}), 7);
    now_and_then("description", json!("What to do about it."), 7);
    if with_policies {
        now_and_then("policy", json!("handoff"), 30);
    }
}

fn calendar_name(random: &mut Random) -> &'static str {
    random.one::<&str>(&["es", "us", "other", "by_destination", "by_destination"])
}

fn milestone(random: &mut Random, theme: &Theme) -> String {
    if random.percent(90) {
        random.one(&theme.milestones).to_string()
    } else {
        random.one(&MILESTONES).0.to_string()
    }
}

/// A derived time, most often one that the stream brings about.
fn derived(random: &mut Random, theme: &Theme) -> String {
    let name = if theme.with_holds && random.percent(50) {
        random.one(&["import_customs_fully_cleared", "hold_opened", "holds_closed", "hold_respond_by"])
    } else if theme.with_claims && random.percent(40) {
        &"next_expected_by"
    } else if random.percent(60) {
        random.one(&["first_event", "last_event", "last_scan", "facility_since", "guarantee_start"])
    } else {
        random.one(&DERIVED_TIMES)
    };
    name.to_string()
}

/// 5.0, 5.1: `after` or `before`, `pick` where it is allowed; returns the anchors' names.
fn anchor(random: &mut Random, theme: &Theme, rule: &mut Map<String, Value>) -> Vec<String> {
    match random.below(100) {
        0..=41 => {
            let name = milestone(random, theme);
            rule.insert("after".into(), json!(name));
            match random.below(10) {
                0 => drop(rule.insert("pick".into(), json!("first"))),
                1..=3 => drop(rule.insert("pick".into(), json!("last"))),
                _ => {}
            }
            vec![name]
        }
        42..=67 => {
            let name = derived(random, theme);
            rule.insert("after".into(), json!(name));
            vec![name]
        }
        68..=81 => {
            let mut names: Vec<String> = (0..random.between(2, 3))
                .map(|_| if random.percent(65) { milestone(random, theme) } else { derived(random, theme) })
                .collect();
            names.sort();
            names.dedup();
            if names.len() == 1 {
                names.push(if names[0] == "picked_up" { "order_created".into() } else { "picked_up".into() });
            }
            rule.insert("after".into(), json!(names));
            if random.percent(40) {
                rule.insert("pick".into(), json!("last"));
            }
            names
        }
        _ => {
            let mut ahead = vec!["guarantee_end", "guarantee_end", "duty_due_by"];
            if theme.with_holds {
                ahead.push("hold_respond_by");
            }
            if theme.with_claims {
                ahead.push("next_expected_by");
            }
            let name = match random.below(10) {
                0 => milestone(random, theme),
                1 => derived(random, theme),
                _ => random.one(&ahead).to_string(),
            };
            rule.insert("before".into(), json!(name));
            vec![name]
        }
    }
}

/// Times of one, two or three stages, in the order in which they come.
fn stages_or_within(
    random: &mut Random,
    keys: &mut Map<String, Value>,
    named_calendar: bool,
    counts_back: bool,
) {
    let elapsed = ["0h", "1h", "2h", "3h", "6h", "12h", "1d", "1d12h", "2d", "3d", "5d"];
    let working = ["1h", "2h", "4h30m", "9h", "1bd", "1bd2h", "2bd", "2bd1d", "2bd1d3h", "3bd", "5bd"];
    let days = ["1d", "2d", "2d4h", "3d", "4d"];
    let ladder: &[&str] = match (named_calendar, random.below(4)) {
        (false, _) => &elapsed,
        (true, 0) => &days,
        (true, _) => &working,
    };
    let count = random.between(1, 3);
    let mut times = random.some(ladder, count);
    if !named_calendar && random.percent(4) {
        times.push("40d");
    }
    if counts_back {
        times.reverse();
    }
    if times.len() == 1 && random.percent(60) {
        keys.insert("within".into(), json!(times[0]));
        return;
    }
    let mut severity = random.below(2);
    let stages: Vec<Value> = times
        .iter()
        .map(|at| {
            let stage = if random.percent(15) {
                json!({"at": at}) // takes the rule's
            } else {
                json!({"at": at, "severity": SEVERITIES[severity]})
            };
            severity = if random.percent(10) { random.below(4) } else { (severity + 1).min(3) };
            stage
        })
        .collect();
    keys.insert("stages".into(), json!(stages));
}

/// 5.10, without what 5.1 forbids: the rule's own anchors.
fn expect(random: &mut Random, theme: &Theme, anchors: &[String]) -> Value {
    let mut wanted: Vec<Value> = Vec::new();
    let count = random.between(1, 3);
    while wanted.len() < count {
        let candidate = match random.below(10) {
            0 | 1 => json!({"from": milestone(random, theme)}),
            2 if theme.with_claims => json!("next_expected"),
            3 => json!(random.one(&["import_customs_fully_cleared", "holds_closed", "documents_added"])),
            _ => json!(milestone(random, theme)),
        };
        let forbidden = |anchor: &String| match candidate.get("from").and_then(Value::as_str) {
            Some(from) => reaches(anchor, from),
            None => candidate == json!(anchor),
        };
        if anchors.iter().any(forbidden) || wanted.contains(&candidate) {
            // the anchors leave few: one that no anchor is
            let rare = json!(random.one(&["cancelled", "parcel_incident", "import_duty_assessed"]));
            if !wanted.contains(&rare) && !anchors.iter().any(|anchor| rare == json!(anchor)) {
                wanted.push(rare);
            }
            continue;
        }
        wanted.push(candidate);
    }
    if wanted.len() == 1 && random.percent(60) { wanted.remove(0) } else { json!(wanted) }
}

fn evidence(random: &mut Random) -> Value {
    match random.below(3) {
        0 => json!("physical_scan"),
        1 => json!("electronic_notice"),
        _ => json!(["physical_scan", "claim"]),
    }
}

/// 5.7
fn effective(random: &mut Random, theme: &Theme) -> Value {
    let day = |random: &mut Random, low: usize, high: usize| {
        let time = print_instant(theme.start + random.between(low, high) as Millis * DAY);
        if random.percent(60) { time[..10].to_string() } else { time }
    };
    let (from, to) = (day(random, 0, 2), day(random, 3, 9));
    match random.below(3) {
        0 => json!({"from": from}),
        1 => json!({"to": to}),
        _ => json!({"from": from, "to": to}),
    }
}

/// 5.11
fn hold_filter(random: &mut Random) -> Value {
    match random.below(4) {
        0 => json!({"reason": "duty_unpaid"}),
        1 => json!({"reason": ["value_query", "unknown"]}),
        2 => json!({"authority": "CBP"}),
        _ => json!({"reason": ["duty_unpaid", "value_query"], "authority": ["AEAT", "CBP"]}),
    }
}

/// 5.8
fn replacement(
    random: &mut Random,
    theme: &Theme,
    rule: &Map<String, Value>,
    anchors: &[String],
    counts_back: bool,
) -> Value {
    let mut keys = Map::new();
    keys.insert("match".into(), matcher(random, theme, 1));
    let mut named_calendar = rule.contains_key("calendar");
    for _ in 0..random.between(1, 3) {
        match random.below(13) {
            0 | 1 => {
                keys.remove("within");
                keys.remove("stages");
                stages_or_within(random, &mut keys, named_calendar, counts_back);
            }
            2 => drop(keys.insert("severity".into(), json!(random.one(&SEVERITIES)))),
            3 => drop(keys.insert("grace".into(), json!(random.one(&["0h", "2h", "5h"])))),
            4 => drop(keys.insert("reporting_delay".into(), json!(random.one(&["0h", "4h"])))),
            5 => drop(keys.insert("tolerance".into(), json!(random.one(&["0h", "6h", "any"])))),
            6 => drop(keys.insert("evidence".into(), evidence(random))),
            7 => drop(keys.insert("expect".into(), expect(random, theme, anchors))),
            8 => drop(keys.insert("while".into(), matcher(random, theme, 1))),
            9 => drop(keys.insert("unless".into(), matcher(random, theme, 1))),
            10 => drop(keys.insert("owner".into(), json!("finance"))),
            11 => drop(keys.insert("title".into(), json!("Another title"))),
            _ if theme.with_calendars => {
                // business days stay possible: another calendar takes its place, never elapsed time
                keys.insert("calendar".into(), json!(calendar_name(random)));
                named_calendar = true;
            }
            _ => drop(keys.insert("labels".into(), json!({"team": "exports"}))),
        }
    }
    Value::Object(keys)
}

/// 4: one to three entries about facts that the stream states.
pub fn matcher(random: &mut Random, theme: &Theme, depth: usize) -> Value {
    let mut entries = Map::new();
    for _ in 0..if random.percent(75) { 1 } else { random.between(2, 3) } {
        if depth < 4 && random.percent(if theme.toggling { 25 } else { 12 }) {
            let key = random.one(&["any_of", "none_of"]);
            let alternatives: Vec<Value> =
                (0..random.between(1, 3)).map(|_| matcher(random, theme, depth + 1)).collect();
            entries.insert(key.to_string(), json!(alternatives));
            continue;
        }
        let (name, value) = entry(random, theme);
        entries.insert(name.to_string(), value);
    }
    Value::Object(entries)
}

fn either(random: &mut Random, of: &[Value]) -> Value {
    random.one(of).clone()
}

fn entry(random: &mut Random, theme: &Theme) -> (&'static str, Value) {
    if theme.toggling && random.percent(60) {
        return toggled_entry(random, theme);
    }
    let hold_facts = if theme.with_holds { 12 } else { 2 };
    if random.below(44) < hold_facts {
        return hold_entry(random);
    }
    let m = milestone(random, theme);
    match random.below(30) {
        0 | 1 => {
            let forms = [json!("unpaid"), json!(["paid", "prepaid"]), json!({"not": ["unpaid", "assessed"]})];
            let more = [json!({"not": "paid"}), json!({"in": "unpaid"}), json!({"missing": true})];
            ("duty_status", either(random, &[forms, more].concat()))
        }
        2 => (
            "lane",
            either(random, &[json!({"glob": "CN-*"}), json!({"glob": "*-ES"}), json!({"glob": "CN-?S*"})]),
        ),
        3 => {
            ("destination", either(random, &[json!({"in": "eu"}), json!("US"), json!({"not": ["ES", "US"]})]))
        }
        4 => ("origin", either(random, &[json!("CN"), json!({"missing": true}), json!({"missing": false})])),
        5 => (
            "entry_type",
            either(random, &[json!("h7"), json!({"not": "bonded_72h"}), json!(["h7", "postal"])]),
        ),
        6 => (
            "domestic_carrier",
            either(random, &[json!("correos"), json!({"missing": true}), json!(["usps"])]),
        ),
        7 => {
            let forms = [json!({"gt": 20}), json!({"lte": 18.4}), json!(20), json!({"gte": 10, "lt": 30})];
            ("declared_value", either(random, &forms))
        }
        8 => (
            "landed_cost_drift",
            either(random, &[json!({"gt": 2}), json!({"lt": 0}), json!(2.5), json!({"missing": true})]),
        ),
        9 => (
            "landed_cost_drift_percent",
            either(random, &[json!({"gte": 10}), json!(10), json!({"lt": 33.3})]),
        ),
        10 => ("parcel_index", either(random, &[json!(1), json!({"gt": 1}), json!("1"), json!({"not": 1})])),
        11 => ("guarantee_days", either(random, &[json!({"gte": 10}), json!({"missing": true})])),
        12 => {
            let forms = [json!(true), json!({"not": false}), json!("cotton"), json!({"missing": true})];
            ("category_forced_labour", either(random, &forms))
        }
        13 => (
            "terminal",
            either(random, &[json!(false), json!("delivered"), json!(true), json!({"not": "cancelled"})]),
        ),
        14 => ("weak_description", either(random, &[json!(true), json!(false), json!({"missing": true})])),
        15 => {
            let forms = [json!("certificate_of_origin"), json!(true), json!(false), json!({"gt": 1})];
            ("missing_documents", either(random, &forms))
        }
        16 => (
            "documents",
            either(random, &[json!("certificate_of_origin"), json!({"not": "commercial_invoice"})]),
        ),
        17 | 18 => (
            "seen",
            either(
                random,
                &[json!(m), json!({"not": m}), json!({"not": [m, "delivered"]}), json!({"gt": 3})],
            ),
        ),
        19 | 20 => (
            "last_milestone",
            either(random, &[json!(m), json!({"not": m}), json!({"not": [m, "picked_up"]})]),
        ),
        21 => ("facility_scans", either(random, &[json!({"gte": 2}), json!(1), json!({"missing": true})])),
        22 | 23 => (
            "feed_status",
            either(random, &[json!("success"), json!({"not": "success"}), json!(["failing", "stopped"])]),
        ),
        24 => ("location.country", either(random, &[json!("ES"), json!({"not": "CN"})])),
        25 => ("location.facility", either(random, &[json!("ESMAD"), json!({"glob": "US*"})])),
        26 => {
            let (name, value) = *random.one(&[("source.system", "cainiao"), ("source.role", "carrier")]);
            (name, either(random, &[json!(value), json!({"not": value})]))
        }
        27 => (
            "warehouse_zone",
            either(random, &[json!("A1"), json!({"glob": "B*"}), json!({"missing": true})]),
        ),
        28 => ("customs.office", either(random, &[json!("ES002801"), json!({"missing": false})])),
        _ => match random.below(4) {
            0 => ("tracking_number", either(random, &[json!({"gt": 5}), json!({"glob": "*7*"})])),
            1 => ("items", either(random, &[json!(true), json!({"gte": 2}), json!({"missing": true})])),
            2 => ("linked_tracking", either(random, &[json!({"missing": true}), json!(true)])),
            _ => ("next_expected_milestone", either(random, &[json!(m), json!({"missing": true})])),
        },
    }
}

/// About what changes all the time (`random_stream::toggled`).
fn toggled_entry(random: &mut Random, theme: &Theme) -> (&'static str, Value) {
    let two = |random: &mut Random, one: &str, other: &str| match random.below(4) {
        0 => json!(one),
        1 => json!(other),
        2 => json!({"not": one}),
        _ => json!({"not": [other]}),
    };
    match random.below(if theme.with_holds { 6 } else { 5 }) {
        0 | 1 => ("duty_status", two(random, "unpaid", "paid")),
        2 => ("feed_status", two(random, "success", "stopped")),
        3 => ("destination", two(random, "ES", "US")),
        4 => ("domestic_carrier", two(random, "correos", "usps")),
        _ => hold_entry(random),
    }
}

fn hold_entry(random: &mut Random) -> (&'static str, Value) {
    if random.percent(50) {
        let forms = [json!({"gt": 0}), json!(0), json!({"gte": 2}), json!({"lt": 1}), json!({"not": 1})];
        ("holds_open", either(random, &forms))
    } else {
        let forms = [json!("duty_unpaid"), json!({"not": "value_query"}), json!(true), json!(false)];
        let more = [json!(["value_query", "unknown"]), json!({"missing": true})];
        ("hold_reasons", either(random, &[&forms[..], &more[..]].concat()))
    }
}
