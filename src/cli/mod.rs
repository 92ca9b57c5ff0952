//! The command line: one file a command (DESIGN §8).

pub mod audit;
pub mod backtest;
pub mod check;
pub mod client;
pub mod demo;
pub mod explain;
pub mod notify;
pub mod offline;
pub mod outbox;
pub mod plan;
pub mod rules;
pub mod run;
pub mod schema;
pub mod silence;
pub mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config;
use crate::model::Time;
use crate::rules::{RuleSet, compile};

/// Watches what must happen next to a parcel, and tells people when it does not.
#[derive(Parser)]
#[command(name = "parcelwatch", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The daemon: milestones from Kafka in, escalations out
    Run {
        /// The configuration
        #[arg(long, default_value = "config/parcelwatch.yaml")]
        config: PathBuf,
        /// Decide and record, send nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Everything embedded, nothing to install: a broker, a network of parcels, receivers of mails and webhooks
    Demo {
        /// End by itself after so many seconds of running [default: at Ctrl-C]
        #[arg(long)]
        seconds: Option<u64>,
        /// Which network of parcels
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many times faster than real time
        #[arg(long, default_value_t = demo::FACTOR, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        factor: u32,
    },
    /// Check rules, policies and configuration: every problem at once, with its place and a remedy
    Check {
        /// Directories of rules, single files, configurations [default: config/parcelwatch.yaml, else rules]
        paths: Vec<PathBuf>,
        /// For a person, a program, or the annotations of GitHub Actions
        #[arg(long, value_enum, default_value_t = check::Format::Human)]
        format: check::Format,
        /// Say what a code means, with an example and the remedy, instead of checking: PW208
        #[arg(long, value_name = "CODE", conflicts_with = "paths")]
        explain: Option<String>,
    },
    /// JSON Schemas, for editors that complete rules and for those who make events
    Schema {
        /// Of what
        #[arg(value_enum)]
        what: Option<schema::What>,
        /// Write files into this folder instead: the one, or all of them
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Run the tests of rules (*_test.yaml): who is told what, when, of which events
    Test {
        /// Directories of rules, or files of tests [default: rules]
        paths: Vec<PathBuf>,
        /// Only tests whose name matches
        #[arg(long, value_name = "REGEX", value_parser = regex_lite::Regex::new)]
        run: Option<regex_lite::Regex>,
        /// How the results are written to standard output
        #[arg(long, value_enum, default_value_t = test::Format::Human)]
        format: test::Format,
        /// Show which stages, overrides, endings and policy steps no test asks for
        #[arg(long)]
        coverage: bool,
        /// Fail where coverage is below so many percent
        #[arg(long, value_name = "PERCENT")]
        min: Option<u32>,
        /// Change the rules in one place at a time, and show which changes no test notices
        #[arg(long)]
        mutate: bool,
        /// Fail where fewer percent of these changes are noticed
        #[arg(long, value_name = "PERCENT")]
        min_killed: Option<u32>,
    },
    /// What new rules would do to the parcels in flight: nothing (exit 0), something (4)
    Plan(plan::Options),
    /// What is known of a parcel, what is owed, and why each rule did, did not or will fire
    Explain(explain::Options),
    /// Rules of a running daemon: which were in force, what they said; reload them
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Replay recorded events against rules: what would have been told, and when
    ///
    /// Every event from the first one on is folded, so that what is known at --from is right; what is reported are the changes
    /// with `at` from --from up to, not including, --to. The clock ends just past --until, else at --to, else just past the
    /// last record.
    ///
    /// --format jsonl writes one change a line, sorted by at, parcel_id, rule and change. With --against it writes one line for each
    /// exception that the two rule sets treat differently, in the order they ended: `difference` is `only` (opens in one
    /// alone: `set` is `rules` or `against`), else the first that applies of `time` (opens at another time), `severity` (other
    /// stages or severities) and `end` (ends otherwise), with `set` `both`; `rules` and `against` hold the changes of either,
    /// or null. Exceptions of one rule, parcel and episode are the same where both stand at one time.
    Backtest(backtest::Options),
    /// Keep quiet for a time about what fits, see what is, end it
    #[command(subcommand)]
    Silence(silence::Silence),
    /// Try a receiver; see what an exception would send
    #[command(subcommand)]
    Notify(notify::Notify),
    /// Messages: see those that failed, have them tried again, drop them
    #[command(subcommand)]
    Outbox(outbox::Outbox),
    /// The trail of who did what
    #[command(subcommand)]
    Audit(audit::Audit),
}

#[derive(Subcommand)]
enum RulesCommand {
    /// Each time that rules or policies were put in force, by whom, the newest first
    Log {
        #[command(flatten)]
        daemon: client::Daemon,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// The files of rules (or policies) as they were
    Show {
        /// Their hash, or its first digits
        hash: String,
        #[command(flatten)]
        daemon: client::Daemon,
    },
    /// Read rules and policies anew
    Reload {
        #[command(flatten)]
        daemon: client::Daemon,
    },
    /// Read them anew, whatever these rules open at once
    Accept {
        /// The hash that the refusal named
        hash: String,
        #[command(flatten)]
        daemon: client::Daemon,
    },
}

fn time(text: &str) -> Result<Time, String> {
    Time::parse(text).ok_or_else(|| "not an RFC 3339 time with a zone, like 2026-10-14T07:10:00Z".to_owned())
}

/// All went well.
pub const FINE: u8 = 0;
/// What was checked is wrong.
pub const FAILED: u8 = 1;
/// The call or the configuration is wrong.
pub const USAGE: u8 = 2;
/// Only hints.
pub const LINT: u8 = 3;

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run { config, dry_run } => run::run(&config, dry_run),
        Command::Demo { seconds, seed, factor } => demo::run(demo::Options { seconds, seed, factor }),
        Command::Plan(options) => plan::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Rules(command) => match command {
            RulesCommand::Log { daemon, json } => rules::log(&daemon, json),
            RulesCommand::Show { hash, daemon } => rules::show(&daemon, &hash),
            RulesCommand::Reload { daemon } => rules::reload(&daemon),
            RulesCommand::Accept { hash, daemon } => rules::accept(&daemon, &hash),
        },
        Command::Check { explain: Some(code), .. } => Ok(check::explain(&code)),
        Command::Check { paths, format, explain: None } => Ok(check::check(&paths, format)),
        Command::Schema { what, out } => schema::schema(what, out.as_deref()),
        Command::Test { paths, run, format, coverage, min, mutate, min_killed } => {
            Ok(test::test(&test::Options { paths, run, format, coverage, min, mutate, min_killed }))
        }
        Command::Backtest(options) => backtest::run(&options),
        Command::Silence(silence) => silence::run(&silence),
        Command::Notify(notify) => notify::run(&notify),
        Command::Outbox(outbox) => outbox::run(&outbox),
        Command::Audit(audit) => audit::run(&audit),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("parcelwatch: {error:#}");
            ExitCode::from(USAGE)
        }
    }
}

/// The rules of a directory; problems go to standard error, and `None` where one of them is an error.
///
/// # Errors
/// The directory cannot be read.
pub fn load_rules(dir: &std::path::Path) -> anyhow::Result<Option<RuleSet>> {
    let loaded = compile(&config::read_rules(dir)?);
    for problem in &loaded.problems {
        if problem.level == crate::rules::Level::Error {
            eprintln!("{}", problem.render(false));
        }
    }
    Ok(loaded.rules)
}
