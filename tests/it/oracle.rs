//! The naive oracle (`tests/oracle`) against the hand-written cases, and the engine against the oracle.
use crate::oracle_impl::generate::Draft;
use crate::oracle_impl::generate::shrink::shrink;
use crate::oracle_impl::time::{parse_instant, print_instant};
use crate::oracle_impl::vocabulary::{DERIVED_TIMES, rank};
use crate::oracle_impl::{Case, Change, Line, judge};
use parcelwatch::cli::backtest::{backtest, json_line};
use parcelwatch::model::Time;
use parcelwatch::rules::{SourceFile, compile};
use parcelwatch::source::{Batch, Stamp};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A line of `backtest --format jsonl`; times are compared as instants.
fn parse_line(line: &str) -> Line {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?} is no JSON: {e}"));
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_string);
    let needed = |key: &str| text(key).unwrap_or_else(|| panic!("no {key} in {line}"));
    let instant = |key: &str| {
        text(key).map(|time| parse_instant(&time).unwrap_or_else(|| panic!("{key} is no time in {line}")))
    };
    Line {
        at: instant("at").expect("at"),
        parcel_id: needed("parcel_id"),
        rule: needed("rule"),
        change: match needed("change").as_str() {
            "opened" => Change::Opened,
            "raised" => Change::Raised,
            "resolved" => Change::Resolved,
            other => panic!("unknown change {other} in {line}"),
        },
        episode: needed("episode"),
        stage: value["stage"].as_u64().expect("stage"),
        severity: text("severity"),
        due: instant("due"),
        anchor: instant("anchor").unwrap_or_else(|| panic!("no anchor in {line}")),
        resolution: text("resolution"),
    }
}

fn parse_lines(output: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = output.lines().filter(|line| !line.is_empty()).map(parse_line).collect();
    lines.sort();
    lines
}

