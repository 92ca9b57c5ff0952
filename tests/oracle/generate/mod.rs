//! Random rules with random, dirty streams for them; the same seed always gives the same case.
pub mod random_rules;
pub mod random_stream;
pub mod shrink;

use super::Case;
use super::time::{DAY, HOUR, Millis, parse_instant};
use serde_json::Value;

/// splitmix64: small, seeded, the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Some different ones, in their order.
    pub fn some<T: Clone>(&mut self, of: &[T], count: usize) -> Vec<T> {
        let mut indices: Vec<usize> = (0..of.len()).collect();
        while indices.len() > count {
            indices.remove(self.below(indices.len()));
        }
        indices.into_iter().map(|index| of[index].clone()).collect()
    }
}

/// What rules and stream of one case have in common, so that they meet.
pub struct Theme {
    /// when the stream begins
    start: Millis,
    /// the milestones that most records and rules are about
    milestones: Vec<&'static str>,
    /// few features and few records: its failures are easy to read
    small: bool,
    with_holds: bool,
    with_claims: bool,
    with_calendars: bool,
    with_long_gaps: bool,
    /// a few facts change all the time, and rules and overrides look at just these
    toggling: bool,
}

const STARTS: [&str; 11] = [
    "2026-10-01T00:00:00Z",
    "2026-10-22T00:00:00Z", // clocks go back: Europe on the 25th, Cairo on the 29th, New York on November 1st
    "2026-03-26T00:00:00Z", // clocks go forward in Europe on the 29th
    "2026-03-05T00:00:00Z", // in New York on the 8th
    "2026-04-21T00:00:00Z", // in Cairo on the 24th at midnight
    "2026-12-21T00:00:00Z",
    "2026-10-24T18:00:00Z", // hours before Europe's clocks go back
    "2026-03-28T20:00:00Z", // hours before they go forward
    "2026-10-31T22:00:00Z", // hours before New York's go back
    "2026-04-02T00:00:00Z", // Lord Howe's go back by half an hour on the 5th
    "2027-02-26T00:00:00Z", // the end of a short month
];

const PROGRESS: [&str; 14] = [
    "order_created",
    "shipment_created",
    "picked_up",
    "origin_facility_scan",
    "departed_origin_country",
    "in_transit_scan",
    "arrived_destination_country",
    "import_customs_started",
    "import_customs_cleared",
    "departed_customs",
    "handed_to_domestic_carrier",
    "domestic_scan",
    "out_for_delivery",
    "available_for_pickup",
];

const AT_CUSTOMS: [&str; 6] = [
    "import_customs_held",
    "import_customs_info_required",
    "import_customs_inspection",
    "import_customs_hold_released",
    "import_customs_cleared",
    "domestic_scan",
];

const RARE: [&str; 9] = [
    "import_declaration_filed",
    "import_clearance_exception",
    "import_duty_paid",
    "import_customs_released",
    "delivery_attempted",
    "return_started",
    "receipt_confirmed",
    "export_customs_held",
    "handed_to_linehaul",
];

/// A case before it is written as text, so that it can be taken apart.
#[derive(Clone)]
pub struct Draft {
    /// rules.yaml: `rules`, `sets`, `facts`
    pub rules: Value,
    pub policies: Option<Value>,
    pub events: Vec<Vec<u8>>,
    pub until: Option<Millis>,
}

impl Draft {
    pub fn of_seed(seed: u64) -> Draft {
        let mut random = Random::new(seed);
        let theme = Theme::choose(&mut random);
        let (rules, policies) = random_rules::directory(&mut random, &theme);
        let (events, last) = random_stream::lines(&mut random, &theme);
        let until = random.percent(10).then(|| {
            let days = (last - theme.start) / DAY + 1;
            // now and then long after the last record
            let beyond = if random.percent(30) { random.below(90) as Millis * DAY } else { 0 };
            let day = theme.start + random.below(days as usize + 1) as Millis * DAY + beyond;
            day + random.below(24) as Millis * HOUR
        });
        Draft { rules, policies, events, until }
    }

    pub fn case(&self) -> Case {
        let yaml = |value: &Value| serde_yaml::to_string(value).expect("JSON is written as YAML");
        let mut events = self.events.join(&b'\n');
        events.push(b'\n');
        Case {
            rules: yaml(&self.rules),
            policies: self.policies.as_ref().map(yaml),
            events,
            until: self.until,
        }
    }
}

impl Theme {
    fn choose(random: &mut Random) -> Theme {
        let small = random.percent(40);
        let with_holds = random.percent(50);
        let count = if small { random.between(3, 5) } else { random.between(5, 9) };
        let mut milestones = random.some(&PROGRESS, count);
        if with_holds {
            milestones.extend(AT_CUSTOMS);
        }
        let rare = random.between(0, 2);
        milestones.extend(random.some(&RARE, rare));
        milestones.push("delivered");
        milestones.sort_unstable();
        milestones.dedup();
        Theme {
            start: parse_instant(random.one::<&str>(&STARTS)).expect("a time"),
            milestones,
            small,
            with_holds,
            with_claims: random.percent(35),
            with_calendars: random.percent(35),
            with_long_gaps: random.percent(25),
            toggling: random.percent(35),
        }
    }
}
