//! The definitions: what each kind of value is, from the lists that its reader knows.

use serde_json::{Map, Value, json};

use super::Builder;
use crate::model::{DerivedTime, Evidence, FACT_WORDS, KNOWN_FACTS, Milestone, Severity, fact_words};
use crate::rules::body::{MAX_STAGES, OVERRIDE_KEYS, OWNERS};
use crate::rules::calendar_file::DAYS;
use crate::rules::compile::KINDS;
use crate::rules::condition::OF_EXCEPTION;
use crate::rules::keys::{self, Def, Form, Key};
use crate::rules::matchers::{MAX_GLOB, OPERATORS};
use crate::rules::policy_file::GROUP_BY;
use crate::rules::policy_keys;
use crate::rules::receiver::BESIDE;
use crate::rules::template::FORMS;

/// A text that is not empty; a plain number or truth value is taken as it was written.
fn text() -> Value {
    json!({"type": ["string", "number", "boolean"], "pattern": r"\S"})
}

fn pattern(about: &str, pattern: &str, examples: &[&str]) -> Value {
    json!({"type": "string", "description": about, "pattern": pattern, "examples": examples})
}

/// One of some words, each with what it means.
fn words<'a>(about: &str, words: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    let each: Vec<Value> = words.map(|(word, about)| json!({"const": word, "description": about})).collect();
    json!({"description": about, "oneOf": each})
}

fn one_of(about: &str, words: &[&str]) -> Value {
    json!({"description": about, "enum": words})
}

/// A duration; `0` needs no unit.
fn duration(about: &str, units: &str, examples: &[&str]) -> Value {
    let form = format!("^(?:0|(?:[0-9]+(?:{units}))+)$");
    json!({"description": about, "anyOf": [pattern("", &form, examples), {"const": 0}]})
}

