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
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

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
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let (failed, tally) = (AtomicU64::new(u64::MAX), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for first in 0..threads {
            let (failed, tally) = (&failed, &tally);
            scope.spawn(move || {
                for seed in (first..seeds).step_by(threads as usize) {
                    match run(seed, false) {
                        Ok(of_seed) => tally.lock().expect("nobody panics with it").add(of_seed),
                        Err(_) => drop(failed.fetch_min(seed, Ordering::Relaxed)),
                    }
                    if failed.load(Ordering::Relaxed) < u64::MAX {
                        return;
                    }
                }
            });
        }
    });
    let seed = failed.into_inner();
    if seed < u64::MAX {
        let trace = run(seed, true).err().unwrap_or_else(|| vec!["it did not fail again".into()]);
        let tail = &trace[trace.len().saturating_sub(60)..];
        panic!("{}\nseed {seed} fails; PARCELWATCH_SEED={seed} prints all of it", tail.join("\n"));
    }
    let tally = tally.into_inner().expect("nobody panics with it");
    println!("{tally:#?}");
    // A simulation in which nothing goes wrong proves nothing.
    for what in ["crashed before a commit", "fenced", "restored", "rules taken", "raised by a certificate"] {
        assert!(tally.of(what) >= seeds / 10, "`{what}` came {} times in {seeds} seeds", tally.of(what));
    }
}
