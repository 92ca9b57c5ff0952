//! Properties of the engine's parts, each over many random cases: what is packed behaves as before, the order of arrival does
//! not matter, a retraction leaves nothing behind, the agenda and the table do what a sorted list and a map would do.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parcelwatch::engine::agenda::{Agenda, SlotId, UNLISTED};
use parcelwatch::engine::derive::Derived;
use parcelwatch::engine::evaluate::{Look, Program};
use parcelwatch::engine::intern::Interner;
use parcelwatch::engine::parcel::{Dropped, Parcel, Stamp};
use parcelwatch::engine::table::{Table, hash_of};
use parcelwatch::engine::{Lifetimes, Record, Shard, evidence};
use parcelwatch::model::{Change, DAY, HOUR, Time, ZoneProvenance};
use parcelwatch::rules::RuleSet;
use parcelwatch::source::decode::{FactNames, decode};
use serde_json::Value;

use crate::random::Random;
use crate::rulebook::Rulebook;
use crate::run::say;
use crate::stream::{EPOCH, Planned, plan};

/// One parcel's records.
fn life(random: &mut Random) -> Vec<Planned> {
    plan(random, 1, 12 * HOUR)
}

/// A parcel outside of any shard, with what it needs.
struct Alone {
    parcel: Parcel,
    interner: Interner,
    program: Program,
    derived: Derived,
    dropped: Dropped,
}

impl Alone {
    fn new(rules: &Arc<RuleSet>) -> Alone {
        let mut interner = Interner::default();
        let program = Program::new(rules.clone(), &mut interner);
        let (parcel, derived, dropped) = Default::default();
        Alone { parcel, interner, program, derived, dropped }
    }

    /// As a shard folds a record; what it tells.
    fn fold(&mut self, record: &Planned, first: bool) -> Vec<Change> {
        let names = FactNames::new(self.program.rules.declared.iter().map(|d| d.name.as_str()));
        let Ok(e) = decode(record.json.as_bytes(), &names) else { return Vec::new() };
        let append = Time(record.append);
        let mut before = Derived::default();
        before.of(&self.parcel, &self.interner);
        self.parcel.apply(&e, append, &mut self.interner, &mut self.dropped);
        self.derived.of(&self.parcel, &self.interner);
        let stamp = Stamp { event_time: e.event_time.0, append: append.0 };
        let before = (!first).then_some(&before);
        let assumed = e.zone == ZoneProvenance::Assumed;
        self.program.note_origins(&mut self.parcel, before, &self.derived, &self.interner, stamp, assumed);
        let mut out = Vec::new();
        let (program, interner) = (&self.program, &self.interner);
        let look = Look { program, interner, x: append.0, at: append, offset: 0, swapped: false };
        look.take(&mut self.parcel, &self.derived, &mut out);
        out
    }

    fn packed(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.parcel.pack(&mut bytes);
        bytes
    }

    /// What is known, as JSON.
    fn known(&mut self) -> Value {
        self.derived.of(&self.parcel, &self.interner);
        let rules = &self.program.rules;
        let json = evidence::parcel(&self.parcel, &self.derived, &self.interner, rules);
        serde_json::from_str(&json).expect("an object")
    }
}

#[test]
fn a_parcel_packed_after_every_record_behaves_as_one_that_never_was() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let rules = Rulebook::new(&mut random).build();
        let (mut plain, mut packed) = (Alone::new(&rules), Alone::new(&rules));
        for (i, record) in life(&mut random).iter().enumerate() {
            let told = plain.fold(record, i == 0);
            let again = packed.fold(record, i == 0);
            assert_eq!(told, again, "seed {seed}, record {i}");
            let bytes = packed.packed();
            assert_eq!(bytes, plain.packed(), "seed {seed}, record {i}");
            packed.parcel.unpack(&bytes);
            assert_eq!(packed.packed(), bytes, "seed {seed}, record {i}");
        }
    }
}

/// Records whose ids and append times are all their own: the same record twice is a matter of order (SEMANTICS 1.4).
fn distinct(random: &mut Random) -> Vec<Planned> {
    let mut ids = BTreeSet::new();
    let mut records = life(random);
    records.retain(|r| {
        let id = serde_json::from_str::<Value>(&r.json)
            .ok()
            .and_then(|v| v["event_id"].as_str().map(str::to_owned));
        let retracts = r.json.contains("event_retracted");
        let control = r.json.contains("\"control\"");
        retracts || control || id.is_some_and(|id| ids.insert(id))
    });
    let mut used = BTreeSet::new();
    for r in &mut records {
        while !used.insert(r.append) {
            r.append += 1;
        }
    }
    records
}

