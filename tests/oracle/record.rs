//! Lines of a file become records (DESIGN 3, SEMANTICS 1).
use super::time::{MINUTE, Millis, parse_instant};
use super::vocabulary::{CONTROLS, rank};
use serde_json::{Map, Value};

pub struct Record {
    /// the place in the order of folding
    pub position: usize,
    pub parcel_id: String,
    pub append: Millis,
    /// 1.6: the event_time, or the append time where that lies in the future
    pub time: Millis,
    /// what 1.4 compares: the event_id, or the derived one; none for a retraction or a bare control record without event_id
    pub id: Option<String>,
    pub control: Option<String>,
    /// a milestone of the vocabulary; an unmapped one is none
    pub milestone: Option<String>,
    /// 1.7: not estimated, not planned
    pub actual: bool,
    pub class: Option<String>,
    pub facility: Option<String>,
    pub hold: Option<Map<String, Value>>,
    pub retracts: Vec<String>,
    /// 5.3: `tz_provenance: assumed`
    pub zone_assumed: bool,
    pub is_test: bool,
    pub body: Map<String, Value>,
    /// the facts that it states, with their JSON texts; filled in where the record is folded
    pub states: Vec<(String, String, Value)>,
}

impl Record {
    /// 1.7, 1.8: a known milestone that happened.
    pub fn is_occurrence(&self) -> bool {
        self.milestone.is_some() && self.actual
    }

    pub fn is_retraction(&self) -> bool {
        self.control.as_deref() == Some("event_retracted")
    }
}

/// What a line is: it moves the clock to `append`, and may hold a record to fold.
pub struct Arrival {
    pub append: Millis,
    pub record: Option<Record>,
}

fn text(body: &Map<String, Value>, key: &str) -> Option<String> {
    body.get(key).and_then(Value::as_str).map(str::to_string)
}

fn instant(body: &Map<String, Value>, key: &str) -> Option<Millis> {
    body.get(key).and_then(Value::as_str).and_then(parse_instant)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// DESIGN 3: empty, too large, not UTF-8, not JSON, not an object, too deep: nothing of such a line can be read.
fn object(line: &[u8]) -> Option<Map<String, Value>> {
    if line.len() > 1024 * 1024 {
        return None;
    }
    let value: Value = serde_json::from_str(std::str::from_utf8(line).ok()?).ok()?;
    if depth(&value) > 64 {
        return None;
    }
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// 1.1: a line's append time is its `received_time`, else its `event_time`; without either it moves nothing.
fn arrival(line: &[u8]) -> Option<Arrival> {
    let body = object(line)?;
    let append = instant(&body, "received_time").or_else(|| instant(&body, "event_time"))?;
    Some(Arrival { append, record: record(body, append) })
}

/// None where the record is rejected, or is about a feed and no parcel (2.7).
fn record(body: Map<String, Value>, append: Millis) -> Option<Record> {
    let parcel_id = text(&body, "parcel_id")?;
    let control = text(&body, "control");
    let stated_milestone = text(&body, "milestone");
    if control.is_none() && stated_milestone.is_none() {
        return None;
    }
    let stated_time = instant(&body, "event_time")?;
    if control.as_deref().is_some_and(|control| !CONTROLS.contains(&control)) {
        return None;
    }
    let milestone = stated_milestone.clone().filter(|name| rank(name).is_some());
    let is_retraction = control.as_deref() == Some("event_retracted");
    let id = text(&body, "event_id").or_else(|| {
        stated_milestone.as_ref().filter(|_| !is_retraction)?;
        let code = match &milestone {
            Some(name) => name.clone(),
            None => body.get("raw").and_then(|raw| raw.get("code")).map(Value::to_string).unwrap_or_default(),
        };
        let location = body.get("location").filter(|l| l.is_object()).map(Value::to_string);
        Some(format!("derived {code} {stated_time} {}", location.unwrap_or_default()))
    });
    let location = body.get("location").and_then(Value::as_object);
    let retracts = match body.get("retracts").and_then(Value::as_array) {
        Some(ids) => ids.iter().filter_map(Value::as_str).map(str::to_string).collect(),
        None => Vec::new(),
    };
    let in_the_future = stated_time > append + 15 * MINUTE;
    Some(Record {
        position: 0,
        parcel_id,
        append,
        time: if in_the_future { append } else { stated_time },
        id,
        milestone,
        actual: !matches!(text(&body, "classifier").as_deref(), Some("estimated" | "planned")),
        class: text(&body, "evidence_class"),
        facility: location.and_then(|l| text(l, "facility")).filter(|facility| facility != "unknown"),
        hold: body.get("hold").and_then(Value::as_object).cloned(),
        retracts,
        zone_assumed: text(&body, "tz_provenance").as_deref() == Some("assumed"),
        is_test: body.get("is_test") == Some(&Value::Bool(true)),
        control,
        body,
        states: Vec::new(),
    })
}

/// 1.2: all lines by append time, stably; with `until`, those appended after it are not read (7.5).
pub fn arrivals(events: &[u8], until: Option<Millis>) -> Vec<Arrival> {
    let mut arrivals: Vec<Arrival> = events.split(|&byte| byte == b'\n').filter_map(arrival).collect();
    arrivals.sort_by_key(|arrival| arrival.append);
    arrivals.retain(|arrival| until.is_none_or(|until| arrival.append <= until));
    for (position, arrival) in arrivals.iter_mut().enumerate() {
        if let Some(record) = &mut arrival.record {
            record.position = position;
        }
    }
    arrivals
}