/// A definition.
pub(super) fn definition(b: &mut Builder, def: Def) -> Value {
    match def {
        Def::Text => text(),
        Def::Number => json!({"type": "number"}),
        Def::Flag => json!({"type": "boolean"}),
        Def::Id => pattern("snake_case", "^[a-z][a-z0-9_]{0,99}$", &["cleared_no_domestic_scan"]),
        Def::Name => {
            let mut name = text();
            name["pattern"] = json!("^[A-Za-z0-9_.-]{1,100}$");
            name
        }
        Def::Span => duration(
            "A number and a unit: 30s, 90m, 48h, 7d, 2bd (business days), or combined: 1d12h",
            "bd|[dhms]",
            &["48h", "2bd"],
        ),
        Def::Elapsed => duration(
            "A number and a unit: 30s, 90m, 48h, 7d, or combined: 1d12h; a day is 24 h",
            "[dhms]",
            &["2h"],
        ),
        Def::Tolerance => {
            let elapsed = b.refer(Def::Elapsed);
            json!({"anyOf": [elapsed, {"const": "any", "description": "Whatever its time"}]})
        }
        Def::Severity => one_of("How bad it is", &Severity::ALL.map(Severity::name)),
        Def::Owner => one_of("Whose it is", &OWNERS),
        Def::Evidence => one_of("How a milestone is known", &Evidence::ALL.map(Evidence::name)),
        Def::Pick => one_of("Which occurrence", &["first", "last"]),
        Def::Mode => one_of("Whether somebody is told", &["live", "shadow"]),
        Def::Milestone => words("What happened to a parcel", milestones()),
        Def::Anchor => {
            words("A milestone, or a time derived from several", milestones().chain(derived(|_| true)))
        }
        Def::Expected => expected(b),
        Def::From => b.object(&keys::FROM, &["from"]),
        Def::Matcher => matcher(b, &[]),
        Def::ExceptionMatcher => matcher(b, &OF_EXCEPTION),
        Def::Test => test(b),
        Def::Scalar => json!({"type": ["string", "number", "boolean"]}),
        Def::Moment => pattern(
            "A date (00:00 UTC), or a time with its offset",
            INSTANT,
            &["2026-10-01", "2026-10-01T00:00:00+02:00"],
        ),
        Def::Date => pattern("A date", &format!("^{DATE}$"), &["2026-12-25"]),
        Def::FactType => one_of("What a fact holds", &KINDS),
        Def::FactName => pattern("A fact", FACT, &["warehouse_zone"]),
        Def::GroupFact => grouped(&GROUP_BY),
        Def::ExceptionFact => grouped(&OF_EXCEPTION),
        Def::Calendar => pattern(
            "elapsed, by_destination, or a calendar of policies.yaml",
            "^[A-Za-z0-9_.-]{1,100}$",
            &["elapsed", "by_destination"],
        ),
        Def::Day => one_of("A day of the week", &DAYS),
        Def::Hours => pattern("From and to; the day ends at 24:00", HOURS, &["09:00-17:30"]),
        Def::Country => pattern("Two capitals of ISO 3166, or any", "^(?:[A-Z]{2}|any)$", &["ES"]),
        Def::Clock => pattern("A time of day", &format!("^{CLOCK}$"), &["08:00"]),
        Def::Address => pattern(
            "A mail address, without a name",
            r#"^[^\s<>()\[\],;:\\"@]{1,64}@[^\s<>()\[\],;:\\"@.-][^\s<>()\[\],;:\\"@]*$"#,
            &["ops@example.org"],
        ),
        Def::Url => {
            let secret = b.refer(Def::Secret);
            let plain = pattern(
                "The whole URL, without a password",
                r"^https?://(?![^/]*:[^/]*@)[^\s/]+",
                &["https://erp.example.org/hooks"],
            );
            json!({"anyOf": [plain, secret]})
        }
        Def::HttpUrl => pattern(
            "An http or https URL, without a password",
            r"^https?://(?![^/]*:[^/]*@)[^\s/]+",
            &["http://alertmanager:9093"],
        ),
        Def::TemplateFile => pattern(
            "A file beside policies.yaml or in its folder templates/, and no YAML",
            r"^(?:templates/)?(?![^/]*\.(?:[Yy][Aa]?[Mm][Ll])$)[^/.\n][^/\n]*$",
            &["ops.txt", "templates/ops.html"],
        ),
        Def::Secret => secret(b),
        Def::Rule => rule(b),
        Def::Override => overriding(b),
        Def::Stage => b.object(&keys::STAGE, &["at"]),
        Def::DeclaredFact => declared(b),
        Def::Receiver => receiver(b),
        Def::Policy => {
            let mut policy = b.object(&policy_keys::POLICY, &["id", "steps"]);
            policy["allOf"] = json!([business_days(&["steps"], "after")]);
            policy
        }
        Def::Step => b.object(&policy_keys::STEP, &["notify"]),
        Def::CalendarOf => calendar(b),
        Def::Inhibit => b.object(&policy_keys::INHIBIT, &["source", "target"]),
        Def::Mute => b.object(&policy_keys::MUTE, &["id", "calendar"]),
        Def::OwnerRoute => {
            let names = b.form(&Form::OneOrMany(Def::Name));
            let mut route = b.object(&policy_keys::ROUTE, &[]);
            route["dependentRequired"] = json!({"by": ["to"], "to": ["by"]});
            json!({"anyOf": [names, route]})
        }
    }
}

const DATE: &str = "[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])";
const INSTANT: &str = "^[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])(?:[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2}))?$";
const CLOCK: &str = "(?:[01][0-9]|2[0-3]):[0-5][0-9]";
const HOURS: &str =
    "^\\s*(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00)\\s*-\\s*(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00)\\s*$";
/// A fact's name that no operator has.
const FACT: &str = "^(?!(?:all_of|any_of|none_of)$)[A-Za-z0-9_-]+(?:\\.[A-Za-z0-9_-]+)*$";

fn milestones() -> impl Iterator<Item = (&'static str, &'static str)> {
    Milestone::ALL.into_iter().map(|m| (m.name(), m.about()))
}

fn derived(which: impl Fn(DerivedTime) -> bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    DerivedTime::ALL.into_iter().filter(move |t| which(*t)).map(|t| (t.name(), t.about()))
}

fn expected(b: &mut Builder) -> Value {
    let from = b.refer(Def::From);
    let promised = [("next_expected", "What the source itself promised, or anything later")];
    let names = milestones().chain(promised).chain(derived(DerivedTime::can_be_expected));
    json!({"anyOf": [words("What ends it well", names), from]})
}

