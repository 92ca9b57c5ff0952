//! Matchers: `scope`, `unless`, `while`, `match` (SEMANTICS 4).

use super::condition::Condition;
use super::names::Names;
use super::problem::{code, near_miss};
use super::reader::{MAX_MEMBERS, Reader, kind};
use super::ruleset::{Comparison, Matcher, Scalar, Test};
use crate::model::{DerivedTime, Milestone, fact_words};
use crate::yaml::{Kind, Node, Value, cut};

/// Operators of a mapping beside a fact.
pub(super) const OPERATORS: [&str; 8] = ["not", "gt", "gte", "lt", "lte", "missing", "glob", "in"];
/// A pattern is no longer than this: comparing costs its length times the text's.
pub(super) const MAX_GLOB: usize = 200;

/// Reads a matcher. `extra` are names besides facts that are allowed; entries under them are checked and left out.
pub fn matcher(r: &mut Reader, names: &Names, node: &Node, what: &str, extra: &[&str]) -> Option<Matcher> {
    condition(r, names, node, what, extra).map(|c| over_facts(names, c))
}

fn over_facts(names: &Names, condition: Condition) -> Matcher {
    let all = |list: Vec<Condition>| list.into_iter().map(|c| over_facts(names, c)).collect();
    match condition {
        Condition::All(list) => Matcher::All(all(list)),
        Condition::Any(list) => Matcher::Any(all(list)),
        Condition::None(list) => Matcher::None(all(list)),
        Condition::Is(name, test) => {
            names.fact(&name).map_or_else(Matcher::default, |fact| Matcher::Fact(fact, test))
        }
    }
}

/// Reads a condition. `extra` are names besides facts that are allowed.
pub fn condition(
    r: &mut Reader,
    names: &Names,
    node: &Node,
    what: &str,
    extra: &[&str],
) -> Option<Condition> {
    let entries = r.map(node, what)?;
    if entries.is_empty() {
        let help = "name a fact and what it has to be, as in {destination: ES}";
        r.error(code::BAD_VALUE, &node.at, format!("{what} is empty"), help);
        return None;
    }
    let mut all = Vec::with_capacity(entries.len());
    let mut good = true;
    for (key, value) in entries {
        if r.is_full() {
            return None;
        }
        let Some(name) = key.text() else { continue };
        let read = match name {
            "any_of" => branches(r, names, value, name, extra).map(Condition::Any),
            "none_of" => branches(r, names, value, name, extra).map(Condition::None),
            _ if extra.contains(&name) || names.fact(name).is_some() => {
                test(r, names, name, value).map(|t| Condition::Is(name.to_owned(), t))
            }
            _ => {
                unknown_fact(r, names, key, name, extra);
                None
            }
        };
        match read {
            Some(m) => all.push(m),
            None => good = false,
        }
    }
    good.then_some(Condition::All(all))
}

fn branches(
    r: &mut Reader,
    names: &Names,
    node: &Node,
    what: &str,
    extra: &[&str],
) -> Option<Vec<Condition>> {
    let items = r.list(node, &format!("`{what}`"))?;
    let what = format!("an entry of `{what}`");
    let read: Vec<Condition> = items.iter().filter_map(|n| condition(r, names, n, &what, extra)).collect();
    (read.len() == items.len()).then_some(read)
}

/// An error about a name that is no fact.
pub fn unknown_fact(r: &mut Reader, names: &Names, key: &Node, name: &str, extra: &[&str]) {
    let shown = cut(name);
    if OPERATORS.contains(&name) {
        let message = format!("`{shown}` is an operator, and stands here in place of a fact");
        r.error(
            code::UNKNOWN_FACT,
            &key.at,
            message,
            format!("write the fact before it: {{some_fact: {{{shown}: …}}}}"),
        );
        return;
    }
    if DerivedTime::from_name(name).is_some() {
        let message = format!("`{shown}` is a time, which a matcher cannot read");
        r.error(code::UNKNOWN_FACT, &key.at, message, "use it as the anchor: `after:` or `before:`");
        return;
    }
    if name == "all_of" {
        let help = "leave it out: every entry of a mapping has to hold anyway";
        r.error(code::UNKNOWN_FACT, &key.at, "there is no `all_of`", help);
        return;
    }
    if Milestone::from_name(name).is_some() {
        let message = format!("`{shown}` is a milestone, not a fact");
        r.error(code::UNKNOWN_FACT, &key.at, message, format!("ask for it with {{seen: {shown}}}"));
        return;
    }
    // What a file that cannot be read may declare.
    if names.rules_broken || r.is_full() {
        return;
    }
    let known = names.facts().chain(extra.iter().copied()).chain(["any_of", "none_of"]);
    let declare = || format!("declare it in a file of rules: `facts: [{{name: {shown}, type: text}}]`");
    let help = super::problem::did_you_mean(name, known).unwrap_or_else(declare);
    r.error(code::UNKNOWN_FACT, &key.at, format!("`{shown}` is no known fact"), help);
}

