//! What a template may name: the fields of a message's body (DESIGN §11), by the same names.
//!
//! A field that a body lacks is there all the same and empty, so that a template need not ask for each; a name that no body has
//! is undefined, which the engine refuses. What was asked for and is not there is noted: [`super::check`] tells of it even
//! where a default hides it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::Value;
use minijinja::value::{Enumerator, Object};
use serde_json::Value as Json;

use super::Form;

/// A place of a body.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Shape {
    /// Of a text.
    Root,
    /// Of a subject: only what is the same for all messages of its thread.
    SubjectRoot,
    /// `data`.
    Data,
    /// `data` of a subject.
    SubjectData,
    /// `data.counts`.
    Counts,
    /// `data.exceptions`, each.
    Exception,
    /// `last` of an exception.
    Last,
    /// `data.digest`.
    Digest,
    /// `data.feed`.
    Feed,
    /// `ack`, `list`.
    Link,
    /// `data.group`.
    Group,
    /// `facts` of an exception.
    Facts,
    /// Whatever people or sources put there.
    Free,
}

impl Shape {
    /// The names there; none where any may be.
    pub(super) const fn names(self) -> &'static [&'static str] {
        match self {
            Shape::Root => &["type", "timestamp", "data", "subject", "ack", "list"],
            Shape::SubjectRoot => &["subject", "data"],
            Shape::Data => &[
                "notification_id",
                "receiver",
                "policy",
                "step",
                "reason",
                "group_id",
                "group",
                "group_state",
                "counts",
                "truncated",
                "exceptions",
                "summary",
                "digest",
                "feed",
            ],
            Shape::SubjectData => &["receiver", "policy", "group_id", "group"],
            Shape::Counts => &["open", "acknowledged", "resolved"],
            Shape::Exception => &[
                "exception_id",
                "change",
                "rule",
                "rule_hash",
                "title",
                "runbook",
                "labels",
                "parcel_id",
                "episode",
                "stage",
                "severity",
                "state",
                "owner",
                "anchor",
                "due",
                "at",
                "overdue_seconds",
                "resolution",
                "acknowledged_by",
                "tracking_number",
                "carrier_code",
                "order_id",
                "expected",
                "last",
                "facts",
                "url",
                "evidence",
            ],
            Shape::Last => &["milestone", "time", "facility"],
            Shape::Digest => &[
                "cause",
                "since",
                "total",
                "opened",
                "raised",
                "reminders",
                "resolved",
                "by_rule",
                "by_lane",
                "by_carrier",
                "url",
                "csv_url",
            ],
            Shape::Feed => &["source", "lane", "incident", "since", "last_record"],
            Shape::Link => &["url", "until"],
            Shape::Group | Shape::Facts | Shape::Free => &[],
        }
    }

    /// What stands under one of its names, or in each entry of the list there.
    pub(super) fn under(self, name: &str) -> Shape {
        match (self, name) {
            (Shape::Root, "data") => Shape::Data,
            (Shape::SubjectRoot, "data") => Shape::SubjectData,
            (Shape::Root, "ack" | "list") => Shape::Link,
            (Shape::Data | Shape::SubjectData, "group") => Shape::Group,
            (Shape::Data, "counts") => Shape::Counts,
            (Shape::Data, "exceptions") => Shape::Exception,
            (Shape::Data, "digest") => Shape::Digest,
            (Shape::Data, "feed") => Shape::Feed,
            (Shape::Exception, "last") => Shape::Last,
            (Shape::Exception, "facts") => Shape::Facts,
            _ => Shape::Free,
        }
    }

    /// What is there where a body says nothing, or null.
    fn absent(self, name: &str, asked: &Asked) -> Value {
        match (self, name) {
            (Shape::Data, "exceptions" | "summary")
            | (Shape::Exception, "expected")
            | (Shape::Digest, "by_rule" | "by_lane" | "by_carrier") => Value::from(Vec::<Value>::new()),
            (Shape::Exception, "labels") => entries(Shape::Free, None, asked),
            _ => match self.under(name) {
                Shape::Free => Value::from(()),
                below => entries(below, None, asked),
            },
        }
    }
}

/// Names that were asked for and are not there.
type Asked = Arc<Mutex<BTreeSet<(Shape, String)>>>;

