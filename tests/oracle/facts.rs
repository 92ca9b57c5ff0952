//! What is known of a parcel after a number of records, worked out from the whole list of them (2, 3).
use super::decimal::Exact;
use super::record::Record;
use super::time::{DAY, Millis, parse_instant};
use super::vocabulary::{CLOSES_THE_STATUS, FACTS, TERMINAL, rank};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A fact as a matcher sees it.
#[derive(Clone, Debug)]
pub enum Fact {
    Json(Value),
    Number(Exact),
}

/// 3.3, 3.5
pub struct Hold {
    pub reason: String,
    pub authority: Option<String>,
    respond_by: Option<Millis>,
    opened: Millis,
    closed: Option<Millis>,
}

/// 3.9: what the source itself promised.
#[derive(Clone, Debug)]
pub struct Claim {
    pub milestone: String,
    pub by: Millis,
    /// the event_time of the record that made it
    pub time: Millis,
    /// the milestone of that record
    pub made_by: Option<String>,
}

/// 5.11: a value or a list each.
#[derive(Default)]
pub struct HoldFilter {
    pub reasons: Option<Vec<String>>,
    pub authorities: Option<Vec<String>>,
}

impl HoldFilter {
    fn lets_through(&self, hold: &Hold) -> bool {
        let reason_fits = self.reasons.as_ref().is_none_or(|reasons| reasons.contains(&hold.reason));
        let authority_fits = self
            .authorities
            .as_ref()
            .is_none_or(|them| hold.authority.as_ref().is_some_and(|authority| them.contains(authority)));
        reason_fits && authority_fits
    }
}

/// An occurrence, as far as rules look at it.
#[derive(Clone)]
pub struct Occurrence {
    pub milestone: String,
    pub class: Option<String>,
    pub time: Millis,
    pub append: Millis,
    pub position: usize,
    pub zone_assumed: bool,
    facility: Option<String>,
}

/// The parcel after the records folded so far; made anew from all of them after each.
pub struct Known {
    /// by event_time, then append time, then log order
    pub occurrences: Vec<Occurrence>,
    pub claim: Option<Claim>,
    facts: BTreeMap<String, Value>,
    holds: Vec<Hold>,
    documents: BTreeSet<String>,
    documents_added: Option<Millis>,
}

/// 2.1: of what was told with (event_time, append time), the latest; at equal times the greater JSON text.
fn latest<K: Ord, T>(told: impl Iterator<Item = (Millis, Millis, K, T)>) -> Option<T> {
    told.max_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2))).map(|told| told.3)
}

/// A dotted name looks inside an object.
fn look_up<'a>(body: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let mut parts = name.split('.');
    let mut value = body.get(parts.next()?)?;
    for part in parts {
        value = value.as_object()?.get(part)?;
    }
    Some(value)
}

/// 2.1: null, the text `unknown` and an empty list state nothing.
fn states_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => text != "unknown",
        Value::Array(list) => !list.is_empty(),
        _ => true,
    }
}

/// 2.1, 2.2, 2.7: the facts that a record states, each with its JSON text.
pub fn stated(record: &Record, declared: &[String]) -> Vec<(String, String, Value)> {
    let names = FACTS.iter().map(|name| name.to_string()).chain(declared.iter().cloned());
    let mut stated: Vec<(String, String, Value)> = names
        .filter_map(|name| {
            let value = look_up(&record.body, &name).filter(|value| states_something(value))?;
            Some((name, value.to_string(), value.clone()))
        })
        .collect();
    if record.is_occurrence() {
        let success = Value::from("success");
        stated.push(("feed_status".to_string(), success.to_string(), success));
    }
    stated
}

/// 2.1: of every fact the value that counts.
fn facts(records: &[Record]) -> BTreeMap<String, Value> {
    let mut told: BTreeMap<&str, Vec<(Millis, Millis, &str, &Value)>> = BTreeMap::new();
    for record in records {
        for (name, text, value) in &record.states {
            told.entry(name).or_default().push((record.time, record.append, text, value));
        }
    }
    let counts = |told: Vec<(Millis, Millis, &str, &Value)>| latest(told.into_iter()).expect("told").clone();
    told.into_iter().map(|(name, told)| (name.to_string(), counts(told))).collect()
}

