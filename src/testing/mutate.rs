//! Wrong rules, to see whether a test notices: the tests that name a rule are run against each of its mutants, and a mutant
//! that all of them pass shows what nobody asks about.
//!
//! What is changed: each duration by a second either way, stages and severities, the bound of a comparison, entries and values of
//! matchers, what is expected and by which evidence, anchors, the calendar, and whole overrides and options left out. `excused:` in a test
//! file names a mutant by its `item`, as it is printed, with the reason.
//!
//! A mutant is the text of the rule changed in one place ([`mutants`]) and compiled like any other; one that does not compile, or means
//! the same, is none.

mod edit;
mod mutants;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::judge::judge;
use super::run::run;
use super::{Excuse, Test, TestFile};
use crate::rules::{SourceFile, compile, is_policies};
use crate::yaml;

use mutants::Mutant;

/// What came of all mutants.
#[derive(Debug, Default)]
pub struct Outcome {
    /// A test failed.
    pub killed: usize,
    /// All tests passed.
    pub alive: Vec<Survivor>,
    /// Alive, but excused in a test file.
    pub excused: usize,
    /// Excuses of mutants that a test notices, or that are none.
    pub idle: Vec<Excuse>,
}

/// A wrong rule that no test notices.
#[derive(Debug, Clone)]
pub struct Survivor {
    /// The file of the change.
    pub file: String,
    /// Its line.
    pub line: usize,
    /// The rule's id.
    pub rule: String,
    /// The mutant's name, for an excuse.
    pub item: String,
    /// What it is, in a sentence.
    pub sentence: String,
}

impl Outcome {
    /// Noticed or excused, in whole percent.
    #[must_use]
    pub fn percent(&self) -> u32 {
        let good = self.killed + self.excused;
        super::coverage::percent(good, good + self.alive.len())
    }

    /// For people.
    #[must_use]
    pub fn report(&self, dir: &str) -> String {
        let all = self.killed + self.excused + self.alive.len();
        let mut text = format!(
            "mutants of {dir}: {} of {all} noticed, {} excused ({} %)\n",
            self.killed,
            self.excused,
            self.percent()
        );
        for s in &self.alive {
            let _ = writeln!(text, "  {}:{}: {}", s.file, s.line, s.sentence);
            let _ = writeln!(text, "      excuse: {{rule: {}, item: {:?}, because: …}}", s.rule, s.item);
        }
        for excuse in &self.idle {
            let place = format!("{}:{}", excuse.place.source.path.display(), excuse.place.line);
            let _ =
                writeln!(text, "  {place}: the excuse {:?} of `{}` is not needed", excuse.item, excuse.rule);
        }
        text
    }
}

/// What became of one mutant.
enum Fate {
    /// It does not compile or means the same.
    None,
    Killed,
    Alive,
}

/// Tries every mutant of every rule on the tests.
#[must_use]
pub fn mutate(files: &[SourceFile], tests: &[TestFile]) -> Outcome {
    let all = compile(files);
    let Some(rules) = all.rules else { return Outcome::default() };
    let hashes: Vec<(Arc<str>, Arc<str>)> =
        rules.rules.iter().map(|r| (r.id.clone(), r.hash.clone())).collect();
    let mut mutants: Vec<(usize, Mutant)> = Vec::new();
    for (at, file) in files.iter().enumerate().filter(|(_, f)| !is_policies(&f.path)) {
        let Ok(bytes) = &file.content else { continue };
        if let Ok(text) = yaml::decode(bytes)
            && let (Some(root), _) = yaml::parse(text)
        {
            mutants.extend(mutants::of_file(&root, &rules).into_iter().map(|m| (at, m)));
        }
    }
    let tests_of = |rule: &str| -> Vec<&Test> {
        let touches = |t: &&Test| (t.exact && t.only.is_none()) || t.rules().any(|r| r == rule);
        tests.iter().flat_map(|f| &f.tests).filter(touches).collect()
    };
    let fates = in_parallel(&mutants, |(at, mutant)| {
        let hash = hashes.iter().find(|(id, _)| **id == *mutant.rule).map(|(_, hash)| hash);
        try_out(files, *at, mutant, hash, &tests_of(&mutant.rule))
    });
    let mut outcome = Outcome::default();
    let excuses: Vec<&Excuse> = tests.iter().flat_map(|t| &t.excused).collect();
    let mut used = BTreeSet::new();
    for ((at, mutant), fate) in mutants.iter().zip(fates) {
        let excuse = excuses.iter().position(|e| e.rule == mutant.rule && e.item == mutant.item);
        match (fate, excuse) {
            (Fate::None, _) => {}
            (Fate::Killed, _) => outcome.killed += 1,
            (Fate::Alive, Some(i)) => {
                used.insert(i);
                outcome.excused += 1;
            }
            (Fate::Alive, None) => outcome.alive.push(survivor(&files[*at], mutant)),
        }
    }
    let idle =
        excuses.iter().enumerate().filter(|(i, e)| !used.contains(i) && e.item.starts_with("mutant: "));
    outcome.idle = idle.map(|(_, e)| (*e).clone()).collect();
    outcome
}

fn survivor(file: &SourceFile, mutant: &Mutant) -> Survivor {
    let line = match &file.content {
        Ok(bytes) => bytes.iter().take(mutant.at).filter(|b| **b == b'\n').count() + 1,
        Err(_) => 1,
    };
    Survivor {
        file: file.path.display().to_string(),
        line,
        rule: mutant.rule.clone(),
        item: mutant.item.clone(),
        sentence: mutant.sentence.clone(),
    }
}

fn try_out(
    files: &[SourceFile],
    at: usize,
    mutant: &Mutant,
    hash: Option<&Arc<str>>,
    tests: &[&Test],
) -> Fate {
    let mut changed = files.to_vec();
    changed[at].content = Ok(mutant.text.clone().into_bytes());
    let loaded = compile(&changed);
    let (Some(rules), Some(policies)) = (loaded.rules, loaded.policies) else { return Fate::None };
    if rules.rule(&mutant.rule).is_none_or(|(_, rule)| Some(&rule.hash) == hash) {
        return Fate::None;
    }
    let rules = Arc::new(rules);
    let notices = |test: &&Test| !judge(test, &run(test, &rules, &policies)).faults.is_empty();
    if tests.iter().any(notices) { Fate::Killed } else { Fate::Alive }
}

/// Applies a function to each, on all cores; the results are in the order of the items.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len()).max(1);
    let next = AtomicUsize::new(0);
    let one = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(i) else { return done };
            done.push((i, work(item)));
        }
    };
    let mut all: Vec<(usize, R)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, r)| r).collect()
}
