//! The shipped rules on sample parcels: each folder of `tests/data/shipped` has events and the changes expected of all
//! shipped rules together. `UPDATE_EXPECT=1` writes the changes anew; read them before you keep them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parcelwatch::cli::backtest::{backtest, json_line, read};
use parcelwatch::cli::test::{run_suite, suites};
use parcelwatch::config::read_rules;
use parcelwatch::rules::compile;
use parcelwatch::testing::coverage::Coverage;

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/shipped");
    let mut all: Vec<_> =
        fs::read_dir(root).expect("the folder").map(|e| e.expect("an entry").path()).collect();
    all.retain(|p| p.is_dir());
    all.sort();
    all
}

#[test]
fn shipped_rules_tell_of_sample_parcels_what_is_expected() {
    let rules =
        compile(&read_rules(&Path::new(env!("CARGO_MANIFEST_DIR")).join("rules")).expect("the rules"));
    let rules = Arc::new(rules.rules.expect("valid rules"));
    for folder in folders() {
        let batches = read(&[folder.join("events.ndjson")]).expect("events");
        let outcome = backtest(&rules, &batches, None, 2);
        let found: String = outcome.changes.iter().map(|c| json_line(c) + "\n").collect();
        let file = folder.join("expected.jsonl");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&file, &found).expect("written");
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(found, expected, "{}", folder.display());
    }
}

/// The tests beside the shipped rules pass, and ask for each stage, override, ending and step. Which wrong rules they would
/// notice is asked by `parcelwatch test rules --mutate`.
#[test]
fn the_tests_of_the_shipped_rules_pass_and_leave_nothing_out() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules");
    let Ok(suites) = suites(&[dir]) else { panic!("rules or tests have problems: parcelwatch test rules") };
    let suite = &suites[0];
    let done = run_suite(suite, None);
    let failed: Vec<_> = done
        .iter()
        .flat_map(|d| d.verdict.faults.iter().map(|f| format!("{}: {}", d.test.name, f.message)))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(done.len() > 400);
    let mut coverage = Coverage::new(&suite.rules, &suite.policies, &suite.tests);
    for d in &done {
        coverage.take(d.verdict.asked.iter().map(|i| &d.happened[*i]));
    }
    assert_eq!(coverage.percent(), 100, "{}", coverage.report("rules"));
}
