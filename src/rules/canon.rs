//! What rules and policies mean as a text that does not depend on how they were written: hashes are made of it.
//!
//! Keys that are absent leave no trace, so that a key added to the language changes no hash of rules without it.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::calendar::Calendar;
use super::condition::Condition;
use super::duration;
use super::names::Names;
use super::policies::{Inhibit, Mute, OwnerRoute, Policies, ReceiverKind, SecretText};
use super::ruleset::{
    Anchor, AnchorSource, Body, CalendarRef, Comparison, DeclaredFact, Matcher, Rule, Scalar, Test, Tolerance,
};

/// SHA-256, hexadecimal.
pub fn hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut hex, b| {
        let _ = write!(hex, "{b:02x}");
        hex
    })
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list(mut items: Vec<String>, sorted: bool) -> String {
    if sorted {
        items.sort();
        items.dedup();
    }
    format!("[{}]", items.join(","))
}

/// The calendars' texts, each made once: thousands of rules may count in them.
pub struct Calendars {
    each: Vec<String>,
    /// The lines of a rule that counts in the parcel's destination.
    by_destination: String,
}

impl Calendars {
    /// Of these.
    pub fn new(calendars: &[Calendar]) -> Calendars {
        let each: Vec<String> = calendars.iter().map(Calendar::canonical).collect();
        let mut by_destination = String::new();
        for (calendar, text) in calendars.iter().zip(&each) {
            if calendar.any || !calendar.countries.is_empty() {
                write_line(&mut by_destination, "by_destination", text);
            }
        }
        Calendars { each, by_destination }
    }
}

/// The hash of all rules: each rule's text, the declared facts and the calendars.
pub struct SetHash(Sha256);

impl SetHash {
    /// Of nothing yet.
    pub fn new() -> SetHash {
        SetHash(Sha256::new_with_prefix("rules 1\n"))
    }

    /// And a rule.
    pub fn rule(&mut self, text: &str) {
        self.0.update(text);
    }

    /// And the rest.
    pub fn finish(mut self, declared: &[DeclaredFact], calendars: &Calendars) -> String {
        for fact in declared {
            self.0.update(format!("fact {} {}\n", fact.name, fact.kind));
        }
        for calendar in &calendars.each {
            self.0.update(format!("calendar {calendar}\n"));
        }
        hex(&self.0.finalize())
    }
}

/// One rule, with the calendars it counts in.
pub fn rule(rule: &Rule, names: &Names, calendars: &Calendars) -> String {
    let mut out = format!("rule {}\n", rule.id);
    let mut line = |key: &str, value: String| write_line(&mut out, key, &value);
    let flag = |on: bool| if on { "true".to_owned() } else { String::new() };
    line("version", if rule.version.is_empty() { String::new() } else { quote(&rule.version) });
    line("shadow", flag(rule.shadow));
    line("anchor", anchor(&rule.anchor));
    if rule.scope != Matcher::default() {
        line("scope", matcher(&rule.scope, names));
    }
    if let Some(holds) = &rule.holds {
        let texts = |t: &Option<Vec<String>>| {
            t.as_ref().map_or("any".into(), |t| list(t.iter().map(|t| quote(t)).collect(), true))
        };
        line("holds", format!("{} {}", texts(&holds.reason), texts(&holds.authority)));
    }
    line("restart", flag(rule.restart));
    line("until", rule.until.map_or(String::new(), |ms| ms.to_string()));
    line("after_terminal", flag(rule.after_terminal));
    line("from", rule.effective_from.map_or(String::new(), |t| t.to_string()));
    line("to", rule.effective_to.map_or(String::new(), |t| t.to_string()));
    line("zone_slack", if rule.zone_slack == 0 { String::new() } else { rule.zone_slack.to_string() });
    for (i, b) in rule.bodies.iter().enumerate() {
        if i > 0 {
            write_line(&mut out, "override", &matcher(&rule.overrides[i - 1], names));
        }
        write_line(&mut out, "body", &body(b, names));
        match b.calendar {
            CalendarRef::Elapsed => {}
            CalendarRef::Named(c) => write_line(&mut out, "calendar", &calendars.each[c]),
            CalendarRef::ByDestination => out.push_str(&calendars.by_destination),
        }
    }
    out
}

