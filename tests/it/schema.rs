//! The JSON Schemas: they are those of the program, accept what is good, and refuse of what is wrong all that a schema of
//! one file can see.

use std::path::{Path, PathBuf};

use jsonschema::Validator;
use parcelwatch::cli::schema::What;
use parcelwatch::config::{self, Config, Environment};
use parcelwatch::rules::keys::{self, Key};
use parcelwatch::rules::{Level, SourceFile, compile};
use parcelwatch::yaml;
use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn validator(what: What) -> Validator {
    let schema = what.schema();
    assert!(jsonschema::meta::is_valid(&schema), "{what:?} is no JSON Schema");
    jsonschema::validator_for(&schema).unwrap()
}

/// A file as an editor reads it.
fn read(path: &Path) -> Option<Value> {
    let bytes = std::fs::read(path).unwrap();
    let (node, faults) = yaml::parse(yaml::decode(&bytes).ok()?);
    let whole = faults.iter().all(|f| f.kind == yaml::FaultKind::Empty);
    node.filter(|_| whole).map(|n| yaml::to_json(&n))
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    files
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[track_caller]
fn accepts(validator: &Validator, path: &Path, value: &Value) {
    let wrong: Vec<String> =
        validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(wrong.is_empty(), "{}: {}", path.display(), wrong.join("\n"));
}

/// `UPDATE_EXPECT=1` writes them anew.
#[test]
fn shipped_schemas_are_those_of_the_program() {
    for what in What::ALL {
        let path = root().join("rules/schema").join(what.file_name());
        let text = what.text();
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let shipped = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(shipped == text, "{} is old; UPDATE_EXPECT=1 writes it anew", path.display());
    }
}

/// An editor is told in the first line which schema completes and explains the file.
#[test]
fn shipped_files_name_their_schema() {
    let mut all: Vec<PathBuf> = files("rules").into_iter().filter(|p| config::is_rules_file(p)).collect();
    all.push(root().join("config/parcelwatch.yaml"));
    for path in all {
        let text = std::fs::read_to_string(&path).unwrap();
        let named = text.lines().next().and_then(|l| l.strip_prefix("# yaml-language-server: $schema="));
        let Some(named) = named else { panic!("{} names no schema", path.display()) };
        let what = match name(&path).as_str() {
            "policies.yaml" => What::Policies,
            "parcelwatch.yaml" => What::Config,
            _ => What::Rules,
        };
        let schema = path.parent().unwrap().join(named);
        assert!(schema.is_file() && schema.ends_with(what.file_name()), "{}: {named}", path.display());
    }
}

#[test]
fn good_files_are_accepted() {
    let (rules, policies) = (validator(What::Rules), validator(What::Policies));
    let mut seen = 0;
    for folder in ["rules", "tests/data/rules/good"] {
        for path in files(folder).into_iter().filter(|p| config::is_rules_file(p)) {
            let validator = if name(&path) == "policies.yaml" { &policies } else { &rules };
            accepts(validator, &path, &read(&path).unwrap());
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen}");
    let path = root().join("config/parcelwatch.yaml");
    accepts(&validator(What::Config), &path, &read(&path).unwrap());
}

#[test]
fn events_are_accepted_as_they_are_decoded() {
    use parcelwatch::source::decode::{FactNames, decode};
    let (validator, names) = (validator(What::Event), FactNames::new([]));
    let mut seen = 0;
    for folder in std::fs::read_dir(root().join("tests/data/shipped")).unwrap() {
        let path = folder.unwrap().path().join("events.ndjson");
        for line in std::fs::read_to_string(&path).unwrap_or_default().lines() {
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            let decoded = decode(line.as_bytes(), &names);
            let valid = validator.is_valid(&value);
            seen += usize::from(valid);
            assert!(decoded.is_err() || valid, "{}: {line}", path.display());
        }
    }
    assert!(seen >= 30, "{seen}");
    // Both refuse what is no event.
    let good = json!({"parcel_id": "P", "milestone": "delivered", "event_time": "2026-10-12T07:10:00Z"});
    let with = |key: &str, value: Value| {
        let mut event = good.clone();
        if value.is_null() {
            event.as_object_mut().unwrap().remove(key);
        } else {
            event[key] = value;
        }
        event
    };
    let health =
        json!({"control": "feed_health", "event_time": "2026-10-12T07:10:00Z", "feed_status": "stopped"});
    for (event, expected) in [
        (good.clone(), true),
        (health, true),
        (with("milestone", json!("teleported")), true),
        (with("lane", json!(["CN", "US"])), true),
        (with("hold", json!({})), true),
        (with("location", json!({"facility": "ESMAD", "city": "Madrid"})), true),
        (with("parcel_id", Value::Null), false),
        (with("parcel_id", json!("")), false),
        (with("milestone", Value::Null), false),
        (with("event_time", Value::Null), false),
        (with("event_time", json!("yesterday")), false),
        (with("event_time", json!("2026-10-12T07:10:00")), false),
        (with("control", json!("parcel_fact")), false),
        (json!([]), false),
        (json!("delivered"), false),
    ] {
        assert_eq!(validator.is_valid(&event), expected, "{event}");
        assert_eq!(decode(event.to_string().as_bytes(), &names).is_ok(), expected, "{event}");
    }
}

/// Wrong files that a schema of one file cannot see to be wrong, and why.
const UNSEEN: [(&str, &[&str]); 9] = [
    (
        "another place of the file says it: what is named and not defined (PW209), what has one name twice (PW210), an anchor that is expected (PW213)",
        &[
            "calendar_without_policies.yaml",
            "policies_default_policy_unknown.yaml",
            "policies_mute_calendar_unknown.yaml",
            "policies_owner_receiver_unknown.yaml",
            "policies_receiver_undefined.yaml",
            "policy_without_policies.yaml",
            "unknown_set.yaml",
            "with_policies_owner_without_route.yaml",
            "with_policies_unknown_calendar.yaml",
            "with_policies_unknown_policy.yaml",
            "fact_twice.yaml",
            "id_twice.yaml",
            "policies_calendar_twice.yaml",
            "policies_country_twice.yaml",
            "policies_receiver_twice.yaml",
            "expect_the_anchor.yaml",
            "expect_the_anchor_by_from.yaml",
            "override_expects_the_anchor.yaml",
        ],
    ),
    ("an override has the calendar of its rule (PW214)", &["business_days_of_an_override.yaml"]),
    (
        "a directory may declare the fact in any of its files (PW207)",
        &[
            "policies_group_by_unknown.yaml",
            "policies_inhibit_unknown.yaml",
            "policies_owner_by_unknown.yaml",
            "undeclared_fact.yaml",
            "unknown_fact.yaml",
        ],
    ),
    (
        "a duration, a date, hours are calculated with, or a list of zones is asked (PW205, PW211, PW218)",
        &[
            "duration_too_long.yaml",
            "policies_repeat_too_often.yaml",
            "effective_backwards.yaml",
            "policies_calendar_holiday.yaml",
            "policies_calendar_hours_backwards.yaml",
            "policies_calendar_hours_overlap.yaml",
            "policies_calendar_zone.yaml",
            "policies_calendar_zone_city.yaml",
            "policies_working_day_is_a_holiday.yaml",
        ],
    ),
    (
        "a command's bounds and whole path, and what has no rate, are seen by the program (PW204, PW211)",
        &["policies_command_path.yaml", "policies_pagerduty_rate.yaml"],
    ),
    ("whether a template is there is seen by the program (PW101)", &["policies_templates_missing.yaml"]),
    ("`.inf` is a text to JSON, which has no such number (PW204)", &["not_a_number.yaml"]),
    ("names are not compared with each other (PW211)", &["config_dkim_domain.yaml"]),
    (
        "the environment may say the rest (PW202, PW211)",
        &[
            "config_dkim_incomplete.yaml",
            "config_kafka_missing.yaml",
            "config_listen_everywhere.yaml",
            "config_smtp_user_without_password.yaml",
            "config_smtp_without_from.yaml",
        ],
    ),
];

#[test]
fn wrong_files_are_refused_as_far_as_a_schema_can_see() {
    let (rules, policies, config) =
        (validator(What::Rules), validator(What::Policies), validator(What::Config));
    let unseen: Vec<&str> = UNSEEN.iter().flat_map(|(_, files)| *files).copied().collect();
    let (mut refused, mut wrong) = (0, Vec::new());
    for path in files("tests/data/rules/bad") {
        let name = name(&path);
        let Some(value) = read(&path) else { continue };
        let (validator, problems) = if name.starts_with("config_") {
            let read = Config::read(Path::new(&name), &std::fs::read(&path).unwrap(), &Environment::new());
            (&config, read.unwrap_err())
        } else {
            let of_policies = name.starts_with("policies_") && name != "policies_in_a_rules_file.yaml";
            let file = config::read_file(path.clone(), false);
            let as_name = if of_policies { "policies.yaml" } else { &name };
            let mut all = vec![SourceFile { path: as_name.into(), ..file }];
            if name.starts_with("with_policies_") {
                let good = config::read_file(root().join("tests/data/rules/good/policies.yaml"), false);
                all.push(SourceFile { path: "policies.yaml".into(), ..good });
            }
            (if of_policies { &policies } else { &rules }, compile(&all).problems)
        };
        let mut codes: Vec<&str> =
            problems.iter().filter(|p| p.level == Level::Error && p.code > "PW2").map(|p| p.code).collect();
        codes.dedup();
        if codes.is_empty() {
            continue;
        }
        match (validator.is_valid(&value), unseen.contains(&name.as_str())) {
            (false, false) => refused += 1,
            (true, true) => {}
            (true, false) => wrong.push(format!("{name} {codes:?}: accepted")),
            (false, true) => wrong.push(format!("{name}: refused after all, take it off the list")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refused >= 100, "{refused}");
    for (why, files) in UNSEEN {
        let there = |f: &&str| root().join("tests/data/rules/bad").join(f).is_file();
        assert!(!why.is_empty() && files.iter().all(there), "{files:?}");
    }
}

/// A rule with an example of a key in it, and what that key needs beside it.
fn with_example(key: &Key) -> Value {
    let mut rule = json!({"id": "a", "after": "import_customs_cleared", "within": "48h", "severity": "high"});
    rule[key.name] = serde_json::from_str(key.example).unwrap_or_else(|e| panic!("{}: {e}", key.name));
    let gone = match key.name {
        "before" => Some("after"),
        "stages" => Some("within"),
        _ => None,
    };
    if let Some(gone) = gone {
        rule.as_object_mut().unwrap().remove(gone);
    }
    if key.name == "after_terminal" {
        rule["until"] = json!("15d");
    }
    rule
}

#[test]
fn every_key_of_a_rule_has_an_example_that_reader_and_schema_accept() {
    let validator = validator(What::Rules);
    let policies = config::read_file(root().join("tests/data/rules/good/policies.yaml"), false);
    let policies = SourceFile { path: "policies.yaml".into(), ..policies };
    for key in keys::RULE.iter().filter(|k| k.name != "overrides") {
        let mut document = json!({"rules": [with_example(key)]});
        for pass in ["as a key", "in an override"] {
            accepts(&validator, Path::new(key.name), &document);
            let file = SourceFile {
                path: "rules.yaml".into(),
                content: Ok(document.to_string().into_bytes()),
                context: false,
            };
            let loaded = compile(&[file, policies.clone()]);
            let errors: Vec<String> =
                loaded.problems.iter().filter(|p| p.level == Level::Error).map(|p| p.render(false)).collect();
            assert!(errors.is_empty(), "{} {pass}: {}", key.name, errors.join("\n"));
            let schema = What::Rules.schema();
            let over = &schema["$defs"]["override"]["properties"];
            if over[key.name].is_null() {
                break;
            }
            let mut over = json!({"match": {"broker": "acme"}});
            over[key.name] = serde_json::from_str(key.example).unwrap();
            document = json!({"rules": [{
                "id": "a", "after": "import_customs_started", "within": "48h", "severity": "high", "owner": "ops", "overrides": [over],
            }]});
        }
    }
}

/// Every property of a schema and of what stands in it: those with neither words nor properties of their own.
fn silent(at: &str, schema: &Value, seen: &mut usize, out: &mut Vec<String>) {
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        *seen += 1;
        let at = format!("{at}.{name}");
        if property.get("description").is_none() && property.get("properties").is_none() {
            out.push(at.clone());
        }
        silent(&at, property, seen, out);
    }
    for key in ["items", "additionalProperties"] {
        schema.get(key).into_iter().for_each(|s| silent(at, s, seen, out));
    }
    for part in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        silent(at, part, seen, out);
    }
}

#[test]
fn every_property_says_what_it_is() {
    for what in What::ALL {
        let schema = what.schema();
        let (mut seen, mut out) = (0, Vec::new());
        silent("", &schema, &mut seen, &mut out);
        for (name, def) in schema["$defs"].as_object().into_iter().flatten() {
            silent(name, def, &mut seen, &mut out);
        }
        assert!(out.is_empty(), "{what:?}: {out:?} say nothing");
        assert!(seen >= 20, "{what:?}: {seen}");
    }
}
