//! `PARCELWATCH_SECTION__KEY=value` over the file.

use std::path::PathBuf;
use std::sync::Arc;

use serde_yaml::{Mapping, Value};

use super::Environment;
use super::keys::{self, Want};
use crate::rules::problem::{Problem, Source, code, suggest};
use crate::rules::reader::Reader;
use crate::yaml;

const PREFIX: &str = "PARCELWATCH_";

/// The variables of this process that name a key, or try to.
pub fn ours() -> Environment {
    let pairs = std::env::vars_os().filter_map(|(k, v)| {
        let name = k.into_string().ok().filter(|n| n.starts_with(PREFIX))?;
        Some((name, v.to_string_lossy().into_owned()))
    });
    pairs.collect()
}

/// The dotted path that a variable names. Properties of librdkafka have dots where a variable cannot.
fn path(variable: &str) -> Option<String> {
    let rest = variable.strip_prefix(PREFIX)?.to_lowercase();
    match rest.strip_prefix("kafka__properties__") {
        Some(property) => Some(format!("kafka.properties.{}", property.replace('_', "."))),
        None => Some(rest.replace("__", ".")),
    }
}

/// What the environment says, as a document like the file's. Variables that name no section are others' business.
pub fn overlay(env: &Environment, problems: &mut Vec<Problem>) -> Value {
    let mut root = Mapping::new();
    for (variable, text) in env {
        let Some(path) = path(variable) else { continue };
        let section = path.split('.').next().unwrap_or_default();
        let property = path.strip_prefix("kafka.properties.");
        let want = if property.is_some() { Some(Want::Text) } else { keys::want(&path) };
        let Some(want) = want else {
            // `PARCELWATCH_CONFIG` and the like name no key; `PARCELWATCH_KAFKA__TOPICS` tries to.
            if variable.contains("__") {
                let known = keys::KEYS.iter().map(|(p, _, _)| *p);
                let mut p = Problem::of_file(
                    PathBuf::from(variable),
                    code::UNKNOWN_KEY,
                    format!("there is no key `{path}`"),
                );
                p.help = suggest(&path, known)
                    .or_else(|| Some(format!("keys of {section}: {}", keys::within(section).join(", "))));
                problems.push(p);
            }
            continue;
        };
        let value = value(variable, text, &path, want, problems);
        insert(&mut root, &path, property, value);
    }
    Value::Mapping(root)
}

fn value(variable: &str, text: &str, path: &str, want: Want, problems: &mut Vec<Problem>) -> Value {
    let kept = || {
        let mut map = Mapping::new();
        map.insert("env".into(), variable.into());
        Value::Mapping(map)
    };
    // A secret in a variable is kept in that variable; it may also say where else.
    let names_a_place = text.trim_start().starts_with('{');
    if (want == Want::Secret || path.starts_with("kafka.properties.")) && !names_a_place {
        return kept();
    }
    // `[a, b]` and `{…}` are YAML, everything else is the text it is.
    let structured = text.trim_start().starts_with(['[', '{']);
    let quoted;
    let written = if structured || text.is_empty() || want == Want::Count {
        text
    } else {
        quoted = serde_json::Value::from(text).to_string();
        &quoted
    };
    let source = Arc::new(Source::new(PathBuf::from(variable), text.as_bytes()));
    let (node, faults) = yaml::parse(written);
    let mut found: Vec<Problem> = Vec::new();
    let mut r = Reader::new(Arc::clone(&source));
    match &node {
        Some(node) if faults.is_empty() => keys::check_value(&mut r, path, want, node),
        _ if text.is_empty() => {}
        _ => found.extend(faults.into_iter().map(|f| Problem::of_fault(&source, f))),
    }
    found.extend(r.into_problems());
    let failed = !found.is_empty();
    // A place within a variable tells nothing, and its text may be a secret.
    problems.extend(found.into_iter().map(|mut p| {
        p.place = None;
        p.also.clear();
        p
    }));
    if failed { Value::Null } else { serde_yaml::from_str(written).unwrap_or(Value::Null) }
}

fn insert(root: &mut Mapping, path: &str, property: Option<&str>, value: Value) {
    let keys: Vec<&str> = match property {
        Some(name) => vec!["kafka", "properties", name],
        None => path.split('.').collect(),
    };
    let Some((last, sections)) = keys.split_last() else { return };
    let mut at = root;
    for section in sections {
        let next = at.entry((*section).into()).or_insert_with(|| Value::Mapping(Mapping::new()));
        match next {
            Value::Mapping(map) => at = map,
            _ => return,
        }
    }
    at.insert((*last).into(), value);
}

/// Lays one document over another.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Mapping(base), Value::Mapping(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    // A secret that is kept elsewhere replaces its place whole.
                    Some(old) if !value.as_mapping().is_some_and(is_place) => merge(old, value),
                    _ => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (base, over) => *base = over,
    }
}

fn is_place(map: &Mapping) -> bool {
    map.contains_key("env") || map.contains_key("file")
}
