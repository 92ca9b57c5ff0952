//! Makes a failing case small: fewer records, fewer rules, fewer keys, as long as it still fails.
use super::Draft;
use serde_json::Value;

/// Keys that a rule is not valid without, or that only explain.
const NEEDED: [&str; 8] = ["id", "title", "owner", "severity", "after", "before", "match", "from"];

/// The smallest draft found for which `fails` still holds.
pub fn shrink(draft: &Draft, fails: &dyn Fn(&Draft) -> bool) -> Draft {
    let mut smallest = draft.clone();
    loop {
        let before = smallest.case();
        drop_events(&mut smallest, fails);
        drop_in_rules(&mut smallest, fails);
        drop_in_events(&mut smallest, fails);
        for simpler in
            [Draft { until: None, ..smallest.clone() }, Draft { policies: None, ..smallest.clone() }]
        {
            if is_valid(&simpler) && fails(&simpler) {
                smallest = simpler;
            }
        }
        let after = smallest.case();
        let same = before.rules == after.rules
            && before.events == after.events
            && before.until == after.until
            && before.policies == after.policies;
        if same {
            return smallest;
        }
    }
}

/// Halves, quarters … single lines.
fn drop_events(draft: &mut Draft, fails: &dyn Fn(&Draft) -> bool) {
    let mut size = draft.events.len().div_ceil(2).max(1);
    loop {
        let mut from = 0;
        while from < draft.events.len() {
            let mut fewer = draft.clone();
            let to = (from + size).min(fewer.events.len());
            fewer.events.drain(from..to);
            if fails(&fewer) {
                *draft = fewer;
            } else {
                from += size;
            }
        }
        if size == 1 {
            return;
        }
        size /= 2;
    }
}

/// Every place of a value that can be left out, as JSON pointers, the outer ones first.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, inner) in object {
                let path = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                into.push(path.clone());
                places(inner, &path, into);
            }
        }
        Value::Array(list) => {
            for (index, inner) in list.iter().enumerate().rev() {
                let path = format!("{at}/{index}");
                into.push(path.clone());
                places(inner, &path, into);
            }
        }
        _ => {}
    }
}

fn without(value: &Value, path: &str) -> Option<Value> {
    let (parent, last) = path.rsplit_once('/')?;
    let mut copy = value.clone();
    match copy.pointer_mut(parent)? {
        Value::Object(object) => drop(object.remove(&last.replace("~1", "/").replace("~0", "~"))?),
        Value::Array(list) => {
            let index: usize = last.parse().ok()?;
            if list.len() < 2 && parent.ends_with("stages") || index >= list.len() {
                return None;
            }
            list.remove(index);
        }
        _ => return None,
    }
    Some(copy)
}

fn drop_in_rules(draft: &mut Draft, fails: &dyn Fn(&Draft) -> bool) {
    let mut paths = Vec::new();
    places(&draft.rules, "", &mut paths);
    for path in paths {
        let key = path.rsplit('/').next().unwrap_or_default();
        if NEEDED.contains(&key) {
            continue;
        }
        let Some(rules) = without(&draft.rules, &path) else { continue };
        let simpler = Draft { rules, ..draft.clone() };
        if is_valid(&simpler) && fails(&simpler) {
            *draft = simpler;
        }
    }
}

fn drop_in_events(draft: &mut Draft, fails: &dyn Fn(&Draft) -> bool) {
    for index in 0..draft.events.len() {
        let Ok(mut body) = serde_json::from_slice::<Value>(&draft.events[index]) else { continue };
        let mut paths = Vec::new();
        places(&body, "", &mut paths);
        for path in paths {
            let Some(simpler_body) = without(&body, &path) else { continue };
            let mut simpler = draft.clone();
            simpler.events[index] = simpler_body.to_string().into_bytes();
            if fails(&simpler) {
                *draft = simpler;
                body = simpler_body;
            }
        }
    }
}

/// Leaving something out may leave rules that `check` would refuse; those prove nothing.
fn is_valid(draft: &Draft) -> bool {
    let rules = draft.rules.get("rules").and_then(Value::as_array);
    let text = draft.rules.to_string();
    let sets_there = ["eu", "unpaid"].iter().all(|name| {
        !text.contains(&format!("{{\"in\":\"{name}\"}}"))
            || draft
                .rules
                .pointer(&format!("/sets/{name}"))
                .is_some_and(|set| set.as_array().is_some_and(|s| !s.is_empty()))
    });
    let facts_there = ["warehouse_zone", "customs.office"].iter().all(|name| {
        let declared = draft.rules.get("facts").is_some_and(|facts| facts.to_string().contains(name));
        declared || !rules.is_some_and(|rules| Value::from(rules.clone()).to_string().contains(name))
    });
    sets_there
        && facts_there
        && rules.is_some_and(|rules| !rules.is_empty() && rules.iter().all(|rule| rule_is_valid(rule, draft)))
}

fn rule_is_valid(rule: &Value, draft: &Draft) -> bool {
    let has = |key: &str| rule.get(key).is_some();
    let is_list_of_one = |value: &Value| value.as_array().is_some_and(|list| list.len() < 2);
    let text = rule.to_string();
    let names_calendar = text.contains("\"calendar\":");
    let one_of_stages = has("stages") != has("within");
    let anchor_is_sound = rule.get("after").is_none_or(|after| !is_list_of_one(after));
    let has_terms = |o: &Value| o.as_object().is_some_and(|keys| keys.len() > 1);
    let overrides_say_something = rule
        .get("overrides")
        .and_then(Value::as_array)
        .is_none_or(|list| !list.is_empty() && list.iter().all(has_terms));
    let empty = [":{}", ":[]", "[{}]"].iter().any(|empty| text.contains(empty));
    one_of_stages
        && anchor_is_sound
        && overrides_say_something
        && !empty
        && (has("until") || !has("after_terminal"))
        && (has("while") || has("unless") || !has("restart"))
        && (draft.policies.is_some() || !(names_calendar || has("policy")))
        && (has("calendar") || !text.contains("bd"))
        // `at` of a stage is a duration and stays
        && rule.get("stages").and_then(Value::as_array).is_none_or(|stages| stages.iter().all(|s| s.get("at").is_some()))
        && stages_of_overrides_are_sound(rule)
}

fn stages_of_overrides_are_sound(rule: &Value) -> bool {
    let Some(overrides) = rule.get("overrides").and_then(Value::as_array) else { return true };
    overrides.iter().all(|replacement| {
        let stages = replacement.get("stages").and_then(Value::as_array);
        stages.is_none_or(|stages| stages.iter().all(|stage| stage.get("at").is_some()))
    })
}
