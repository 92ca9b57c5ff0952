//! `check`: every problem of rules, policies and configuration at once (DESIGN §8).

mod report;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::config::{self, Config};
use crate::model::Time;
use crate::rules::problem::{Level, Problem, code};
use crate::rules::{Loaded, SourceFile, compile, compile_at, is_policies, template_files};
use crate::runtime::clock::{SystemClock, WallClock as _};
use crate::source::kafka::Options;
use crate::{testing, yaml};

use super::test::{is_test, test_files};

pub use report::{Format, explain, github, json};

/// Checks directories of rules, single files and configurations, or without paths the ones that are where they usually
/// are. For a person problems go to standard error and one line of summary to standard output; for a program all goes to
/// standard output. Returns the exit code.
#[must_use]
pub fn check(paths: &[PathBuf], format: Format) -> u8 {
    let found = match usual(paths).and_then(|paths| judge(&paths, Some(Time(SystemClock.now_ms())))) {
        Ok(found) => found,
        Err(message) => {
            eprintln!("parcelwatch: {message}");
            return super::USAGE;
        }
    };
    report::write(&found, format);
    found.exit_code()
}

/// What came of all paths.
#[derive(Debug, Default)]
pub struct Found {
    /// Errors and lints, by file and place.
    pub problems: Vec<Problem>,
    rules: usize,
    policies: usize,
    receivers: usize,
    configurations: usize,
}

impl Found {
    fn count(&self, level: Level) -> usize {
        self.problems.iter().filter(|p| p.level == level).count()
    }

    /// `3 rules, 1 policy, 2 receivers: ok`.
    #[must_use]
    pub fn summary(&self) -> String {
        let (errors, lints) = (self.count(Level::Error), self.count(Level::Lint));
        if errors > 0 {
            let mut parts = vec![plural(errors, "error", "errors")];
            if lints > 0 {
                parts.push(plural(lints, "lint", "lints"));
            }
            return parts.join(", ");
        }
        let mut parts = vec![plural(self.rules, "rule", "rules")];
        for (n, one, many) in [
            (self.policies, "policy", "policies"),
            (self.receivers, "receiver", "receivers"),
            (self.configurations, "configuration", "configurations"),
        ] {
            if n > 0 {
                parts.push(plural(n, one, many));
            }
        }
        let end = if lints > 0 { plural(lints, "lint", "lints") } else { "ok".to_owned() };
        format!("{}: {end}", parts.join(", "))
    }

    /// 0, 1 or 3 (DESIGN §8).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.count(Level::Error), self.count(Level::Lint)) {
            (0, 0) => super::FINE,
            (0, _) => super::LINT,
            _ => super::FAILED,
        }
    }

    fn take(&mut self, loaded: Loaded) {
        self.problems.extend(loaded.problems);
        self.rules += loaded.rules.map_or(0, |r| r.rules.len());
        if let Some(p) = loaded.policies {
            self.policies += p.policies.len();
            self.receivers += p.receivers.len();
        }
    }
}

