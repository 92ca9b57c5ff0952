//! The mutants of a file of rules: each rule changed in one place.

use super::edit::{at, entries, items, list, one, text, with, without, write};
use crate::model::{HOUR, MINUTE, SECOND, Severity};
use crate::rules::ruleset::Span;
use crate::rules::{RuleSet, duration};
use crate::yaml::Node;

/// A file of rules with one change.
pub struct Mutant {
    /// The rule's id.
    pub rule: String,
    /// Its name, for an excuse.
    pub item: String,
    /// What nobody notices, in a sentence.
    pub sentence: String,
    /// Where the change is, in bytes.
    pub at: usize,
    /// The whole file.
    pub text: String,
}

/// One change of a mapping.
struct Change {
    /// `stage 2 one second later`.
    item: String,
    /// Behind "nobody notices if `rule` …".
    words: String,
    at: usize,
    /// The mapping afterwards.
    node: Node,
}

/// All mutants of a file.
pub fn of_file(root: &Node, rules: &RuleSet) -> Vec<Mutant> {
    let Some(nodes) = root.get("rules").map(items) else { return Vec::new() };
    let whole = Whole::new(root, nodes);
    let mut mutants = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        let Some(id) = node.get("id").and_then(Node::text) else { continue };
        if rules.rule(id).is_none() {
            continue; // not enabled
        }
        for change in rule_changes(node, rules) {
            mutants.push(Mutant {
                rule: id.to_owned(),
                item: format!("mutant: {}", change.item),
                sentence: format!("nobody notices if `{id}` {}", change.words),
                at: change.at,
                text: whole.with(i, &change.node),
            });
        }
    }
    mutants
}

/// A file written once, so that a mutant costs its own rule only.
struct Whole {
    rules: Vec<String>,
    rest: String,
}

impl Whole {
    fn new(root: &Node, rules: &[Node]) -> Whole {
        let written = |node: &Node| {
            let mut out = String::new();
            write(node, &mut out);
            out
        };
        let mut rest = String::new();
        for (key, value) in entries(root).iter().filter(|(k, _)| k.text() != Some("rules")) {
            rest += &format!("{}: {}\n", written(key), written(value));
        }
        Whole { rules: rules.iter().map(written).collect(), rest }
    }

    fn with(&self, i: usize, node: &Node) -> String {
        let mut out = format!("{}rules:\n", self.rest);
        for (n, rule) in self.rules.iter().enumerate() {
            out += "- ";
            if n == i {
                write(node, &mut out)
            } else {
                out += rule
            }
            out.push('\n');
        }
        out
    }
}

fn rule_changes(rule: &Node, rules: &RuleSet) -> Vec<Change> {
    let ahead = rule.get("before").and_then(Node::text);
    let mut changes = body_changes(rule, rules, ahead);
    for key in ["pick", "restart", "after_terminal", "holds", "effective", "zone_slack", "until"] {
        changes.extend(dropped(rule, key));
    }
    for key in ["until", "zone_slack"] {
        changes.extend(beside_second(rule, key));
    }
    changes.extend(matcher_changes(rule, "scope"));
    changes.extend(anchor_changes(rule));
    let Some(overrides) = rule.get("overrides") else { return changes };
    for (i, one) in items(overrides).iter().enumerate() {
        let n = i + 1;
        let left = at(overrides, i, None);
        let node =
            if items(&left).is_empty() { without(rule, "overrides") } else { with(rule, "overrides", left) };
        changes.push(Change {
            item: format!("override {n} dropped"),
            words: format!("had no override {n}"),
            at: one.at.start,
            node,
        });
        let inner = body_changes(one, rules, ahead).into_iter().chain(matcher_changes(one, "match"));
        for change in inner {
            changes.push(Change {
                item: format!("override {n}: {}", change.item),
                words: format!("in override {n} {}", change.words),
                at: change.at,
                node: with(rule, "overrides", at(overrides, i, Some(change.node))),
            });
        }
    }
    changes
}

/// What a rule and its overrides have in common; `ahead` is what their stages count back from.
fn body_changes(body: &Node, rules: &RuleSet, ahead: Option<&str>) -> Vec<Change> {
    let mut changes = Vec::new();
    if let Some(node) = body.get("within") {
        for (word, text_, span) in near(node) {
            changes.push(Change {
                item: format!("within one second {word}"),
                words: format!("opened {} instead of {text_}", since(&span, ahead)),
                at: node.at.start,
                node: with(body, "within", text(&span)),
            });
        }
    }
    if let Some(node) = body.get("severity") {
        for other in beside(node) {
            changes.push(Change {
                item: format!("severity {other}"),
                words: format!("were {other} instead of {}", node.text().unwrap_or_default()),
                at: node.at.start,
                node: with(body, "severity", text(other)),
            });
        }
    }
    if let Some(stages) = body.get("stages") {
        stage_changes(body, stages, ahead, &mut changes);
    }
    for key in ["grace", "reporting_delay", "tolerance", "evidence"] {
        changes.extend(dropped(body, key));
        changes.extend(beside_second(body, key));
    }
    expect_changes(body, &mut changes);
    calendar_changes(body, rules, &mut changes);
    changes.extend(matcher_changes(body, "while"));
    changes.extend(matcher_changes(body, "unless"));
    changes
}

