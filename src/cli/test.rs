//! `test`: the tests of rules that stand beside them (DESIGN §8).

mod formats;

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::config;
use crate::rules::{Level, Policies, Problem, RuleSet, SourceFile, compile};
use crate::testing::coverage::Coverage;
use crate::testing::file::{Known, parse};
use crate::testing::judge::{Verdict, judge};
use crate::testing::mutate;
use crate::testing::run::{Happened, run as run_test};
use crate::testing::{Test, TestFile};

pub use formats::{Format, human, write};

/// What `test` was asked for.
#[derive(Debug)]
pub struct Options {
    /// Directories of rules, or files of tests.
    pub paths: Vec<PathBuf>,
    /// Only tests whose name this finds.
    pub run: Option<regex_lite::Regex>,
    /// How the results are written.
    pub format: Format,
    /// Shows which parts of the rules no test asks about.
    pub coverage: bool,
    /// Percent that must be asked about.
    pub min: Option<u32>,
    /// Tries wrong rules on the tests.
    pub mutate: bool,
    /// Percent of the wrong rules that a test must notice.
    pub min_killed: Option<u32>,
}

/// A directory of rules with its tests.
pub struct Suite {
    /// The directory.
    pub dir: PathBuf,
    /// The files of rules, for mutants.
    pub files: Vec<SourceFile>,
    /// Compiled.
    pub rules: Arc<RuleSet>,
    /// Compiled.
    pub policies: Policies,
    /// Its tests.
    pub tests: Vec<TestFile>,
}

/// One test with what came of it.
pub struct Done<'a> {
    /// The test.
    pub test: &'a Test,
    /// What happened.
    pub happened: Vec<Happened>,
    /// What is wrong with it.
    pub verdict: Verdict,
}

/// Runs the tests. The exit code (DESIGN §8).
#[must_use]
pub fn test(options: &Options) -> u8 {
    let started = Instant::now();
    let suites = match suites(&options.paths) {
        Ok(suites) => suites,
        Err(Refused::Problems(problems)) => {
            let colour = colour();
            for problem in &problems {
                eprintln!("{}\n", problem.render(colour));
            }
            eprintln!("parcelwatch: the rules or their tests have problems, so no test was run");
            return super::USAGE;
        }
        Err(Refused::Message(message)) => {
            eprintln!("parcelwatch: {message}");
            return super::USAGE;
        }
    };
    let mut done = Vec::new();
    for suite in &suites {
        done.push(run_suite(suite, options.run.as_ref()));
    }
    let all: Vec<&Done<'_>> = done.iter().flatten().collect();
    if all.is_empty() {
        eprintln!("parcelwatch: no test to run; tests stand in files named *_test.yaml beside the rules");
        return super::USAGE;
    }
    let mut code = if all.iter().all(|d| d.verdict.faults.is_empty()) { super::FINE } else { super::FAILED };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if options.format == Format::Human {
        let _ = formats::human(&mut out, &all, colour_out(), started.elapsed());
        let _ = out.flush();
    }
    // A broken test says nothing about coverage, and every mutant would be noticed by it.
    let mut more = Vec::new();
    if code == super::FINE {
        if options.coverage || options.min.is_some() {
            more.extend(suites.iter().zip(&done).map(|(suite, done)| coverage(suite, done, options.min)));
        }
        if options.mutate || options.min_killed.is_some() {
            more.extend(suites.iter().map(|suite| mutants(suite, options.min_killed)));
        }
    } else if options.coverage || options.mutate || options.min.is_some() || options.min_killed.is_some() {
        eprintln!("parcelwatch: tests fail, so neither coverage nor mutants were looked at");
    }
    if more.iter().any(|m| m.below.is_some()) {
        code = super::FAILED;
    }
    let _ = formats::write(&mut out, options.format, &all, &more, started.elapsed());
    let _ = out.flush();
    code
}

fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn colour_out() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Why there is nothing to run.
pub enum Refused {
    /// Of rules or of tests.
    Problems(Vec<Problem>),
    /// Anything else.
    Message(String),
}

/// Reads the rules and tests of these paths; without any, of ./rules.
///
/// # Errors
/// Problems, or a path that is not there.
pub fn suites(paths: &[PathBuf]) -> Result<Vec<Suite>, Refused> {
    let usual = [PathBuf::from("rules")];
    let paths = if paths.is_empty() { &usual } else { paths };
    let mut wanted: BTreeMap<PathBuf, Option<Vec<PathBuf>>> = BTreeMap::new();
    for path in paths {
        let about = std::fs::metadata(path)
            .map_err(|e| Refused::Message(format!("cannot read {}: {e}", path.display())))?;
        if about.is_dir() {
            wanted.insert(path.clone(), None);
        } else if is_test(path) {
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if let Some(files) = wanted.entry(parent.to_owned()).or_insert_with(|| Some(Vec::new())) {
                files.push(path.clone());
            }
        } else {
            let message = format!(
                "{} is no file of tests: name a directory of rules, or files named *_test.yaml",
                path.display()
            );
            return Err(Refused::Message(message));
        }
    }
    let mut suites = Vec::new();
    let mut problems = Vec::new();
    for (dir, files) in wanted {
        match suite(&dir, files) {
            Ok(suite) => suites.push(suite),
            Err(Refused::Problems(found)) => problems.extend(found),
            Err(message) => return Err(message),
        }
    }
    if problems.is_empty() { Ok(suites) } else { Err(Refused::Problems(problems)) }
}