/// What must not depend on the order: lists as sets, but for the occurrences.
fn settled(mut known: Value) -> Value {
    let map = known.as_object_mut().expect("an object");
    map.remove("last_append_time");
    map.remove("standing");
    fn sort(v: &mut Value) {
        match v {
            Value::Array(list) => {
                list.iter_mut().for_each(sort);
                list.sort_by_key(Value::to_string);
            }
            Value::Object(map) => map.values_mut().for_each(sort),
            _ => {}
        }
    }
    for (name, value) in map.iter_mut() {
        if name != "occurrences" {
            sort(value);
        }
    }
    known
}

#[test]
fn any_order_of_arrival_gives_the_same_facts_occurrences_and_holds() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let rules = Rulebook::new(&mut random).build();
        let mut records = distinct(&mut random);
        let mut known = Vec::new();
        for _ in 0..3 {
            let mut alone = Alone::new(&rules);
            for (i, record) in records.iter().enumerate() {
                alone.fold(record, i == 0);
            }
            known.push(settled(alone.known()));
            shuffle(&mut records, &mut random);
        }
        assert_eq!(known[0], known[1], "seed {seed}");
        assert_eq!(known[0], known[2], "seed {seed}");
    }
}

fn shuffle<T>(list: &mut [T], random: &mut Random) {
    for i in (1..list.len()).rev() {
        list.swap(i, random.below(i as u64 + 1) as usize);
    }
}

#[test]
fn what_is_taken_back_leaves_occurrences_and_holds_as_if_it_had_never_been() {
    let mut taken = 0;
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let rules = Rulebook::new(&mut random).build();
        let mut records = distinct(&mut random);
        records.retain(|r| !r.json.contains("event_retracted"));
        let named: Vec<usize> =
            (0..records.len()).filter(|i| records[*i].json.contains("\"event_id\"")).collect();
        if named.is_empty() {
            continue;
        }
        taken += 1;
        let victim = *random.pick(&named);
        let body: Value = serde_json::from_str(&records[victim].json).expect("an object");
        let (id, at) = (body["event_id"].clone(), body["event_time"].clone());
        let parcel = body["parcel_id"].clone();
        let back = format!(
            "{{\"parcel_id\":{parcel},\"event_time\":{at},\"control\":\"event_retracted\",\"retracts\":[{id}]}}"
        );
        let back = Planned { append: records[victim].append + 1, parcel: 0, json: back };
        let mut without = records.clone();
        // Its facts stay (SEMANTICS 3.2).
        without[victim].json = records[victim]
            .json
            .replace("\"milestone\"", "\"was\"")
            .replace("\"event_id\"", "\"control\":\"parcel_facts\",\"had_id\"");
        let place = random.below(records.len() as u64 + 1) as usize;
        records.insert(place, back);
        let known = |records: &[Planned]| {
            let mut alone = Alone::new(&rules);
            for (i, record) in records.iter().enumerate() {
                alone.fold(record, i == 0);
            }
            let known = settled(alone.known());
            (known["occurrences"].clone(), known["holds"].clone())
        };
        assert_eq!(known(&records), known(&without), "seed {seed}");
    }
    assert!(taken > 200);
}

/// Slots as a shard keeps them.
#[derive(Default)]
struct Slots {
    agenda: Agenda,
    look: Vec<i64>,
    listed: Vec<i64>,
}

impl Slots {
    fn set(&mut self, slot: SlotId, look: i64) {
        let i = slot as usize;
        if self.look[i] != look {
            self.look[i] = look;
            self.listed[i] = self.agenda.list(slot, look, self.listed[i]);
        }
    }

    fn pop(&mut self, end: i64) -> Option<(i64, SlotId)> {
        let (look, listed) = (&self.look, &mut self.listed);
        self.agenda.pop(end, |slot, bucket| {
            let i = slot as usize;
            if let Some(b) = bucket {
                listed[i] = b;
            }
            (look[i], listed[i])
        })
    }
}

