//! `plan`: what new rules would do to the parcels in flight, by the newest snapshots (DESIGN §8).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::check::plural;
use super::offline::Snapshots;
use crate::cases::Memory;
use crate::config::{self, Config};
use crate::engine::swap::Foreseen;
use crate::model::{Change, HOUR, Time};
use crate::rules::{Level, Policies, RuleSet, compile};

/// What `plan` is asked.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The directory of the new rules
    #[arg(long)]
    rules: PathBuf,
    /// The configuration of the daemon whose parcels they are
    #[arg(long, default_value = "config/parcelwatch.yaml")]
    config: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Something would change.
pub const CHANGES: u8 = 4;
/// Parcels asked about before the progress is shown again.
const SLOTS: u32 = 65_536;
/// More changes are counted, but nobody works out who would be told.
const MOST: usize = 200_000;

/// What one partition gave.
struct Part {
    parcels: usize,
    watermark: Time,
    found: Foreseen,
    changes: Vec<Change>,
}

/// Runs it. Exit: 0 nothing would change, 1 an error, 4 something would.
///
/// # Errors
/// No configuration, no snapshots, or rules with errors.
pub fn run(options: &Options) -> anyhow::Result<u8> {
    let begun = Instant::now();
    let config = match Config::load(&options.config) {
        Ok(config) => config,
        Err(problems) => {
            for problem in &problems {
                eprintln!("{}", problem.render(false));
            }
            return Ok(super::FAILED);
        }
    };
    let loaded = compile(&config::read_rules(&options.rules)?);
    for problem in loaded.problems.iter().filter(|p| p.level == Level::Error) {
        eprintln!("{}", problem.render(false));
    }
    let (Some(rules), Some(policies)) = (loaded.rules, loaded.policies) else { return Ok(super::FAILED) };
    let rules = Arc::new(rules);
    let snapshots = match Snapshots::open(&config) {
        Ok(snapshots) => snapshots,
        Err(error) => return failed(&error),
    };
    let plan = match plan(&snapshots, &rules) {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            let error = anyhow::anyhow!("nothing has been saved yet in {}", snapshots.location);
            return failed(&error);
        }
        Err(error) => return failed(&error),
    };
    let told = told(&plan, &rules, &policies);
    if options.json {
        println!("{:#}", as_json(&plan, told.as_ref(), &rules));
    } else {
        print!("{}", as_text(&plan, told.as_ref(), &rules));
    }
    eprintln!("{} parcels in {:.2} s", plan.parcels, begun.elapsed().as_secs_f64());
    let nothing = plan.found.rules.values().all(|t| t.opened + t.raised + t.resolved + t.moved == 0);
    Ok(if nothing { super::FINE } else { CHANGES })
}

fn failed(error: &anyhow::Error) -> anyhow::Result<u8> {
    eprintln!("parcelwatch: {error:#}");
    Ok(super::FAILED)
}

fn plan(snapshots: &Snapshots, rules: &Arc<RuleSet>) -> anyhow::Result<Option<Part>> {
    let Some(partitions) = snapshots.partitions()? else { return Ok(None) };
    let bar = indicatif::ProgressBar::new(u64::try_from(partitions).unwrap_or(0));
    let parts = snapshots.each(partitions, rules, |mut shard, _| {
        let mut preview = shard.preview(Arc::clone(rules));
        preview.kept = Some(Vec::new());
        while !shard.preview_step(&mut preview, SLOTS) {
            if preview.kept.as_ref().is_some_and(|k| k.len() > MOST) {
                preview.kept = None;
            }
        }
        bar.inc(1);
        Part {
            parcels: shard.parcels(),
            watermark: shard.watermark(),
            found: std::mem::take(&mut preview.found),
            changes: preview.kept.take().unwrap_or_default(),
        }
    })?;
    bar.finish_and_clear();
    let mut whole =
        Part { parcels: 0, watermark: Time::MIN, found: Foreseen::default(), changes: Vec::new() };
    for part in parts {
        whole.parcels += part.parcels;
        whole.watermark = whole.watermark.max(part.watermark);
        whole.found.add(part.found);
        whole.changes.extend(part.changes);
    }
    Ok(Some(whole))
}

