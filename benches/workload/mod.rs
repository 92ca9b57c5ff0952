//! A network of parcels as a pure function of (seed, index): any hour of the stream can be made without what came before.
//!
//! A parcel lives 20 days on average and has 13 occurrences; its records are about 430 bytes and leave it with 20 facts, 8
//! of them texts of its own. 3 % of the parcels stall at a random step, 4 % of the records arrive hours late, 1 % come
//! twice, 8 % of the parcels are held.

use std::io::Write;

use parcelwatch::model::{HOUR, Time};

/// The milestones of a life, in order.
pub const LIFE: [&str; 13] = [
    "order_created",
    "shipment_created",
    "picked_up",
    "origin_facility_scan",
    "handed_to_linehaul",
    "export_customs_started",
    "export_customs_cleared",
    "departed_origin_country",
    "arrived_destination_country",
    "import_customs_started",
    "import_customs_cleared",
    "domestic_scan",
    "delivered",
];

/// The mean time between two milestones: 20 days over 12 gaps.
pub const GAP: i64 = 40 * HOUR;
/// How far a milestone strays from its mean time.
const STRAY: i64 = 12 * HOUR;
/// 2026-01-01.
pub const EPOCH: i64 = 1_767_225_600_000;

/// A stream of parcels that arrive evenly.
#[derive(Clone, Copy)]
pub struct Network {
    /// Parcels in flight once the stream is steady.
    pub in_flight: u64,
}

/// One record of the stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Item {
    pub append: i64,
    pub parcel: u64,
    pub step: u8,
}

