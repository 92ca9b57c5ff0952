//! Bytes → [`Event`], or a [`Reject`] with its reason (DESIGN §3, SEMANTICS 1).

use std::borrow::Cow;

use crate::model::json::{NotJson, Reader, Token, each_element, each_member};
use crate::model::{
    Control, Event, Evidence, FactValue, HoldField, KNOWN_FACTS, Milestone, Reject, RejectReason, Time,
    ZoneProvenance,
};

/// The largest record that is read, in bytes.
pub const MAX_RECORD: usize = 1 << 20;
/// The deepest nesting of a record, itself counted.
pub const MAX_DEPTH: usize = 64;

/// What a field of a record is to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Special {
    ParcelId,
    Milestone,
    Control,
    Classifier,
    EvidenceClass,
    EventTime,
    ReceivedTime,
    TzProvenance,
    EventId,
    IsTest,
    Location,
    Hold,
    Retracts,
}

/// Fields that are more than facts.
pub(super) const SPECIALS: [(&str, Special); 13] = [
    ("parcel_id", Special::ParcelId),
    ("milestone", Special::Milestone),
    ("control", Special::Control),
    ("classifier", Special::Classifier),
    ("evidence_class", Special::EvidenceClass),
    ("event_time", Special::EventTime),
    ("received_time", Special::ReceivedTime),
    ("tz_provenance", Special::TzProvenance),
    ("event_id", Special::EventId),
    ("is_test", Special::IsTest),
    ("location", Special::Location),
    ("hold", Special::Hold),
    ("retracts", Special::Retracts),
];

/// The names that a record's fields are looked up by: the known facts and those a rules directory declares.
#[derive(Debug)]
pub struct FactNames {
    top: Table,
}

#[derive(Debug, Default)]
struct Field {
    /// Its place among the fields of its table.
    order: u32,
    special: Option<Special>,
    fact: Option<u16>,
    inside: Option<Box<Table>>,
}

/// A small open-addressed table: one comparison for a field that is known, none for most that are not.
#[derive(Debug, Default)]
struct Table {
    slots: Vec<Option<(Box<str>, Field)>>,
    len: usize,
}

impl Table {
    fn home(&self, name: &[u8]) -> usize {
        let (first, last, middle) = match name {
            [] => (0, 0, 0),
            b => (usize::from(b[0]), usize::from(b[b.len() - 1]), usize::from(b[b.len() / 2])),
        };
        (name.len().wrapping_mul(31)
            ^ first.wrapping_mul(167)
            ^ last.wrapping_mul(59)
            ^ middle.wrapping_mul(13))
            & (self.slots.len() - 1)
    }

    fn get(&self, name: &str) -> Option<(usize, &Field)> {
        if self.slots.is_empty() {
            return None;
        }
        let mut i = self.home(name.as_bytes());
        while let Some((n, field)) = &self.slots[i] {
            if **n == *name {
                return Some((i, field));
            }
            i = (i + 1) & (self.slots.len() - 1);
        }
        None
    }

    fn entry(&mut self, name: &str) -> &mut Field {
        if let Some((i, _)) = self.get(name) {
            return &mut self.slots[i].as_mut().expect("just found").1;
        }
        if self.len * 4 >= self.slots.len() {
            let old = std::mem::take(&mut self.slots);
            self.slots.resize_with((old.len() * 2).max(16), || None);
            for (n, field) in old.into_iter().flatten() {
                let i = self.free(&n);
                self.slots[i] = Some((n, field));
            }
        }
        let order = u32::try_from(self.len).unwrap_or(u32::MAX);
        self.len += 1;
        let i = self.free(name);
        &mut self.slots[i].insert((name.into(), Field { order, ..Field::default() })).1
    }

    fn free(&self, name: &str) -> usize {
        let mut i = self.home(name.as_bytes());
        while self.slots[i].is_some() {
            i = (i + 1) & (self.slots.len() - 1);
        }
        i
    }
}

impl FactNames {
    /// The known facts, and `declared` ones in the order of a rule set.
    pub fn new<'a>(declared: impl IntoIterator<Item = &'a str>) -> FactNames {
        let mut top = Table::default();
        for (name, special) in SPECIALS {
            top.entry(name).special = Some(special);
        }
        for (number, name) in KNOWN_FACTS.into_iter().chain(declared).enumerate() {
            if name.is_empty() {
                continue;
            }
            let mut parts = name.split('.');
            let mut field = top.entry(parts.next().unwrap_or_default());
            for part in parts {
                field = field.inside.get_or_insert_default().entry(part);
            }
            field.fact = u16::try_from(number).ok();
        }
        FactNames { top }
    }
}

