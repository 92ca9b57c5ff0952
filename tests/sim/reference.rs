//! What is true: one uninterrupted fold of each log, with the same turns at the same places, and the changes it gives.

use std::collections::BTreeMap;

use parcelwatch::engine::{Record, Shard};
use parcelwatch::model::{Change, Time};
use parcelwatch::source::decode::{FactNames, decode};

use crate::broker::{Seen, Stored};
use crate::cases::{Turn, Written};
use crate::random::Random;
use crate::run::say;
use crate::worker::World;

/// How the reference goes through the log: the result must not depend on it.
pub enum Pace<'a> {
    /// All at once.
    Whole,
    /// Batches and limits of random size, W raised in between where the log allows it.
    Slices(&'a mut Random),
}

/// Folds a partition's log as it is now, up to W.
pub fn refold(world: &World, partition: usize, until: Time, mut pace: Pace<'_>) -> (Vec<Written>, Shard) {
    let log = &world.broker.partitions[partition].log;
    let book = &world.cases.books[partition];
    let mut turns = book.turns.iter();
    let Some((_, Turn::Rules(first))) = turns.next() else { panic!("a partition begins with rules") };
    let mut shard = Shard::new(world.rules[first].clone(), world.lifetimes, world.keep_evidence);
    let (mut written, mut from) = (Vec::new(), 0);
    for (place, turn) in turns {
        fold(&mut shard, &log[..place.offset as usize], from, place.watermark, &mut pace, &mut written);
        from = place.offset;
        match turn {
            Turn::Rules(hash) => {
                let mut out = Vec::new();
                shard.swap_rules(world.rules[hash].clone(), &mut out);
                note(&shard, out, &mut written);
            }
            Turn::Gap(to) => {
                shard.gap(*to);
                from = *to;
            }
        }
    }
    fold(&mut shard, log, from, until, &mut pace, &mut written);
    (written, shard)
}

fn note(shard: &Shard, changes: Vec<Change>, written: &mut Vec<Written>) {
    let rules = shard.rules().hash.clone();
    written.extend(changes.into_iter().map(|change| Written { rules: rules.clone(), change }));
}

fn fold(
    shard: &mut Shard,
    log: &[Stored],
    from: i64,
    until: Time,
    pace: &mut Pace<'_>,
    written: &mut Vec<Written>,
) {
    let names = FactNames::new(shard.rules().declared.iter().map(|d| d.name.as_str()));
    let visible: Vec<(i64, &Stored)> =
        (0..).zip(log).skip(from as usize).filter(|(_, s)| s.seen == Seen::Yes).collect();
    let decoded: Vec<_> = visible.iter().map(|(_, s)| decode(&s.bytes, &names)).collect();
    let records: Vec<Record<'_>> = visible
        .iter()
        .zip(&decoded)
        .map(|((offset, s), d)| Record {
            offset: *offset,
            append: s.append,
            event: d.as_ref().map_err(|reject| reject.reason),
        })
        .collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < records.len() {
        let rest = &records[at..];
        let (n, limit) = match pace {
            Pace::Whole => (rest.len(), usize::MAX),
            Pace::Slices(random) => {
                if random.percent(20) {
                    // Nothing earlier can come: not from this log.
                    let to = rest.iter().map(|r| r.append).min().expect("not empty");
                    shard.advance(to.min(until).minus(random.within(0, 60_000)), out.len() + 1, &mut out);
                }
                let n = (random.within(1, 9) as usize).min(rest.len());
                (n, out.len() + *random.pick(&[1, 2, 1_000]))
            }
        };
        at += shard.fold(&rest[..n], limit, &mut out);
    }
    loop {
        let limit = match pace {
            Pace::Whole => usize::MAX,
            Pace::Slices(random) => out.len() + random.within(1, 4) as usize,
        };
        if shard.advance(until, limit, &mut out) {
            break;
        }
    }
    note(shard, out, written);
}

/// The changes of each exception in their order, printed.
pub fn by_exception(written: &[Written]) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for w in written {
        let c = &w.change;
        let key = format!("{} {} {}", c.rule, c.parcel_id, c.episode_text());
        let text =
            format!("{} rules {} body {:?} {}", say(c), w.rules, c.body, c.evidence.as_deref().unwrap_or(""));
        all.entry(key).or_default().push(text);
    }
    all
}