fn hand_written_cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cases");
    let entries = fs::read_dir(&root).expect("tests/data/cases").map(|entry| entry.expect("an entry").path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn read_case(folder: &Path) -> Case {
    Case {
        rules: fs::read_to_string(folder.join("rules.yaml")).expect("rules.yaml"),
        policies: fs::read_to_string(folder.join("policies.yaml")).ok(),
        events: fs::read(folder.join("events.ndjson")).expect("events.ndjson"),
        until: None,
    }
}

#[test]
fn the_oracle_decides_the_hand_written_cases_as_expected() {
    let folders = hand_written_cases();
    assert!(folders.len() >= 8, "the cases are missing");
    for folder in folders {
        let expected =
            parse_lines(&fs::read_to_string(folder.join("expected.jsonl")).expect("expected.jsonl"));
        assert_eq!(judge(&read_case(&folder)), expected, "{}", folder.display());
    }
}

/// What is compared with the oracle: the lines, or why there are none.
type Engine<'a> = &'a dyn Fn(&Case) -> Result<Vec<Line>, String>;

/// The seeds to go through: PARCELWATCH_SEED alone, or the first PARCELWATCH_SEEDS, or those of a range (`4000..9000`).
fn seeds(by_default: u64) -> Vec<u64> {
    let number = |name: &str, text: &str| -> u64 {
        text.parse().unwrap_or_else(|_| panic!("{name}: `{text}` is no number"))
    };
    if let Ok(seed) = std::env::var("PARCELWATCH_SEED") {
        return vec![number("PARCELWATCH_SEED", &seed)];
    }
    let Ok(text) = std::env::var("PARCELWATCH_SEEDS") else { return (0..by_default).collect() };
    let (from, to) = text.split_once("..").unwrap_or(("0", &text));
    (number("PARCELWATCH_SEEDS", from)..number("PARCELWATCH_SEEDS", to)).collect()
}

/// A case that the engine decides otherwise, with both answers; what the oracle cannot read proves nothing.
fn disagreement(case: &Case, engine: Engine) -> Option<(Vec<Line>, Vec<Line>)> {
    let expected = std::panic::catch_unwind(|| judge(case)).ok()?;
    let mut found = engine(case).ok()?;
    found.sort();
    (found != expected).then_some((expected, found))
}

/// Runs the engine and the oracle over random cases; the first that differ are made small and shown.
fn compare_over_seeds(engine: Engine) {
    let mut refused = Vec::new();
    for seed in seeds(500) {
        let draft = Draft::of_seed(seed);
        if let Err(problem) = engine(&draft.case()) {
            refused.push(format!("seed {seed}: {problem}"));
            continue;
        }
        if disagreement(&draft.case(), engine).is_none() {
            continue;
        }
        let small = shrink(&draft, &|draft| disagreement(&draft.case(), engine).is_some());
        let (expected, found) = disagreement(&small.case(), engine).expect("it still fails");
        panic!("seed {seed}, made small:\n{}", shown(&small.case(), &expected, &found));
    }
    assert!(refused.is_empty(), "rules that are valid were refused:\n{}", refused.join("\n"));
}

fn shown(case: &Case, expected: &[Line], found: &[Line]) -> String {
    let only = |these: &[Line], others: &[Line]| {
        let lines = these.iter().filter(|line| !others.contains(line)).map(shown_line);
        lines.collect::<Vec<String>>().join("\n")
    };
    let all = |lines: &[Line]| lines.iter().map(shown_line).collect::<Vec<String>>().join("\n");
    format!(
        "--- rules.yaml\n{}--- policies.yaml\n{}\n--- events.ndjson\n{}--- until {:?}\n--- the oracle\n{}\n--- the engine\n{}\n\
         --- only the oracle\n{}\n--- only the engine\n{}\n",
        case.rules,
        case.policies.as_deref().unwrap_or("(none)"),
        String::from_utf8_lossy(&case.events),
        case.until.map(print_instant),
        all(expected),
        all(found),
        only(expected, found),
        only(found, expected),
    )
}

fn shown_line(line: &Line) -> String {
    let due = line.due.map_or("-".to_string(), print_instant);
    format!(
        "{} {:?} {} {} episode {:?} stage {} {} due {due} anchor {}",
        print_instant(line.at),
        line.change,
        line.parcel_id,
        line.rule,
        line.episode,
        line.stage,
        line.severity.as_ref().or(line.resolution.as_ref()).map_or("-", String::as_str),
        print_instant(line.anchor),
    )
}

/// What a rule is made of, by names that the catalogue below lists.
fn ingredients(rule: &Value, into: &mut BTreeSet<String>) {
    let keys = rule.as_object().expect("a rule");
    for (key, value) in keys {
        into.insert(format!("key {key}"));
        match key.as_str() {
            "after" | "before" | "expect" => {
                let list = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
                for name in &list {
                    let name = name.as_str().unwrap_or("{from}");
                    into.insert(format!("{key} {}", if rank(name).is_some() { "a milestone" } else { name }));
                }
                if value.is_array() {
                    into.insert(format!("{key} a list"));
                }
            }
            "pick" | "calendar" | "mode" | "enabled" => drop(into.insert(format!("{key} {value}"))),
            "tolerance" if value == "any" => drop(into.insert("tolerance any".to_string())),
            "scope" | "while" | "unless" | "match" => matcher_ingredients(value, into),
            "overrides" => {
                for replacement in value.as_array().expect("overrides") {
                    let mut of_override = BTreeSet::new();
                    ingredients(replacement, &mut of_override);
                    let keys = of_override.into_iter().filter(|name| name.starts_with("key "));
                    into.extend(keys.map(|name| format!("override {name}")));
                }
            }
            _ => {}
        }
    }
    if rule.to_string().contains("bd\"") {
        into.insert("business days".to_string());
    }
}

fn matcher_ingredients(matcher: &Value, into: &mut BTreeSet<String>) {
    for (name, wanted) in matcher.as_object().expect("a matcher") {
        match (name.as_str(), wanted) {
            ("any_of" | "none_of", Value::Array(list)) => {
                into.insert(name.clone());
                list.iter().for_each(|matcher| matcher_ingredients(matcher, into));
            }
            (_, Value::Object(operators)) => {
                into.extend(operators.keys().map(|operator| format!("operator {operator}")));
                into.insert(format!("fact {name}"));
            }
            _ => drop(into.insert(format!("fact {name}"))),
        }
    }
}

/// A proof over cases in which nothing happens proves nothing: every key, form and kind of change takes part in lines.
#[test]
fn random_cases_leave_no_key_and_no_kind_of_change_out() {
    let mut there = BTreeSet::new();
    for seed in 0..500 {
        let draft = Draft::of_seed(seed);
        let rules = draft.rules["rules"].as_array().expect("rules");
        if rules.iter().any(|rule| rule.get("enabled") == Some(&Value::Bool(false))) {
            there.insert("a rule that is not enabled".to_string());
        }
        for line in judge(&draft.case()) {
            let change = format!("{:?}", line.change).to_lowercase();
            there.insert(
                line.resolution.map_or(change.clone(), |resolution| format!("{change} {resolution}")),
            );
            if line.change != Change::Opened {
                continue;
            }
            if !line.episode.is_empty() {
                there.insert("an episode".to_string());
            }
            let rule = rules.iter().find(|rule| rule["id"] == line.rule.as_str()).expect("the line's rule");
            ingredients(rule, &mut there);
        }
    }
    let absent: Vec<String> = catalogue().into_iter().filter(|name| !there.contains(name)).collect();
    assert!(absent.is_empty(), "never seen: {absent:#?}");
}

fn catalogue() -> Vec<String> {
    let under = |prefix: &str, names: &str| -> Vec<String> {
        names.split_whitespace().map(|name| format!("{prefix} {name}")).collect()
    };
    let derived_times = DERIVED_TIMES.join(" ");
    [
        under(
            "key",
            "id title description after before pick scope holds unless while restart expect evidence tolerance grace
             reporting_delay zone_slack until calendar stages within severity owner policy labels overrides effective
             enabled mode version runbook after_terminal",
        ),
        under(
            "override key",
            "match title unless while expect evidence tolerance grace reporting_delay calendar stages within severity
             owner labels",
        ),
        under("resolved", "satisfied_late late_evidence terminal expired condition_ended anchor_moved forgotten"),
        under("after", &derived_times),
        under("before", "guarantee_end duty_due_by hold_respond_by next_expected_by"),
        under("expect", "{from} next_expected import_customs_fully_cleared holds_closed documents_added"),
        under("operator", "not gt gte lt lte missing glob in"),
        under("calendar", "\"es\" \"us\" \"other\" \"by_destination\""),
        under("pick", "\"first\" \"last\""),
        under(
            "fact",
            "lane destination origin entry_type duty_status domestic_carrier declared_value landed_cost_drift
             landed_cost_drift_percent parcel_index guarantee_days category_forced_labour terminal weak_description
             missing_documents documents seen last_milestone facility_scans feed_status location.country
             location.facility source.system source.role warehouse_zone customs.office tracking_number items
             linked_tracking next_expected_milestone holds_open hold_reasons",
        ),
        ["opened", "raised", "an episode", "a rule that is not enabled", "business days", "tolerance any"]
            .map(String::from)
            .to_vec(),
        ["after a list", "after a milestone", "before a milestone", "expect a list", "expect a milestone"]
            .map(String::from)
            .to_vec(),
        ["any_of", "none_of"].map(String::from).to_vec(),
    ]
    .concat()
}

/// The program's own backtest, in this process.
fn engine(case: &Case) -> Result<Vec<Line>, String> {
    let file = |name: &str, text: &str| SourceFile {
        path: PathBuf::from(name),
        content: Ok(text.as_bytes().to_vec()),
        context: false,
    };
    let mut files = vec![file("rules.yaml", &case.rules)];
    files.extend(case.policies.iter().map(|text| file("policies.yaml", text)));
    let loaded = compile(&files);
    let Some(rules) = loaded.rules else {
        return Err(loaded.problems.iter().map(|problem| problem.render(false)).collect());
    };
    let mut batch = Batch::new(0);
    for (number, line) in case.events.split(|byte| *byte == b'\n').enumerate() {
        if !line.is_empty() {
            batch.push(number as i64, Stamp::None, b"", line);
        }
    }
    let until = case.until.map(Time);
    let outcome = backtest(&Arc::new(rules), &[batch], until, 2);
    Ok(outcome.changes.iter().map(|change| parse_line(&json_line(change))).collect())
}

#[test]
fn the_engine_decides_the_hand_written_cases_as_expected() {
    for folder in hand_written_cases() {
        let expected =
            parse_lines(&fs::read_to_string(folder.join("expected.jsonl")).expect("expected.jsonl"));
        let mut found = engine(&read_case(&folder)).expect("valid rules");
        found.sort();
        assert_eq!(found, expected, "{}", folder.display());
    }
}

#[test]
fn the_engine_decides_random_cases_as_the_oracle_does() {
    compare_over_seeds(&engine);
}

/// The command reads files in another way than the function does: in blocks, merged, sorted aside where a line goes back.
#[test]
fn the_command_decides_random_files_as_the_oracle_does() {
    let dir = tempfile::tempdir().expect("a folder");
    for seed in seeds(120) {
        let case = Draft::of_seed(seed).case();
        let rules = dir.path().join(format!("rules-{seed}"));
        fs::create_dir(&rules).expect("a folder");
        fs::write(rules.join("rules.yaml"), &case.rules).expect("written");
        if let Some(policies) = &case.policies {
            fs::write(rules.join("policies.yaml"), policies).expect("written");
        }
        // One file, or two in the order in which they are named.
        let (first, second) = (dir.path().join("first.ndjson"), dir.path().join("second.ndjson"));
        let lines: Vec<&[u8]> = case.events.split_inclusive(|byte| *byte == b'\n').collect();
        let cut = if seed % 2 == 0 { lines.len() } else { lines.len() / 3 };
        fs::write(&first, lines[..cut].concat()).expect("written");
        fs::write(&second, lines[cut..].concat()).expect("written");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_parcelwatch"));
        command.args(["backtest", "--rules"]).arg(&rules).arg("--events").arg(&first).arg(&second);
        if let Some(until) = case.until {
            command.args(["--until", &print_instant(until)]);
        }
        let out = command.output().expect("it runs");
        assert!(out.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&out.stderr));
        let found = parse_lines(&String::from_utf8(out.stdout).expect("UTF-8"));
        let expected = judge(&case);
        assert_eq!(found, expected, "seed {seed}\n{}", shown(&case, &expected, &found));
    }
}