/// Whether a file of this name holds tests of rules; hidden ones, as editors leave them, do not.
#[must_use]
pub fn is_test(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    !name.starts_with('.') && (name.ends_with("_test.yaml") || name.ends_with("_test.yml"))
}

/// The files of tests of a directory, by name.
///
/// # Errors
/// The directory cannot be listed.
pub fn test_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if is_test(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn suite(dir: &Path, files: Option<Vec<PathBuf>>) -> Result<Suite, Refused> {
    let read = config::read_rules(dir).map_err(|e| Refused::Message(e.to_string()))?;
    let loaded = compile(&read);
    let errors: Vec<Problem> = loaded.problems.into_iter().filter(|p| p.level == Level::Error).collect();
    let (Some(rules), Some(policies), true) = (loaded.rules, loaded.policies, errors.is_empty()) else {
        return Err(Refused::Problems(errors));
    };
    let files = match files {
        Some(files) => files,
        None => {
            test_files(dir).map_err(|e| Refused::Message(format!("cannot list {}: {e}", dir.display())))?
        }
    };
    let (mut tests, mut problems) = (Vec::new(), Vec::new());
    for path in files {
        let known = Known { rules: &rules, policies: &policies };
        let (file, found) = parse(&config::read_file(path, false), known);
        tests.extend(file);
        problems.extend(found.into_iter().filter(|p| p.level == Level::Error));
    }
    if !problems.is_empty() {
        return Err(Refused::Problems(problems));
    }
    Ok(Suite { dir: dir.to_owned(), files: read, rules: Arc::new(rules), policies, tests })
}

/// Runs the tests of a directory, on all cores.
#[must_use]
pub fn run_suite<'a>(suite: &'a Suite, only: Option<&regex_lite::Regex>) -> Vec<Done<'a>> {
    let tests: Vec<&Test> = suite
        .tests
        .iter()
        .flat_map(|f| &f.tests)
        .filter(|t| only.is_none_or(|only| only.is_match(&t.name)))
        .collect();
    mutate::in_parallel(&tests, |test| {
        let ran = run_test(test, &suite.rules, &suite.policies);
        let verdict = judge(test, &ran);
        Done { test, happened: ran.happened, verdict }
    })
}

/// What coverage or mutants of a directory say.
pub struct More {
    /// `coverage` or `mutants`.
    pub kind: &'static str,
    /// For people.
    pub text: String,
    /// For programs.
    pub json: serde_json::Value,
    /// What a person should look at: file, line and a sentence.
    pub gaps: Vec<(String, usize, String)>,
    /// Where it is below what was asked for: so in words.
    pub below: Option<String>,
}

fn coverage(suite: &Suite, done: &[Done<'_>], min: Option<u32>) -> More {
    let mut coverage = Coverage::new(&suite.rules, &suite.policies, &suite.tests);
    for d in done {
        coverage.take(d.verdict.asked.iter().map(|i| &d.happened[*i]));
    }
    let dir = suite.dir.display().to_string();
    let percent = coverage.percent();
    let open: Vec<_> = coverage
        .open()
        .map(|(of, item, words)| serde_json::json!({"of": of, "item": item, "words": words}))
        .collect();
    let below = min.filter(|min| percent < *min);
    More {
        kind: "coverage",
        text: coverage.report(&dir),
        json: serde_json::json!({"dir": dir, "percent": percent, "missing": open}),
        gaps: Vec::new(),
        below: below.map(|min| format!("coverage of {dir} is {percent} %, below the {min} % asked for")),
    }
}

fn mutants(suite: &Suite, min: Option<u32>) -> More {
    let outcome = mutate::mutate(&suite.files, &suite.tests);
    let dir = suite.dir.display().to_string();
    let percent = outcome.percent();
    let alive = outcome.alive.iter().map(|s| {
        serde_json::json!({"file": s.file, "line": s.line, "rule": s.rule, "item": s.item, "sentence": s.sentence})
    });
    let alive: Vec<_> = alive.collect();
    let below = min.filter(|min| percent < *min);
    More {
        kind: "mutants",
        text: outcome.report(&dir),
        json: serde_json::json!({"dir": dir, "percent": percent, "noticed": outcome.killed, "excused": outcome.excused,
            "alive": alive}),
        gaps: outcome.alive.into_iter().map(|s| (s.file, s.line, s.sentence)).collect(),
        below: below.map(|min| {
            format!("{percent} % of the mutants of {dir} were noticed, fewer than the {min} % asked for")
        }),
    }
}
