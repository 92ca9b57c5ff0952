//! Real milestones with real plans: a rule on the source's own promise opens exactly where a service took longer than it
//! was planned to, at the promised minute. The data set is not part of the project; where its file is not there, what
//! is checked is the conversion, on rows made by hand.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use parcelwatch::cli::backtest::backtest;
use parcelwatch::model::{ChangeKind, MINUTE, Resolution, Time};
use parcelwatch::rules::{RuleSet, SourceFile, compile};
use parcelwatch::source::{Batch, Stamp};

const RULES: &str = "
rules:
  - id: promise_missed
    title: A service took longer than it was planned to
    after: next_expected_by
    expect: next_expected
    within: 0m
    severity: warning
    owner: ops
";

fn rules() -> Arc<RuleSet> {
    let file = SourceFile { path: "rules.yaml".into(), content: Ok(RULES.into()), context: false };
    Arc::new(compile(&[file]).rules.expect("valid rules"))
}

/// One leg: its services with planned and effective minutes, in order.
struct Leg {
    id: String,
    services: Vec<(String, i64, i64)>,
}

/// The legs of all rows. `?` stands for what is not there.
fn legs(csv: &str) -> Vec<Leg> {
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().expect("a header").split(',').map(str::trim).collect();
    let mut legs = Vec::new();
    for line in lines.filter(|l| !l.trim().is_empty()) {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let number = |name: &str| {
            let at = names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("no column {name}"));
            cells[at].parse::<i64>().ok()
        };
        for leg in ["i1", "i2", "i3", "o"] {
            let mut services = Vec::new();
            for service in ["rcs", "dep_1", "rcf_1", "dep_2", "rcf_2", "dep_3", "rcf_3", "dlv"] {
                let planned = number(&format!("{leg}_{service}_p"));
                let effective = number(&format!("{leg}_{service}_e"));
                if let (Some(planned), Some(effective)) = (planned, effective) {
                    services.push((service.to_owned(), planned, effective));
                }
            }
            if !services.is_empty() {
                legs.push(Leg { id: format!("{}-{leg}", cells[0]), services });
            }
        }
    }
    legs
}

fn milestones(leg: &Leg) -> Vec<&'static str> {
    let last_arrival = leg.services.iter().rposition(|(s, ..)| s.starts_with("rcf"));
    let name = |(i, (service, ..)): (usize, &(String, i64, i64))| match service.as_str() {
        "rcs" => "picked_up",
        "dep_1" => "departed_origin_country",
        "dlv" => "delivered",
        _ if Some(i) == last_arrival => "arrived_destination_country",
        _ => "in_transit_scan",
    };
    leg.services.iter().enumerate().map(name).collect()
}

/// One record for the start and one for each service: each but the last says what comes next and by when.
fn records(leg: &Leg, start: Time, out: &mut Vec<(Time, String)>) {
    let milestones = milestones(leg);
    let mut at = start;
    for step in 0..=leg.services.len() {
        let happened = if step == 0 { "order_created" } else { milestones[step - 1] };
        if step > 0 {
            at = at.plus(leg.services[step - 1].2 * MINUTE);
        }
        let mut line = format!(
            "{{\"event_id\":\"{step}\",\"parcel_id\":\"{}\",\"milestone\":\"{happened}\",\"event_time\":\"{at}\"",
            leg.id
        );
        if let Some((_, planned, _)) = leg.services.get(step) {
            let by = at.plus(planned * MINUTE);
            let next = milestones[step];
            write!(line, ",\"next_expected_milestone\":\"{next}\",\"next_expected_by\":\"{by}\"")
                .expect("text");
        }
        out.push((at, line + "}"));
    }
}

/// (promised minute, parcel) of each exception that a backtest opens, and whether all ended as `satisfied_late`.
fn opened(legs: &[Leg]) -> (Vec<(Time, String)>, bool) {
    let start = Time::parse("2026-01-01T00:00:00Z").expect("a time");
    let mut lines = Vec::new();
    for (i, leg) in legs.iter().enumerate() {
        records(leg, start.plus(i as i64 * MINUTE), &mut lines);
    }
    let mut batch = Batch::new(0);
    for (i, (_, line)) in lines.iter().enumerate() {
        batch.push(i as i64, Stamp::None, b"", line.as_bytes());
    }
    let changes = backtest(&rules(), &[batch], None, 2).changes;
    let openings = changes.iter().filter(|c| c.kind == ChangeKind::Opened);
    let openings = openings.map(|c| (c.at, c.parcel_id.to_string())).collect::<Vec<_>>();
    let late = changes.iter().filter(|c| c.kind == ChangeKind::Resolved(Resolution::SatisfiedLate)).count();
    let all_late = late == openings.len() && changes.len() == 2 * late;
    (openings, all_late)
}

/// What the plans and the durations alone say.
fn late(legs: &[Leg]) -> Vec<(Time, String)> {
    let start = Time::parse("2026-01-01T00:00:00Z").expect("a time");
    let mut late = Vec::new();
    for (i, leg) in legs.iter().enumerate() {
        let mut at = start.plus(i as i64 * MINUTE);
        for (_, planned, effective) in &leg.services {
            if effective > planned {
                late.push((at.plus(planned * MINUTE), leg.id.clone()));
            }
            at = at.plus(effective * MINUTE);
        }
    }
    late.sort();
    late
}

#[test]
fn each_late_service_opens_at_its_promised_minute() {
    let by_hand = |id: &str, services: &[(&str, i64, i64)]| Leg {
        id: id.to_owned(),
        services: services.iter().map(|(s, p, e)| ((*s).to_owned(), *p, *e)).collect(),
    };
    let legs = [
        by_hand("A", &[("rcs", 199, 218), ("dep_1", 210, 215), ("rcf_1", 935, 736), ("dlv", 840, 1539)]),
        by_hand(
            "B",
            &[
                ("rcs", 10, 10),
                ("dep_1", 5, 5),
                ("rcf_1", 7, 8),
                ("dep_2", 9, 9),
                ("rcf_2", 4, 5),
                ("dlv", 1, 1),
            ],
        ),
    ];
    let (mut found, all_late) = opened(&legs);
    found.sort();
    assert_eq!(found, late(&legs));
    assert_eq!(found.len(), 5);
    assert!(all_late);
}

#[test]
fn the_services_of_cargo_2000_that_were_late_open_and_no_others() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/cargo2000/c2k_data_comma.csv");
    let Ok(csv) = std::fs::read_to_string(&file) else {
        println!("the data set is not there: {}", file.display());
        return;
    };
    let legs = legs(&csv);
    assert_eq!(legs.iter().map(|l| l.services.len()).sum::<usize>(), 56_082);
    let (mut found, all_late) = opened(&legs);
    found.sort();
    let late = late(&legs);
    assert_eq!(late.len(), 20_258);
    assert_eq!(found.len(), late.len());
    assert_eq!(found, late);
    assert!(all_late);
}
