//! Conditions of `inhibit`, `mute` and silences: matchers as in rules (SEMANTICS 4), which also know what an exception is,
//! and read facts by name, as a change's evidence holds them.

use serde_json::Value;

use super::ruleset::{Comparison, Scalar, Test};
use crate::model::Decimal;

/// What conditions know besides facts.
pub const OF_EXCEPTION: [&str; 5] = ["rule", "severity", "owner", "policy", "parcel_id"];
/// Mappings and lists nest no deeper where a condition is read from JSON.
const MAX_DEPTH: usize = 16;
/// A pattern is no longer: comparing costs its length times the text's.
const MAX_GLOB: usize = 200;

/// A condition over what is said of an exception.
#[derive(Clone, PartialEq, Debug)]
pub enum Condition {
    /// Every one holds; none at all: holds always.
    All(Vec<Condition>),
    /// `any_of`.
    Any(Vec<Condition>),
    /// `none_of`.
    None(Vec<Condition>),
    /// One fact, or one of [`OF_EXCEPTION`].
    Is(String, Test),
}

impl Default for Condition {
    fn default() -> Condition {
        Condition::All(Vec::new())
    }
}

impl Condition {
    /// Whether it holds for what `value` says of each name; `None`: missing.
    pub fn holds(&self, value: &dyn Fn(&str) -> Option<Value>) -> bool {
        match self {
            Condition::All(all) => all.iter().all(|c| c.holds(value)),
            Condition::Any(any) => any.iter().any(|c| c.holds(value)),
            Condition::None(none) => !none.iter().any(|c| c.holds(value)),
            Condition::Is(name, test) => passes(test, value(name).as_ref()),
        }
    }

    /// The texts that a name must be one of for this to hold, as far as the condition itself says; `None`: any.
    #[must_use]
    pub fn texts(&self, name: &str) -> Option<Vec<&str>> {
        match self {
            Condition::All(all) => all.iter().find_map(|c| c.texts(name)),
            Condition::Is(named, test) if named == name => {
                let tests = match test {
                    Test::AnyOf(tests) => tests.as_slice(),
                    one => std::slice::from_ref(one),
                };
                tests
                    .iter()
                    .map(|t| match t {
                        Test::Equals(Scalar::Text(text)) => Some(text.as_str()),
                        _ => None,
                    })
                    .collect()
            }
            _ => None,
        }
    }

    /// Adds the names that it asks for.
    pub fn names(&self, names: &mut std::collections::BTreeSet<String>) {
        match self {
            Condition::All(list) | Condition::Any(list) | Condition::None(list) => {
                list.iter().for_each(|c| c.names(names));
            }
            Condition::Is(name, _) => {
                names.insert(name.clone());
            }
        }
    }

    /// Whether it asks for facts, beside what an exception is.
    #[must_use]
    pub fn needs_facts(&self) -> bool {
        match self {
            Condition::All(list) | Condition::Any(list) | Condition::None(list) => {
                list.iter().any(Condition::needs_facts)
            }
            Condition::Is(name, _) => !OF_EXCEPTION.contains(&name.as_str()),
        }
    }

    /// Reads a condition in the form that rules are written in.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn from_json(json: &Value) -> Result<Condition, String> {
        mapping(json, "the matchers", 0)
    }
}

fn mapping(json: &Value, what: &str, depth: usize) -> Result<Condition, String> {
    if depth > MAX_DEPTH {
        return Err(format!("{what} nest too deep"));
    }
    let entries = json.as_object().filter(|o| !o.is_empty()).ok_or_else(|| {
        format!(
            "{what} must be a mapping of names and values, as in {{\"rule\": \"late\", \"lane\": \"CN-ES\"}}"
        )
    })?;
    let branches = |value: &Value, name: &str| {
        let items = value.as_array().filter(|a| !a.is_empty());
        let items = items.ok_or_else(|| format!("`{name}` takes a list of mappings"))?;
        items
            .iter()
            .map(|v| mapping(v, &format!("the entries of `{name}`"), depth + 1))
            .collect::<Result<Vec<_>, _>>()
    };
    let all = entries.iter().map(|(name, value)| match name.as_str() {
        "any_of" => branches(value, name).map(Condition::Any),
        "none_of" => branches(value, name).map(Condition::None),
        _ => test(name, value, depth + 1).map(|t| Condition::Is(name.clone(), t)),
    });
    all.collect::<Result<_, _>>().map(Condition::All)
}