fn since(span: &str, ahead: Option<&str>) -> String {
    ahead.map_or_else(|| format!("after {span}"), |anchor| format!("{span} before {anchor}"))
}

fn stage_changes(body: &Node, stages: &Node, ahead: Option<&str>, changes: &mut Vec<Change>) {
    let replaced = |i: usize, key: &str, value: Node| {
        with(body, "stages", at(stages, i, Some(with(&items(stages)[i], key, value))))
    };
    for (i, stage) in items(stages).iter().enumerate() {
        let n = i + 1;
        if items(stages).len() > 1 {
            changes.push(Change {
                item: format!("without stage {n}"),
                words: format!("had no stage {n}"),
                at: stage.at.start,
                node: with(body, "stages", at(stages, i, None)),
            });
        }
        if let Some(node) = stage.get("at") {
            for (word, was, span) in near(node) {
                changes.push(Change {
                    item: format!("stage {n} one second {word}"),
                    words: format!("reached stage {n} {} instead of {was}", since(&span, ahead)),
                    at: node.at.start,
                    node: replaced(i, "at", text(&span)),
                });
            }
        }
        if let Some(node) = stage.get("severity") {
            for other in beside(node) {
                changes.push(Change {
                    item: format!("stage {n} {other}"),
                    words: format!(
                        "were {other} instead of {} in stage {n}",
                        node.text().unwrap_or_default()
                    ),
                    at: node.at.start,
                    node: replaced(i, "severity", text(other)),
                });
            }
        }
    }
}

fn dropped(body: &Node, key: &str) -> Option<Change> {
    let (name, value) = entries(body).iter().find(|(k, _)| k.text() == Some(key))?;
    Some(Change {
        item: format!("without {key}"),
        words: format!("had no `{key}: {}`", shown(value)),
        at: name.at.start,
        node: without(body, key),
    })
}

/// A duration under a key, one second longer and one shorter.
fn beside_second(body: &Node, key: &str) -> Vec<Change> {
    let Some(node) = body.get(key) else { return Vec::new() };
    let change = |(_, was, span): (&str, String, String)| Change {
        item: format!("{key} {span}"),
        words: format!("had `{key}: {span}` instead of {was}"),
        at: node.at.start,
        node: with(body, key, text(&span)),
    };
    near(node).into_iter().map(change).collect()
}

/// Each of several anchors left out.
fn anchor_changes(rule: &Node) -> Vec<Change> {
    let Some((key, node)) = ["after", "before"].into_iter().find_map(|k| Some((k, rule.get(k)?))) else {
        return Vec::new();
    };
    if items(node).len() < 2 {
        return Vec::new();
    }
    left_out(rule, key, node, "did not count from")
}

/// Each member of a list left out.
fn left_out(body: &Node, key: &str, node: &Node, words: &str) -> Vec<Change> {
    let change = |(i, member): (usize, &Node)| {
        let name = shown(member);
        Change {
            item: format!("{key} without {name}"),
            words: format!("{words} {name}"),
            at: member.at.start,
            node: with(body, key, at(node, i, None)),
        }
    };
    items(node).iter().enumerate().map(change).collect()
}

/// A value as a person reads it.
fn shown(node: &Node) -> String {
    let mut out = String::new();
    write(node, &mut out);
    out.replace('"', "")
}

/// Each expected milestone left out, and each class of evidence.
fn expect_changes(body: &Node, changes: &mut Vec<Change>) {
    for (key, words) in [("expect", "were not satisfied by"), ("evidence", "took no evidence of class")] {
        let Some(node) = body.get(key) else { continue };
        if items(node).len() > 1 {
            changes.extend(left_out(body, key, node, words));
        } else if key == "expect" {
            changes.extend(dropped(body, key));
        }
    }
}

fn calendar_changes(body: &Node, rules: &RuleSet, changes: &mut Vec<Change>) {
    let Some((key, node)) = entries(body).iter().find(|(k, _)| k.text() == Some("calendar")) else { return };
    let was = node.text().unwrap_or_default();
    let other = rules.calendars.iter().map(|c| c.id.as_str()).find(|id| *id != was);
    for other in ["elapsed"].into_iter().chain(other).filter(|other| *other != was) {
        changes.push(Change {
            item: format!("calendar {other}"),
            words: format!("counted in the calendar {other} instead of {was}"),
            at: key.at.start,
            node: with(body, "calendar", text(other)),
        });
    }
}

