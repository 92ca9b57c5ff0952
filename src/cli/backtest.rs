//! `backtest`: what the rules would have told of recorded events (DESIGN §8, SEMANTICS 1.2, 7.5).
//!
//! Rules look at one parcel at a time, so the parcels are dealt to threads by the hash of their id; each thread folds its
//! own in the order of append time. Between two records of a parcel W only decides what falls before the second, so the
//! changes do not depend on how many threads there are.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::engine::{Lifetimes, Record, Shard};
use crate::model::{Change, ChangeKind, Event, Time};
use crate::rules::RuleSet;
use crate::source::Batch;
use crate::source::decode::{FactNames, decode};
use crate::source::files::{FileError, Lines};

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

/// One record's place, in the order of folding.
#[derive(Clone, Copy)]
struct Place {
    append: Time,
    batch: u32,
    record: u32,
    /// The id's hash: which thread folds it. Records that only move the clock are left out.
    hash: u32,
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

/// Runs the rules over all records, on `threads` threads.
#[must_use]
pub fn backtest(rules: &Arc<RuleSet>, batches: &[Batch], until: Option<Time>, threads: usize) -> Outcome {
    let names = FactNames::new(rules.declared.iter().map(|d| d.name.as_str()));
    let threads = threads.max(1);
    let mut outcome = Outcome::default();
    let (mut places, mut last) = (Vec::new(), None::<Time>);
    for part in in_parallel(threads, |t| locate(batches, t, threads, &names, until)) {
        places.extend(part.places);
        last = last.max(part.last);
        outcome.events += part.events;
        outcome.rejected += part.rejected;
    }
    // Threads took batches in turn: back to the order of arrival, then to that of append time.
    places.sort_unstable_by_key(|p| (p.batch, p.record));
    if !places.is_sorted_by_key(|p| p.append) {
        places.sort_by_key(|p| p.append);
    }
    let end = until.or(last).map_or(Time::MIN, |t| t.plus(1));
    for (changes, parcels) in
        in_parallel(threads, |t| fold(rules, batches, &places, (t, threads), &names, end))
    {
        outcome.changes.extend(changes);
        outcome.parcels += parcels;
    }
    outcome.changes.sort_by(|a, b| order(a).cmp(&order(b)));
    outcome
}

fn order(c: &Change) -> (Time, &str, &str, &str, Option<Time>) {
    (c.at, &c.parcel_id, &c.rule, c.kind.name(), c.episode)
}

fn in_parallel<T: Send>(threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let work = &work;
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|t| scope.spawn(move || work(t))).collect();
        handles
            .into_iter()
            .map(|h| h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

#[derive(Default)]
struct Located {
    places: Vec<Place>,
    last: Option<Time>,
    events: u64,
    rejected: u64,
}

fn locate(
    batches: &[Batch],
    thread: usize,
    threads: usize,
    names: &FactNames,
    until: Option<Time>,
) -> Located {
    let mut found = Located::default();
    for (b, batch) in batches.iter().enumerate().skip(thread).step_by(threads) {
        for (r, raw) in batch.records().iter().enumerate() {
            let (append, event) = match decode(batch.value(raw), names) {
                Ok(event) => (Some(event.file_append()), Some(event)),
                Err(reject) => {
                    found.rejected += 1;
                    (reject.file_append, None)
                }
            };
            let append = append.filter(|a| until.is_none_or(|u| *a <= u));
            found.events += 1;
            let Some(append) = append else { continue };
            found.last = found.last.max(Some(append));
            if let Some(event) = event {
                let hash = crate::engine::table::hash_of(&event.parcel_id) as u32;
                found.places.push(Place { append, batch: b as u32, record: r as u32, hash });
            }
        }
    }
    found
}

fn fold(
    rules: &Arc<RuleSet>,
    batches: &[Batch],
    places: &[Place],
    (thread, threads): (usize, usize),
    names: &FactNames,
    end: Time,
) -> (Vec<Change>, u64) {
    let mut shard = Shard::new(rules.clone(), Lifetimes::default(), false);
    let mut changes = Vec::new();
    let mut mine = places.iter().filter(|p| p.hash as usize % threads == thread).peekable();
    let mut events: Vec<(Time, Event<'_>)> = Vec::with_capacity(64);
    while mine.peek().is_some() {
        events.clear();
        for place in mine.by_ref().take(64) {
            let batch = &batches[place.batch as usize];
            if let Ok(event) = decode(batch.value(&batch.records()[place.record as usize]), names) {
                events.push((place.append, event));
            }
        }
        let records: Vec<_> =
            events.iter().map(|(append, e)| Record { offset: 0, append: *append, event: Ok(e) }).collect();
        shard.fold(&records, usize::MAX, &mut changes);
    }
    shard.advance(end, usize::MAX, &mut changes);
    (changes, shard.parcels() as u64 + shard.stats().forgotten)
}

/// One change as a line of `--format jsonl`, without the line end.
#[must_use]
pub fn json_line(c: &Change) -> String {
    let text = |t: &str| serde_json::to_string(t).unwrap_or_default();
    let mut line = format!(
        "{{\"at\":\"{}\",\"change\":\"{}\",\"rule\":{},\"parcel_id\":{},\"episode\":\"{}\",\"stage\":{}",
        c.at,
        c.kind.name(),
        text(&c.rule),
        text(&c.parcel_id),
        c.episode_text(),
        c.stage,
    );
    match c.kind {
        ChangeKind::Resolved(resolution) => line += &format!(",\"resolution\":\"{}\"", resolution.name()),
        ChangeKind::Opened | ChangeKind::Raised => {
            line += &format!(",\"severity\":\"{}\",\"due\":\"{}\"", c.severity.name(), c.due);
        }
    }
    line + &format!(",\"anchor\":\"{}\"}}", c.anchor)
}

/// `backtest --rules DIR --events FILE…`: changes on standard output, a summary as the last line of standard error.
///
/// # Errors
/// A file of events cannot be read, or standard output is closed.
pub fn run(rules: &Arc<RuleSet>, events: &[PathBuf], until: Option<Time>) -> anyhow::Result<()> {
    let started = Instant::now();
    let batches = read(events)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let outcome = backtest(rules, &batches, until, threads);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for change in &outcome.changes {
        writeln!(out, "{}", json_line(change))?;
    }
    out.flush()?;
    let seconds = started.elapsed().as_secs_f64();
    eprintln!(
        "{} events ({} rejected), {} parcels, {} changes, {seconds:.2} s, {:.0} events/s",
        outcome.events,
        outcome.rejected,
        outcome.parcels,
        outcome.changes.len(),
        outcome.events as f64 / seconds.max(1e-9),
    );
    Ok(())
}
