//! The life of one parcel: what its senders tell from the label to the door, and what goes wrong.

use super::dice::Dice;
use super::lanes::{GOODS, LANES, Lane, WEAK};
use super::network::Telling;
use crate::model::{DAY, HOUR, MINUTE, Time};

/// What goes wrong with a parcel, how many of a thousand.
const FATES: [(Fate, i64); 14] = [
    (Fate::NotScanned, 45),
    (Fate::ScannedUntold, 30),
    (Fate::Held, 35),
    (Fate::HeldLong, 12),
    (Fate::Asked, 25),
    (Fate::Unpaid, 35),
    (Fate::Weak, 30),
    (Fate::Stuck, 25),
    (Fate::NotPresented, 20),
    (Fate::Promised, 25),
    (Fate::Slow, 20),
    (Fate::Retracted, 12),
    (Fate::Refused, 10),
    (Fate::Lost, 10),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// All goes well.
    Well,
    /// Cleared, and the domestic carrier scans it days later.
    NotScanned,
    /// Scanned in time, told a day or two later.
    ScannedUntold,
    /// Held for some days, with a reason.
    Held,
    /// Held until the buyer's guarantee is nearly over.
    HeldLong,
    /// Customs asks for documents.
    Asked,
    /// Cleared with the duty unpaid.
    Unpaid,
    /// Described too weakly, corrected later.
    Weak,
    /// Presented, and no word from customs for a week.
    Stuck,
    /// Landed, and presented days later.
    NotPresented,
    /// The next step is promised and comes late.
    Promised,
    /// Scanned, and delivered a week later.
    Slow,
    /// Delivered in error, taken back, delivered again.
    Retracted,
    /// No word from customs, and refused in the end.
    Refused,
    /// Cleared, and lost between customs and the carrier.
    Lost,
}

fn fate(dice: &mut Dice) -> Fate {
    let mut rolled = dice.between(0, 999);
    for (fate, share) in FATES {
        if rolled < share {
            return fate;
        }
        rolled -= share;
    }
    Fate::Well
}

/// Everything that is ever told of the `n`-th parcel, which sets out at `from`; not yet in order.
#[must_use]
pub fn live(n: u64, from: Time, mut dice: Dice) -> Vec<Telling> {
    let lane = dice.pick(&LANES);
    let fate = fate(&mut dice);
    let mut life = Life {
        id: format!("P-{}-{n:05}", lane.country),
        tracking: format!("LP{:09}{}", 641_120_000 + n, lane.country),
        lane,
        gateway: dice.word(lane.gateways),
        broker: dice.word(lane.brokers),
        carrier: dice.word(lane.carriers),
        // A programme that most parcels of one lane use; missing its 72 hours is what `Fate::Stuck` does to them.
        bonded: lane.country == "FR" && dice.permille(600),
        fate,
        now: from,
        event: 0,
        told: Vec::new(),
        dice,
    };
    life.export();
    life.customs();
    life.domestic();
    life.told
}

