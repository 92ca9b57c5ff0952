//! Dirty streams: parcels with lives, told late, twice, swapped, taken back, in the future, and rubbish between them.

use parcelwatch::model::{HOUR, MINUTE, SECOND, Time};

use crate::random::Random;
use crate::rulebook::DURATIONS;

/// 2026-10-12T06:00:00Z, when the first parcel begins.
pub const EPOCH: i64 = 1_791_784_800_000;

/// A record that somebody will produce.
#[derive(Clone, Debug)]
pub struct Planned {
    /// When it is to be stored, by the broker's clock.
    pub append: i64,
    pub parcel: u64,
    pub json: String,
}

/// The milestones of a life, in order; `|` are alternatives.
const LIFE: [&str; 14] = [
    "order_created",
    "picked_up",
    "departed_origin_country",
    "arrived_destination_country",
    "import_customs_started",
    "import_customs_held",
    "import_customs_hold_released",
    "import_customs_cleared",
    "handed_to_domestic_carrier",
    "domestic_scan",
    "out_for_delivery",
    "in_transit_scan",
    "delivered",
    "receipt_confirmed",
];

/// The lives of `parcels` parcels over `span` milliseconds, in the order of their append times.
pub fn plan(random: &mut Random, parcels: u64, span: i64) -> Vec<Planned> {
    let mut all = Vec::new();
    let coarse = *random.pick(&[1, 1, SECOND, MINUTE, 10 * MINUTE]);
    for parcel in 0..parcels {
        let begin = EPOCH + random.within(0, span * 6 / 10) / coarse * coarse;
        Life { random: &mut random.fork(), parcel, coarse, n: 0, out: &mut all }.live(begin, EPOCH + span);
    }
    all.retain(|p| p.append >= EPOCH);
    all.sort_by_key(|p| p.append);
    all
}

/// The id of a parcel; some are hostile.
pub fn parcel_id(parcel: u64) -> String {
    match parcel {
        3 => "päckchen \\\"\u{0}\\\" ☃".replace('\u{0}', "\\u0000"),
        5 => "x".repeat(300),
        n => format!("P{n:03}"),
    }
}

struct Life<'a> {
    random: &'a mut Random,
    parcel: u64,
    coarse: i64,
    n: u32,
    out: &'a mut Vec<Planned>,
}