/// Conditions over facts. Facts that a directory declares are known to `check` alone: any name may stand here that is
/// nothing else.
fn matcher(b: &mut Builder, extra: &[&str]) -> Value {
    let test = b.refer(Def::Test);
    let mut properties = Map::new();
    for words in FACT_WORDS {
        let mut property = test.clone();
        property["description"] = json!(words.about);
        if !words.usual.is_empty() {
            property["examples"] = json!(words.usual);
        }
        properties.insert(words.name.to_owned(), property);
    }
    for name in extra {
        let mut property = test.clone();
        property["description"] = json!(format!("The exception's {}", name.replace('_', " ")));
        properties.insert((*name).to_owned(), property);
    }
    let own = b.refer(if extra.is_empty() { Def::Matcher } else { Def::ExceptionMatcher });
    for (name, about) in [("any_of", "At least one of these holds"), ("none_of", "None of these holds")] {
        let branches = json!({"type": "array", "minItems": 1, "items": own, "description": about});
        properties.insert(name.to_owned(), branches);
    }
    let mut never: Vec<&str> = OPERATORS.to_vec();
    never.extend(Milestone::ALL.map(Milestone::name));
    let facts = |n: &&str| KNOWN_FACTS.contains(n);
    never.extend(DerivedTime::ALL.map(DerivedTime::name).into_iter().filter(|n| !facts(n)));
    json!({
        "type": "object",
        "minProperties": 1,
        "properties": properties,
        "propertyNames": {"allOf": [{"pattern": "^(?!all_of$)[A-Za-z0-9_-]+(?:\\.[A-Za-z0-9_-]+)*$"}, {"not": {"enum": never}}]},
        "additionalProperties": test,
    })
}

fn test(b: &mut Builder) -> Value {
    let own = b.refer(Def::Test);
    let scalar = b.refer(Def::Scalar);
    let number = json!({"type": "number"});
    let set = b.refer(Def::Name);
    let about = |mut schema: Value, text: &str| {
        schema["description"] = json!(text);
        schema
    };
    let mut operators = Map::new();
    for operator in OPERATORS {
        let schema = match operator {
            "not" => about(own.clone(), "The opposite; holds for a missing fact too"),
            "missing" => about(json!({"type": "boolean"}), "Whether the fact is missing"),
            "glob" => about(
                json!({"type": "string", "minLength": 1, "maxLength": MAX_GLOB}),
                "The whole text; * any run, ? one character",
            ),
            "in" => about(set.clone(), "One of a set of `sets:`"),
            "gt" => about(number.clone(), "Greater"),
            "gte" => about(number.clone(), "Greater or equal"),
            "lt" => about(number.clone(), "Less"),
            _ => about(number.clone(), "Less or equal"),
        };
        operators.insert(operator.to_owned(), schema);
    }
    json!({"anyOf": [
        scalar,
        {"type": "array", "minItems": 1, "items": own, "description": "Any of these"},
        {"type": "object", "minProperties": 1, "properties": operators, "additionalProperties": false},
    ]})
}

fn grouped(extra: &[&str]) -> Value {
    let known = FACT_WORDS.iter().map(|w| w.name).chain(extra.iter().copied());
    let each: Vec<Value> = known
        .map(|name| {
            let mut word = json!({"const": name});
            if let Some(words) = fact_words(name) {
                word["description"] = json!(words.about);
            }
            word
        })
        .collect();
    json!({"description": "A fact, or what an exception says of itself", "anyOf": [{"oneOf": each}, pattern("A declared fact", FACT, &[])]})
}

fn secret(b: &mut Builder) -> Value {
    let text = b.refer(Def::Text);
    json!({
        "description": "Where a secret is kept: it is never written in place",
        "type": "object",
        "properties": {
            "file": {"description": "A file that holds it, relative to this one", "type": "string", "minLength": 1, "examples": ["/run/secrets/erp"]},
            "env": {"allOf": [text], "description": "An environment variable that holds it", "pattern": "^[^=$ ]+$", "examples": ["ERP_KEY"]},
        },
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": false,
    })
}

