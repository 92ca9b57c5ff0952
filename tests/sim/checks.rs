//! The reckoning: DESIGN §9's invariants over what was written, once everybody has caught up.

use std::collections::BTreeMap;

use parcelwatch::engine::Shard;
use parcelwatch::model::{ChangeKind, Time};
use serde_json::Value;

use crate::cases::Turn;
use crate::naive;
use crate::reference::{Pace, by_exception, refold};
use crate::run::Run;
use crate::stream::parcel_id;
use crate::worker::Worker;

/// All checks of all partitions.
pub fn all(run: &mut Run) {
    for partition in 0..run.world.broker.partitions.len() {
        let ids: Vec<String> = (0..run.parcels).map(real_id).collect();
        let worker = run.workers.iter().find(|w| w.partition == partition).expect("it has an owner");
        standing(run, worker, &ids);
        if run.world.cases.books[partition].lossy {
            continue;
        }
        same_changes(run, partition, &ids);
        naive::check(&run.world, partition);
        let slow = run.random.percent(20);
        if slow {
            any_pace(run, partition);
        }
    }
}

/// Notes what this run was made of.
pub fn count(run: &mut Run) {
    for book in &run.world.cases.books {
        run.tally.count("partitions", 1);
        run.tally.count("lossy partitions", u64::from(book.lossy));
        for (_, turn) in &book.turns {
            run.tally.count(if matches!(turn, Turn::Gap(_)) { "gaps" } else { "rules taken" }, 1);
        }
        let kept = book.snapshots.iter().filter(|s| s.head.is_some() && !s.rotten).count();
        run.tally.count("whole snapshots at the end", kept as u64);
        run.tally.count(
            "torn snapshots at the end",
            book.snapshots.iter().filter(|s| s.head.is_none()).count() as u64,
        );
        for w in &book.written {
            let what = match w.change.kind {
                ChangeKind::Resolved(r) => r.name(),
                other => other.name(),
            };
            run.tally.count(what, 1);
            run.tally.count("incomplete", u64::from(w.change.incomplete));
        }
    }
}

fn real_id(parcel: u64) -> String {
    serde_json::from_str(&format!("\"{}\"", parcel_id(parcel))).expect("an id as JSON")
}

/// The committed changes and the state are those of one uninterrupted fold (invariants 2, 3, 4).
fn same_changes(run: &Run, partition: usize, ids: &[String]) {
    let worker = run.workers.iter().find(|w| w.partition == partition).expect("it has an owner");
    let until = worker.shard.watermark();
    let (wanted, shard) = refold(&run.world, partition, until, Pace::Whole);
    let (wanted, found) = (by_exception(&wanted), by_exception(&run.world.cases.books[partition].written));
    for (key, changes) in &wanted {
        let got = found.get(key).cloned().unwrap_or_default();
        assert_eq!(&got, changes, "p{partition} {key}: left is what was written, right what is true");
    }
    if let Some((key, changes)) = found.iter().find(|(k, _)| !wanted.contains_key(*k)) {
        panic!("p{partition} {key}: never should have been, {changes:#?}");
    }
    for id in ids {
        assert_eq!(
            worker.shard.parcel_json(id),
            shard.parcel_json(id),
            "p{partition} {id}: the state differs"
        );
    }
    assert_eq!(worker.shard.parcels(), shard.parcels(), "p{partition}: other parcels are kept");
    assert_eq!(worker.shard.remembered(), shard.remembered(), "p{partition}: other ids are remembered");
}

/// Any batching gives the same changes.
fn any_pace(run: &mut Run, partition: usize) {
    let worker = run.workers.iter().find(|w| w.partition == partition).expect("it has an owner");
    let until = worker.shard.watermark();
    let mut random = run.random.fork();
    let (whole, _) = refold(&run.world, partition, until, Pace::Whole);
    let (sliced, _) = refold(&run.world, partition, until, Pace::Slices(&mut random));
    assert_eq!(by_exception(&sliced), by_exception(&whole), "p{partition}: slices differ from the whole");
}

type Standing = BTreeMap<(String, String, String), (u64, String, String, String)>;

/// What cases holds open is what the shard holds to stand: after every replay, loss or not.
fn standing(run: &Run, worker: &Worker, ids: &[String]) {
    let book = &run.world.cases.books[worker.partition];
    let mut cases = Standing::new();
    let episode = |e: Option<Time>| e.map(|t| t.to_string()).unwrap_or_default();
    for c in book.standing.values() {
        let told =
            (u64::from(c.stage), c.severity.name().to_owned(), c.due.to_string(), c.anchor.to_string());
        cases.insert((c.parcel_id.clone(), c.rule.clone(), episode(c.episode)), told);
    }
    let shard = standing_of(&worker.shard, ids);
    if !book.lossy {
        assert_eq!(cases, shard, "p{}: left stands in cases, right in the shard", worker.partition);
        return;
    }
    // What was lost cannot be told anew; but nothing stands in one place alone, a hand's work apart.
    let by_hand = |k: &(String, String, String)| {
        book.standing
            .values()
            .any(|c| c.by_operator && (&c.parcel_id, &c.rule, &episode(c.episode)) == (&k.0, &k.1, &k.2))
    };
    let cases: Vec<_> = cases.into_keys().filter(|k| shard.contains_key(k) || !by_hand(k)).collect();
    let shard: Vec<_> = shard.into_keys().collect();
    assert_eq!(cases, shard, "p{}: left stands in cases, right in the shard", worker.partition);
}

fn standing_of(shard: &Shard, ids: &[String]) -> Standing {
    let mut standing = Standing::new();
    for id in ids {
        let Some(json) = shard.parcel_json(id) else { continue };
        let parcel: Value = serde_json::from_str(&json).expect("an object");
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        for s in parcel["standing"].as_array().into_iter().flatten() {
            let told = (
                s["stage"].as_u64().unwrap_or_default(),
                text(&s["severity"]),
                text(&s["due"]),
                text(&s["anchor"]),
            );
            standing.insert((id.clone(), text(&s["rule"]), text(&s["episode"])), told);
        }
    }
    standing
}