impl Life<'_> {
    fn live(&mut self, begin: i64, end: i64) {
        let stalls = if self.random.percent(40) { self.random.within(1, 13) } else { 99 };
        let (mut t, mut before) = (begin, begin);
        for (i, milestone) in LIFE.into_iter().enumerate() {
            if i as i64 > stalls || t > end {
                return;
            }
            let held = milestone.contains("hold") || milestone.contains("held");
            if self.random.percent(if held { 45 } else { 12 }) {
                continue;
            }
            let gap = *self.random.pick(&DURATIONS);
            t += self.random.within(0, gap) / self.coarse * self.coarse;
            self.happens(milestone, t, before);
            before = t;
            if self.random.percent(8) {
                let what =
                    *self.random.pick(&["return_started", "parcel_incident", "cancelled", "domestic_scan"]);
                self.happens(what, t + MINUTE, t);
            }
            if self.random.percent(25) {
                self.control(t);
            }
        }
    }

    /// How long the report is on its way: a moment, minutes, hours, or just until a deadline.
    fn delay(&mut self, happened: i64, before: i64) -> i64 {
        match self.random.below(20) {
            0..=8 => self.random.within(0, 5 * SECOND),
            9..=12 => self.random.within(0, 10 * MINUTE),
            13 => self.random.within(0, 6 * HOUR),
            14 => -self.random.within(0, 20) * MINUTE,
            _ => {
                let sum = *self.random.pick(&DURATIONS) + *self.random.pick(&[0, 0, MINUTE, 10 * MINUTE]);
                let aimed = before + sum + self.random.within(-1, 1);
                if aimed >= happened { aimed - happened } else { self.random.within(0, 3 * SECOND) }
            }
        }
    }

    fn happens(&mut self, milestone: &str, at: i64, before: i64) {
        self.n += 1;
        let id = format!("e{}-{}", self.parcel, self.n);
        let append = at + self.delay(at, before);
        let mut json = self.head(at);
        json += &format!(",\"milestone\":\"{milestone}\"");
        if self.random.percent(85) {
            json += &format!(",\"event_id\":\"{id}\"");
        }
        json += *self.random.pick(&[
            "",
            ",\"evidence_class\":\"physical_scan\"",
            ",\"evidence_class\":\"physical_scan\"",
            ",\"evidence_class\":\"electronic_notice\"",
            ",\"evidence_class\":\"claim\"",
        ]);
        match self.random.below(40) {
            0 => json += ",\"classifier\":\"planned\"",
            1 => json += ",\"is_test\":true",
            2..=4 => json += ",\"tz_provenance\":\"assumed\"",
            _ => {}
        }
        if self.random.percent(60) {
            let facility = *self.random.pick(&["MAD1", "MAD1", "BCN2", "unknown"]);
            json += &format!(",\"location\":{{\"country\":\"ES\",\"facility\":\"{facility}\"}}");
        }
        if milestone.contains("held") || milestone.contains("hold_released") {
            json += &self.hold(at);
        }
        json += &self.facts(at);
        json.push('}');
        self.put(append, json.clone());
        if self.random.percent(10) {
            let again = append + self.random.within(0, HOUR);
            self.put(again, json);
        }
        if self.random.percent(5) {
            let mut back = self.head(at + MINUTE);
            back += &format!(",\"control\":\"event_retracted\",\"retracts\":[\"{id}\"]}}");
            let when = append + self.random.within(-5, 60) * MINUTE;
            self.put(when, back);
        }
        if self.random.percent(4) {
            let rubbish =
                *self.random.pick(&["", "{", "[1]", "{\"parcel_id\":\"P001\"}", "nonsense \u{1F4A5}"]);
            self.put(append, rubbish.to_owned());
        }
    }

    fn control(&mut self, at: i64) {
        let mut json = self.head(at);
        json += match self.random.below(8) {
            0 => ",\"control\":\"guarantee_updated\"",
            1 => ",\"control\":\"feed_health\",\"feed_status\":\"failing\"",
            2 => ",\"control\":\"nobody_knows\"",
            _ => ",\"control\":\"parcel_facts\"",
        };
        json += &self.facts(at);
        json.push('}');
        let append = at + self.delay(at, at);
        self.put(append, json);
    }

    fn head(&mut self, at: i64) -> String {
        let at = if self.random.percent(2) { at + HOUR } else { at };
        format!("{{\"parcel_id\":\"{}\",\"event_time\":\"{}\"", parcel_id(self.parcel), Time(at))
    }

    fn hold(&mut self, at: i64) -> String {
        let id = *self.random.pick(&["", "\"id\":\"h1\",", "\"id\":\"h2\","]);
        let reason = *self.random.pick(&["documents", "documents", "inspection", "unknown"]);
        let by = Time(at + *self.random.pick(&DURATIONS));
        match self.random.below(4) {
            0 => String::new(),
            1 => ",\"hold\":{}".to_owned(),
            _ => format!(",\"hold\":{{{id}\"reason\":\"{reason}\",\"respond_by\":\"{by}\"}}"),
        }
    }

    fn facts(&mut self, at: i64) -> String {
        let mut json = String::new();
        for _ in 0..self.random.below(4) {
            let by = Time(at + *self.random.pick(&DURATIONS));
            json += &match self.random.below(9) {
                0 => format!(",\"duty_status\":\"{}\"", self.random.pick(&["unpaid", "paid", "unknown"])),
                1 => format!(",\"domestic_carrier\":\"{}\"", self.random.pick(&["correos", "seur"])),
                2 => format!(",\"lane\":\"CN-{}\"", self.random.pick(&["ES", "FR"])),
                3 => format!(
                    ",\"guarantee_start\":\"{}\",\"guarantee_days\":{}",
                    Time(at - 24 * HOUR),
                    self.random.pick(&["1", "2", "1.0", "-1", "true"])
                ),
                4 => format!(
                    ",\"next_expected_milestone\":\"{}\",\"next_expected_by\":\"{by}\"",
                    self.random.pick(&["domestic_scan", "import_customs_cleared", "delivered"])
                ),
                5 => format!(
                    ",\"documents\":[{{\"type\":\"{}\"}}]",
                    self.random.pick(&["invoice", "certificate_of_origin"])
                ),
                6 => format!(",\"tracking_number\":\"T{:06}\"", self.random.below(1_000_000)),
                7 => format!(",\"warehouse_zone\":\"Z{}\"", self.random.below(3)),
                _ => ",\"order_id\":null".to_owned(),
            };
        }
        json
    }

    fn put(&mut self, append: i64, json: String) {
        self.out.push(Planned { append, parcel: self.parcel, json });
    }
}
