//! The command: what is asked, where the events come from, what comes out.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::against::Compare;
use super::budget::{Budget, Excess};
use super::learn::{Learned, Learner};
use super::pipeline::{self, Failure, Plan, Sink, Totals};
use super::report::{OfRule, Report, Window};
use super::sketch::minute;
use super::{html, jsonl, table};
use crate::config::{self, Config, read_secret};
use crate::model::{Change, DAY, Time, grouped};
use crate::rules::problem::Level;
use crate::rules::{Policies, Rule, RuleSet, compile};
use crate::source::blocks::{Block, Scanner};
use crate::source::kafka;
use crate::source::kafka::dump::Dump;
use crate::source::ordered::{self, Merge, Trouble};

/// What is asked.
#[derive(Debug, Args)]
pub struct Options {
    /// A directory of rules
    #[arg(long)]
    pub rules: PathBuf,
    /// Files of events: NDJSON, .gz, .zst, or - for standard input
    #[arg(long, num_args = 1.., required_unless_present = "from_kafka", conflicts_with = "from_kafka")]
    pub events: Vec<PathBuf>,
    /// Read the topic of this configuration instead, all that is in it now; joins no group, commits nothing
    #[arg(long, value_name = "CONFIG")]
    pub from_kafka: Option<PathBuf>,
    /// Report changes from this time on (RFC 3339); what came before is folded all the same
    #[arg(long, value_name = "TIME", value_parser = super::super::time)]
    pub from: Option<Time>,
    /// Report changes before this time
    #[arg(long, value_name = "TIME", value_parser = super::super::time)]
    pub to: Option<Time>,
    /// The clock ends just past this time; later records are not read
    #[arg(long, value_name = "TIME", value_parser = super::super::time)]
    pub until: Option<Time>,
    /// Compare with the rules of this directory: what opens only in one of the two, at another time, ends otherwise
    #[arg(long, value_name = "DIR")]
    pub against: Option<PathBuf>,
    /// How noisy rules may be (YAML); exit 1 where one is noisier
    ///
    /// `default:` holds for every rule, `rules: {ID: …}` is laid over it key by key: max_exceptions_per_day,
    /// max_late_evidence_percent (of those that ended), max_notifications_per_receiver_per_day (messages that hold an
    /// exception of the rule). `receivers: {ID: {max_notifications_per_day: 5}}` limits all rules together. Days are those
    /// from the first to the last append time reported, at least one.
    #[arg(long, value_name = "FILE")]
    pub budget: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    pub format: Format,
    /// Where to, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// How `backtest` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One change a line
    Jsonl,
    /// A summary for a terminal
    Table,
    /// One page for people, with examples
    Html,
}

/// What was found, for those who show it.
pub struct Findings<'a> {
    /// The rules directory.
    pub title: &'a str,
    /// The other one.
    pub against: Option<&'a str>,
    /// The figures.
    pub report: &'a Report,
    /// Those of the other rules.
    pub before: Option<&'a Report>,
    /// What differs.
    pub compare: Option<&'a Compare>,
    /// The events.
    pub totals: Totals,
    /// Days reported.
    pub days: f64,
    /// What was learned from the events.
    pub learned: Option<&'a Learned>,
    /// What is above the budget, where there is one.
    pub excesses: Option<&'a [Excess]>,
}

impl Findings<'_> {
    /// The rules with their figures, those that opened most first.
    #[must_use]
    pub fn noisiest(&self) -> Vec<(&Rule, &OfRule)> {
        let mut all: Vec<_> = self.report.rules.rules.iter().zip(&self.report.of).collect();
        all.sort_by(|a, b| b.1.opened.cmp(&a.1.opened).then(a.0.id.cmp(&b.0.id)));
        all
    }

    /// The first day reported, since 1970.
    #[must_use]
    pub fn first_day(&self) -> Option<i64> {
        self.totals.first.map(|t| t.max(self.report.window.from).0.div_euclid(DAY))
    }

    /// The last one.
    #[must_use]
    pub fn last_day(&self) -> Option<i64> {
        self.totals.last.map(|t| t.min(self.report.window.to.minus(1)).0.div_euclid(DAY))
    }

    /// What was looked at.
    #[must_use]
    pub fn sentence(&self) -> String {
        let n = grouped;
        let (Some(first), Some(last)) = (self.totals.first, self.totals.last) else {
            return "No event with a readable time.".to_owned();
        };
        let (from, to) = (first.max(self.report.window.from), last.min(self.report.window.to));
        format!(
            "{} to {} UTC ({:.1} days), {} rules over {} events ({} rejected) of {} parcels.",
            minute(from),
            minute(to),
            self.days,
            n(self.report.rules.rules.len() as u64),
            n(self.totals.events),
            n(self.totals.rejected),
            n(self.totals.parcels),
        )
    }
}

