//! Files of rules, policies and configurations: what good ones mean, and what is said about bad ones.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parcelwatch::config::{self, Config, Environment};
use parcelwatch::rules::problem::Problem;
use parcelwatch::rules::{Loaded, SourceFile, compile};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the corpus, under a name that does not depend on where the project lies.
fn file(path: &str, name: &str) -> SourceFile {
    let read = config::read_file(root().join("tests/data/rules").join(path), false);
    SourceFile { path: name.into(), ..read }
}

fn render(problems: &[Problem]) -> String {
    problems.iter().map(|p| p.render(false) + "\n\n").collect()
}

#[track_caller]
fn good(files: &[SourceFile]) -> Loaded {
    let loaded = compile(files);
    assert!(loaded.problems.is_empty(), "{}", render(&loaded.problems));
    loaded
}

#[test]
fn the_rules_of_the_design_compile() {
    let rules = good(&[file("good/design.yaml", "design.yaml")]).rules.unwrap();
    let ids: Vec<&str> = rules.rules.iter().map(|r| &*r.id).collect();
    assert_eq!(ids, ["cleared_no_domestic_scan", "everything", "hold_vs_guarantee"]);
    let (_, first) = rules.rule("cleared_no_domestic_scan").unwrap();
    assert_eq!((first.bodies.len(), first.overrides.len()), (2, 1));
    assert_eq!(first.bodies[1].stages.len(), 1);
}

#[test]
fn policies_and_calendars_compile() {
    let files = [
        file("good/policies.yaml", "conf/policies.yaml"),
        file("good/with_policies.yaml", "conf/rules.yaml"),
    ];
    let loaded = good(&files);
    let (rules, policies) = (loaded.rules.unwrap(), loaded.policies.unwrap());
    assert_eq!((rules.rules.len(), rules.calendars.len()), (2, 3));
    assert_eq!((policies.receivers.len(), policies.policies.len()), (3, 2));
    assert_eq!(policies.default_policy.as_deref(), Some("handoff"));
    // A secret's path starts from the folder of the file that names it; its place is not shown.
    let erp = format!("{:?}", policies.receiver("erp").unwrap());
    assert!(!erp.contains("secrets/erp"), "{erp}");
}

#[test]
fn shipped_rules_compile() {
    let dir = root().join("rules");
    let loaded = good(&config::read_rules(&dir).unwrap());
    assert!(loaded.rules.unwrap().rules.len() >= 11);
}

/// What is said about each bad file stands beside it; `UPDATE_EXPECT=1` writes it anew.
#[test]
fn bad_files_are_told_what_is_wrong() {
    let dir = root().join("tests/data/rules/bad");
    let mut names: Vec<PathBuf> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    names.sort();
    assert!(names.len() >= 50);
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut wrong = Vec::new();
    for path in names {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let begun = Instant::now();
        let problems = problems_of(&path, &name);
        assert!(begun.elapsed() < Duration::from_secs(1), "{name} took {:?}", begun.elapsed());
        assert!(!problems.is_empty(), "{name}: nothing is said");
        let said = render(&problems);
        for secret in ["whsec_Mf", "hunter2", "0123456789abcdef"] {
            assert!(!said.contains(secret), "{name} shows a secret:\n{said}");
        }
        let beside = path.with_extension("txt");
        if update {
            std::fs::write(&beside, &said).unwrap();
        } else if std::fs::read_to_string(&beside).unwrap_or_default() != said {
            wrong.push(format!("{name} says:\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}UPDATE_EXPECT=1 accepts this", wrong.join("\n"));
}

fn problems_of(path: &Path, name: &str) -> Vec<Problem> {
    if name.starts_with("config_") {
        let bytes = std::fs::read(path).unwrap();
        return Config::read(Path::new(name), &bytes, &Environment::new()).err().unwrap_or_default();
    }
    let one = format!("bad/{name}");
    if name.starts_with("policies_") && name != "policies_in_a_rules_file.yaml" {
        return compile(&[file(&one, "policies.yaml")]).problems;
    }
    if name.starts_with("with_policies_") {
        return compile(&[file(&one, name), file("good/policies.yaml", "policies.yaml")]).problems;
    }
    compile(&[file(&one, name)]).problems
}