/// A matcher with each of its entries left out, turned round, or with a value of its list left out.
fn matcher_changes(body: &Node, key: &str) -> Vec<Change> {
    let Some(matcher) = body.get(key) else { return Vec::new() };
    let mut changes = Vec::new();
    let all = entries(matcher);
    for (name, value) in all {
        let Some(fact) = name.text() else { continue };
        let was = shown(value);
        let mut change = |item: String, words: String, matcher: Node| {
            let node = with(body, key, matcher);
            changes.push(Change { item, words, at: name.at.start, node });
        };
        let left = without(matcher, fact);
        if all.len() > 1 {
            let words = format!("had `{key}` without `{fact}: {was}`");
            change(format!("{key} without {fact}"), words, left.clone());
        }
        let opposite = match fact {
            "none_of" => Some(with(&left, "any_of", value.clone())),
            "any_of" if matcher.get("none_of").is_none() => Some(with(&left, "none_of", value.clone())),
            _ if matcher.get("none_of").is_none() => {
                Some(with(&left, "none_of", list(vec![one(fact, value.clone())])))
            }
            _ => None,
        };
        if let Some(opposite) = opposite {
            let words = format!("had `{key}: {{{fact}: …}}` turned round, which says `{was}`");
            change(format!("{key} {fact} turned round"), words, opposite);
        }
        for (name, was, now) in boundaries(value) {
            let words = format!("had `{key}: {{{fact}: {{{name}: …}}}}` instead of {was}");
            change(format!("{key} {fact} {name}"), words, with(matcher, fact, now));
        }
        let members = items(value);
        if members.len() > 1 {
            for (i, member) in members.iter().enumerate() {
                let name = shown(member);
                let words = format!("had `{key}: {{{fact}: …}}` without {name}");
                let left = with(matcher, fact, at(value, i, None));
                change(format!("{key} {fact} without {name}"), words, left);
            }
        }
    }
    if all.len() == 1 && key != "match" {
        changes.extend(dropped(body, key));
    }
    changes
}

/// A comparison with its bound counted in where it was not, and the other way round.
fn boundaries(value: &Node) -> Vec<(&'static str, &'static str, Node)> {
    let pairs = [("gt", "gte"), ("gte", "gt"), ("lt", "lte"), ("lte", "lt")];
    let change = |(was, now): (&'static str, &'static str)| {
        let bound = value.get(was)?.clone();
        Some((now, was, with(&without(value, was), now, bound)))
    };
    pairs.into_iter().filter_map(change).collect()
}

/// The same duration one second later and one second earlier: which it is, how it was written, how it is now.
fn near(node: &Node) -> Vec<(&'static str, String, String)> {
    let Some(Ok(span)) = node.text().map(duration::parse) else { return Vec::new() };
    let was = node.text().unwrap_or_default().to_owned();
    let later = Span { ms: span.ms + SECOND, ..span };
    let almost_a_day = 24 * HOUR - SECOND;
    let earlier = match span {
        Span { ms: SECOND.., .. } => Some(Span { ms: span.ms - SECOND, ..span }),
        Span { days: 1.., .. } => Some(Span { days: span.days - 1, ms: almost_a_day, ..span }),
        Span { business_days: 1.., .. } => {
            Some(Span { business_days: span.business_days - 1, ms: almost_a_day, ..span })
        }
        _ => None,
    };
    let mut both = vec![("later", was.clone(), span_text(later))];
    both.extend(earlier.map(|s| ("earlier", was, span_text(s))));
    both
}

/// As it is written in rules.
fn span_text(span: Span) -> String {
    let mut out = String::new();
    let mut say = |n: i64, unit: &str| {
        if n > 0 {
            out += &format!("{n}{unit}");
        }
    };
    say(i64::from(span.business_days), "bd");
    say(i64::from(span.days), "d");
    say(span.ms / HOUR, "h");
    say(span.ms % HOUR / MINUTE, "m");
    say(span.ms % MINUTE / SECOND, "s");
    if out.is_empty() { "0h".to_owned() } else { out }
}

/// The severities beside this one.
fn beside(node: &Node) -> Vec<&'static str> {
    let Some(at) = Severity::ALL.iter().position(|s| Some(s.name()) == node.text()) else {
        return Vec::new();
    };
    let near = [at.checked_sub(1), Some(at + 1)];
    near.into_iter().flatten().filter_map(|i| Severity::ALL.get(i)).map(|s| s.name()).collect()
}