/// Takes the changes of a run, for any format.
struct All {
    lines: Option<jsonl::Lines>,
    reports: Vec<Report>,
    compare: Option<Compare>,
    progress: Progress,
    bytes: Arc<AtomicU64>,
}

impl Sink for All {
    fn changes(&mut self, set: usize, mut changes: Vec<Change>) -> anyhow::Result<()> {
        if let Some(compare) = &mut self.compare {
            compare.take(set, &mut changes)?;
        }
        if let Some(report) = self.reports.get_mut(set) {
            super::report::in_order(&mut changes);
            changes.iter().for_each(|c| report.take(c));
        }
        if let Some(lines) = &mut self.lines {
            lines.changes(set, changes)?;
        }
        Ok(())
    }

    fn progress(&mut self) {
        self.progress.at(self.bytes.load(Ordering::Relaxed));
    }
}

/// Says how far it is, on a terminal.
#[derive(Clone)]
struct Progress(ProgressBar);

impl Progress {
    fn new(total: u64, unit: &str) -> Progress {
        let target = ProgressDrawTarget::stderr_with_hz(10);
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = if unit == "bytes" {
            "{bar:30} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left"
        } else {
            "{bar:30} {percent:>3} %  {human_pos} of {human_len} records  {per_sec}  {eta} left"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Progress(bar)
    }

    fn at(&self, position: u64) {
        self.0.set_position(position);
    }
}

/// A rules directory, compiled.
struct Loaded {
    rules: Arc<RuleSet>,
    policies: Policies,
}

fn load(dir: &Path) -> anyhow::Result<Option<Loaded>> {
    let loaded = compile(&config::read_rules(dir)?);
    for problem in loaded.problems.iter().filter(|p| p.level == Level::Error) {
        eprintln!("{}", problem.render(false));
    }
    let both = loaded.rules.zip(loaded.policies);
    Ok(both.map(|(rules, policies)| Loaded { rules: Arc::new(rules), policies }))
}

/// What is asked, read and checked.
struct Asked<'a> {
    options: &'a Options,
    /// `--rules`, then `--against`.
    loaded: Vec<Loaded>,
    budget: Option<Budget>,
    until: Option<Time>,
    window: Window,
}

