//! A simulation of the whole pipeline without IO: virtual clocks, a broker with partitions, clocks of its own, holes, lag,
//! retention and loss, owners that crash between any two steps, durable cases that can refuse, torn snapshots, edited rules,
//! two owners at once. Each seed is a run that can be repeated; after it DESIGN §9's invariants are checked.
//!
//! `PARCELWATCH_SEED=7` runs one seed and prints what happened; `PARCELWATCH_SEEDS=20000` runs that many.

mod bounds;
mod broker;
mod cases;
mod checks;
mod desk;
mod escalate;
mod naive;
mod properties;
mod random;
mod reference;
mod rulebook;
mod run;
mod snapshots;
mod stream;
mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};

use run::{Run, Tally};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs a seed; where it failed, its trace and what it failed with.
fn run(seed: u64, traced: bool) -> Result<Tally, Vec<String>> {
    let mut run = Run::new(seed, traced);
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| run.whole())) else { return Ok(run.tally) };
    let mut trace = run.trace.0.take().unwrap_or_default();
    let said = panic.downcast_ref::<String>().cloned();
    trace.push(said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default());
    Err(trace)
}

#[test]
fn every_seed_keeps_the_invariants() {
    if let Some(seed) = number("PARCELWATCH_SEED") {
        if let Err(trace) = run(seed, true) {
            panic!("{}\nseed {seed} fails", trace.join("\n"));
        }
        return;
    }
    let seeds = number("PARCELWATCH_SEEDS").unwrap_or(1_000);
    let mut tally = Tally::default();
    for seed in 0..seeds {
        match run(seed, false) {
            Ok(of_seed) => tally.add(of_seed),
            Err(_) => {
                let trace = run(seed, true).err().unwrap_or_else(|| vec!["it did not fail again".into()]);
                let tail = &trace[trace.len().saturating_sub(60)..];
                panic!("{}\nseed {seed} fails; PARCELWATCH_SEED={seed} prints all of it", tail.join("\n"));
            }
        }
    }
    println!("{tally:#?}");
}