/// 3.1, 3.2: the occurrences that no retraction has taken back, in order of time.
fn occurrences(records: &[Record], taken_back: &BTreeSet<&str>) -> Vec<Occurrence> {
    let mut list: Vec<Occurrence> = records
        .iter()
        .filter(|record| record.is_occurrence())
        .filter(|record| record.id.as_deref().is_none_or(|id| !taken_back.contains(id)))
        .map(|record| Occurrence {
            milestone: record.milestone.clone().expect("an occurrence has a milestone"),
            class: record.class.clone(),
            time: record.time,
            append: record.append,
            position: record.position,
            zone_assumed: record.zone_assumed,
            facility: record.facility.clone(),
        })
        .collect();
    list.sort_by_key(|o| (o.time, o.append, o.position));
    list
}

/// 3.3: does this occurrence open a hold, and which.
fn opens(record: &Record) -> Option<Option<String>> {
    let opening = match record.milestone.as_deref()? {
        "import_customs_held" => true,
        "import_customs_info_required" | "import_customs_inspection" => record.hold.is_some(),
        _ => false,
    };
    opening.then(|| hold_id(record))
}

fn hold_id(record: &Record) -> Option<String> {
    record.hold.as_ref()?.get("id")?.as_str().map(str::to_string)
}

/// 3.4: does this occurrence close the hold of that id.
fn closes(record: &Record, id: &Option<String>) -> bool {
    let Some(milestone) = record.milestone.as_deref() else { return false };
    let released = milestone == "import_customs_hold_released" && hold_id(record) == *id;
    released || (id.is_none() && CLOSES_THE_STATUS.contains(&milestone))
}

/// 3.5: a text of the hold object, the latest told among these openings.
fn told_of_hold(openings: &[&Record], field: &str) -> Option<String> {
    latest(openings.iter().filter_map(|record| {
        let value = record.hold.as_ref()?.get(field)?;
        let text = value.as_str().filter(|text| *text != "unknown")?;
        Some((record.time, record.append, value.to_string(), text.to_string()))
    }))
}

/// 3.3 to 3.5
fn holds(records: &[Record], taken_back: &BTreeSet<&str>) -> Vec<Hold> {
    let events: Vec<&Record> = records
        .iter()
        .filter(|r| r.is_occurrence() && r.id.as_deref().is_none_or(|id| !taken_back.contains(id)))
        .collect();
    let ids: BTreeSet<Option<String>> = events.iter().filter_map(|record| opens(record)).collect();
    let mut holds = Vec::new();
    for id in ids {
        let openings: Vec<&Record> =
            events.iter().copied().filter(|r| opens(r).as_ref() == Some(&id)).collect();
        let closings: Vec<Millis> = events.iter().filter(|r| closes(r, &id)).map(|r| r.time).collect();
        let last_opening = openings.iter().map(|r| r.time).max().expect("an id comes of an opening");
        let closed = closings.iter().copied().filter(|&closing| closing >= last_opening).min();
        // the period that the latest opening belongs to began after the closing before it
        let closed_before = closings.iter().copied().filter(|&closing| closing < last_opening).max();
        let period: Vec<&Record> =
            openings.into_iter().filter(|r| closed_before.is_none_or(|closing| r.time > closing)).collect();
        holds.push(Hold {
            reason: told_of_hold(&period, "reason").unwrap_or_else(|| "unknown".to_string()),
            authority: told_of_hold(&period, "authority"),
            respond_by: told_of_hold(&period, "respond_by").as_deref().and_then(parse_instant),
            opened: period.iter().map(|r| r.time).min().expect("the latest opening is in it"),
            closed,
        });
    }
    holds
}

/// 3.9: the claim of the latest record that states both and can be read.
fn claim(records: &[Record]) -> Option<Claim> {
    latest(records.iter().filter_map(|record| {
        let milestone = record.body.get("next_expected_milestone")?.as_str()?;
        let by_text = record.body.get("next_expected_by")?.as_str()?;
        rank(milestone)?;
        let claim = Claim {
            milestone: milestone.to_string(),
            by: parse_instant(by_text)?,
            time: record.time,
            made_by: record.milestone.clone(),
        };
        Some((record.time, record.append, format!("{milestone} {by_text}"), claim))
    }))
}