/// Decodes one record. A rejected one still tells its times, where they can be read (SEMANTICS 1.1).
pub fn decode<'a>(bytes: &'a [u8], names: &FactNames) -> Result<Event<'a>, Reject> {
    let reject = |reason| Reject { reason, file_append: None };
    if bytes.is_empty() {
        return Err(reject(RejectReason::Empty));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        let reason = if bytes.len() > MAX_RECORD { RejectReason::TooLarge } else { RejectReason::NotUtf8 };
        return Err(reject(reason));
    };
    let mut raw = Raw::new();
    let read = raw.read(text, names);
    let file_append = raw.received_time.or(raw.event_time);
    let reason = if bytes.len() > MAX_RECORD {
        RejectReason::TooLarge
    } else {
        match read {
            Err(reason) => return Err(reject(reason)),
            Ok(depth) if depth > MAX_DEPTH => RejectReason::TooDeep,
            Ok(_) => match raw.into_event() {
                Ok(event) => return Ok(event),
                Err(reason) => reason,
            },
        }
    };
    Err(Reject { reason, file_append })
}

/// The fields as they are met.
struct Raw<'a> {
    parcel_id: Option<Cow<'a, str>>,
    milestone: Option<Cow<'a, str>>,
    control: Option<Cow<'a, str>>,
    planned: bool,
    evidence: Option<Evidence>,
    event_time: Option<Time>,
    received_time: Option<Time>,
    zone: ZoneProvenance,
    event_id: Option<Cow<'a, str>>,
    is_test: bool,
    location: Option<&'a str>,
    facility: Option<Cow<'a, str>>,
    hold: Option<HoldField<'a>>,
    retracts: Vec<Cow<'a, str>>,
    facts: Vec<(u16, FactValue<'a>)>,
}