fn write_line(out: &mut String, key: &str, value: &str) {
    if !value.is_empty() {
        let _ = writeln!(out, "{key}={value}");
    }
}

fn anchor(a: &Anchor) -> String {
    let sources = a.sources.iter().map(|s| match s {
        AnchorSource::Milestone(m) => m.name().to_owned(),
        AnchorSource::Derived(t) => t.name().to_owned(),
    });
    let form = |on: bool, text: &str| if on { text.to_owned() } else { String::new() };
    format!(
        "{}{}{}{}",
        form(a.before, "before "),
        form(a.last, "last "),
        form(a.list, "list "),
        list(sources.collect(), true)
    )
}

fn body(b: &Body, names: &Names) -> String {
    let mut parts = vec![format!("title={}", quote(&b.title))];
    let mut part = |key: &str, value: Option<String>| parts.extend(value.map(|v| format!("{key}={v}")));
    let text = |t: &str| (!t.is_empty()).then(|| quote(t));
    part("description", text(&b.description));
    part("runbook", b.runbook.as_deref().map(quote));
    part("owner", text(&b.owner));
    part("policy", b.policy.as_deref().map(quote));
    for (name, value) in &b.labels {
        part(&format!("label.{}", quote(name)), Some(quote(value)));
    }
    part("unless", b.unless.as_ref().map(|m| matcher(m, names)));
    part("while", b.while_.as_ref().map(|m| matcher(m, names)));
    let mut expect: Vec<String> = b.expect.milestones.iter().map(|m| m.name().to_owned()).collect();
    expect.extend(b.expect.derived.iter().map(|t| t.name().to_owned()));
    expect.extend(b.expect.next_expected.then(|| "next_expected".to_owned()));
    part("expect", (!expect.is_empty()).then(|| list(expect, true)));
    part("evidence", (b.evidence.0 != 0).then(|| b.evidence.0.to_string()));
    let tolerance = match b.tolerance {
        Tolerance::Any => Some("any".to_owned()),
        Tolerance::Ms(0) => None,
        Tolerance::Ms(ms) => Some(ms.to_string()),
    };
    part("tolerance", tolerance);
    part("grace", (b.grace != 0).then(|| b.grace.to_string()));
    part("reporting_delay", (b.reporting_delay != 0).then(|| b.reporting_delay.to_string()));
    let stages = b.stages.iter().map(|s| format!("{} {}", duration::show(s.at), s.severity.name()));
    part("stages", Some(list(stages.collect(), false)));
    parts.join(" ")
}

/// A matcher. The order of its entries means nothing, nor does that of a list.
fn matcher(m: &Matcher, names: &Names) -> String {
    let all = |ms: &[Matcher]| list(ms.iter().map(|m| matcher(m, names)).collect(), true);
    match m {
        Matcher::All(ms) => format!("all{}", all(ms)),
        Matcher::Any(ms) => format!("any{}", all(ms)),
        Matcher::None(ms) => format!("none{}", all(ms)),
        Matcher::Fact(fact, t) => format!("{}:{}", names.fact_name(*fact), test(t)),
    }
}

fn condition(c: &Condition) -> String {
    let all = |cs: &[Condition]| list(cs.iter().map(condition).collect(), true);
    match c {
        Condition::All(cs) => format!("all{}", all(cs)),
        Condition::Any(cs) => format!("any{}", all(cs)),
        Condition::None(cs) => format!("none{}", all(cs)),
        Condition::Is(name, t) => format!("{name}:{}", test(t)),
    }
}

fn test(t: &Test) -> String {
    match t {
        Test::Equals(v) => scalar(v),
        Test::AnyOf(ts) if ts.len() == 1 => test(&ts[0]),
        Test::AnyOf(ts) => format!("any{}", list(ts.iter().map(test).collect(), true)),
        Test::AllOf(ts) => format!("all{}", list(ts.iter().map(test).collect(), true)),
        Test::Not(t) => format!("not({})", test(t)),
        Test::Compare(c, n) => {
            let operator = match c {
                Comparison::Gt => "gt",
                Comparison::Gte => "gte",
                Comparison::Lt => "lt",
                Comparison::Lte => "lte",
            };
            format!("{operator}({n})")
        }
        Test::Missing(yes) => format!("missing({yes})"),
        Test::Glob(text) => format!("glob({})", quote(text)),
    }
}

