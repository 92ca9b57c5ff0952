//! The shipped rules that watch for silence, on random parcels: they must be silent themselves where somebody else has the
//! parcel, where nobody can tell, and never both speak at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use parcelwatch::cli::backtest::{backtest, read};
use parcelwatch::config::read_rules;
use parcelwatch::model::{ChangeKind, DAY, HOUR, Milestone, Time};
use parcelwatch::rules::compile;

const SILENT: &str = "silent_tracking";
const STAGNANT: &str = "stagnation";
const DARK: &str = "feed_dark";

/// A small generator: the same parcels on each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

/// One thing told of a parcel, at the moment it happens.
struct Told {
    at: Time,
    what: What,
}

enum What {
    Occurs { milestone: &'static str, scan: bool, facility: Option<&'static str> },
    Held(&'static str),
    Released(&'static str),
    Feed(&'static str),
}

fn life(dice: &mut Dice) -> Vec<Told> {
    let mut at = Time::parse("2026-09-01T06:00:00Z").unwrap();
    let mut told = Vec::new();
    for _ in 0..dice.between(3, 24) {
        // Mostly hours, sometimes a week and more.
        let hours = if dice.below(5) == 0 { dice.between(60, 400) } else { dice.between(1, 40) };
        at = at.plus(hours as i64 * HOUR);
        let what = match dice.below(12) {
            0 => What::Held(dice.one(&["H1", "H2"])),
            1 => What::Released(dice.one(&["H1", "H2"])),
            2 => What::Feed(dice.one(&["success", "failing", "stopped"])),
            3..8 => What::Occurs {
                milestone: dice.one(&[
                    "picked_up",
                    "origin_facility_scan",
                    "in_transit_scan",
                    "domestic_scan",
                ]),
                scan: dice.below(5) > 0,
                facility: (dice.below(4) > 0).then(|| dice.one(&["A", "B"])),
            },
            _ => What::Occurs {
                milestone: Milestone::ALL[dice.below(35) as usize].name(),
                scan: dice.below(2) == 0,
                facility: None,
            },
        };
        // Holds have a kind of their own here.
        if matches!(
            what,
            What::Occurs { milestone: "import_customs_held" | "import_customs_hold_released", .. }
        ) {
            continue;
        }
        told.push(Told { at, what });
    }
    told
}

impl Dice {
    fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }
}

fn line(parcel: usize, n: usize, told: &Told) -> String {
    let mut text = format!(
        r#"{{"parcel_id":"P-{parcel}","event_id":"{parcel}-{n}","event_time":"{at}","received_time":"{at}","lane":"CN-ES-air""#,
        at = told.at
    );
    let _ = match &told.what {
        What::Occurs { milestone, scan, facility } => {
            let class = if *scan { "physical_scan" } else { "electronic_notice" };
            let _ = write!(text, r#","milestone":"{milestone}","evidence_class":"{class}""#);
            facility.map_or(Ok(()), |f| write!(text, r#","location":{{"facility":"{f}"}}"#))
        }
        What::Held(id) => {
            write!(
                text,
                r#","milestone":"import_customs_held","hold":{{"id":"{id}","reason":"value_query"}}"#
            )
        }
        What::Released(id) => {
            write!(text, r#","milestone":"import_customs_hold_released","hold":{{"id":"{id}"}}"#)
        }
        What::Feed(status) => write!(text, r#","control":"feed_health","feed_status":"{status}""#),
    };
    text + "}\n"
}

/// What anybody would say of a parcel who reads its story up to a moment.
#[derive(Default)]
struct Story {
    holds: BTreeSet<&'static str>,
    dark: bool,
    terminal: bool,
    last: &'static str,
    last_scan: Option<Time>,
    places: Vec<(&'static str, Time)>,
}

fn story(told: &[Told], until: Time) -> Story {
    let mut s = Story::default();
    for t in told.iter().filter(|t| t.at <= until) {
        s.dark = false;
        match t.what {
            What::Held(id) => {
                s.holds.insert(id);
                s.last = "import_customs_held";
            }
            What::Released(id) => {
                s.holds.remove(id);
                s.last = "import_customs_hold_released";
            }
            What::Feed(status) => s.dark = status != "success",
            What::Occurs { milestone, scan, facility } => {
                s.last = milestone;
                s.terminal |= Milestone::from_name(milestone).unwrap().is_terminal();
                s.last_scan = if scan { Some(t.at) } else { s.last_scan };
                s.places.extend(facility.map(|f| (f, t.at)));
            }
        }
    }
    s
}

#[test]
fn what_watches_for_silence_is_silent_where_it_should_be() {
    let rules = compile(&read_rules(&Path::new(env!("CARGO_MANIFEST_DIR")).join("rules")).unwrap());
    let rules = Arc::new(rules.rules.unwrap());
    let mut dice = Dice(7);
    let lives: Vec<Vec<Told>> = (0..800).map(|_| life(&mut dice)).collect();
    let mut text = String::new();
    for (parcel, told) in lives.iter().enumerate() {
        text.extend(told.iter().enumerate().map(|(n, t)| line(parcel, n, t)));
    }
    let file = tempfile::Builder::new().suffix(".ndjson").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let changes = backtest(&rules, &read(&[file.path().to_owned()]).unwrap(), None, 2).changes;

    let (mut opened, mut standing) = (BTreeMap::<String, u32>::new(), BTreeMap::new());
    let mut before = Time(0);
    for change in changes.iter().filter(|c| [SILENT, STAGNANT, DARK].contains(&&*c.rule)) {
        // What one moment brings about belongs together: one ends where the other begins.
        if change.at != before {
            never_both(&standing);
            before = change.at;
        }
        let of: &mut i32 =
            standing.entry((change.parcel_id.to_string(), change.rule.to_string())).or_default();
        match change.kind {
            ChangeKind::Opened => {
                *of += 1;
                let parcel: usize = change.parcel_id.trim_start_matches("P-").parse().unwrap();
                judge(&change.rule, &story(&lives[parcel], change.at), change.at);
                *opened.entry(change.rule.to_string()).or_default() += 1;
            }
            ChangeKind::Resolved(_) => *of -= 1,
            ChangeKind::Raised => {}
        }
    }
    never_both(&standing);
    for rule in [SILENT, STAGNANT, DARK] {
        assert!(opened.get(rule).is_some_and(|n| *n > 40), "{opened:?}");
    }
}

fn never_both(standing: &BTreeMap<(String, String), i32>) {
    for ((parcel, rule), n) in standing {
        let other = standing.get(&(parcel.clone(), STAGNANT.to_owned()));
        assert!(rule != SILENT || *n == 0 || other.is_none_or(|n| *n == 0), "{parcel}: both");
    }
}

fn judge(rule: &str, s: &Story, at: Time) {
    assert!(!s.terminal, "{rule} at {at}");
    if rule == DARK {
        assert!(s.dark, "{at}");
        return;
    }
    assert!(s.holds.is_empty() && !s.dark, "{rule} at {at}: {:?} {}", s.holds, s.dark);
    if rule == SILENT {
        let since = at.0 - s.last_scan.unwrap().0;
        assert!(since >= 3 * DAY - HOUR, "{at}: {since}");
        assert!(
            !s.last.starts_with("import_customs_") && s.last != "available_for_pickup",
            "{at}: {}",
            s.last
        );
    } else {
        let [.., (one, _), (two, _)] = s.places[..] else { panic!("{at}: no two places") };
        assert_eq!(one, two, "{at}");
        let lies = ["picked_up", "origin_facility_scan", "in_transit_scan", "domestic_scan"];
        assert!(lies.contains(&s.last), "{at}: {}", s.last);
    }
}
