//! What `check` says of the tests of a directory: their problems, and the rules that none of them touches.

use std::collections::BTreeSet;

use super::TestFile;
use super::file::{Known, parse};
use crate::rules::problem::{Level, Place, Problem, code};
use crate::rules::{Loaded, SourceFile, is_policies};
use crate::yaml::{self, Kind, Node};

/// Judges the files of tests beside rules. Where the rules cannot be used, only whether the tests can be read: what they
/// name is then not known.
#[must_use]
pub fn problems(loaded: &Loaded, files: &[SourceFile]) -> Vec<Problem> {
    let (Some(rules), Some(policies)) = (&loaded.rules, &loaded.policies) else {
        return files.iter().flat_map(syntax).collect();
    };
    let (mut tests, mut problems) = (Vec::new(), Vec::new());
    for file in files {
        let (read, found) = parse(file, Known { rules, policies });
        tests.extend(read);
        problems.extend(found);
    }
    // A file that cannot be read may hold the test of any rule.
    if !files.is_empty() && tests.len() == files.len() {
        problems.extend(untouched(loaded, &tests));
    }
    problems
}

/// Only that a file is well-formed.
#[must_use]
pub fn syntax(file: &SourceFile) -> Vec<Problem> {
    let loaded = crate::rules::compile(std::slice::from_ref(file));
    loaded.problems.into_iter().filter(|p| p.code.starts_with("PW1")).collect()
}

/// A lint for each rule that no test names.
fn untouched(loaded: &Loaded, tests: &[TestFile]) -> Vec<Problem> {
    let touched: BTreeSet<&str> = tests.iter().flat_map(|f| &f.tests).flat_map(super::Test::rules).collect();
    let enabled = |id: &str| loaded.rules.as_ref().is_some_and(|rules| rules.rule(id).is_some());
    let mut problems = Vec::new();
    for source in loaded.sources.iter().filter(|s| !is_policies(&s.path)) {
        let (Some(root), _) = yaml::parse(&source.text) else { continue };
        let Some(Kind::Seq(rules)) = root.get("rules").map(|n| &n.kind) else { continue };
        for (id, node) in
            rules.iter().filter_map(|rule| rule.get("id")).filter_map(|n| Some((Node::text(n)?, n)))
        {
            if touched.contains(id) || !enabled(id) {
                continue;
            }
            let mut p = Problem::of_file(source.path.clone(), code::UNTESTED, "no test touches this rule");
            p.level = Level::Lint;
            p.place = Some(Place::new(source, node.at.clone()));
            p.rule = Some(id.to_owned());
            p.help = Some(format!(
                "write a test that expects `opened: {id}` in a file *_test.yaml beside it, and one that must not open it"
            ));
            problems.push(p);
        }
    }
    problems
}