fn scalar(v: &Scalar) -> String {
    match v {
        Scalar::Text(t) => quote(t),
        Scalar::Number(n) => n.to_string(),
        Scalar::Bool(b) => b.to_string(),
    }
}

/// policies.yaml. Secrets enter by where they are kept, never by what they are.
pub fn policies(p: &Policies) -> String {
    let texts = |ts: &[String]| list(ts.iter().map(|t| quote(t)).collect(), false);
    let mut out = String::from("policies 1\n");
    for r in &p.receivers {
        let how = match &r.kind {
            ReceiverKind::Email { to } => format!("email {}", texts(to)),
            ReceiverKind::Webhook { url, secret: key } => {
                format!("webhook {} {}", secret(url), key.as_ref().map_or(String::new(), secret))
            }
            ReceiverKind::Slack { url } => format!("slack {}", secret(url)),
            ReceiverKind::PagerDuty { routing_key, url } => {
                format!("pagerduty {} {}", secret(routing_key), quote(url.as_deref().unwrap_or_default()))
            }
            ReceiverKind::Alertmanager { urls } => format!("alertmanager {}", texts(urls)),
            ReceiverKind::Command { argv, timeout } => format!("command {} {timeout}", texts(argv)),
        };
        let _ = writeln!(out, "receiver {} {how}", r.id);
        for t in r.templates.iter() {
            let _ = writeln!(out, "template {} {}", t.form.key(), quote(&t.source.text));
        }
    }
    for p in &p.policies {
        let _ = write!(out, "policy {} {} {} {}", p.id, texts(&p.group_by), p.group_wait, p.group_interval);
        let _ = writeln!(out, " {:?} {:?} {}", p.repeat_every, p.ack_timeout, texts(&p.show));
        for s in &p.steps {
            let least = s.min_severity.map_or("", |s| s.name());
            let _ = writeln!(out, "step {} {} {least}", s.after, texts(&s.notify));
        }
        if let Some(calendar) = &p.calendar {
            let spans: Vec<String> = p.spans.iter().map(|s| duration::show(*s)).collect();
            let _ = writeln!(out, "counts in {} {}", calendar.canonical(), list(spans, false));
        }
        if let Some(at) = p.digest_at {
            let _ = writeln!(out, "digest {at}");
        }
        if p.hold_resolve > 0 || p.reopen_within > 0 {
            let _ = writeln!(out, "flapping {} {}", p.hold_resolve, p.reopen_within);
        }
        if p.comment_needed {
            out.push_str("comment needed\n");
        }
    }
    let _ = writeln!(out, "default {}", p.default_policy.as_deref().unwrap_or_default());
    for (owner, OwnerRoute { by, to, default }) in &p.owners {
        let _ = writeln!(out, "owner {owner} {} {}", by.as_deref().unwrap_or_default(), texts(default));
        for (value, receivers) in to {
            let _ = writeln!(out, "to {} {}", quote(value), texts(receivers));
        }
    }
    for Inhibit { source, target, equal } in &p.inhibit {
        let (source, target) = (condition(source), condition(target));
        let _ = writeln!(out, "inhibit {source} {target} {}", list(equal.clone(), true));
    }
    if p.auditor.fallback.is_some() || p.auditor.dead_mans_switch.is_some() {
        let _ = writeln!(out, "auditor {:?}", p.auditor);
    }
    if let Some(feeds) = &p.feeds {
        let _ = writeln!(
            out,
            "feeds {} {} {}",
            texts(&feeds.notify),
            feeds.silent_after,
            condition(&feeds.target)
        );
    }
    for (receiver, rate) in &p.rates {
        let _ = writeln!(out, "rate {receiver} {} {}", rate.messages, rate.per_ms);
    }
    for Mute { id, calendar, outside, on } in &p.mute {
        let _ = writeln!(out, "mute {id} {outside} {} {}", condition(on), calendar.canonical());
    }
    out
}

fn secret(s: &SecretText) -> String {
    match s {
        SecretText::Plain(text) => quote(text),
        SecretText::File(path) => format!("file {}", quote(&path.to_string_lossy())),
        SecretText::Env(name) => format!("env {name}"),
    }
}
