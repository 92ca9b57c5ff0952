//! Matchers (4).
use super::decimal::Exact;
use super::facts::Fact;
use serde_json::Value as Json;
use serde_yaml::{Mapping, Value};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// 4.5: named lists.
pub type Sets = BTreeMap<String, Vec<Value>>;

/// DESIGN 5: every entry must hold.
pub fn holds(matcher: &Value, fact: &dyn Fn(&str) -> Option<Fact>, sets: &Sets) -> bool {
    let entries = matcher.as_mapping().expect("a matcher is a mapping");
    entries.iter().all(|(name, wanted)| match name.as_str().expect("a fact's name") {
        "any_of" => alternatives(wanted).iter().any(|matcher| holds(matcher, fact, sets)),
        "none_of" => !alternatives(wanted).iter().any(|matcher| holds(matcher, fact, sets)),
        name => condition(fact(name).as_ref(), wanted, sets),
    })
}

fn alternatives(value: &Value) -> &Vec<Value> {
    value.as_sequence().expect("any_of and none_of take a list")
}

fn condition(fact: Option<&Fact>, wanted: &Value, sets: &Sets) -> bool {
    match wanted {
        Value::Mapping(operators) => all_operators(fact, operators, sets),
        Value::Sequence(any) => any.iter().any(|wanted| equals(fact, wanted)),
        scalar => equals(fact, scalar),
    }
}

/// 4.3: several operators in one mapping must all hold.
fn all_operators(fact: Option<&Fact>, operators: &Mapping, sets: &Sets) -> bool {
    operators.iter().all(|(operator, wanted)| match operator.as_str().expect("an operator") {
        "not" => !condition(fact, wanted, sets),
        "missing" => is_missing(fact) == wanted.as_bool().expect("missing is true or false"),
        "in" => sets[wanted.as_str().expect("a set's name")].iter().any(|wanted| equals(fact, wanted)),
        "glob" => match fact {
            Some(Fact::Json(Json::String(text))) => {
                let pattern: Vec<char> = wanted.as_str().expect("a glob is a text").chars().collect();
                glob(&pattern, &text.chars().collect::<Vec<char>>())
            }
            _ => false,
        },
        comparison => {
            let (Some(number), Some(bound)) = (fact.and_then(number), yaml_number(wanted)) else {
                return false;
            };
            let order = number.compare(bound);
            match comparison {
                "gt" => order == Ordering::Greater,
                "gte" => order != Ordering::Less,
                "lt" => order == Ordering::Less,
                "lte" => order != Ordering::Greater,
                _ => panic!("{comparison} is no operator"),
            }
        }
    })
}

/// 2.1: an empty list is missing.
fn is_missing(fact: Option<&Fact>) -> bool {
    match fact {
        None => true,
        Some(Fact::Json(Json::Array(list))) => list.is_empty(),
        Some(_) => false,
    }
}

/// 4.1, 4.2
fn equals(fact: Option<&Fact>, wanted: &Value) -> bool {
    match fact {
        None => false,
        Some(Fact::Number(number)) => yaml_number(wanted).is_some_and(|w| number.compare(w).is_eq()),
        Some(Fact::Json(Json::Array(list))) => match wanted {
            Value::Bool(wanted) => *wanted != list.is_empty(),
            _ => list.iter().any(|element| scalar_equals(element, wanted)),
        },
        Some(Fact::Json(value)) => scalar_equals(value, wanted),
    }
}

/// 4.1: equal only within one type; a money object equals a number by its amount.
fn scalar_equals(value: &Json, wanted: &Value) -> bool {
    match (value, wanted) {
        (Json::String(text), Value::String(wanted)) => text == wanted,
        (Json::Bool(value), Value::Bool(wanted)) => value == wanted,
        (Json::Number(_) | Json::Object(_), Value::Number(_)) => {
            match (json_number(value), yaml_number(wanted)) {
                (Some(number), Some(wanted)) => number.compare(wanted).is_eq(),
                _ => false,
            }
        }
        _ => false,
    }
}

fn yaml_number(value: &Value) -> Option<Exact> {
    match value {
        Value::Number(number) => Exact::parse(&number.to_string()),
        _ => None,
    }
}

fn json_number(value: &Json) -> Option<Exact> {
    match value {
        Json::Number(number) => Exact::parse(&number.to_string()),
        Json::Object(money) => match money.get("amount")? {
            Json::String(text) => Exact::parse(text),
            Json::Number(number) => Exact::parse(&number.to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// 4.1: what comparisons read; a missing fact, so an empty list too, is not compared (4.3).
fn number(fact: &Fact) -> Option<Exact> {
    match fact {
        Fact::Number(number) => Some(*number),
        Fact::Json(Json::String(text)) => Exact::parse(text),
        Fact::Json(Json::Array(list)) if list.is_empty() => None,
        Fact::Json(Json::Array(list)) => Some(Exact::from_length(list.len())),
        Fact::Json(value) => json_number(value),
    }
}

/// 4.4: the whole text; `*` any run, `?` one character.
fn glob(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|skipped| glob(rest, &text[skipped..])),
        Some(('?', rest)) => !text.is_empty() && glob(rest, &text[1..]),
        Some((letter, rest)) => text.first() == Some(letter) && glob(rest, &text[1..]),
    }
}