impl<'a> Asked<'a> {
    /// `None`: what is wrong with the rules or the budget was told.
    fn read(options: &'a Options) -> anyhow::Result<Option<Asked<'a>>> {
        let mut loaded = Vec::new();
        for dir in std::iter::once(&options.rules).chain(&options.against) {
            loaded.extend(load(dir)?);
        }
        if loaded.len() < 1 + usize::from(options.against.is_some()) {
            return Ok(None);
        }
        let of = |path: &PathBuf| Budget::load(path, &loaded[0].rules, &loaded[0].policies);
        let budget = match options.budget.as_ref().map(of).transpose() {
            Ok(budget) => budget,
            Err(problems) => {
                problems.iter().for_each(|p| eprintln!("{}", p.render(false)));
                return Ok(None);
            }
        };
        // What is appended after --to changes nothing before it.
        let until = options.until.into_iter().chain(options.to).min();
        let window = Window { from: options.from.unwrap_or(Time::MIN), to: options.to.unwrap_or(Time::MAX) };
        Ok(Some(Asked { options, loaded, budget, until, window }))
    }

    fn reports(&self) -> bool {
        self.options.format != Format::Jsonl || self.budget.is_some()
    }

    /// Takes the changes of one run.
    fn sink(&self, progress: Progress, bytes: &Arc<AtomicU64>) -> All {
        let compares = self.options.against.is_some();
        let lines = self.options.format == Format::Jsonl && !compares;
        let report = |l: &Loaded| Report::new(Arc::clone(&l.rules), &l.policies, self.window);
        All {
            lines: lines.then(|| jsonl::Lines::new(self.options.from, self.options.to)),
            reports: if self.reports() { self.loaded.iter().map(report).collect() } else { Vec::new() },
            compare: compares.then(|| Compare::new(self.window)),
            progress,
            bytes: Arc::clone(bytes),
        }
    }

    /// What is above the budget, where there is one.
    fn excesses(&self, report: Option<&Report>, days: f64) -> Option<Vec<Excess>> {
        let (budget, report) = (self.budget.as_ref()?, report?);
        if budget.counts_notifications() && !report.told {
            eprintln!(
                "parcelwatch: the budget limits notifications, and {} has no policies: none were counted",
                self.options.rules.display()
            );
        }
        Some(budget.excesses(report, days))
    }
}

/// `backtest`: what was asked for on standard output or in a file, a summary as the last line of standard error. The exit code.
///
/// # Errors
/// The events cannot be read, the output cannot be written.
pub fn run(options: &Options) -> anyhow::Result<u8> {
    let started = Instant::now();
    let Some(asked) = Asked::read(options)? else { return Ok(super::super::USAGE) };
    let mut out = open(options.out.as_deref())?;
    let sets: Vec<Arc<RuleSet>> = asked.loaded.iter().map(|l| Arc::clone(&l.rules)).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let learn = options.format != Format::Jsonl;
    let plan = Plan { sets: &sets, threads, until: asked.until, evidence: asked.reports(), learn };
    let (mut all, totals, learner) = match &options.from_kafka {
        Some(config) => match topic(config)? {
            Some(dump) => over_topic(&plan, dump, &asked)?,
            None => return Ok(super::super::USAGE),
        },
        None => over_files(&plan, &options.events, &asked)?,
    };
    all.progress.0.finish_and_clear();
    let end = asked.until.or(totals.last).unwrap_or(Time::MIN);
    all.reports.iter_mut().for_each(|r| r.end(end));
    if let Some(compare) = &mut all.compare {
        compare.end()?;
    }
    let days = all.reports.first().map_or(1.0, |r| r.days(totals.first, totals.last));
    let excesses = asked.excesses(all.reports.first(), days);
    let learned = learner.map(|l| l.learned(&sets[0]));
    let count = all.count();
    all.write(options, &mut out, (totals, days), learned.as_ref(), excesses.as_deref())?;
    for excess in excesses.iter().flatten() {
        eprintln!("noisier than the budget allows: {excess}");
    }
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "{} events ({} rejected), {} parcels, {count}, {seconds:.2} s, {:.0} events/s",
        totals.events,
        totals.rejected,
        totals.parcels,
        totals.events as f64 / seconds.max(1e-9),
    );
    Ok(if excesses.is_some_and(|e| !e.is_empty()) { super::super::FAILED } else { super::super::FINE })
}

/// Where the output goes; opened before the work is done.
fn open(path: Option<&Path>) -> anyhow::Result<Box<dyn std::io::Write>> {
    Ok(match path {
        Some(path) => {
            Box::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?)
        }
        None => Box::new(std::io::stdout().lock()),
    })
}

impl All {
    /// How many changes or differences, in words.
    fn count(&self) -> String {
        match (&self.lines, &self.compare, self.reports.first()) {
            (Some(lines), _, _) => format!("{} changes", lines.count),
            (_, Some(compare), _) => format!("{} differences", compare.count),
            (_, _, Some(report)) => format!("{} changes", report.count),
            _ => "0 changes".to_owned(),
        }
    }

