//! What a test expects, and what it forbids.

use super::{PARCEL, Parser};
use crate::escalation::Reason;
use crate::model::{Resolution, Severity, Time};
use crate::rules::problem::code;
use crate::rules::reader::Fields;
use crate::testing::{Expectation, Kind};
use crate::yaml::{Kind as Shape, Node, Value};

const EXPECT_KEYS: [&str; 22] = [
    "opened",
    "raised",
    "resolved",
    "notify",
    "at",
    "between",
    "from",
    "to",
    "parcel_id",
    "episode",
    "stage",
    "severity",
    "due",
    "anchor",
    "evidence",
    "owner",
    "policy",
    "resolution",
    "step",
    "reason",
    "rule",
    "change",
];

const REASONS: [Reason; 8] = [
    Reason::New,
    Reason::Raised,
    Reason::AckExpired,
    Reason::MuteEnded,
    Reason::Step,
    Reason::Reminder,
    Reason::Resolved,
    Reason::Digest,
];

impl Parser<'_> {
    pub(super) fn expectations(&mut self, fields: &Fields<'_>, key: &str, start: Time) -> Vec<Expectation> {
        let Some(list) = fields.get(key) else { return Vec::new() };
        // `expect: []` with `exact: true`: nothing at all.
        if matches!(&list.kind, Shape::Seq(items) if items.is_empty()) && key == "expect" {
            return Vec::new();
        }
        let mut all = Vec::new();
        for item in self.r.list(list, &format!("`{key}`")).unwrap_or_default() {
            all.extend(self.expectation(item, start, key == "never"));
        }
        all
    }

    fn expectation(&mut self, node: &Node, start: Time, never: bool) -> Option<Expectation> {
        let what = if never { "an entry of `never`" } else { "an expectation" };
        let fields = self.r.fields(node, what, &EXPECT_KEYS)?;
        let kinds = [Kind::Opened, Kind::Raised, Kind::Resolved, Kind::Notify];
        let said: Vec<(Kind, &Node)> =
            kinds.into_iter().filter_map(|k| Some((k, fields.get(k.name())?))).collect();
        let [(kind, subject)] = said[..] else {
            let help = "write one of `opened: RULE`, `raised: RULE`, `resolved: RULE`, `notify: RECEIVER`";
            self.r.lacks(&node.at, format!("{what} names one thing that happens"), help);
            return None;
        };
        self.fitting(kind, &fields);
        let subject = if kind == Kind::Notify { self.receiver(subject) } else { self.rule(subject) };
        let (from, to) = self.when(&fields, start);
        let mut text =
            |key: &str| fields.get(key).and_then(|n| self.r.text(n, &format!("`{key}`")).map(str::to_owned));
        let (owner, policy) = (text("owner"), text("policy"));
        let parcel = text("parcel_id").or_else(|| (kind != Kind::Notify).then(|| PARCEL.to_owned()));
        let mut word = |key: &str, words: &[&'static str]| {
            fields.get(key).and_then(|n| self.r.word(n, key, words)).map(str::to_owned)
        };
        let severity =
            word("severity", &Severity::ALL.map(Severity::name)).and_then(|w| Severity::from_name(&w));
        let resolution = word("resolution", &Resolution::ALL.map(Resolution::name))
            .and_then(|w| Resolution::from_name(&w));
        let reason = word("reason", &REASONS.map(Reason::name));
        let change = word("change", &["opened", "raised", "reminder", "resolved"]);
        let evidence = word("evidence", &["incomplete", "complete"]);
        let mut number = |key: &str| fields.get(key).and_then(|n| self.number(n, key));
        let (stage, step) = (number("stage"), number("step"));
        let mut time = |key: &str| fields.get(key).and_then(|n| self.time(n, start, &format!("`{key}`")));
        let (due, anchor, episode) = (time("due"), time("anchor"), time("episode"));
        let rule = fields.get("rule").and_then(|n| self.rule(n));
        Some(Expectation {
            kind,
            subject: subject?,
            from,
            to,
            parcel_id: parcel,
            episode: episode.map(|t| t.to_string()),
            stage: stage.and_then(|n| u8::try_from(n).ok()),
            severity,
            due,
            anchor,
            incomplete: evidence.map(|e| e == "incomplete"),
            owner,
            policy,
            resolution,
            step,
            reason,
            rule,
            change,
            place: self.r.place(&node.at),
        })
    }

    /// Complains of keys that say nothing of this kind.
    fn fitting(&mut self, kind: Kind, fields: &Fields<'_>) {
        for (name, key, _) in fields.iter() {
            let fits = match name {
                "resolution" => kind == Kind::Resolved,
                "step" | "reason" | "rule" | "change" => kind == Kind::Notify,
                "due" | "severity" | "anchor" | "owner" | "evidence" | "stage" | "episode" => {
                    kind != Kind::Notify
                }
                _ => true,
            };
            if !fits {
                let message = format!("`{name}` says nothing of `{}`", kind.name());
                self.r.error(
                    code::CONTRADICTION,
                    &key.at,
                    message,
                    "remove it, or write another entry for it",
                );
            }
        }
    }

    fn when(&mut self, fields: &Fields<'_>, start: Time) -> (Option<Time>, Option<Time>) {
        let given: Vec<&str> =
            ["at", "between", "from", "to"].into_iter().filter(|k| fields.get(k).is_some()).collect();
        if given.len() > 1 && given != ["from", "to"] {
            let at = fields.entry(given[1]).map_or(fields.at.clone(), |(k, _)| k.at.clone());
            let help = "`at` is one moment, `between: [a, b]` or `from` and `to` are two";
            self.r.error(code::CONTRADICTION, &at, "this names its time twice", help);
        }
        if let Some(n) = fields.get("at") {
            let at = self.time(n, start, "`at`");
            return (at, at);
        }
        if let Some(n) = fields.get("between") {
            let ends = self.r.list(n, "`between`").unwrap_or_default();
            let [from, to] = ends else {
                self.r.error(
                    code::BAD_VALUE,
                    &n.at,
                    "`between` takes two times",
                    "write `between: [+24h, +25h]`",
                );
                return (None, None);
            };
            let (from, to) = (self.time(from, start, "`between`"), self.time(to, start, "`between`"));
            if from > to && to.is_some() {
                self.r.error(
                    code::CONTRADICTION,
                    &n.at,
                    "it ends before it begins",
                    "write the earlier time first",
                );
            }
            return (from, to);
        }
        let mut end = |key: &str| fields.get(key).and_then(|n| self.time(n, start, &format!("`{key}`")));
        (end("from"), end("to"))
    }

    fn number(&mut self, node: &Node, key: &str) -> Option<u32> {
        let number = match node.value() {
            Some(Value::Number(n)) => n.as_whole().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0),
            _ => None,
        };
        if number.is_none() {
            self.r.error(
                code::BAD_VALUE,
                &node.at,
                format!("`{key}` has to be a whole number from 1"),
                "stages and steps count from 1",
            );
        }
        number
    }
}