impl<'a> Raw<'a> {
    fn new() -> Raw<'a> {
        Raw {
            parcel_id: None,
            milestone: None,
            control: None,
            planned: false,
            evidence: None,
            event_time: None,
            received_time: None,
            zone: ZoneProvenance::Known,
            event_id: None,
            is_test: false,
            location: None,
            facility: None,
            hold: None,
            retracts: Vec::new(),
            facts: Vec::with_capacity(24),
        }
    }

    /// Reads the whole text; the depth it has, or why it is no object.
    fn read(&mut self, text: &'a str, names: &FactNames) -> Result<usize, RejectReason> {
        let mut r = Reader::new(text);
        if !r.enter(b'{') {
            let valid = r.value().is_ok() && r.at_end();
            return Err(if valid { RejectReason::NotObject } else { RejectReason::NotJson });
        }
        self.object(&mut r, names).map_err(|NotJson| RejectReason::NotJson)?;
        if r.at_end() { Ok(r.deepest + 1) } else { Err(RejectReason::NotJson) }
    }

    fn object(&mut self, r: &mut Reader<'a>, names: &FactNames) -> Result<(), NotJson> {
        let mut seen = 0u128;
        let mut first = true;
        while let Some(key) = r.key(first)? {
            first = false;
            let found = match key {
                Token::Text(name, false) => names.top.get(name),
                other => other.text().and_then(|name| names.top.get(&name)),
            };
            let Some((_, field)) = found else {
                r.value()?;
                continue;
            };
            let bit = 1u128.checked_shl(field.order).unwrap_or(0);
            if seen & bit != 0 || bit == 0 {
                self.forget(field);
            }
            seen |= bit;
            match &field.inside {
                Some(table) => self.place_or_source(r, field, table)?,
                None => {
                    let value = r.value()?;
                    self.field(field, value);
                }
            }
        }
        Ok(())
    }

    /// A field whose object is looked into: read once, member by member.
    fn place_or_source(&mut self, r: &mut Reader<'a>, field: &Field, table: &Table) -> Result<(), NotJson> {
        let Some(start) = r.enter_object() else {
            let value = r.value()?;
            self.field(field, value);
            return Ok(());
        };
        let is_place = field.special == Some(Special::Location);
        let mut seen = 0u128;
        let mut first = true;
        while let Some(key) = r.key(first)? {
            first = false;
            let value = r.value()?;
            let name = key.text().unwrap_or_default();
            let Some((_, inner)) = table.get(&name) else { continue };
            let bit = 1u128.checked_shl(inner.order).unwrap_or(0);
            if seen & bit != 0 || bit == 0 {
                self.forget(inner);
            }
            seen |= bit;
            self.field(inner, value);
            if is_place && name == "facility" {
                self.facility = value.text().filter(|t| t != "unknown");
            }
        }
        let raw = r.leave_object(start);
        match field.special {
            Some(Special::Location) => self.location = Some(raw),
            Some(special) => self.special(special, Token::Object(raw)),
            None => {}
        }
        if let Some(number) = field.fact {
            self.facts.push((number, FactValue::Json(raw)));
        }
        Ok(())
    }

    /// A key that comes again: the last counts, so what the earlier one said goes.
    fn forget(&mut self, field: &Field) {
        if let Some(number) = field.fact {
            self.facts.retain(|(n, _)| *n != number);
        }
        for (_, inner) in field.inside.iter().flat_map(|t| t.slots.iter().flatten()) {
            self.forget(inner);
        }
        if let Some(special) = field.special {
            self.special(special, Token::Null);
        }
    }

    #[inline]
    fn field(&mut self, field: &Field, value: Token<'a>) {
        if let Some(special) = field.special {
            self.special(special, value);
        }
        if let Some(number) = field.fact
            && let Some(stated) = stated(value)
        {
            self.facts.push((number, stated));
        }
        if let (Some(table), Token::Object(raw)) = (&field.inside, value) {
            self.inside(table, raw);
        }
    }

    /// Facts inside an object; the text was checked when it was skipped.
    fn inside(&mut self, table: &Table, raw: &'a str) {
        each_member(raw, |key, value| {
            if let Some((_, field)) = table.get(key) {
                self.forget(field);
                self.field(field, value);
            }
        });
    }

    fn special(&mut self, special: Special, value: Token<'a>) {
        match special {
            Special::ParcelId => self.parcel_id = value.text().filter(|t| !t.is_empty()),
            Special::Milestone => self.milestone = value.text(),
            Special::Control => self.control = value.text(),
            Special::Classifier => self.planned = is_text(value, &["estimated", "planned"]),
            Special::EvidenceClass => self.evidence = value.text().and_then(|t| Evidence::from_name(&t)),
            Special::EventTime => self.event_time = value.text().and_then(|t| Time::parse(&t)),
            Special::ReceivedTime => self.received_time = value.text().and_then(|t| Time::parse(&t)),
            Special::TzProvenance => {
                let assumed = is_text(value, &["assumed"]);
                self.zone = if assumed { ZoneProvenance::Assumed } else { ZoneProvenance::Known };
            }
            Special::EventId => self.event_id = value.text(),
            Special::IsTest => self.is_test = value == Token::Bool(true),
            // Only what is no object comes here.
            Special::Location => (self.location, self.facility) = (None, None),
            Special::Hold => self.hold = hold(value),
            Special::Retracts => self.retracts = texts(value),
        }
    }

    fn into_event(self) -> Result<Event<'a>, RejectReason> {
        let control = self.control.as_deref().map(Control::from_name);
        let parcel_id = match self.parcel_id {
            Some(id) => id,
            None if control == Some(Some(Control::FeedHealth)) => Cow::Borrowed(""),
            None => return Err(RejectReason::MissingParcelId),
        };
        if self.milestone.is_none() && self.control.is_none() {
            return Err(RejectReason::MissingMilestone);
        }
        let event_time = self.event_time.ok_or(RejectReason::BadEventTime)?;
        if control == Some(None) {
            return Err(RejectReason::UnknownControl);
        }
        let milestone = self.milestone.as_deref().and_then(Milestone::from_name);
        Ok(Event {
            parcel_id,
            milestone,
            unmapped: self.milestone.is_some() && milestone.is_none(),
            control: control.flatten(),
            planned: self.planned,
            evidence: self.evidence,
            event_time,
            received_time: self.received_time,
            zone: self.zone,
            event_id: self.event_id,
            is_test: self.is_test,
            location: self.location,
            facility: self.facility,
            hold: self.hold,
            retracts: self.retracts,
            facts: self.facts,
        })
    }
}