#[test]
fn the_agenda_is_a_sorted_list() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let n = random.within(1, 30) as usize;
        let mut slots = Slots { look: vec![i64::MAX; n], listed: vec![UNLISTED; n], ..Slots::default() };
        let mut now = EPOCH;
        for _ in 0..200 {
            for _ in 0..random.below(6) {
                let far = *random.pick(&[1_000, 60_000, 600_000, DAY, 10_000 * DAY, 3_000_000 * DAY]);
                let look = if random.percent(10) { i64::MAX } else { now + random.within(0, far) };
                slots.set(random.below(n as u64) as SlotId, look);
            }
            let far = *random.pick(&[1, 60_000, 3_600_000, 20_000 * DAY]);
            let end = now + random.within(0, far);
            let mut last = i64::MIN;
            let limit = random.within(1, 40);
            for _ in 0..limit {
                let wanted = slots.look.iter().copied().filter(|t| *t < end).min();
                assert!(
                    slots.agenda.next() <= slots.look.iter().copied().min().expect("slots"),
                    "seed {seed}"
                );
                let found = slots.pop(end);
                assert_eq!(found.map(|f| f.0), wanted, "seed {seed}");
                let Some((time, slot)) = found else { break };
                assert_eq!(slots.look[slot as usize], time, "seed {seed}");
                assert!(time >= last, "seed {seed}");
                last = time;
                let next = if random.percent(50) { i64::MAX } else { time + random.within(1, 200_000) };
                slots.set(slot, next);
            }
            now = now.max(last);
            if slots.look.iter().all(|t| *t >= end) {
                now = now.max(end);
            }
        }
    }
}

#[test]
fn the_table_is_a_map() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let (mut table, mut map) = (Table::default(), HashMap::<String, (SlotId, Vec<u8>)>::new());
        for step in 0..400 {
            let id = format!("{}{}", "p".repeat(random.below(3) as usize * 70), random.below(60));
            let parcel = Parcel { id: id.clone(), last_append: step, ..Parcel::default() };
            let mut bytes = Vec::new();
            parcel.pack(&mut bytes);
            bytes.resize(bytes.len() + random.below(5) as usize, 0);
            let hash = hash_of(&id);
            assert_eq!(table.find(&id, hash), map.get(&id).map(|e| e.0), "seed {seed}");
            match map.get_mut(&id) {
                None => {
                    let slot = table.insert(hash, &bytes);
                    assert!(map.values().all(|e| e.0 != slot), "seed {seed}: a slot is given twice");
                    map.insert(id, (slot, bytes));
                }
                Some((slot, kept)) if random.percent(60) => {
                    table.store(*slot, &bytes);
                    *kept = bytes;
                }
                Some((slot, _)) => {
                    table.remove(*slot);
                    map.remove(&id);
                }
            }
            assert_eq!((table.len(), table.is_empty()), (map.len(), map.is_empty()));
        }
        for (id, (slot, bytes)) in &map {
            assert_eq!(table.find(id, hash_of(id)), Some(*slot));
            assert_eq!(&*table.slot(*slot).bytes, bytes.as_slice());
        }
    }
}

/// Folds texts, each appended at its time; what was told.
pub fn fold(shard: &mut Shard, records: &[(i64, String)]) -> Vec<Change> {
    let names = FactNames::new(shard.rules().declared.iter().map(|d| d.name.as_str()));
    let mut out = Vec::new();
    for (append, json) in records {
        let e = decode(json.as_bytes(), &names);
        let event = e.as_ref().map_err(|r| r.reason);
        let record = Record { offset: shard.next_offset(), append: Time(*append), event };
        assert_eq!(shard.fold(&[record], usize::MAX, &mut out), 1);
    }
    out
}

#[test]
fn a_damaged_snapshot_is_refused_or_read_and_never_stops_the_program() {
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let rules = Rulebook::new(&mut random).build();
        let mut shard = Shard::new(rules.clone(), Lifetimes::default(), true);
        let records: Vec<_> =
            plan(&mut random, 5, 12 * HOUR).into_iter().map(|p| (p.append, p.json)).collect();
        fold(&mut shard, &records);
        shard.save_begin();
        let Some(parcelwatch::engine::snapshot::Step::Last(section, head)) = shard.save_step(u32::MAX) else {
            panic!("one step saves all");
        };
        for _ in 0..12 {
            let (mut section, mut head) = (section.clone(), head.clone());
            let damaged = if random.percent(70) { &mut section } else { &mut head };
            if random.percent(30) {
                damaged.truncate(random.below(damaged.len() as u64) as usize);
            } else {
                let i = random.below(damaged.len() as u64) as usize;
                damaged[i] ^= 1 << random.below(8);
            }
            let loaded = Shard::load(&[section], &head, rules.clone(), Lifetimes::default(), true);
            let Ok(mut loaded) = loaded else { continue };
            let mut out = Vec::new();
            loaded.swap_rules(Rulebook::new(&mut random).build(), &mut out);
            loaded.advance(loaded.watermark().plus(DAY), usize::MAX, &mut out);
            out.iter().for_each(|c| drop(say(c)));
        }
    }
}