impl Known {
    pub fn of(records: &[Record]) -> Known {
        let taken_back: BTreeSet<&str> = records
            .iter()
            .filter(|record| record.is_retraction())
            .flat_map(|record| record.retracts.iter().map(String::as_str))
            .collect();
        let named_documents = records.iter().filter_map(|record| {
            let list = record.body.get("documents")?.as_array()?;
            (!list.is_empty()).then_some((record.time, list))
        });
        let documents = named_documents
            .clone()
            .flat_map(|(_, list)| list.iter().filter_map(|d| d.get("type")?.as_str().map(str::to_string)));
        Known {
            occurrences: occurrences(records, &taken_back),
            claim: claim(records),
            facts: facts(records),
            holds: holds(records, &taken_back),
            documents: documents.collect(),
            documents_added: named_documents.map(|(time, _)| time).max(),
        }
    }

    /// 3.7
    pub fn terminal(&self) -> Vec<String> {
        self.seen().into_iter().filter(|milestone| TERMINAL.contains(&milestone.as_str())).collect()
    }

    /// 2.8
    fn seen(&self) -> BTreeSet<String> {
        self.occurrences.iter().map(|occurrence| occurrence.milestone.clone()).collect()
    }

    fn last_milestone(&self) -> Option<String> {
        let last = self.occurrences.iter().max_by_key(|o| (o.time, o.append, o.milestone.clone()))?;
        Some(last.milestone.clone())
    }

    /// 3.8: the run of `facility_since`: its beginning, and how many occurrences name its facility.
    fn facility_run(&self) -> Option<(Millis, usize)> {
        let mut run: Option<(&str, Millis, usize)> = None;
        let mut rank_before: Option<u32> = None;
        for occurrence in &self.occurrences {
            let rank = rank(&occurrence.milestone).expect("an occurrence's milestone is known");
            match (&occurrence.facility, run) {
                (Some(facility), Some((at, since, scans))) if facility == at => {
                    run = Some((at, since, scans + 1))
                }
                (Some(facility), _) => run = Some((facility, occurrence.time, 1)),
                (None, _) if rank_before.is_some_and(|before| rank > before) => run = None,
                (None, _) => {}
            }
            rank_before = Some(rank);
        }
        run.map(|(_, since, scans)| (since, scans))
    }

    fn holds_seen<'a>(&'a self, filter: &'a HoldFilter) -> impl Iterator<Item = &'a Hold> {
        self.holds.iter().filter(|hold| filter.lets_through(hold))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.facts.get(name)?.as_str()
    }

    fn fact_instant(&self, name: &str) -> Option<Millis> {
        parse_instant(self.text(name)?)
    }

    /// 2.6: whole days of 24 hours, 60 by default; anything else is no guarantee.
    fn guarantee_end(&self) -> Option<Millis> {
        let days = match self.facts.get("guarantee_days") {
            None => 60,
            Some(value) => value.as_i64()?,
        };
        Some(self.fact_instant("guarantee_start")? + days * DAY)
    }

    /// 3.6
    fn fully_cleared(&self) -> Option<Millis> {
        let clearances = self.occurrences.iter().filter(|o| o.milestone == "import_customs_cleared");
        let first = clearances.map(|o| o.time).min()?;
        if self.holds.iter().any(|hold| hold.closed.is_none()) {
            return None;
        }
        self.holds.iter().filter_map(|hold| hold.closed).chain([first]).max()
    }