fn is_text(value: Token<'_>, any: &[&str]) -> bool {
    value.text().is_some_and(|t| any.contains(&&*t))
}

/// What a field states: nothing where it is null, the text `unknown` or an empty list (SEMANTICS 2.1).
#[inline]
fn stated(value: Token<'_>) -> Option<FactValue<'_>> {
    Some(match value {
        Token::Null | Token::Text("unknown", _) => return None,
        Token::Text(raw, false) => FactValue::Text(Cow::Borrowed(raw)),
        Token::Text(..) => {
            let text = value.text()?;
            if text == "unknown" {
                return None;
            }
            FactValue::Text(text)
        }
        Token::Number(raw) => FactValue::Number(raw),
        Token::Bool(b) => FactValue::Bool(b),
        Token::List(raw) if raw[1..raw.len() - 1].trim().is_empty() => return None,
        Token::List(raw) | Token::Object(raw) => FactValue::Json(raw),
    })
}

fn texts(value: Token<'_>) -> Vec<Cow<'_, str>> {
    let mut out = Vec::new();
    if let Token::List(raw) = value {
        each_element(raw, |v| out.extend(v.text()));
    }
    out
}

fn hold(value: Token<'_>) -> Option<HoldField<'_>> {
    let Token::Object(raw) = value else { return None };
    let mut hold = HoldField::default();
    each_member(raw, |key, value| match key {
        "id" => hold.id = value.text(),
        "reason" => hold.reason = value.text().filter(|t| t != "unknown"),
        "authority" => hold.authority = value.text().filter(|t| t != "unknown"),
        "respond_by" => hold.respond_by = value.text().filter(|t| t != "unknown").map(|t| Time::parse(&t)),
        _ => {}
    });
    Some(hold)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> FactNames {
        FactNames::new(["warehouse_zone", "raw.code", "location.city"])
    }

    #[track_caller]
    fn rejected(bytes: &[u8], reason: RejectReason) {
        assert_eq!(
            decode(bytes, &names()).unwrap_err().reason,
            reason,
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
    }

    fn fact<'a>(e: &'a Event<'_>, name: &str, declared: &[&str]) -> Option<&'a FactValue<'a>> {
        let number = KNOWN_FACTS
            .iter()
            .position(|n| *n == name)
            .or_else(|| declared.iter().position(|d| *d == name).map(|i| KNOWN_FACTS.len() + i))?;
        e.facts.iter().find(|(n, _)| usize::from(*n) == number).map(|(_, v)| v)
    }

    const GOOD: &str = r#""parcel_id":"P","milestone":"delivered","event_time":"2026-10-01T00:00:00Z""#;

    #[test]
    fn each_reason_has_its_record() {
        rejected(b"", RejectReason::Empty);
        rejected(&vec![b' '; MAX_RECORD + 1], RejectReason::TooLarge);
        rejected(&vec![0xff; MAX_RECORD + 1], RejectReason::TooLarge);
        rejected(b"{\"parcel_id\":\"\xff\"}", RejectReason::NotUtf8);
        rejected(b"{\"parcel_id\":", RejectReason::NotJson);
        rejected(b"  ", RejectReason::NotJson);
        rejected(b"[1,2]", RejectReason::NotObject);
        rejected(b"\"text\"", RejectReason::NotObject);
        let deep = format!("{{{GOOD},\"x\":{}{}}}", "[".repeat(64), "]".repeat(64));
        rejected(deep.as_bytes(), RejectReason::TooDeep);
        let deeper = format!("{{{GOOD},\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        rejected(deeper.as_bytes(), RejectReason::TooDeep);
        let fits = format!("{{{GOOD},\"x\":{}{}}}", "[".repeat(63), "]".repeat(63));
        assert!(decode(fits.as_bytes(), &names()).is_ok());
        rejected(
            br#"{"milestone":"delivered","event_time":"2026-10-01T00:00:00Z"}"#,
            RejectReason::MissingParcelId,
        );
        rejected(br#"{"parcel_id":7,"milestone":"delivered"}"#, RejectReason::MissingParcelId);
        rejected(br#"{"parcel_id":"P","event_time":"2026-10-01T00:00:00Z"}"#, RejectReason::MissingMilestone);
        rejected(br#"{"parcel_id":"P","milestone":["delivered"]}"#, RejectReason::MissingMilestone);
        rejected(
            br#"{"parcel_id":"P","milestone":"delivered","event_time":"2026-10-01T00:00:00"}"#,
            RejectReason::BadEventTime,
        );
        rejected(
            br#"{"parcel_id":"P","control":"explode","event_time":"2026-10-01T00:00:00Z"}"#,
            RejectReason::UnknownControl,
        );
    }

    #[test]
    fn a_rejected_record_tells_the_time_it_was_received() {
        let r = decode(
            br#"{"received_time":"2026-10-01T02:00:00Z","event_time":"2026-10-01T00:00:00Z"}"#,
            &names(),
        );
        assert_eq!(r.unwrap_err().file_append, Time::parse("2026-10-01T02:00:00Z"));
        let r = decode(br#"{"received_time":"soon","event_time":"2026-10-01T00:00:00Z"}"#, &names());
        assert_eq!(r.unwrap_err().file_append, Time::parse("2026-10-01T00:00:00Z"));
    }

    #[test]
    fn of_equal_keys_the_last_counts() {
        let text = format!(
            r#"{{{GOOD},"lane":"A","lane":"B","duty_status":"paid","duty_status":null,
               "location":{{"facility":"X","country":"ES"}},"location":{{"city":"Vigo"}},"parcel_id":"Q"}}"#
        );
        let names = names();
        let e = decode(text.as_bytes(), &names).unwrap();
        assert_eq!(e.parcel_id, "Q");
        assert_eq!(e.facts.iter().filter(|(n, _)| *n == 0).count(), 1);
        assert_eq!(fact(&e, "lane", &[]), Some(&FactValue::Text("B".into())));
        assert_eq!(fact(&e, "duty_status", &[]), None);
        assert_eq!((e.facility.as_deref(), fact(&e, "location.country", &[])), (None, None));
        let declared = ["warehouse_zone", "raw.code", "location.city"];
        assert_eq!(fact(&e, "location.city", &declared), Some(&FactValue::Text("Vigo".into())));
    }

    #[test]
    fn facts_keep_their_type_and_say_nothing_where_nothing_is_known() {
        let text = format!(
            r#"{{{GOOD},"lane":"unknown","broker":"","parcel_count":3,"category_forced_labour":false,"documents":[ ],
               "declared_value":{{"amount":"1.00","currency":"EUR"}},"raw":{{"code":"X\u0041"}},"order_id":5.0,
               "location":{{"facility":"unknown"}},"hold":{{"id":4,"reason":"unknown","respond_by":"no"}}}}"#
        );
        let names = names();
        let e = decode(text.as_bytes(), &names).unwrap();
        let declared = ["warehouse_zone", "raw.code", "location.city"];
        assert_eq!(fact(&e, "lane", &[]), None);
        assert_eq!(fact(&e, "documents", &[]), None);
        assert_eq!(fact(&e, "broker", &[]), Some(&FactValue::Text("".into())));
        assert_eq!(fact(&e, "parcel_count", &[]), Some(&FactValue::Number("3")));
        assert_eq!(fact(&e, "order_id", &[]), Some(&FactValue::Number("5.0")));
        assert_eq!(fact(&e, "category_forced_labour", &[]), Some(&FactValue::Bool(false)));
        assert_eq!(
            fact(&e, "declared_value", &[]),
            Some(&FactValue::Json(r#"{"amount":"1.00","currency":"EUR"}"#))
        );
        assert_eq!(fact(&e, "raw.code", &declared), Some(&FactValue::Text("XA".into())));
        assert_eq!((e.facility.as_deref(), fact(&e, "location.facility", &[])), (None, None));
        assert_eq!(e.hold, Some(HoldField { respond_by: Some(None), ..HoldField::default() }));
    }

    #[test]
    fn feed_health_needs_no_parcel() {
        let e = br#"{"control":"feed_health","event_time":"2026-10-01T00:00:00Z","feed_status":"stopped"}"#;
        assert_eq!(decode(e, &names()).unwrap().parcel_id, "");
    }

    #[test]
    fn a_leap_second_is_the_next_minute() {
        let e = br#"{"parcel_id":"P","milestone":"delivered","event_time":"2016-12-31T23:59:60Z"}"#;
        assert_eq!(Some(decode(e, &names()).unwrap().event_time), Time::parse("2017-01-01T00:00:00Z"));
    }
}
