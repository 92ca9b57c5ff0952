//! `*_test.yaml` → [`TestFile`], or every problem of it with its place.

mod expectations;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::{Command, Excuse, Test, TestEvent, TestFile};
use crate::model::{DAY, KNOWN_FACTS, Milestone, Time};
use crate::rules::problem::{Problem, Source, code};
use crate::rules::reader::{Fields, Reader};
use crate::rules::{Policies, RuleSet, SourceFile, duration};
use crate::source::decode::{FactNames, decode};
use crate::yaml::{self, Kind as Shape, Node, Value, cut};

/// What offsets count from where no test says so: 2026-01-05T00:00:00Z, a Monday.
pub const START: Time = Time(1_767_571_200_000);
/// The parcel that is meant where none is named.
pub const PARCEL: &str = "P-1";
/// More tests in a file are refused.
const MAX_TESTS: usize = 10_000;
/// Times further from the start are refused: a slip in the year would send reminders for decades.
const MAX_SPAN: i64 = 3_660 * DAY;

pub(super) const FILE_KEYS: [&str; 4] = ["start", "facts", "tests", "excused"];
pub(super) const TEST_KEYS: [&str; 11] =
    ["name", "start", "facts", "events", "feed", "commands", "until", "expect", "never", "only", "exact"];
const FEED_KEYS: [&str; 3] = ["held_back", "lost", "lag"];
const COMMAND_KEYS: [&str; 7] = ["at", "ack", "resolve", "parcel_id", "episode", "by", "comment"];
const EXCUSE_KEYS: [&str; 3] = ["rule", "item", "because"];
/// Fields of an event (domain.md §2) beside the facts; others are probably misspelt.
const EVENT_KEYS: [&str; 21] = [
    "at",
    "told",
    "parcel_id",
    "milestone",
    "control",
    "classifier",
    "evidence_class",
    "event_time",
    "received_time",
    "tz_provenance",
    "event_id",
    "is_test",
    "location",
    "hold",
    "retracts",
    "schema_version",
    "raw",
    "source",
    "final",
    "feed",
    "event_time_original",
];

/// The rules and policies that a file of tests is about.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The rules.
    pub rules: &'a RuleSet,
    /// The policies.
    pub policies: &'a Policies,
}

/// Reads a file. `None` where any problem is an error.
#[must_use]
pub fn parse(file: &SourceFile, known: Known<'_>) -> (Option<TestFile>, Vec<Problem>) {
    let bytes = match &file.content {
        Ok(bytes) => bytes,
        Err(why) => {
            let mut p = Problem::of_file(file.path.clone(), code::UNREADABLE, why.message.clone());
            p.help = Some(why.help.clone());
            return (None, vec![p]);
        }
    };
    let source = Arc::new(Source::new(file.path.clone(), bytes));
    let (node, faults) = match yaml::decode(bytes) {
        Ok(text) => yaml::parse(text),
        Err(fault) => (None, vec![fault]),
    };
    let mut problems: Vec<Problem> = faults.into_iter().map(|f| Problem::of_fault(&source, f)).collect();
    let Some(node) = node.filter(|n| !n.is_null()) else { return (None, problems) };
    let names = FactNames::new(known.rules.declared.iter().map(|d| d.name.as_str()));
    let mut parser = Parser { r: Reader::new(Arc::clone(&source)), known, names, latest: START };
    let read = parser.file(&node);
    problems.extend(parser.r.into_problems());
    problems.sort_by(|a, b| a.order().cmp(&b.order()));
    let good = problems.iter().all(|p| p.level != crate::rules::Level::Error);
    let made = read.filter(|_| good).map(|(tests, excused)| TestFile { source, tests, excused });
    (made, problems)
}

struct Parser<'k> {
    r: Reader,
    known: Known<'k>,
    names: FactNames,
    /// The latest time named in the test being read.
    latest: Time,
}

type Facts<'n> = Vec<(&'n str, &'n Node)>;