    /// Writes what was asked for.
    fn write(
        self,
        options: &Options,
        out: &mut dyn std::io::Write,
        (totals, days): (Totals, f64),
        learned: Option<&Learned>,
        excesses: Option<&[Excess]>,
    ) -> anyhow::Result<()> {
        let All { lines, reports, compare, .. } = self;
        let title = options.rules.display().to_string();
        let against = options.against.as_ref().map(|dir| dir.display().to_string());
        if options.format == Format::Jsonl {
            let held = lines.map(|l| l.held).or(compare.map(|c| c.held));
            held.unwrap_or_default().write_to(out)?;
        } else if let Some(report) = reports.first() {
            let findings = Findings {
                title: &title,
                against: against.as_deref(),
                report,
                before: reports.get(1),
                compare: compare.as_ref(),
                totals,
                days,
                learned,
                excesses,
            };
            let table = options.format == Format::Table;
            let text = if table { table::table(&findings) } else { html::page(&findings) };
            out.write_all(text.as_bytes())?;
        }
        Ok(out.flush()?)
    }
}

type Done = (All, Totals, Option<Learner>);

/// Folds files: as they are where they are in order, else sorted first. What can be read only once is sorted at once.
fn over_files(plan: &Plan<'_>, paths: &[PathBuf], asked: &Asked<'_>) -> anyhow::Result<Done> {
    let bytes = Arc::new(AtomicU64::new(0));
    let until = plan.until.unwrap_or(Time::MAX);
    let about: Vec<_> = paths.iter().map(std::fs::metadata).collect();
    let size = about.iter().flatten().map(std::fs::Metadata::len).sum();
    let progress = Progress::new(size, "bytes");
    if about.iter().all(|m| m.as_ref().is_ok_and(std::fs::Metadata::is_file)) {
        let mut all = asked.sink(progress.clone(), &bytes);
        let folded = Merge::of_files(paths, until, &bytes)
            .map_err(Failure::Source)
            .and_then(|merge| pipeline::fold(plan, merge, &mut all));
        match folded {
            Ok((totals, learner)) => return Ok((all, totals, learner)),
            Err(Failure::Source(Trouble::OutOfOrder)) => bytes.store(0, Ordering::Relaxed),
            Err(failure) => return Err(failure.into()),
        }
    }
    let mut next = ordered::in_turn(paths, &bytes);
    let watched = progress.clone();
    let position = Arc::clone(&bytes);
    let each = || {
        watched.at(position.load(Ordering::Relaxed));
        next()
    };
    let merge = ordered::sort(each, until, ordered::RUN)?;
    let mut all = asked.sink(progress, &bytes);
    let (totals, learner) = pipeline::fold(plan, merge, &mut all)?;
    Ok((all, totals, learner))
}

/// The topic of a configuration. `None`: its problems were told.
fn topic(path: &Path) -> anyhow::Result<Option<Dump>> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(problems) => {
            problems.iter().for_each(|p| eprintln!("{}", p.render(false)));
            return Ok(None);
        }
    };
    let mut options =
        kafka::Options::new(&config.kafka.bootstrap_servers, &config.kafka.topic, &config.kafka.group_id, "");
    for (key, value) in &config.kafka.properties {
        let value = read_secret(value).with_context(|| format!("kafka.properties: {key}"))?;
        options.properties.insert(key.clone(), value.expose().to_owned());
    }
    Ok(Some(Dump::start(options)?))
}

/// Folds a topic, sorted by the records' timestamps.
fn over_topic(plan: &Plan<'_>, mut dump: Dump, asked: &Asked<'_>) -> anyhow::Result<Done> {
    let scanner = Scanner::default();
    let total = dump.total;
    let progress = Progress::new(total, "records");
    let watched = progress.clone();
    let next = || {
        watched.at(total.saturating_sub(dump.left()));
        let batch = dump.next_batch().map_err(|e| Trouble::Other(e.to_string()))?;
        Ok(batch.map(|batch| Block::of_batch(&batch, &scanner)))
    };
    let merge = ordered::sort(next, plan.until.unwrap_or(Time::MAX), ordered::RUN)?;
    let mut all = asked.sink(progress, &Arc::new(AtomicU64::new(total)));
    let (totals, learner) = pipeline::fold(plan, merge, &mut all)?;
    Ok((all, totals, learner))
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> anyhow::Error {
        match failure {
            Failure::Source(trouble) => trouble.into(),
            Failure::Sink(error) => error,
        }
    }
}