/// A good mixer (splitmix64's).
pub fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Network {
    /// Milliseconds between two arrivals, times 2^16.
    fn spacing(self) -> u128 {
        ((12 * GAP) as u128 * 65_536) / u128::from(self.in_flight)
    }

    fn arrival(self, parcel: u64) -> i64 {
        EPOCH + (u128::from(parcel) * self.spacing() / 65_536) as i64
    }

    /// When a parcel's step happens; `None` where it stalled before.
    pub fn happens(self, parcel: u64, step: u8) -> Option<i64> {
        let h = mix(parcel);
        if h % 100 < 3 && u64::from(step) > (h >> 8) % 12 {
            return None;
        }
        let stray = (mix(parcel ^ (u64::from(step) << 56)) % STRAY as u64) as i64;
        Some(self.arrival(parcel) + i64::from(step) * GAP + stray)
    }

    fn delay(parcel: u64, step: u8) -> i64 {
        let h = mix(parcel.wrapping_mul(31).wrapping_add(u64::from(step)));
        let late = if h % 100 < 4 { (h >> 16) % (20 * HOUR as u64) } else { (h >> 16) % 180_000 };
        late as i64
    }

    /// The records appended in [from, from + an hour), in order. Hours are counted from the first arrival.
    pub fn hour(self, hour: i64, out: &mut Vec<Item>) {
        out.clear();
        let (from, to) = (EPOCH + hour * HOUR, EPOCH + (hour + 1) * HOUR);
        for step in 0..LIFE.len() as u8 {
            let mean = i64::from(step) * GAP;
            // Arrivals whose step can fall into the hour.
            let first = self.index_at(from - mean - STRAY - 20 * HOUR);
            let last = self.index_at(to - mean);
            for parcel in first..last {
                let Some(at) = self.happens(parcel, step) else { continue };
                let append = at + Network::delay(parcel, step);
                if append >= from && append < to {
                    out.push(Item { append, parcel, step });
                    if mix(parcel ^ 0x5555).is_multiple_of(100) {
                        out.push(Item { append, parcel, step });
                    }
                }
            }
        }
        out.sort_unstable();
    }

    fn index_at(self, time: i64) -> u64 {
        if time <= EPOCH { 0 } else { ((time - EPOCH) as u128 * 65_536 / self.spacing()) as u64 }
    }

    /// The record as JSON.
    pub fn render(self, item: Item, out: &mut Vec<u8>) {
        out.clear();
        let Item { parcel, step, append } = item;
        let h = mix(parcel);
        let pick = |names: &[&'static str], shift: u32| names[(h >> shift) as usize % names.len()];
        let country = pick(&["ES", "FR", "DE", "US", "GB", "IT", "PL", "NL", "BR"], 3);
        let happened = self.happens(parcel, step).unwrap_or(append);
        let milestone = LIFE[usize::from(step)];
        let evidence =
            if matches!(step, 2..=4 | 7 | 8 | 11 | 12) { "physical_scan" } else { "electronic_notice" };
        let place = if step < 8 { "CN" } else { country };
        let _ = write!(
            out,
            "{{\"event_id\":\"e{parcel:x}-{step}\",\"parcel_id\":\"P{h:013x}\",\"milestone\":\"{milestone}\",\
             \"evidence_class\":\"{evidence}\",\"event_time\":\"{}\",\"location\":{{\"country\":\"{place}\",\
             \"facility\":\"{place}{:02}\"}},\"source\":{{\"system\":\"{}\",\"role\":\"carrier\"}},\
             \"tracking_number\":\"LP{:011}{country}\"",
            Time(happened),
            mix(h ^ u64::from(step)) % 40,
            pick(&["cainiao", "upu", "abi", "correos"], 9),
            h % 100_000_000_000,
        );
        let _ = match step % 4 {
            0 => write!(
                out,
                ",\"lane\":\"CN-{country}\",\"entry_type\":\"{}\",\"order_id\":\"{:010}\",\"seller_id\":\"S{:07}\",\
                 \"declared_value\":{{\"amount\":\"{}.{:02}\",\"currency\":\"EUR\"}}}}",
                pick(&["h7", "postal", "express", "us_13"], 13),
                h % 10_000_000_000,
                h % 9_999_991,
                h % 150,
                h % 100,
            ),
            1 => write!(
                out,
                ",\"guarantee_start\":\"{}\",\"guarantee_days\":60,\"broker\":\"{}\",\"carrier\":\"{}\",\
                 \"importer_of_record\":\"I{:08}\"}}",
                Time(self.arrival(parcel)),
                pick(&["b-iberia", "b-rhein", "b-nord"], 17),
                pick(&["cainiao", "yun", "4px"], 19),
                h % 99_999_989,
            ),
            2 => write!(
                out,
                ",\"duty_status\":\"{}\",\"domestic_carrier\":\"{}\",\"service_level\":\"{}\",\
                 \"broker_reference\":\"26{country}{:014}\",\"landed_cost_quoted\":{{\"amount\":\"{}.10\",\
                 \"currency\":\"EUR\"}}}}",
                pick(&["prepaid", "paid", "assessed"], 21),
                pick(&["correos", "seur", "dhl", "usps"], 23),
                pick(&["std", "exp"], 25),
                h % 100_000_000_000_000,
                h % 170,
            ),
            _ => write!(
                out,
                ",\"inspection_outcome\":\"none\",\"carrier_handoff_readiness\":\"ready\",\"parcel_count\":1,\
                 \"next_expected_milestone\":\"domestic_scan\",\"duty_amount\":{{\"amount\":\"{}.00\",\
                 \"currency\":\"EUR\"}}}}",
                h % 30,
            ),
        };
    }
}

/// Ten rules like the shipped ones and twenty made up, until they are read from files.
pub fn rules() -> parcelwatch::rules::RuleSet {
    use parcelwatch::model::*;
    use parcelwatch::rules::ruleset::*;
    let mut rules = Vec::new();
    let stage = |h: i64, severity| Stage { at: Span { ms: h * HOUR, ..Span::default() }, severity };
    for i in 0..30usize {
        let source = match i {
            0 => AnchorSource::Derived(DerivedTime::ImportCustomsFullyCleared),
            1 | 2 => AnchorSource::Derived(DerivedTime::GuaranteeEnd),
            3 => AnchorSource::Derived(DerivedTime::LastEvent),
            _ => AnchorSource::Milestone(Milestone::from_name(LIFE[i % 11]).unwrap()),
        };
        let expect = match i {
            0 => Milestone::DomesticScan.or_later(),
            1 | 2 => MilestoneSet::of(Milestone::Delivered),
            3 => MilestoneSet::default(),
            _ => Milestone::from_name(LIFE[i % 11 + 1 + i % 2]).unwrap().or_later(),
        };
        let while_ = (i == 1).then(|| {
            Matcher::Fact(
                FactRef::Derived(DerivedFact::HoldsOpen),
                Test::Compare(Comparison::Gt, Decimal::whole(0)),
            )
        });
        let unless = (i == 0).then(|| {
            let one = |t: &str| Test::Equals(Scalar::Text(t.into()));
            Matcher::Fact(
                FactRef::Stated(known_fact("duty_status").unwrap()),
                Test::AnyOf(vec![one("unpaid"), one("x")]),
            )
        });
        let body = Body {
            title: String::new(),
            description: String::new(),
            runbook: None,
            owner: "ops".into(),
            policy: None,
            labels: Default::default(),
            unless,
            while_,
            expect: Expect { milestones: expect, ..Expect::default() },
            evidence: ClassFilter(if i == 0 { 2 } else { 0 }),
            tolerance: Tolerance::Ms(14 * HOUR),
            grace: 2 * HOUR,
            reporting_delay: 0,
            calendar: CalendarRef::Elapsed,
            stages: vec![stage(if i == 0 { 48 } else { 96 }, Severity::Warning), stage(192, Severity::High)],
        };
        rules.push(Rule {
            id: format!("rule_{i:02}").into(),
            hash: "".into(),
            version: String::new(),
            shadow: false,
            anchor: Anchor { before: matches!(i, 1 | 2), list: false, last: false, sources: vec![source] },
            scope: if i % 3 == 2 {
                Matcher::Fact(FactRef::Stated(0), Test::Glob("CN-*".into()))
            } else {
                Matcher::default()
            },
            holds: None,
            restart: false,
            until: None,
            after_terminal: false,
            effective_from: None,
            effective_to: None,
            zone_slack: 0,
            bodies: vec![body],
            overrides: vec![],
        });
    }
    RuleSet { rules, ..RuleSet::default() }
}