impl Parser<'_> {
    fn file(&mut self, node: &Node) -> Option<(Vec<Test>, Vec<Excuse>)> {
        let fields = self.r.fields(node, "a file of tests", &FILE_KEYS)?;
        // Where it is wrong that is told, and the rest is read all the same.
        let start = fields.get("start").and_then(|n| self.instant(n, "`start`")).unwrap_or(START);
        let facts = self.facts(fields.get("facts"));
        let Some(list) = fields.get("tests") else {
            self.r.missing(
                &node.at,
                "a file of tests",
                "tests",
                "write `tests:` and one test after another, each after `- `",
            );
            return None;
        };
        let items = self.r.list(list, "`tests`")?;
        if items.len() > MAX_TESTS {
            let help = "spread them over several files";
            self.r.error(code::TOO_LARGE, &list.at, format!("more than {MAX_TESTS} tests in one file"), help);
            return None;
        }
        let mut tests = Vec::with_capacity(items.len());
        let mut seen = BTreeSet::new();
        for item in items {
            if let Some(test) = self.test(item, start, &facts) {
                if !seen.insert(test.name.clone()) {
                    let help = "say what is different about this one";
                    self.r.error(code::DEFINED_TWICE, &item.at, "two tests have the same name", help);
                }
                tests.push(test);
            }
        }
        let excused = fields.get("excused").map(|n| self.excuses(n)).unwrap_or_default();
        Some((tests, excused))
    }

    fn excuses(&mut self, node: &Node) -> Vec<Excuse> {
        let mut all = Vec::new();
        for item in self.r.list(node, "`excused`").unwrap_or_default() {
            let Some(fields) = self.r.fields(item, "an excuse", &EXCUSE_KEYS) else { continue };
            let mut text = |key: &str, help: &str| match fields.get(key) {
                Some(n) => self.r.text(n, &format!("`{key}`")).map(str::to_owned),
                None => {
                    self.r.missing(&item.at, "an excuse", key, help);
                    None
                }
            };
            let rule = text("rule", "name the rule, or the policy, that it is about");
            let what = text("item", "copy what `test --coverage` or `test --mutate` prints");
            let because = text("because", "say why no test can or need ask for it");
            if let (Some(rule), Some(item_text), Some(because)) = (rule, what, because)
                && let Some(node) = fields.get("rule")
                && self.rule_or_policy(node, &rule)
            {
                all.push(Excuse { rule, item: item_text, because, place: self.r.place(&item.at) });
            }
        }
        all
    }

    fn test(&mut self, node: &Node, start: Time, file_facts: &Facts<'_>) -> Option<Test> {
        let fields = self.r.fields(node, "a test", &TEST_KEYS)?;
        let name = match fields.get("name") {
            Some(n) => self.r.text(n, "`name`").map(str::to_owned),
            None => {
                self.r.missing(&node.at, "a test", "name", "say in a sentence what it shows");
                None
            }
        };
        let start = fields.get("start").and_then(|n| self.instant(n, "`start`")).unwrap_or(start);
        self.latest = start;
        let own = self.facts(fields.get("facts"));
        let mut facts: Facts<'_> =
            file_facts.iter().filter(|(k, _)| own.iter().all(|(o, _)| o != k)).copied().collect();
        facts.extend(own);
        let events = self.events(&fields, start, &facts, node);
        let feed = fields.get("feed").map(|n| self.feed(n, start));
        let (held_back, lost, lag) = feed.unwrap_or_default();
        let commands = fields.get("commands").map(|n| self.commands(n, start)).unwrap_or_default();
        let expect = self.expectations(&fields, "expect", start);
        let never = self.expectations(&fields, "never", start);
        let only = fields.get("only").map(|n| self.only(n));
        let exact = fields.get("exact").is_some_and(|n| self.r.flag(n, "`exact`").unwrap_or(false));
        let until = fields.get("until").and_then(|n| self.time(n, start, "`until`"));
        let asks = fields.get("expect").is_some() || fields.get("never").is_some() || exact;
        if !asks && !self.r.has_refused(&node.at) {
            let help = "say what must happen (`expect`), what must not (`never`), or `exact: true` for nothing at all";
            self.r.error(code::MISSING_KEY, &node.at, "this test expects nothing, so it cannot fail", help);
        }
        Some(Test {
            name: name?,
            place: self.r.place(&node.at),
            start,
            events,
            held_back,
            lost,
            lag,
            commands,
            until: until.unwrap_or(self.latest),
            expect,
            never,
            only,
            exact,
        })
    }

    fn only(&mut self, node: &Node) -> BTreeSet<String> {
        let items = self.r.one_or_many(node, "`only`").unwrap_or_default();
        items.iter().filter_map(|n| self.rule(n)).collect()
    }

    // ---- times

    fn instant(&mut self, node: &Node, what: &str) -> Option<Time> {
        let text = self.r.text(node, what)?;
        let time =
            if text.len() == 10 { Time::parse(&format!("{text}T00:00:00Z")) } else { Time::parse(text) };
        if time.is_none() {
            let help = "write a date (2026-10-01, which means 00:00 UTC) or a time with its offset (2026-10-01T08:00:00+02:00)";
            self.r.error(code::BAD_VALUE, &node.at, format!("{what}: `{}` is no time", cut(text)), help);
        }
        time
    }

    /// An offset from `start`, or a time.
    fn time(&mut self, node: &Node, start: Time, what: &str) -> Option<Time> {
        let text = self.r.text(node, what)?;
        let time = match text.split_at_checked(1) {
            Some((sign @ ("+" | "-"), rest)) => match duration::parse_elapsed(rest) {
                Ok(ms) => Some(if sign == "+" { start.plus(ms) } else { start.minus(ms) }),
                Err((message, help)) => {
                    self.r.error(code::BAD_DURATION, &node.at, format!("{what}: {message}"), help);
                    return None;
                }
            },
            _ if text.len() == 10 => Time::parse(&format!("{text}T00:00:00Z")),
            _ => Time::parse(text),
        };
        match time {
            Some(time) if time.0.abs_diff(start.0) > MAX_SPAN.unsigned_abs() => {
                let message = format!("{what}: `{}` is more than ten years from the start", cut(text));
                let help = format!("look at its year; the test starts at {start}");
                self.r.error(code::BAD_VALUE, &node.at, message, help);
                return None;
            }
            Some(time) => self.latest = self.latest.max(time),
            None => {
                let help = if duration::parse(text).is_ok() {
                    format!("an offset from `start` has a sign: +{text}")
                } else {
                    "write an offset from `start` (+48h, +1d12h, -2h) or a time with its zone (2026-10-01T08:00:00Z)".to_owned()
                };
                self.r.error(code::BAD_VALUE, &node.at, format!("{what}: `{}` is no time", cut(text)), help);
            }
        }
        time
    }

    fn window(&mut self, node: &Node, start: Time, what: &str) -> Option<(Time, Time)> {
        let fields = self.r.fields(node, what, &["from", "to"])?;
        let mut end = |key: &str| match fields.get(key) {
            Some(n) => self.time(n, start, &format!("`{key}`")),
            None => {
                self.r.missing(&node.at, what, key, "write {from: +10h, to: +20h}");
                None
            }
        };
        let (from, to) = (end("from"), end("to"));
        let (from, to) = (from?, to?);
        if from >= to {
            let help = "`from` is the first moment of it, `to` the first moment after it";
            self.r.error(code::CONTRADICTION, &node.at, "`to` is not after `from`", help);
            return None;
        }
        Some((from, to))
    }

    #[allow(clippy::type_complexity, reason = "the three kinds of windows")]
    fn feed(
        &mut self,
        node: &Node,
        start: Time,
    ) -> (Vec<(Time, Time)>, Vec<(Time, Time)>, Vec<(Time, Time)>) {
        let Some(fields) = self.r.fields(node, "`feed`", &FEED_KEYS) else { return Default::default() };
        let mut of = |key: &str| {
            let items =
                fields.get(key).and_then(|n| self.r.one_or_many(n, &format!("`{key}`"))).unwrap_or_default();
            items.iter().filter_map(|n| self.window(n, start, &format!("`{key}`"))).collect::<Vec<_>>()
        };
        (of("held_back"), of("lost"), of("lag"))
    }

    // ---- names

    /// A rule's id.
    fn rule(&mut self, node: &Node) -> Option<String> {
        let id = self.r.text(node, "the rule")?;
        if self.known.rules.rule(id).is_none() {
            let message = format!("there is no rule `{}`", cut(id));
            let all: Vec<String> = self.known.rules.rules.iter().map(|r| r.id.to_string()).collect();
            self.r.unknown(code::UNDEFINED, &node.at, message, id, all.iter().map(String::as_str));
            return None;
        }
        Some(id.to_owned())
    }

    /// Whether there is a rule or a policy of this id.
    fn rule_or_policy(&mut self, node: &Node, id: &str) -> bool {
        let Known { rules, policies } = self.known;
        let ids =
            || rules.rules.iter().map(|r| &*r.id).chain(policies.policies.iter().map(|p| p.id.as_str()));
        let there = ids().any(|known| known == id);
        if !there {
            let message = format!("there is no rule and no policy `{}`", cut(id));
            let all: Vec<&str> = ids().collect();
            self.r.unknown(code::UNDEFINED, &node.at, message, id, all);
        }
        there
    }

    fn receiver(&mut self, node: &Node) -> Option<String> {
        let id = self.r.text(node, "the receiver")?;
        if self.known.policies.receiver(id).is_none() {
            let message = format!("there is no receiver `{}`", cut(id));
            let all: Vec<String> = self.known.policies.receivers.iter().map(|r| r.id.clone()).collect();
            self.r.unknown(code::UNDEFINED, &node.at, message, id, all.iter().map(String::as_str));
            return None;
        }
        Some(id.to_owned())
    }

    // ---- what happens

    /// Facts that first events state.
    fn facts<'n>(&mut self, node: Option<&'n Node>) -> Facts<'n> {
        let Some(entries) = node.and_then(|n| self.r.map(n, "`facts`")) else { return Vec::new() };
        let mut facts = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let Some(name) = key.text() else { continue };
            self.field(name, key);
            facts.push((name, value));
        }
        facts
    }

    /// Complains of a field that no event has.
    fn field(&mut self, name: &str, key: &Node) {
        let top = |n: &&str| n.split('.').next().unwrap_or_default().to_owned();
        let declared: Vec<String> = self.known.rules.declared.iter().map(|d| top(&d.name.as_str())).collect();
        let mut names: BTreeSet<String> = KNOWN_FACTS.iter().map(top).filter(|n| !n.is_empty()).collect();
        names.extend(declared);
        names.extend(EVENT_KEYS.map(str::to_owned));
        if names.contains(name) {
            return;
        }
        let message = format!("an event has no field `{}`", cut(name));
        let help = crate::rules::problem::did_you_mean(name, names.iter().map(String::as_str))
            .unwrap_or_else(|| {
                "a fact of your own is declared in the rules, as `facts: [{name: warehouse_zone}]`".into()
            });
        self.r.error(code::UNKNOWN_KEY, &key.at, message, help);
    }

    fn events(&mut self, fields: &Fields<'_>, start: Time, facts: &Facts<'_>, node: &Node) -> Vec<TestEvent> {
        let Some(list) = fields.get("events") else {
            self.r.missing(
                &node.at,
                "a test",
                "events",
                "write what happens, as in `events: [{at: +0h, milestone: delivered}]`",
            );
            return Vec::new();
        };
        let mut drafts = Vec::new();
        for (number, item) in self.r.list(list, "`events`").unwrap_or_default().iter().enumerate() {
            drafts.extend(self.event(item, start, number));
        }
        // The first of each parcel that is told states the facts.
        let mut order: Vec<usize> = (0..drafts.len()).collect();
        order.sort_by_key(|i| drafts[*i].told);
        let mut begun = BTreeSet::new();
        for i in order {
            let draft: &mut Draft<'_> = &mut drafts[i];
            if begun.insert(draft.parcel.clone()) {
                for (name, value) in facts {
                    if draft.fields.iter().all(|(n, _)| n != name) {
                        draft.fields.push((name, value));
                    }
                }
            }
        }
        drafts.into_iter().filter_map(|d| self.written(&d)).collect()
    }

    fn event<'n>(&mut self, node: &'n Node, start: Time, number: usize) -> Option<Draft<'n>> {
        let entries = self.r.map(node, "an event")?;
        let mut draft = Draft {
            at: None,
            told: start,
            parcel: PARCEL.to_owned(),
            number,
            place: node.at.clone(),
            fields: Vec::with_capacity(entries.len()),
        };
        let mut told = None;
        for (key, value) in entries {
            let Some(name) = key.text() else { continue };
            self.field(name, key);
            match name {
                "at" => draft.at = Some(self.time(value, start, "`at`")?),
                "told" => told = Some(self.time(value, start, "`told`")?),
                "parcel_id" => {
                    value.text().unwrap_or(PARCEL).clone_into(&mut draft.parcel);
                    draft.fields.push((name, value));
                }
                "milestone" => {
                    self.milestone(value);
                    draft.fields.push((name, value));
                }
                _ => draft.fields.push((name, value)),
            }
        }
        if draft.at.is_none() && node.get("event_time").is_none() {
            self.r.missing(
                &node.at,
                "an event",
                "at",
                "say when it happened, as an offset from `start`: `at: +0h`",
            );
            return None;
        }
        draft.told = told.or(draft.at).unwrap_or(start);
        Some(draft)
    }

    fn milestone(&mut self, node: &Node) {
        let Some(name) = node.text() else { return };
        if Milestone::from_name(name).is_none() && name != "unmapped" {
            let message = format!("`{}` is no milestone", cut(name));
            let help = crate::rules::problem::did_you_mean(name, Milestone::ALL.iter().map(|m| m.name()))
                .unwrap_or_else(|| {
                    "write `unmapped` where a record with an unknown milestone is meant".into()
                });
            self.r.error(code::UNKNOWN_MILESTONE, &node.at, message, help);
        }
    }

    /// The record as JSON; it must be one that is folded.
    fn written(&mut self, draft: &Draft<'_>) -> Option<TestEvent> {
        let mut map = serde_json::Map::new();
        map.insert("parcel_id".into(), draft.parcel.clone().into());
        map.insert("event_id".into(), format!("test-{}", draft.number + 1).into());
        if let Some(at) = draft.at {
            map.insert("event_time".into(), at.to_string().into());
        }
        map.insert("received_time".into(), draft.told.to_string().into());
        for (name, value) in &draft.fields {
            map.insert((*name).to_owned(), json(value));
        }
        let json = serde_json::Value::Object(map).to_string();
        if let Err(reject) = decode(json.as_bytes(), &self.names) {
            let help = match reject.reason.name() {
                "missing_milestone" => "an event has a `milestone` or a `control`",
                "unknown_control" => {
                    "see the list of control records in the README; a milestone stands under `milestone`"
                }
                _ => "the daemon would reject such a record; correct the event",
            };
            let message = format!("this event is no record: {}", reject.reason.name());
            self.r.error(code::BAD_VALUE, &draft.place, message, help);
            return None;
        }
        Some(TestEvent { told: draft.told, json, at: draft.place.clone() })
    }

    fn commands(&mut self, node: &Node, start: Time) -> Vec<Command> {
        let mut commands = Vec::new();
        for item in self.r.list(node, "`commands`").unwrap_or_default() {
            commands.extend(self.command(item, start));
        }
        commands.sort_by_key(|c| c.at);
        commands
    }

    fn command(&mut self, node: &Node, start: Time) -> Option<Command> {
        let fields = self.r.fields(node, "a command", &COMMAND_KEYS)?;
        let at = match fields.get("at") {
            Some(n) => self.time(n, start, "`at`"),
            None => {
                self.r.missing(&node.at, "a command", "at", "say when, as in `at: +30h`");
                None
            }
        };
        let (rule, resolve) = match (fields.get("ack"), fields.get("resolve")) {
            (Some(n), None) => (self.rule(n), false),
            (None, Some(n)) => (self.rule(n), true),
            _ => {
                let help = "write `ack: RULE` or `resolve: RULE`";
                self.r.lacks(&node.at, "a command acknowledges or resolves one exception".to_owned(), help);
                return None;
            }
        };
        let mut text = |key: &str, default: &str| match fields.get(key) {
            Some(n) => self.r.text(n, &format!("`{key}`")).unwrap_or_default().to_owned(),
            None => default.to_owned(),
        };
        let (parcel_id, by, comment) =
            (text("parcel_id", PARCEL), text("by", "somebody"), text("comment", ""));
        let episode = fields.get("episode").and_then(|n| self.time(n, start, "`episode`"));
        Some(Command {
            at: at?,
            rule: rule?,
            parcel_id,
            episode: episode.map(|t| t.to_string()).unwrap_or_default(),
            by,
            comment,
            resolve,
            place: self.r.place(&node.at),
        })
    }
}

/// An event before it is a record.
struct Draft<'n> {
    at: Option<Time>,
    told: Time,
    parcel: String,
    number: usize,
    place: Range<usize>,
    fields: Facts<'n>,
}

/// A value as JSON; a plain number keeps its digits.
fn json(node: &Node) -> serde_json::Value {
    match &node.kind {
        Shape::Seq(items) => items.iter().map(json).collect(),
        Shape::Map(entries) => entries
            .iter()
            .filter_map(|(k, v)| Some((k.text()?.to_owned(), json(v))))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Shape::Refused => serde_json::Value::Null,
        Shape::Scalar { text, .. } => match node.value() {
            Some(Value::Bool(b)) => b.into(),
            Some(Value::Number(_)) => serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into()),
            Some(Value::Null) => serde_json::Value::Null,
            _ => text.as_str().into(),
        },
    }
}