/// The places of one body by their names.
#[derive(Debug)]
struct Entries {
    shape: Shape,
    values: BTreeMap<String, Value>,
    /// Some of it was said, as opposed to all of it being empty.
    said: bool,
    asked: Asked,
}

impl Object for Entries {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        if let Some(value) = self.values.get(key) {
            return Some(value.clone());
        }
        if self.shape != Shape::Free {
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert((self.shape, key.to_owned()));
        }
        // A fact that this parcel lacks is empty; a name that no message has is an error.
        self.shape.names().is_empty().then(|| Value::from(()))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        if !self.said {
            return Enumerator::Empty;
        }
        let keys: Vec<Value> = self.values.keys().map(|k| Value::from(k.as_str())).collect();
        Enumerator::Iter(Box::new(keys.into_iter()))
    }
}

/// A mapping of a body. `None`: there is none.
fn entries(shape: Shape, map: Option<&serde_json::Map<String, Json>>, asked: &Asked) -> Value {
    let mut values = BTreeMap::new();
    for (name, json) in map.into_iter().flatten() {
        let value = match json {
            Json::Null => shape.absent(name, asked),
            json => value(shape.under(name), json, asked),
        };
        values.insert(name.clone(), value);
    }
    for name in shape.names() {
        if !values.contains_key(*name) {
            values.insert((*name).to_owned(), shape.absent(name, asked));
        }
    }
    let said = map.is_some_and(|m| !m.is_empty());
    Value::from_object(Entries { shape, values, said, asked: Arc::clone(asked) })
}

fn value(shape: Shape, json: &Json, asked: &Asked) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        // A number with a fraction is printed as it was written, and is not calculated with.
        Json::Number(n) => n.as_i64().map_or_else(|| Value::from(n.to_string()), Value::from),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(list) => Value::from(list.iter().map(|v| value(shape, v, asked)).collect::<Vec<_>>()),
        Json::Object(map) => entries(shape, Some(map), asked),
    }
}

/// A message, as templates see it.
#[derive(Debug, Clone)]
pub struct Context {
    body: serde_json::Map<String, Json>,
    /// What a subject may say.
    thread: serde_json::Map<String, Json>,
    asked: Asked,
}

/// Addresses in a message, each with until when it is good.
#[derive(Debug, Clone, Copy, Default)]
pub struct Links<'a> {
    /// Where it can be acknowledged.
    pub ack: Option<(&'a str, &'a str)>,
    /// Where everything it tells of is as a table.
    pub list: Option<(&'a str, &'a str)>,
}

impl Context {
    /// A message: its body, its built-in subject, its thread, and its links.
    #[must_use]
    pub fn new(body: &Json, subject: &str, thread: &str, links: Links<'_>) -> Context {
        let data = &body["data"];
        // Only messages of one group have its values and its policy: a digest gathers what there is, another one each day.
        let of_thread = data["group_id"] == thread;
        let same = |name: &str, or: Json| if of_thread { data[name].clone() } else { or };
        let group = same("group", serde_json::json!({}));
        let policy = if group.as_object().is_some_and(|g| !g.is_empty()) {
            same("policy", "".into())
        } else {
            "".into()
        };
        let shared = serde_json::json!({
            "subject": subject,
            "data": {"receiver": data["receiver"], "policy": policy, "group_id": thread, "group": group},
        });
        let mut whole = body.clone();
        if let Some(map) = whole.as_object_mut() {
            map.insert("subject".to_owned(), subject.into());
            for (name, link) in [("ack", links.ack), ("list", links.list)] {
                let link = link.map(|(url, until)| serde_json::json!({"url": url, "until": until}));
                map.insert(name.to_owned(), link.unwrap_or_default());
            }
        }
        let map = |json: Json| match json {
            Json::Object(map) => map,
            _ => serde_json::Map::new(),
        };
        Context { body: map(whole), thread: map(shared), asked: Asked::default() }
    }

    /// What a template of this form sees.
    pub(super) fn value(&self, form: Form) -> Value {
        match form {
            Form::Subject => entries(Shape::SubjectRoot, Some(&self.thread), &self.asked),
            _ => entries(Shape::Root, Some(&self.body), &self.asked),
        }
    }

    /// What was asked for since the last look, and is not there.
    pub(super) fn asked(&self) -> BTreeSet<(Shape, String)> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