fn test(r: &mut Reader, names: &Names, fact: &str, node: &Node) -> Option<Test> {
    match &node.kind {
        Kind::Refused => None,
        Kind::Scalar { .. } => {
            let value = scalar(r, node)?;
            lint_value(r, names, fact, node, &value);
            Some(Test::Equals(value))
        }
        Kind::Seq(items) => {
            r.list(node, "a list of values")?;
            let tests: Vec<Test> = items.iter().filter_map(|n| test(r, names, fact, n)).collect();
            (tests.len() == items.len()).then_some(Test::AnyOf(tests))
        }
        Kind::Map(entries) => {
            if entries.is_empty() {
                let help = format!("one of: {}", OPERATORS.join(", "));
                r.error(code::BAD_VALUE, &node.at, "a comparison is missing", help);
                return None;
            }
            let fields = r.fields(node, "a comparison", &OPERATORS)?;
            let mut tests = Vec::with_capacity(entries.len());
            for (operator, _, value) in fields.iter() {
                tests.push(operation(r, names, fact, operator, value)?);
            }
            // A key that was refused has left its problem.
            if tests.len() < entries.len() {
                return None;
            }
            if tests.len() == 1 { tests.pop() } else { Some(Test::AllOf(tests)) }
        }
    }
}

fn operation(r: &mut Reader, names: &Names, fact: &str, operator: &str, value: &Node) -> Option<Test> {
    let comparison = match operator {
        "gt" => Comparison::Gt,
        "gte" => Comparison::Gte,
        "lt" => Comparison::Lt,
        "lte" => Comparison::Lte,
        "not" => return Some(Test::Not(Box::new(test(r, names, fact, value)?))),
        "missing" => return r.flag(value, "`missing`").map(Test::Missing),
        "glob" => {
            let text = r.text(value, "`glob`")?;
            if text.len() > MAX_GLOB {
                r.error(
                    code::TOO_LARGE,
                    &value.at,
                    format!("the pattern is longer than {MAX_GLOB} bytes"),
                    "",
                );
                return None;
            }
            return Some(Test::Glob(text.to_owned()));
        }
        _ => return members(r, names, value),
    };
    match value.value() {
        Some(Value::Number(n)) => Some(Test::Compare(comparison, n)),
        Some(_) => {
            let text = value.text().unwrap_or_default();
            let digits: String =
                text.chars().filter(|c| c.is_ascii_digit() || matches!(c, '.' | '-')).collect();
            let help = match crate::model::Decimal::parse(&digits) {
                Some(_) if text.contains('%') => {
                    format!("write {operator}: {digits}; the fact itself is in percent")
                }
                Some(_) => format!("write {operator}: {digits}; money is compared by its amount"),
                None => "write a plain number; times are compared by `after:` and `before:`, not by matchers"
                    .into(),
            };
            r.error(
                code::BAD_VALUE,
                &value.at,
                format!("`{operator}` needs a number, not `{}`", cut(text)),
                help,
            );
            None
        }
        None => {
            if !matches!(value.kind, Kind::Refused) {
                let message = format!("`{operator}` needs a number, not {}", kind(value));
                r.error(code::WRONG_SHAPE, &value.at, message, "write one plain number");
            }
            None
        }
    }
}

/// `{in: set}`: its members.
fn members(r: &mut Reader, names: &Names, node: &Node) -> Option<Test> {
    if matches!(node.kind, Kind::Seq(_)) {
        let help = "write the list itself instead of {in: […]}, or give it a name in `sets:`";
        r.error(code::WRONG_SHAPE, &node.at, "`in` takes the name of a set", help);
        return None;
    }
    let name = r.text(node, "`in`")?;
    if let Some(set) = names.sets.get(name) {
        let Some(left) = r.members.checked_sub(set.len()) else {
            let message = format!("sets with more than {MAX_MEMBERS} members in all are named up to here");
            let help = "a rule's `scope` asks once for what its other conditions need not ask again";
            r.error(code::TOO_LARGE, &node.at, message, help);
            return None;
        };
        r.members = left;
        return Some(Test::AnyOf(set.iter().cloned().map(Test::Equals).collect()));
    }
    if !names.rules_broken {
        let message = format!("no set is named `{}`", cut(name));
        let help = r
            .suggest(name, names.sets.keys().map(String::as_str))
            .unwrap_or_else(|| "define it beside `rules:`, as in `sets: {eu: [AT, BE]}`".into());
        r.error(code::UNDEFINED, &node.at, message, help);
    }
    None
}

