//! `explain`: what is known of a parcel, what is owed by when, and why each rule did, did not or will fire (DESIGN §8).

mod text;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::backtest::read;
use super::client;
use super::offline::Snapshots;
use crate::config::{self, Config};
use crate::engine::{Lifetimes, Record, Shard};
use crate::model::{Event, Time};
use crate::rules::{RuleSet, compile};
use crate::source::decode::{FactNames, decode};

/// What `explain` is asked.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The parcel
    parcel_id: String,
    /// This rule alone
    #[arg(long)]
    rule: Option<String>,
    /// As it would be at this time if nothing comes; of files, the clock ends just past it
    #[arg(long, value_parser = super::time)]
    at: Option<Time>,
    /// How it is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Read recorded events instead of asking the daemon; with --rules
    #[arg(long, num_args = 1.., requires = "rules")]
    events: Vec<PathBuf>,
    /// The directory of rules for --events
    #[arg(long)]
    rules: Option<PathBuf>,
    /// Read the newest snapshots of --config instead of asking the daemon
    #[arg(long, conflicts_with = "events")]
    snapshot: bool,
    #[command(flatten)]
    daemon: client::Daemon,
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// All of it
    Json,
}

/// Runs it.
///
/// # Errors
/// Nothing is known of the parcel, or who knows cannot be asked.
pub fn run(options: &Options) -> anyhow::Result<u8> {
    let explained = if !options.events.is_empty() {
        of_files(options)?
    } else if options.snapshot {
        of_snapshot(options)?
    } else {
        of_daemon(options)?
    };
    if let Some(rule) = &options.rule
        && explained["rules"].as_array().is_some_and(Vec::is_empty)
    {
        bail!("there is no rule {rule}");
    }
    match options.format {
        Format::Json => println!("{explained:#}"),
        Format::Text => print!("{}", text::text(&explained)),
    }
    Ok(super::FINE)
}

fn unknown(parcel: &str) -> anyhow::Error {
    anyhow::anyhow!("nothing is known of the parcel {parcel}")
}

/// From recorded events: the parcel's own records, in the order of append time.
fn of_files(options: &Options) -> anyhow::Result<Value> {
    let dir = options.rules.as_deref().context("--rules is missing")?;
    let Some(rules) = super::load_rules(dir)? else { bail!("the rules have errors") };
    let rules = Arc::new(rules);
    let names = FactNames::new(rules.declared.iter().map(|d| d.name.as_str()));
    let batches = read(&options.events)?;
    let mut mine: Vec<(Time, Event<'_>)> = Vec::new();
    let mut last = Time::MIN;
    for batch in &batches {
        for raw in batch.records() {
            let Ok(event) = decode(batch.value(raw), &names) else { continue };
            let append = event.file_append();
            if options.at.is_some_and(|at| append > at) {
                continue;
            }
            last = last.max(append);
            if event.parcel_id == options.parcel_id {
                mine.push((append, event));
            }
        }
    }
    mine.sort_by_key(|(append, _)| *append);
    let mut shard = Shard::new(rules, Lifetimes::default(), false);
    let mut changes = Vec::new();
    for (offset, (append, event)) in mine.iter().enumerate() {
        let record = Record { offset: offset as i64, append: *append, event: Ok(event) };
        shard.fold(&[record], usize::MAX, &mut changes);
    }
    shard.advance(options.at.unwrap_or(last).plus(1), usize::MAX, &mut changes);
    let explained = shard.explain(&options.parcel_id, options.rule.as_deref(), None);
    let mut explained = explained.ok_or_else(|| unknown(&options.parcel_id))?;
    let wanted = changes.iter().filter(|c| options.rule.as_deref().is_none_or(|r| r == &*c.rule));
    let told: Result<Vec<Value>, _> =
        wanted.map(|c| serde_json::from_str(&super::backtest::json_line(c))).collect();
    explained["changes"] = Value::Array(told?);
    Ok(explained)
}

fn of_snapshot(options: &Options) -> anyhow::Result<Value> {
    let config = Config::load(options.daemon.config()).map_err(|problems| {
        anyhow::anyhow!(problems.iter().map(|p| p.render(false)).collect::<Vec<_>>().join("\n"))
    })?;
    let rules: RuleSet =
        compile(&config::read_rules(&config.rules)?).rules.context("the rules have errors")?;
    let rules = Arc::new(rules);
    let snapshots = Snapshots::open(&config)?;
    let partitions =
        snapshots.partitions()?.with_context(|| format!("nothing is saved in {}", snapshots.location))?;
    for partition in 0..partitions {
        let Some((shard, _)) = snapshots.shard(partition, &rules)? else { continue };
        if let Some(explained) = shard.explain(&options.parcel_id, options.rule.as_deref(), options.at) {
            return Ok(explained);
        }
    }
    Err(unknown(&options.parcel_id))
}

/// From a running daemon: the parcel, its exceptions, who was told of them.
fn of_daemon(options: &Options) -> anyhow::Result<Value> {
    let daemon = &options.daemon;
    let id = escaped(&options.parcel_id);
    let mut query = Vec::new();
    query.extend(options.rule.as_ref().map(|r| format!("rule={}", escaped(r))));
    query.extend(options.at.map(|at| format!("at={}", escaped(&at.to_string()))));
    let path = format!("/api/v1/parcels/{id}/explain?{}", query.join("&"));
    let mut explained = match daemon.ask("GET", &path, None) {
        Ok(explained) => explained,
        Err(error) if error.to_string().contains("(404)") => Value::Null,
        Err(error) => return Err(error),
    };
    let list = daemon.ask("GET", &format!("/api/v1/exceptions?state=all&parcel_id={id}&limit=1000"), None)?;
    let mut exceptions = Vec::new();
    for listed in list["items"].as_array().into_iter().flatten() {
        if options.rule.as_deref().is_some_and(|r| listed["rule"] != r) {
            continue;
        }
        let exception = listed["exception_id"].as_str().unwrap_or_default();
        let mut whole = daemon.ask("GET", &format!("/api/v1/exceptions/{exception}"), None)?;
        let told = format!("/api/v1/notifications?exception_id={exception}&limit=1000");
        whole["told"] = daemon.ask("GET", &told, None)?["items"].take();
        exceptions.push(whole);
    }
    if explained.is_null() {
        // Forgotten: what is left of it is the evidence kept with its exceptions.
        let Some(known) = exceptions.first().map(|e| e["known"].clone()) else {
            return Err(unknown(&options.parcel_id));
        };
        explained = json!({"parcel": known, "forgotten": true, "rules": [{}]});
        explained["parcel"]["parcel_id"] = options.parcel_id.clone().into();
    }
    explained["exceptions"] = Value::Array(exceptions);
    Ok(explained)
}

/// A text for a URL.
pub(super) fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