/// Whose system tells a record, and what kind of proof it is.
type Sender = (&'static str, &'static str, Option<&'static str>);

const MARKET: Sender = ("market", "marketplace", Some("electronic_notice"));
const FORWARDER: Sender = ("cainiao", "forwarder", Some("physical_scan"));
const FILED: Sender = ("cainiao", "forwarder", Some("electronic_notice"));

struct Life {
    id: String,
    tracking: String,
    lane: &'static Lane,
    gateway: &'static str,
    broker: &'static str,
    carrier: &'static str,
    bonded: bool,
    fate: Fate,
    /// When the latest thing happened.
    now: Time,
    event: u32,
    told: Vec<Telling>,
    dice: Dice,
}

impl Life {
    fn export(&mut self) {
        self.created();
        if self.fate == Fate::Weak {
            let filed = self.now;
            self.pass(14, 60);
            let (goods, code) = *self.dice.pick(&GOODS);
            self.tell(r#""control":"parcel_facts""#, MARKET, &items(goods, code));
            self.now = filed;
        }
        self.pass(6, 30);
        self.scan("picked_up", "CN", "Dongguan");
        self.pass(4, 12);
        self.scan("origin_facility_scan", "CN", "CNCAN");
        self.pass(6, 20);
        self.scan("handed_to_linehaul", "CN", "CNHKG");
        self.pass(2, 10);
        self.milestone("export_customs_cleared", FILED, "");
        self.pass(4, 12);
        self.scan("departed_origin_country", "CN", "CNHKG");
        self.pass(2, 6);
        let reference = self.reference();
        self.milestone("import_declaration_filed", FILED, &reference);
        self.pass(16, 50);
        self.scan("arrived_destination_country", self.lane.country, self.gateway);
    }

    fn created(&mut self) {
        let (mut goods, code) = *self.dice.pick(&GOODS);
        if self.fate == Fate::Weak {
            goods = *self.dice.pick(&WEAK);
        }
        // A buyer who waited for the goods to be made: most of the guarantee is over when the parcel sets out.
        let (start, days) = match self.fate {
            Fate::HeldLong => (self.now.minus(self.dice.between(16, 22) * DAY), 45),
            _ => (self.now.minus(self.dice.between(2, 30) * HOUR), 60),
        };
        let programme = if self.bonded { r#","customs_programme":"bonded_72h""# } else { "" };
        let value = self.dice.between(6, 140);
        let facts = format!(
            r#","lane":"{}","entry_type":"{}"{programme},"broker":"{}","domestic_carrier":"{}","order_id":"{}","seller_id":"S{}","guarantee_start":"{}","guarantee_days":{days},"declared_value":{{"amount":"{value}.00","currency":"{}"}}{}"#,
            self.lane.name,
            self.lane.entry_type,
            self.broker,
            self.carrier,
            819_000_000 + self.dice.between(0, 999_999),
            self.dice.between(11, 99),
            self.local(start),
            self.lane.currency,
            items(goods, code),
        );
        self.milestone("shipment_created", MARKET, &facts);
    }

    fn customs(&mut self) {
        match self.fate {
            Fate::NotPresented => self.pass(56, 150),
            _ => self.pass(2, 16),
        }
        self.milestone("import_customs_started", self.customs_sender(), "");
        match self.fate {
            Fate::Held => self.held(20, 130),
            Fate::HeldLong => self.held(200, 420),
            Fate::Refused => return self.refused(),
            Fate::Asked => self.asked(),
            Fate::Stuck => self.pass(110, 260),
            _ => self.pass(3, 20),
        }
        let duty = match self.fate {
            Fate::Unpaid => ("unpaid", "ready_after_payment"),
            _ => ("prepaid", "ready"),
        };
        let amount = self.dice.between(2, 30);
        let promise = match self.fate {
            Fate::Promised => self.promise("out_for_delivery", 26),
            _ if self.carrier == "correos" => self.promise("domestic_scan", 30),
            _ => String::new(),
        };
        let reference = self.reference();
        let facts = format!(
            r#","duty_status":"{}","duty_amount":{{"amount":"{amount}.40","currency":"{}"}},"duty_payer":"buyer","carrier_handoff_readiness":"{}","inspection_outcome":"none"{reference}{promise}"#,
            duty.0, self.lane.currency, duty.1,
        );
        self.milestone("import_customs_cleared", self.broker_sender(), &facts);
        if self.fate == Fate::Unpaid {
            self.pass(5, 110);
            let payments = ("payments", "marketplace", Some("electronic_notice"));
            self.milestone("import_duty_paid", payments, r#","duty_status":"paid""#);
        }
    }

    fn refused(&mut self) {
        self.pass(90, 200);
        self.milestone("import_customs_refused", self.customs_sender(), r#","inspection_outcome":"refused""#);
    }

    fn held(&mut self, low: i64, high: i64) {
        self.pass(2, 10);
        let reason = *self.dice.pick(&[
            "value_query",
            "missing_invoice",
            "description_query",
            "random_inspection",
            "ip_rights",
            "forced_labour",
        ]);
        let respond_by = self.local(self.now.plus(10 * DAY));
        let hold = format!(
            r#","hold":{{"id":"H1","authority":"{}","reason":"{reason}","respond_by":"{respond_by}"}}"#,
            self.lane.customs
        );
        self.milestone("import_customs_held", self.customs_sender(), &hold);
        self.pass(low, high);
        self.milestone("import_customs_hold_released", self.customs_sender(), r#","hold":{"id":"H1"}"#);
        self.pass(1, 4);
    }

    fn asked(&mut self) {
        self.pass(2, 8);
        let hold = format!(
            r#","hold":{{"id":"Q1","authority":"{}","reason":"missing_invoice"}}"#,
            self.lane.customs
        );
        self.milestone("import_customs_info_required", self.customs_sender(), &hold);
        self.pass(18, 80);
        self.tell(
            r#""control":"parcel_facts""#,
            MARKET,
            r#","documents":[{"type":"commercial_invoice","ref":"s3://documents/invoice.pdf"}]"#,
        );
        self.pass(2, 10);
        self.milestone("import_customs_hold_released", self.customs_sender(), r#","hold":{"id":"Q1"}"#);
        self.pass(1, 4);
    }

    fn domestic(&mut self) {
        if self.fate == Fate::Refused {
            return;
        }
        self.linked();
        let depot = *self.dice.pick(self.lane.depots);
        match self.fate {
            Fate::NotScanned => self.pass(30, 120),
            Fate::Lost => {
                self.pass(80, 160);
                let lost = r#","incident_reason":"lost""#;
                return self.milestone("parcel_incident", self.carrier_sender(), lost);
            }
            Fate::ScannedUntold => self.pass(8, 20),
            _ => self.pass(3, 18),
        }
        let late = match self.fate {
            Fate::ScannedUntold => self.dice.between(24, 60) * HOUR,
            _ => 0,
        };
        self.told_late("domestic_scan", depot, late);
        match self.fate {
            Fate::Promised => self.pass(30, 80),
            Fate::Slow => self.pass(110, 220),
            _ => self.pass(4, 22),
        }
        self.told_late("out_for_delivery", depot, late);
        self.pass(2, 8);
        if self.dice.permille(60) {
            self.told_late("delivery_attempted", depot, late);
            self.pass(18, 30);
        }
        let delivered = self.told_late("delivered", depot, late);
        if self.fate == Fate::Retracted {
            self.pass(6, 20);
            let taken_back = format!(r#","retracts":["{delivered}"]"#);
            self.tell(r#""control":"event_retracted""#, self.carrier_sender(), &taken_back);
            self.pass(60, 160);
            self.told_late("delivered", depot, 0);
        }
        // Most buyers say within the three days that `receipt_unconfirmed` gives them that they have it.
        self.pass(4, 66);
        if !self.dice.permille(30) {
            self.milestone("receipt_confirmed", MARKET, "");
        }
    }

    fn linked(&mut self) {
        let cleared = self.now;
        self.pass(1, 2);
        let number = format!(
            r#","linked_tracking":[{{"tracking_number":"{}{:010}","carrier_code":"{}","leg":2}}]"#,
            self.lane.country,
            self.dice.between(0, 9_999_999),
            self.carrier
        );
        self.tell(r#""control":"tracking_linked""#, FILED, &number);
        self.now = cleared;
    }

    /// Hours that pass.
    fn pass(&mut self, low: i64, high: i64) {
        self.now = self.now.plus(self.dice.between(low * HOUR / MINUTE, high * HOUR / MINUTE) * MINUTE);
    }

    fn promise(&self, milestone: &str, hours: i64) -> String {
        let by = self.local(self.now.plus(hours * HOUR));
        format!(r#","next_expected_milestone":"{milestone}","next_expected_by":"{by}""#)
    }

    fn reference(&mut self) -> String {
        let number = self.dice.between(100_000_000, 999_999_999);
        format!(r#","broker_reference":"26{}{number}""#, self.lane.country)
    }

    fn customs_sender(&self) -> Sender {
        (self.lane.customs, "customs", Some("electronic_notice"))
    }

    fn broker_sender(&self) -> Sender {
        (self.broker, "broker", Some("electronic_notice"))
    }

    fn carrier_sender(&self) -> Sender {
        (self.carrier, "carrier", Some("physical_scan"))
    }

    fn scan(&mut self, milestone: &str, country: &str, facility: &str) {
        let place = format!(r#","location":{{"country":"{country}","facility":"{facility}"}}"#);
        self.milestone(milestone, FORWARDER, &place);
    }

    fn told_late(&mut self, milestone: &str, depot: &str, late: i64) -> String {
        let place = format!(r#","location":{{"country":"{}","facility":"{depot}"}}"#, self.lane.country);
        let sender = self.carrier_sender();
        let what = format!(r#""milestone":"{milestone}""#);
        self.tell_after(&what, sender, &place, late)
    }

    fn milestone(&mut self, milestone: &str, sender: Sender, fields: &str) {
        self.tell(&format!(r#""milestone":"{milestone}""#), sender, fields);
    }

    fn tell(&mut self, what: &str, sender: Sender, fields: &str) {
        self.tell_after(what, sender, fields, 0);
    }

    /// Tells what happened now, some minutes and `late` milliseconds later. Returns the event's id.
    fn tell_after(&mut self, what: &str, sender: Sender, fields: &str, late: i64) -> String {
        self.event += 1;
        let (system, role, evidence) = sender;
        let id = format!("{}-{}", self.id, self.event);
        let evidence = match evidence {
            Some(class) if what.starts_with("\"milestone") => format!(r#","evidence_class":"{class}""#),
            _ => String::new(),
        };
        let body = format!(
            r#"{{"schema_version":1,"event_id":"{id}","parcel_id":"{}","tracking_number":"{}","carrier_code":"cainiao",{what}{evidence},"event_time":"{}","source":{{"system":"{system}","role":"{role}"}}{fields}"#,
            self.id,
            self.tracking,
            self.local(self.now),
        );
        let at = self.now.plus(self.dice.between(1, 40) * MINUTE + self.dice.between(0, 59_999) + late);
        let telling = Telling { at, parcel_id: self.id.clone(), body };
        self.noise(&telling);
        self.told.push(telling);
        id
    }

    /// What feeds do besides: the same record twice, pings, codes nobody knows, garbage.
    fn noise(&mut self, telling: &Telling) {
        let at = telling.at.plus(self.dice.between(1, 300) * MINUTE);
        let again = |body: String| Telling { at, parcel_id: telling.parcel_id.clone(), body };
        let (id, time) = (&self.id, self.local(self.now));
        match self.dice.between(0, 999) {
            0..30 => self.told.push(again(telling.body.clone())),
            30..34 => self.told.push(again(format!(
                r#"{{"parcel_id":"{id}","milestone":"in_transit_scan","event_time":"{time}","is_test":true"#
            ))),
            34..39 => self.told.push(again(format!(
                r#"{{"parcel_id":"{id}","milestone":"unmapped","event_time":"{time}","raw":{{"code":"SC_X9"}}"#
            ))),
            39..42 => {
                // Cut off on its way: no JSON any more.
                let cut = telling.body.len() / 2;
                self.told.push(again(telling.body.chars().take(cut).collect()));
            }
            _ => {}
        }
    }

    /// A time as clocks in the destination country show it.
    fn local(&self, time: Time) -> String {
        let offset = self.lane.offset;
        let hours: i64 = offset[..3].parse().unwrap_or(0);
        let utc = time.plus(hours * HOUR).to_string();
        format!("{}{offset}", utc.trim_end_matches('Z'))
    }
}

fn items(goods: &str, code: &str) -> String {
    format!(r#","items":[{{"description":"{goods}","hs_code":"{code}","origin":"CN","quantity":1}}]"#)
}