/// A value in a rule.
pub fn scalar(r: &mut Reader, node: &Node) -> Option<Scalar> {
    let help = match node.value()? {
        Value::Bool(b) => return Some(Scalar::Bool(b)),
        Value::Text(t) => return Some(Scalar::Text(t.to_owned())),
        Value::Number(n) => {
            let text = node.text().unwrap_or_default();
            let digits = text.trim_start_matches(['-', '+']);
            if digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.") {
                let message = format!("`{}` is the number {n} here", cut(text));
                r.lint(
                    code::LEADING_ZEROS,
                    &node.at,
                    message,
                    format!("for the text put it in quotes: \"{}\"", cut(text)),
                );
            }
            return Some(Scalar::Number(n));
        }
        Value::Null => "to ask whether a fact is missing write {missing: true}",
        Value::NoNumber => "put it in quotes if it is a text",
    };
    let shown = cut(node.text().unwrap_or_default());
    r.error(code::BAD_VALUE, &node.at, format!("`{shown}` is no value that a fact can have"), help);
    None
}

/// Values that certain facts never have.
fn lint_value(r: &mut Reader, names: &Names, fact: &str, node: &Node, value: &Scalar) {
    let Scalar::Text(text) = value else { return };
    let shown = cut(text);
    if text.contains(['*', '?']) {
        let message = format!("`{shown}` is compared as it is written, `*` and `?` included");
        return r.lint(
            code::LOOKS_LIKE_GLOB,
            &node.at,
            message,
            format!("for a pattern write {{glob: \"{shown}\"}}"),
        );
    }
    let boolean = |d: &super::ruleset::DeclaredFact| d.name == fact && matches!(&*d.kind, "boolean" | "bool");
    if matches!(fact, "category_forced_labour" | "weak_description") || names.declared.iter().any(boolean) {
        let help = match text.to_lowercase().as_str() {
            "yes" | "on" | "y" | "true" => "write true, without quotes",
            _ => "write true or false, without quotes",
        };
        return r.lint(
            code::LOOKS_LIKE_BOOL,
            &node.at,
            format!("`{fact}` is true or false, never `{shown}`"),
            help,
        );
    }
    if matches!(fact, "origin" | "destination" | "location.country") {
        return lint_country(r, fact, node, text);
    }
    let words: Vec<&str> = match fact {
        "seen" | "last_milestone" | "next_expected_milestone" => {
            Milestone::ALL.iter().map(|m| m.name()).collect()
        }
        "terminal" => Milestone::ALL.iter().filter(|m| m.is_terminal()).map(|m| m.name()).collect(),
        "feed_status" => vec!["success", "failing", "stopped"],
        "missing_documents" => vec!["certificate_of_origin", "supplier_declaration"],
        _ => return lint_usual(r, fact, node, text),
    };
    if !words.contains(&text.as_str()) {
        let help = super::problem::suggest(text, words.iter().copied()).unwrap_or_default();
        r.lint(code::NEVER_EQUAL, &node.at, format!("`{fact}` is never `{shown}`"), help);
    }
}

/// Countries are the two capitals of ISO 3166.
fn lint_country(r: &mut Reader, fact: &str, node: &Node, text: &str) {
    if text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase()) {
        return;
    }
    let help = match text {
        t if t.len() == 2 && t.is_ascii() => format!("in capitals, as parcels name it: {}", t.to_uppercase()),
        _ => "write the two capitals of ISO 3166, as in ES".to_owned(),
    };
    r.lint(
        code::NEVER_EQUAL,
        &node.at,
        format!("`{fact}` is a country's two capitals, never `{}`", cut(text)),
        help,
    );
}

/// A value that is nearly one of those that are usual. Others are possible: sources have words of their own.
fn lint_usual(r: &mut Reader, fact: &str, node: &Node, text: &str) {
    let usual = fact_words(fact).map_or(&[][..], |words| words.usual);
    if usual.contains(&text) {
        return;
    }
    let near = usual.iter().copied().filter(|u| near_miss(text, u));
    if let Some(help) = super::problem::did_you_mean(text, near) {
        let message = format!("`{fact}` is usually not `{}`", cut(text));
        r.lint(code::NEAR_MISS, &node.at, message, help);
    }
}