fn required(name: &str) -> Value {
    json!({"required": [name]})
}

/// A stage needs a severity, its own or the rule's.
fn severities() -> Value {
    let each = json!({"properties": {"stages": {"items": required("severity")}}, "required": ["stages"]});
    json!({"anyOf": [required("severity"), each]})
}

fn rule(b: &mut Builder) -> Value {
    let mut rule = b.object(&keys::RULE, &["id"]);
    rule["properties"]["stages"]["maxItems"] = json!(MAX_STAGES);
    let derived: Vec<&str> = DerivedTime::ALL.map(DerivedTime::name).to_vec();
    let on = |key: &str| json!({"properties": {key: {"const": true}}, "required": [key]});
    rule["allOf"] = json!([
        {"oneOf": [required("after"), required("before")]},
        {"oneOf": [required("stages"), required("within")]},
        severities(),
        {"if": on("after_terminal"), "then": required("until")},
        {"if": on("restart"), "then": required("after")},
        business_days(&["stages"], "at"),
        {
            "$comment": "`pick` chooses among a milestone's occurrences; `pick: last` the latest of a list",
            "if": {"anyOf": [
                {"properties": {"after": {"enum": derived}}, "required": ["after"]},
                {"properties": {"before": {"enum": derived}}, "required": ["before"]},
                {
                    "properties": {"after": {"type": "array", "contains": {"enum": derived}}, "pick": {"const": "first"}},
                    "required": ["after", "pick"],
                },
            ]},
            "then": {"not": required("pick")},
        },
    ]);
    rule
}

/// Business days need a calendar, in `within` and in lists of stages or steps.
fn business_days(lists: &[&str], key: &str) -> Value {
    let plain = json!({"not": {"type": "string", "pattern": "bd"}});
    let mut properties = json!({ "within": plain });
    for list in lists {
        properties[list] = json!({"items": {"properties": {key: plain}}});
    }
    json!({
        "if": {"anyOf": [{"not": required("calendar")}, {"properties": {"calendar": {"const": "elapsed"}}}]},
        "then": {"properties": properties},
    })
}

fn overriding(b: &mut Builder) -> Value {
    let may: Vec<Key> = std::iter::once(keys::MATCH)
        .chain(keys::RULE.into_iter().filter(|k| OVERRIDE_KEYS.contains(&k.name)))
        .collect();
    let mut over = b.object(&may, &["match"]);
    over["properties"]["stages"]["maxItems"] = json!(MAX_STAGES);
    over["not"] = json!({"required": ["stages", "within"]});
    over
}

fn declared(b: &mut Builder) -> Value {
    let mut fact = b.object(&keys::FACT, &["name"]);
    let known: Vec<&str> = FACT_WORDS.iter().map(|w| w.name).collect();
    fact["properties"]["name"]["not"] = json!({"enum": known});
    fact
}

fn receiver(b: &mut Builder) -> Value {
    let mut receiver = b.object(&policy_keys::RECEIVER, &["id"]);
    let kinds: Vec<Value> = policy_keys::RECEIVER
        .iter()
        .filter(|k| !BESIDE.contains(&k.name))
        .map(|k| required(k.name))
        .collect();
    receiver["oneOf"] = json!(kinds);
    receiver["properties"]["id"]["not"] = json!({"const": "owner"});
    receiver["properties"]["templates"]["dependentRequired"] = json!({"html": ["text"]});
    let templates = policy_keys::RECEIVER.iter().filter(|k| !BESIDE.contains(&k.name)).map(|kind| {
        let known = FORMS.iter().find(|(name, _)| *name == kind.name).map(|(_, forms)| {
            let keys: Vec<&str> = forms.iter().map(|f| f.key()).collect();
            json!({"propertyNames": {"enum": keys}})
        });
        json!({"if": required(kind.name), "then": {"properties": {"templates": known.unwrap_or(Value::Bool(false))}}})
    });
    receiver["allOf"] = templates.collect();
    receiver
}

fn calendar(b: &mut Builder) -> Value {
    let mut calendar = b.object(&policy_keys::CALENDAR, &["id", "zone"]);
    calendar["properties"]["id"]["not"] = json!({"enum": ["elapsed", "by_destination"]});
    calendar
}
