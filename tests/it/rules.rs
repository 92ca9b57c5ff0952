//! Files of rules and policies: what good ones mean, and what is said about bad ones.

use std::path::Path;

use parcelwatch::config;
use parcelwatch::rules::{Loaded, compile};

#[track_caller]
fn good(path: &str) -> Loaded {
    let loaded = compile(&[config::read_file(Path::new(env!("CARGO_MANIFEST_DIR")).join(path), false)]);
    let shown: String = loaded.problems.iter().map(|p| p.render(false) + "\n").collect();
    assert!(loaded.problems.is_empty(), "{shown}");
    loaded
}

#[test]
fn the_rules_of_the_design_compile() {
    let rules = good("tests/data/rules/good/design.yaml").rules.unwrap();
    let ids: Vec<&str> = rules.rules.iter().map(|r| &*r.id).collect();
    assert_eq!(ids, ["cleared_no_domestic_scan", "everything", "hold_vs_guarantee"]);
    let (_, first) = rules.rule("cleared_no_domestic_scan").unwrap();
    assert_eq!((first.bodies.len(), first.overrides.len()), (2, 1));
    assert_eq!(first.bodies[1].stages.len(), 1);
}

#[test]
fn shipped_rules_compile() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules");
    let loaded = compile(&config::read_rules(&dir).unwrap());
    let shown: String = loaded.problems.iter().map(|p| p.render(false) + "\n").collect();
    assert!(loaded.problems.is_empty(), "{shown}");
    assert!(loaded.rules.unwrap().rules.len() >= 11);
}