fn test(name: &str, value: &Value, depth: usize) -> Result<Test, String> {
    if depth > MAX_DEPTH {
        return Err(format!("the value of `{name}` nests too deep"));
    }
    match value {
        Value::Array(items) if !items.is_empty() => {
            items.iter().map(|v| test(name, v, depth + 1)).collect::<Result<_, _>>().map(Test::AnyOf)
        }
        Value::Object(entries) if !entries.is_empty() => {
            let tests = entries.iter().map(|(operator, v)| operation(name, operator, v, depth + 1));
            let mut tests = tests.collect::<Result<Vec<_>, _>>()?;
            Ok(if tests.len() == 1 { tests.remove(0) } else { Test::AllOf(tests) })
        }
        _ => scalar(value).map(Test::Equals).ok_or_else(|| {
            format!("`{name}` needs a text, a number, true or false, a list of them, or a comparison such as {{\"gt\": 5}}")
        }),
    }
}

fn operation(name: &str, operator: &str, value: &Value, depth: usize) -> Result<Test, String> {
    let comparison = match operator {
        "gt" => Comparison::Gt,
        "gte" => Comparison::Gte,
        "lt" => Comparison::Lt,
        "lte" => Comparison::Lte,
        "not" => return Ok(Test::Not(Box::new(test(name, value, depth)?))),
        "missing" => {
            let flag = value.as_bool().ok_or("`missing` needs true or false")?;
            return Ok(Test::Missing(flag));
        }
        "glob" => {
            let text = value.as_str().filter(|t| t.len() <= MAX_GLOB);
            let text = text.ok_or_else(|| format!("`glob` needs a text of at most {MAX_GLOB} bytes"))?;
            return Ok(Test::Glob(text.to_owned()));
        }
        _ => {
            return Err(format!(
                "`{operator}` is no comparison; one of not, gt, gte, lt, lte, missing, glob"
            ));
        }
    };
    match scalar(value) {
        Some(Scalar::Number(n)) => Ok(Test::Compare(comparison, n)),
        _ => Err(format!("`{operator}` needs a number")),
    }
}

fn scalar(value: &Value) -> Option<Scalar> {
    match value {
        Value::String(t) => Some(Scalar::Text(t.clone())),
        Value::Bool(b) => Some(Scalar::Bool(*b)),
        Value::Number(n) => Decimal::parse(&n.to_string()).map(Scalar::Number),
        _ => None,
    }
}

fn passes(test: &Test, value: Option<&Value>) -> bool {
    let value = value.filter(|v| !v.is_null());
    match test {
        Test::Equals(scalar) => value.is_some_and(|v| equals(v, scalar)),
        Test::AnyOf(any) => any.iter().any(|t| passes(t, value)),
        Test::AllOf(all) => all.iter().all(|t| passes(t, value)),
        Test::Not(inner) => !passes(inner, value),
        Test::Compare(comparison, n) => value.is_some_and(|v| compares(v, *comparison, *n)),
        Test::Missing(wanted) => value.is_none_or(|v| v.as_array().is_some_and(Vec::is_empty)) == *wanted,
        Test::Glob(pattern) => value.is_some_and(|v| match v {
            Value::String(t) => glob(pattern, t),
            Value::Array(list) => list.iter().filter_map(Value::as_str).any(|t| glob(pattern, t)),
            _ => false,
        }),
    }
}

fn number(value: &Value) -> Option<Decimal> {
    match value {
        Value::Number(n) => Decimal::parse(&n.to_string()),
        // Money, by its amount.
        Value::Object(o) if o.contains_key("currency") => match o.get("amount")? {
            Value::String(t) => Decimal::parse(t),
            amount => number(amount),
        },
        _ => None,
    }
}

fn equals(value: &Value, scalar: &Scalar) -> bool {
    match (value, scalar) {
        (Value::Array(list), Scalar::Bool(b)) => list.is_empty() != *b,
        (Value::Array(list), _) => list.iter().any(|v| equals(v, scalar)),
        (Value::String(t), Scalar::Text(s)) => t == s,
        (Value::Bool(a), Scalar::Bool(b)) => a == b,
        (_, Scalar::Number(m)) => number(value) == Some(*m),
        _ => false,
    }
}

fn compares(value: &Value, comparison: Comparison, n: Decimal) -> bool {
    let order = match value {
        Value::String(t) => Decimal::parse(t).and_then(|v| v.compare(n)),
        Value::Array(list) if list.is_empty() => None,
        Value::Array(list) => i64::try_from(list.len()).ok().and_then(|len| Decimal::whole(len).compare(n)),
        _ => number(value).and_then(|v| v.compare(n)),
    };
    order.is_some_and(|o| match comparison {
        Comparison::Gt => o.is_gt(),
        Comparison::Gte => o.is_ge(),
        Comparison::Lt => o.is_lt(),
        Comparison::Lte => o.is_le(),
    })
}