pub(super) fn plural(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// The paths to check: those given, else the configuration, else ./rules.
fn usual(paths: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    if !paths.is_empty() {
        return Ok(paths.to_vec());
    }
    for usual in ["config/parcelwatch.yaml", "rules"] {
        if Path::new(usual).exists() {
            return Ok(vec![usual.into()]);
        }
    }
    Err("nothing to check: there is neither config/parcelwatch.yaml nor a folder rules here; name a path"
        .into())
}

/// Checks paths. `now` tells what has expired.
///
/// # Errors
/// A path does not exist, or a directory cannot be listed.
pub fn judge(paths: &[PathBuf], now: Option<Time>) -> Result<Found, String> {
    let mut found = Found::default();
    let mut configurations: Vec<PathBuf> = Vec::new();
    let mut directories: Vec<PathBuf> = Vec::new();
    // Files of one folder are judged together: they share sets, facts and policies.
    let mut files: BTreeMap<PathBuf, Vec<SourceFile>> = BTreeMap::new();
    for path in paths {
        let about =
            std::fs::symlink_metadata(path).map_err(|e| format!("cannot check {}: {e}", path.display()))?;
        if about.is_dir() || (about.is_symlink() && path.is_dir()) {
            let config = path.join("parcelwatch.yaml");
            if config.is_file() {
                configurations.push(config);
            } else {
                directories.push(path.clone());
            }
            continue;
        }
        // A template is judged with the policies that name it.
        let path = of_template(path).unwrap_or_else(|| path.clone());
        let file = config::read_file(path.clone(), false);
        if is_configuration(&file) {
            configurations.push(path);
        } else if is_test(&path) {
            found.problems.extend(of_test(file));
        } else {
            let folder = path.parent().unwrap_or(Path::new("")).to_owned();
            let files = files.entry(folder).or_default();
            if !files.iter().any(|f| f.path == file.path) {
                files.push(file);
            }
        }
    }
    for path in configurations {
        match Config::load(&path) {
            Ok(config) => {
                found.configurations += 1;
                found.problems.extend(librdkafka(&config));
                let rules = short(&config.rules);
                if !directories.contains(&rules) {
                    directories.push(rules);
                }
            }
            Err(problems) => found.problems.extend(problems),
        }
    }
    for dir in directories {
        let read = config::read_rules(&dir).map_err(|e| with_causes(&e))?;
        if read.is_empty() {
            let mut p =
                Problem::of_file(dir.clone(), code::EMPTY_FILE, "there is no file of rules in this folder");
            p.level = Level::Lint;
            p.help = Some("rules stand in files that end in .yaml".into());
            found.problems.push(p);
        }
        let loaded = compile_at(&read, now);
        let tests = test_files(&dir).map_err(|e| format!("cannot list {}: {e}", dir.display()))?;
        let tests: Vec<SourceFile> = tests.into_iter().map(|path| config::read_file(path, false)).collect();
        found.problems.extend(testing::check::problems(&loaded, &tests));
        found.take(loaded);
    }
    for (folder, files) in files {
        found.take(compile_at(&with_neighbours(&folder, files), now));
    }
    found.problems.sort_by(|a, b| a.order().cmp(&b.order()));
    Ok(found)
}

/// `config/../rules` as `rules`, where that is the same folder.
fn short(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir if matches!(parts.components().next_back(), Some(Component::Normal(_))) => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    let same = matches!((parts.canonicalize(), path.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if same { parts } else { path.to_owned() }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    text
}

/// The policies that name this file as a template.
fn of_template(path: &Path) -> Option<PathBuf> {
    if config::is_rules_file(path) {
        return None;
    }
    let beside = path.parent()?;
    let all = [Some(beside), beside.parent()].into_iter().flatten();
    all.flat_map(|folder| ["policies.yaml", "policies.yml"].map(|name| folder.join(name)))
        .filter(|policies| policies.is_file())
        .find(|policies| {
            template_files(&config::read_file(policies.clone(), false)).iter().any(|t| t == path)
        })
}

/// A file of tests, judged by the rules beside it.
fn of_test(file: SourceFile) -> Vec<Problem> {
    let folder = file.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let loaded = compile(&config::read_rules(folder).unwrap_or_default());
    let about_it = file.path.clone();
    let mut problems = testing::check::problems(&loaded, &[file]);
    problems.retain(|p| p.file == about_it);
    problems
}

/// A configuration names Kafka, or says in `rules:` where they are instead of what they are.
fn is_configuration(file: &SourceFile) -> bool {
    if file.path.file_name().is_some_and(|n| n == "parcelwatch.yaml" || n == "parcelwatch.yml") {
        return true;
    }
    let Some(root) =
        file.content.as_ref().ok().and_then(|b| yaml::decode(b).ok()).and_then(|t| yaml::parse(t).0)
    else {
        return false;
    };
    root.get("kafka").is_some() || root.get("rules").is_some_and(|r| r.text().is_some() && !r.is_null())
}

/// Files that were named, with what the others of their folder define.
fn with_neighbours(folder: &Path, mut files: Vec<SourceFile>) -> Vec<SourceFile> {
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let policies_given = files.iter().any(|f| is_policies(&f.path));
    for neighbour in config::read_rules(here).unwrap_or_default() {
        let named = files.iter().any(|f| f.path.file_name() == neighbour.path.file_name());
        // Those of the policies that were given come with them.
        let replaced =
            policies_given && (is_policies(&neighbour.path) || !config::is_rules_file(&neighbour.path));
        if !named && !replaced && !is_configuration(&neighbour) {
            files.push(SourceFile { context: true, ..neighbour });
        }
    }
    let templates: Vec<SourceFile> =
        files.iter().filter(|f| !f.context).flat_map(config::read_templates).collect();
    files.extend(templates);
    files
}

/// Whether librdkafka knows the properties. Those that are kept elsewhere or name files of another machine are left out.
fn librdkafka(config: &Config) -> Option<Problem> {
    let k = &config.kafka;
    let mut options = Options::new(&k.bootstrap_servers, &k.topic, &k.group_id, "check");
    for (key, value) in &k.properties {
        if let crate::rules::policies::SecretText::Plain(text) = value
            && !key.ends_with("location")
            && !key.starts_with("sasl.")
        {
            options.properties.insert(key.clone(), text.clone());
        }
    }
    options.check().err().map(|e| {
        let mut p = Problem::of_file(config.path.clone(), code::BAD_VALUE, e.to_string());
        p.help = Some("properties are those of librdkafka's CONFIGURATION.md".into());
        p
    })
}
