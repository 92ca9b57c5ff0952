//! One rule judged without the engine: after a departure the arrival. A dozen lines that anybody can check by eye.

use std::collections::{BTreeMap, BTreeSet};

use parcelwatch::model::{ChangeKind, Control, Event, MINUTE, Milestone, Time};
use parcelwatch::rules::ruleset::Tolerance;
use parcelwatch::source::decode::{FactNames, decode};

use crate::broker::Seen;
use crate::cases::Turn;
use crate::rulebook::PLAIN;
use crate::worker::World;

/// What happened of the two milestones, by when it was told.
struct Told {
    append: Time,
    event_time: Time,
    milestone: Milestone,
}

/// Every exception of the plain rule is one that is due, and every one due is there (invariant 3), for parcels without
/// retractions, ends, gaps, or records that were told twice with another content.
pub fn check(world: &World, partition: usize) {
    let book = &world.cases.books[partition];
    if book.turns.iter().any(|(_, t)| matches!(t, Turn::Gap(_))) || world.lifetimes != Default::default() {
        return;
    }
    let rules = world.rules.values().next().expect("there are rules");
    let (_, rule) = rules.rule(PLAIN).expect("it is in every rule set");
    let body = &rule.bodies[0];
    let Tolerance::Ms(tolerance) = body.tolerance else { panic!("it has a tolerance") };
    let mut opened: BTreeMap<&str, Vec<Time>> = BTreeMap::new();
    for w in book.written.iter().filter(|w| &*w.change.rule == PLAIN) {
        if w.change.kind == ChangeKind::Opened {
            opened.entry(&w.change.parcel_id).or_default().push(w.change.at);
        }
    }
    let w = book.recorded.map_or(Time::MIN, |r| r.watermark);
    for (parcel, told) in parcels(world, partition) {
        let mut expected = Vec::new();
        // It can open just after a record, or when the clock passes a fire time; nothing else moves it.
        let (mut stands, mut i) = (false, 0);
        while i < told.len() {
            i += 1;
            let known = &told[..i];
            let next = told.get(i).map_or(w, |t| t.append);
            let of = |m| known.iter().filter(move |t| t.milestone == m);
            let Some(anchor) = of(Milestone::DepartedOriginCountry).min_by_key(|t| (t.event_time, t.append))
            else {
                continue;
            };
            let arrived = of(Milestone::ArrivedDestinationCountry)
                .any(|t| t.event_time >= anchor.event_time.minus(tolerance));
            let due = anchor.event_time.plus(body.stages[0].at.ms);
            let fire = due.max(anchor.append.plus(body.grace));
            let now = known[i - 1].append;
            if arrived {
                stands = false;
            } else if stands {
                // Grace takes nothing back (SEMANTICS 5.6), but a due time that moves on does.
                stands = due < next || fire < next;
            } else if fire < now {
                (stands, _) = (true, expected.push(now));
            } else if fire < next {
                (stands, _) = (true, expected.push(fire));
            }
        }
        let found = opened.remove(parcel.as_str()).unwrap_or_default();
        assert_eq!(found, expected, "p{partition} {parcel}: left opened, right is due");
    }
}

/// Parcels that are simple enough, with what was told of them in the order of the log, append times made monotone.
fn parcels(world: &World, partition: usize) -> Vec<(String, Vec<Told>)> {
    let names = FactNames::new([]);
    let mut told: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    let (mut odd, mut ids) = (BTreeSet::new(), BTreeMap::new());
    let mut clock = Time::MIN;
    let visible = world.broker.partitions[partition].log.iter().filter(|s| s.seen == Seen::Yes);
    for stored in visible {
        clock = clock.max(stored.append);
        let Ok(e) = decode(&stored.bytes, &names) else { continue };
        if e.is_test || e.parcel_id.is_empty() {
            continue;
        }
        let parcel = e.parcel_id.to_string();
        if e.control == Some(Control::EventRetracted) || stored.append < clock {
            odd.insert(parcel.clone());
        }
        let Some(milestone) = e.milestone.filter(|_| !e.planned) else { continue };
        if milestone.is_terminal() {
            odd.insert(parcel.clone());
        }
        if ids.insert((parcel.clone(), identity(&e)), ()).is_some() {
            continue;
        }
        let future = e.event_time > stored.append.plus(15 * MINUTE);
        let event_time = if future { stored.append } else { e.event_time };
        told.entry(parcel).or_default().push(Told { append: stored.append, event_time, milestone });
    }
    told.into_iter().filter(|(p, _)| !odd.contains(p)).collect()
}

fn identity(e: &Event<'_>) -> String {
    match &e.event_id {
        Some(id) => format!("named {id}"),
        None => format!("derived {:?} {} {:?}", e.milestone, e.event_time, e.location),
    }
}