/// Whether `pattern` matches the whole text: `*` any run, `?` one character. No memory, and at most pattern × text steps:
/// on a mismatch only the last star is tried again.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let (mut p, mut t) = (pattern, text);
    // Behind the last star, and the text that it is tried on next.
    let mut star: Option<(&str, &str)> = None;
    loop {
        let (wanted, found) = (p.chars().next(), t.chars().next());
        match (wanted, found) {
            (Some('*'), _) => {
                p = &p[1..];
                star = Some((p, t));
            }
            (None, None) => return true,
            (Some(w), Some(f)) if w == '?' || w == f => {
                p = &p[w.len_utf8()..];
                t = &t[f.len_utf8()..];
            }
            _ => {
                let Some((after, tried)) = star else { return false };
                let mut rest = tried.chars();
                if rest.next().is_none() {
                    return false;
                }
                star = Some((after, rest.as_str()));
                (p, t) = (after, rest.as_str());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(condition: &Value, about: &Value) -> bool {
        let condition = Condition::from_json(condition).unwrap();
        condition.holds(&|name| about.get(name).cloned())
    }

    #[test]
    fn conditions_read_as_matchers_do() {
        let about = json!({"rule": "late", "severity": "high", "lane": "CN-ES", "weight": 2.50, "seen": ["departed", "arrived"],
            "declared_value": {"amount": "10.00", "currency": "EUR"}, "holds_open": 0, "fragile": true, "documents": []});
        for (condition, expected) in [
            (json!({"rule": "late"}), true),
            (json!({"rule": ["x", "late"], "lane": {"glob": "CN-*"}}), true),
            (json!({"rule": "late", "lane": "CN-FR"}), false),
            (json!({"weight": 2.5}), true),
            (json!({"weight": {"gt": 2, "lt": 3}}), true),
            (json!({"declared_value": {"gte": 10}}), true),
            (json!({"seen": "arrived"}), true),
            (json!({"seen": {"gt": 1}}), true),
            (json!({"broker": {"missing": true}, "documents": {"missing": true}}), true),
            (json!({"broker": {"not": "x"}}), true),
            (json!({"fragile": true}), true),
            (json!({"any_of": [{"lane": "CN-FR"}, {"severity": "high"}]}), true),
            (json!({"none_of": [{"lane": "CN-FR"}, {"severity": "high"}]}), false),
        ] {
            assert_eq!(holds(&condition, &about), expected, "{condition}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused_in_words() {
        for (json, words) in [
            (json!({}), "must be a mapping"),
            (json!([]), "must be a mapping"),
            (json!({"rule": null}), "`rule` needs a text"),
            (json!({"weight": {"above": 3}}), "`above` is no comparison"),
            (json!({"weight": {"gt": "3"}}), "`gt` needs a number"),
            (json!({"any_of": {"rule": "x"}}), "takes a list"),
        ] {
            let said = Condition::from_json(&json).unwrap_err();
            assert!(said.contains(words), "{json}: {said}");
        }
        let mut deep = json!("x");
        for _ in 0..40 {
            deep = json!({ "not": deep });
        }
        assert!(Condition::from_json(&json!({ "rule": deep })).unwrap_err().contains("too deep"));
    }

    #[test]
    fn a_condition_says_which_texts_it_needs() {
        let texts = |json: Value| {
            let condition = Condition::from_json(&json).unwrap();
            condition.texts("rule").map(|t| t.join(","))
        };
        assert_eq!(texts(json!({"rule": "a"})).as_deref(), Some("a"));
        assert_eq!(texts(json!({"lane": "x", "rule": ["a", "b"]})).as_deref(), Some("a,b"));
        assert_eq!(texts(json!({"rule": {"glob": "a*"}})), None);
        assert_eq!(texts(json!({"any_of": [{"rule": "a"}]})), None);
    }

    #[test]
    fn globs_match_the_whole_text() {
        for (pattern, text, holds) in [
            ("CN-*", "CN-US", true),
            ("CN-*", "XCN-US", false),
            ("*-US", "CN-US-air", false),
            ("?N-*", "CN-", true),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("é?", "éx", true),
        ] {
            assert_eq!(glob(pattern, text), holds, "{pattern} {text}");
        }
    }
}