/// Messages and exceptions told of in the first hour, by receiver. `None`: too many changes to work it out.
fn told(plan: &Part, rules: &Arc<RuleSet>, policies: &Policies) -> Option<BTreeMap<String, (u64, u64)>> {
    let changes: u64 = plan.found.rules.values().map(|t| t.opened + t.raised + t.resolved).sum();
    if changes != plan.changes.len() as u64 || plan.changes.len() > MOST {
        return None;
    }
    let mut memory = Memory::new(Arc::clone(rules), policies.clone());
    let mut told: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut take = |_: Time, flushed: &crate::escalation::Flushed| {
        for message in &flushed.messages {
            let of = told.entry(message.to.receiver.clone()).or_default();
            of.0 += 1;
            of.1 += message.notices.len() as u64;
        }
    };
    for change in &plan.changes {
        memory.commit_at(change, plan.watermark, &mut take);
    }
    memory.run(plan.watermark.plus(HOUR).0, &mut take);
    Some(told)
}

fn as_json(plan: &Part, told: Option<&BTreeMap<String, (u64, u64)>>, rules: &RuleSet) -> serde_json::Value {
    let of = |(rule, t): (&String, &crate::engine::swap::Tally)| {
        let examples = t.examples.iter().map(|c| {
            json!({
                "change": c.kind.name(), "parcel_id": c.parcel_id, "episode": c.episode_text(),
                "severity": c.severity.name(), "due": c.due.to_string(), "anchor": c.anchor.to_string(),
            })
        });
        let tally = json!({
            "opened": t.opened, "raised": t.raised, "resolved": t.resolved, "moved": t.moved,
            "examples": examples.collect::<Vec<_>>(),
        });
        (rule.clone(), tally)
    };
    let told = told.map(|told| {
        let of = |(r, (m, e)): (&String, &(u64, u64))| (r.clone(), json!({"messages": m, "exceptions": e}));
        told.iter().map(of).collect::<serde_json::Map<_, _>>()
    });
    json!({
        "rules_hash": rules.hash,
        "parcels": plan.parcels,
        "watermark": plan.watermark.to_string(),
        "rules": plan.found.rules.iter().map(of).collect::<serde_json::Map<_, _>>(),
        "told_within_an_hour": told,
    })
}

fn as_text(plan: &Part, told: Option<&BTreeMap<String, (u64, u64)>>, rules: &RuleSet) -> String {
    let mut text = format!(
        "{} rules for {} parcels in flight, as known at {}\n",
        rules.rules.len(),
        plan.parcels,
        plan.watermark
    );
    if plan.found.rules.is_empty() {
        return text + "Nothing changes: no exception opens, rises, ends or moves.\n";
    }
    let width = plan.found.rules.keys().map(String::len).max().unwrap_or(0).max(4);
    let _ =
        writeln!(text, "\n{:<width$}  {:>8}  {:>8}  {:>8}  {:>8}", "RULE", "OPENS", "RISES", "ENDS", "MOVES");
    for (rule, t) in &plan.found.rules {
        let _ = writeln!(
            text,
            "{rule:<width$}  {:>8}  {:>8}  {:>8}  {:>8}",
            t.opened, t.raised, t.resolved, t.moved
        );
        for c in &t.examples {
            let _ = writeln!(
                text,
                "    {} {} ({}), due {}",
                c.parcel_id,
                c.kind.name(),
                c.severity.name(),
                c.due
            );
        }
    }
    match told {
        None => text += "\nToo many changes to work out who would be told.\n",
        Some(told) if told.is_empty() => {
            text += "\nNobody would be told of what opens or rises within an hour.\n"
        }
        Some(told) => {
            text += "\nTold within an hour of what opens or rises:\n";
            for (receiver, (messages, exceptions)) in told {
                let count = |n: &u64, one, many| plural(usize::try_from(*n).unwrap_or(usize::MAX), one, many);
                let (messages, about) =
                    (count(messages, "message", "messages"), count(exceptions, "exception", "exceptions"));
                let _ = writeln!(text, "    {receiver}: {messages} about {about}");
            }
        }
    }
    text
}