    /// The derived times (DESIGN 3, SEMANTICS 2.6, 3.6, 3.8, 3.9), with the rule's view of holds (5.11).
    pub fn derived_time(&self, name: &str, filter: &HoldFilter) -> Option<Millis> {
        let open = || self.holds_seen(filter).filter(|hold| hold.closed.is_none());
        let occurrence_times = || self.occurrences.iter().map(|occurrence| occurrence.time);
        match name {
            "import_customs_fully_cleared" => self.fully_cleared(),
            "hold_opened" => open().map(|hold| hold.opened).min(),
            "hold_respond_by" => open().filter_map(|hold| hold.respond_by).min(),
            "holds_closed" if open().next().is_some() => None,
            "holds_closed" => self.holds_seen(filter).filter_map(|hold| hold.closed).max(),
            "documents_added" => self.documents_added,
            "first_event" => occurrence_times().min(),
            "last_event" => occurrence_times().max(),
            "last_scan" => {
                let scans = self.occurrences.iter().filter(|o| o.class.as_deref() == Some("physical_scan"));
                scans.map(|o| o.time).max()
            }
            "facility_since" => self.facility_run().map(|(since, _)| since),
            "guarantee_start" | "duty_due_by" => self.fact_instant(name),
            "guarantee_end" => self.guarantee_end(),
            "next_expected_by" => self.claim.as_ref().map(|claim| claim.by),
            _ => panic!("{name} is no derived time"),
        }
    }

    /// 2: every fact that a matcher can name. A list that the parcel always has (2.4, 2.8, 3.5, 3.7) may be empty.
    pub fn fact(&self, name: &str, filter: &HoldFilter) -> Option<Fact> {
        let list = |texts: Vec<String>| Some(Fact::Json(Value::from(texts)));
        let open = || self.holds_seen(filter).filter(|hold| hold.closed.is_none());
        match name {
            "holds_open" => Some(Fact::Json(Value::from(open().count()))),
            "hold_reasons" => list(open().map(|hold| hold.reason.clone()).collect()),
            "terminal" => list(self.terminal()),
            "seen" => list(self.seen().into_iter().collect()),
            "documents" => list(self.documents.iter().cloned().collect()),
            "missing_documents" => list(self.missing_documents()),
            "last_milestone" => self.last_milestone().map(|text| Fact::Json(Value::from(text))),
            "facility_scans" => self.facility_run().map(|(_, scans)| Fact::Json(Value::from(scans))),
            "weak_description" => self.weak_description().map(|weak| Fact::Json(Value::from(weak))),
            "landed_cost_drift" => self.drift().map(|(drift, _)| Fact::Number(drift)),
            "landed_cost_drift_percent" => {
                self.drift().map(|(drift, quoted)| Fact::Number(drift.percent_of(quoted)))
            }
            "origin" | "destination" if !self.facts.contains_key(name) => {
                // 2.3
                let part = if name == "origin" { 0 } else { 1 };
                let part = self.text("lane")?.split('-').nth(part)?;
                Some(Fact::Json(Value::from(part)))
            }
            _ => self.facts.get(name).cloned().map(Fact::Json),
        }
    }

    /// 2.4
    fn missing_documents(&self) -> Vec<String> {
        match self.facts.get("category_forced_labour") {
            None | Some(Value::Bool(false)) => Vec::new(),
            Some(_) => ["certificate_of_origin", "supplier_declaration"]
                .into_iter()
                .filter(|document| !self.documents.contains(*document))
                .map(str::to_string)
                .collect(),
        }
    }

    /// 2.4
    fn weak_description(&self) -> Option<bool> {
        let items = self.facts.get("items")?.as_array()?;
        Some(items.iter().filter_map(|item| item.get("description")?.as_str()).any(is_weak))
    }

    /// 2.5: the drift and the quote it is measured by.
    fn drift(&self) -> Option<(Exact, Exact)> {
        let money = |name: &str| {
            let object = self.facts.get(name)?.as_object()?;
            Some((Exact::parse(object.get("amount")?.as_str()?)?, object.get("currency")?.as_str()?))
        };
        let (quoted, quoted_currency) = money("landed_cost_quoted")?;
        let (actual, actual_currency) = money("landed_cost_actual")?;
        if quoted_currency != actual_currency || quoted.is_zero() {
            return None;
        }
        Some((actual.minus(quoted), quoted))
    }
}

/// 2.4; of the shipped stop words only those that the reference names (all others of the generator's are short anyway).
fn is_weak(description: &str) -> bool {
    let stop_words =
        ["gift", "parts", "sample", "clothing", "shoes", "accessories", "electronics", "as per invoice"];
    let text = description.trim().to_lowercase();
    let words = text.split_whitespace().count();
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    stop_words.contains(&text.as_str()) || words < 3 || letters < 10
}
