//! `backtest`: what the rules would have told of recorded events (DESIGN §8, SEMANTICS 1.2, 7.5).
//!
//! [`pipeline`] folds the lines that [`crate::source::ordered`] brings in the order of append time, and hands the changes to
//! a sink as they become final: [`jsonl`] writes them, [`report`] makes figures of them ([`table`], [`html`], [`budget`]),
//! [`against`] compares those of two rule sets. [`learn`] looks at the events themselves. [`run`] ties them together.

pub mod against;
pub mod budget;
pub mod html;
pub mod jsonl;
pub mod learn;
pub mod pipeline;
pub mod report;
mod run;
pub mod sketch;
pub mod table;

use std::path::PathBuf;
use std::sync::Arc;

pub use jsonl::json_line;
pub use run::{Findings, Format, Options, run};

use self::pipeline::{Failure, Plan, Sink};
use crate::model::{Change, Time};
use crate::rules::RuleSet;
use crate::source::Batch;
use crate::source::blocks::{Block, Scanner};
use crate::source::files::{FileError, Lines};
use crate::source::ordered;

/// What a backtest found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// In the order of output.
    pub changes: Vec<Change>,
    /// Lines read.
    pub events: u64,
    /// Of them, rejected.
    pub rejected: u64,
    /// Parcels that were known at some time.
    pub parcels: u64,
}

/// Reads files whole.
///
/// # Errors
/// A file cannot be read.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Batch>, FileError> {
    let mut batches = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        let mut lines = Lines::open(path, i32::try_from(number).unwrap_or(i32::MAX))?;
        while let Some(batch) = lines.next_batch()? {
            batches.push(batch);
        }
    }
    Ok(batches)
}

/// Keeps all changes.
#[derive(Default)]
struct Kept(Vec<Change>);

impl Sink for Kept {
    fn changes(&mut self, _: usize, changes: Vec<Change>) -> anyhow::Result<()> {
        self.0.extend(changes);
        Ok(())
    }
}

/// Runs the rules over records in memory, on `threads` threads.
#[must_use]
pub fn backtest(rules: &Arc<RuleSet>, batches: &[Batch], until: Option<Time>, threads: usize) -> Outcome {
    let scanner = Scanner::default();
    let mut blocks = batches.iter().map(|batch| Block::of_batch(batch, &scanner));
    let sets = [Arc::clone(rules)];
    let plan = Plan { sets: &sets, threads, until, evidence: false, learn: false };
    let mut kept = Kept::default();
    let end = until.unwrap_or(Time::MAX);
    let folded = ordered::sort(|| Ok(blocks.next()), end, usize::MAX)
        .map_err(Failure::Source)
        .and_then(|merge| pipeline::fold(&plan, merge, &mut kept));
    // Nothing is read and nothing is written: there is nothing that could fail.
    let totals = folded.map(|(totals, _)| totals).unwrap_or_default();
    let mut changes = kept.0;
    changes.sort_by(|a, b| jsonl::order(a).cmp(&jsonl::order(b)));
    Outcome { changes, events: totals.events, rejected: totals.rejected, parcels: totals.parcels }
}
