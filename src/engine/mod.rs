//! Fold 1: the records of one partition and a clock that is handed in → [`Change`]s (DESIGN §2, §4-§6).
//!
//! Total and deterministic: malformed records were rejected by `source::decode`, malformed rules by `rules`; time comes
//! only as append times and as [`Shard::advance`]'s bound. Nothing here does IO, reads a clock or draws a random number.
//!
//! Reading order: [`parcel`] (what is kept, how a record changes it), [`derive`] (what follows from it), [`matching`]
//! [`evaluate`] and `reading` (what the rules want), this file (the clock and the log), [`agenda`] (when to look), [`table`] and
//! [`pack`] (how it is held in memory), [`snapshot`], [`swap`] and [`reconcile`] (new rules), [`evidence`] and [`explain`].

pub mod agenda;
pub mod derive;
pub mod evaluate;
pub mod evidence;
pub mod explain;
pub mod ident;
pub mod intern;
pub mod matching;
pub mod pack;
pub mod parcel;
mod reading;
pub mod reconcile;
pub mod remembered;
pub mod snapshot;
pub mod swap;
pub mod table;

use std::sync::Arc;

use self::agenda::{Agenda, SlotId};
use self::derive::Derived;
use self::evaluate::{Look, Program};
use self::intern::Interner;
use self::parcel::{Applied, Dropped, Parcel, Stamp};
use self::remembered::Remembered;
use self::table::Table;
use crate::model::{Change, DAY, Event, RejectReason, Time, ZoneProvenance};
use crate::rules::RuleSet;

/// How long parcels and ids are kept, in milliseconds (DESIGN §10, SEMANTICS 8.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lifetimes {
    /// A terminal parcel, after its last record.
    pub forget_after: i64,
    /// The id of a parcel forgotten.
    pub remember_ids: i64,
    /// A parcel that is not terminal, after its last record.
    pub abandon_after: i64,
}

impl Default for Lifetimes {
    fn default() -> Lifetimes {
        Lifetimes { forget_after: 30 * DAY, remember_ids: 60 * DAY, abandon_after: 400 * DAY }
    }
}

/// One record as a shard takes it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its offset in the partition.
    pub offset: i64,
    /// When the broker stored it.
    pub append: Time,
    /// What it says, or why it could not be read: it moves the clock all the same.
    pub event: Result<&'a Event<'a>, RejectReason>,
}

/// Counters since the shard was made.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The same record again (SEMANTICS 1.4).
    pub duplicates: u64,
    /// `is_test: true`.
    pub tests: u64,
    /// Milestones that are not known.
    pub unmapped: u64,
    /// Event times more than 15 minutes ahead.
    pub future: u64,
    /// Records of parcels already forgotten.
    pub swallowed: u64,
    /// `feed_health` about a feed.
    pub feed_records: u64,
    /// Append times before the watermark.
    pub clock_back: u64,
    /// Parcels forgotten.
    pub forgotten: u64,
    /// Left out over a bound (SEMANTICS 3.1).
    pub dropped: Dropped,
}

/// The fold of one partition.
pub struct Shard {
    program: Program,
    lifetimes: Lifetimes,
    keep_evidence: bool,
    watermark: Time,
    next_offset: i64,
    table: Table,
    agenda: Agenda,
    interner: Interner,
    remembered: Remembered,
    saving: Option<snapshot::Saving>,
    stats: Stats,
    scratch: Option<Box<Scratch>>,
}

/// Memory that is used again for each record.
#[derive(Default)]
struct Scratch {
    parcel: Parcel,
    before: Derived,
    now: Derived,
    bytes: Vec<u8>,
}

impl Shard {
    /// An empty shard. `keep_evidence` attaches to each change what decided it; a backtest does without.
    #[must_use]
    pub fn new(rules: Arc<RuleSet>, lifetimes: Lifetimes, keep_evidence: bool) -> Shard {
        let mut interner = Interner::default();
        Shard {
            program: Program::new(rules, &mut interner),
            lifetimes,
            keep_evidence,
            watermark: Time::MIN,
            next_offset: 0,
            table: Table::default(),
            agenda: Agenda::default(),
            interner,
            remembered: Remembered::default(),
            saving: None,
            stats: Stats::default(),
            scratch: None,
        }
    }

    /// W: everything appended before it is folded.
    #[must_use]
    pub fn watermark(&self) -> Time {
        self.watermark
    }

    /// The offset of the first record not folded yet.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.program.rules
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// How many parcels are kept.
    #[must_use]
    pub fn parcels(&self) -> usize {
        self.table.len()
    }

    /// How many ids of forgotten parcels are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.remembered.len()
    }

    /// Makes room for this many parcels at once.
    pub fn reserve(&mut self, parcels: usize) {
        self.table.reserve(parcels);
    }

    /// Begins at this offset: an empty shard of a partition that is not read from its beginning.
    pub fn begin_at(&mut self, offset: i64) {
        self.next_offset = offset;
    }

    /// Folds records in log order. Before each, everything due before its append time is decided. Stops once `out`
    /// holds `limit` changes; how many records were taken.
    pub fn fold(&mut self, records: &[Record<'_>], limit: usize, out: &mut Vec<Change>) -> usize {
        for (i, record) in records.iter().enumerate() {
            if i % 64 == 0 {
                let ahead = records[i..].iter().take(64).filter_map(|r| r.event.ok());
                std::hint::black_box(self.table.touch(ahead.map(|e| table::hash_of(&e.parcel_id))));
            }
            if record.append < self.watermark {
                self.stats.clock_back += 1;
            }
            if out.len() >= limit || !self.advance(record.append, limit, out) {
                return i;
            }
            self.next_offset = record.offset + 1;
            if let Ok(event) = record.event {
                self.record(event, record.append, out);
            }
        }
        records.len()
    }

    /// W = max(W, `to`): decides every stage, `until` and farewell that falls before it. `false`: `out` holds `limit`
    /// changes and there is more to decide; call again. W is then just past the moment of the last decision, so that
    /// who folds the same records up to (offset, W) again makes every change that is out (DESIGN §6); what else falls on
    /// that moment is decided by the next call.
    pub fn advance(&mut self, to: Time, limit: usize, out: &mut Vec<Change>) -> bool {
        let to = to.max(self.watermark);
        while self.agenda.next() < to.0 {
            if out.len() >= limit {
                return false;
            }
            let table = &mut self.table;
            let due = self.agenda.pop(to.0, |slot, listed| {
                let slot = table.slot_mut(slot);
                if let Some(bucket) = listed {
                    slot.set_listed(bucket);
                }
                (slot.look, slot.listed())
            });
            let Some((time, slot)) = due else { break };
            self.watermark = self.watermark.max(Time(time).plus(1));
            self.look(slot, time, out);
        }
        self.watermark = to;
        self.remembered.expire(to);
        true
    }

    fn record(&mut self, e: &Event<'_>, append: Time, out: &mut Vec<Change>) {
        if e.is_test {
            self.stats.tests += 1;
            return;
        }
        if e.parcel_id.is_empty() {
            self.stats.feed_records += 1;
            return;
        }
        self.stats.unmapped += u64::from(e.unmapped);
        self.stats.future += u64::from(e.event_time > append.plus(parcel::FUTURE));
        let hash = table::hash_of(&e.parcel_id);
        let slot = self.table.find(&e.parcel_id, hash);
        let mut s = self.scratch.take().unwrap_or_default();
        match slot {
            Some(slot) => {
                s.parcel.unpack(&self.table.slot(slot).bytes);
                s.before.of(&s.parcel, &self.interner);
            }
            None if self.remembered.contains(hash, append) => {
                self.stats.swallowed += 1;
                self.scratch = Some(s);
                return;
            }
            None => {
                s.parcel.clear();
                s.parcel.id.push_str(&e.parcel_id);
            }
        }
        match s.parcel.apply(e, append, &mut self.interner, &mut self.stats.dropped) {
            Applied::Duplicate => self.stats.duplicates += 1,
            Applied::Folded => self.folded(&mut s, e, append, slot, hash, out),
        }
        self.scratch = Some(s);
    }

    /// A record changed its parcel: evaluates, and stores it again.
    fn folded(
        &mut self,
        s: &mut Scratch,
        e: &Event<'_>,
        append: Time,
        slot: Option<SlotId>,
        hash: u64,
        out: &mut Vec<Change>,
    ) {
        s.now.of(&s.parcel, &self.interner);
        let before = slot.is_some().then_some(&s.before);
        let event_time = if e.event_time > append.plus(parcel::FUTURE) { append } else { e.event_time };
        let stamp = Stamp { event_time: event_time.0, append: append.0 };
        let zone_assumed = e.zone == ZoneProvenance::Assumed;
        self.program.note_origins(&mut s.parcel, before, &s.now, &self.interner, stamp, zone_assumed);
        let first = out.len();
        let found = self.look_at(self.watermark.0, append, false).take(&mut s.parcel, &s.now, out);
        self.attach_evidence(s, &mut out[first..]);
        let look = found.next.min(self.farewell(&s.parcel, &s.now, found.after_terminal));
        s.bytes.clear();
        s.parcel.pack(&mut s.bytes);
        let slot = match slot {
            Some(slot) => {
                self.save_before_change(slot);
                self.table.store(slot, &s.bytes);
                slot
            }
            None => {
                let slot = self.table.insert(hash, &s.bytes);
                self.skip_in_save(slot);
                slot
            }
        };
        self.list(slot, look);
    }

    /// The clock has passed `time` for this parcel.
    fn look(&mut self, slot: SlotId, time: i64, out: &mut Vec<Change>) {
        let mut s = self.scratch.take().unwrap_or_default();
        s.parcel.unpack(&self.table.slot(slot).bytes);
        s.now.of(&s.parcel, &self.interner);
        let first = out.len();
        let abandoned =
            !s.now.terminal && s.parcel.last_append.saturating_add(self.lifetimes.abandon_after) <= time;
        if abandoned {
            self.look_at(time, Time(time), false).forget(&mut s.parcel, out);
            self.attach_evidence(&s, &mut out[first..]);
            self.forget(slot, &s.parcel, time);
            self.scratch = Some(s);
            return;
        }
        let found = self.look_at(time.saturating_add(1), Time(time), false).take(&mut s.parcel, &s.now, out);
        self.attach_evidence(&s, &mut out[first..]);
        let farewell = self.farewell(&s.parcel, &s.now, found.after_terminal);
        if farewell <= time {
            self.forget(slot, &s.parcel, time);
        } else {
            self.save_before_change(slot);
            if out.len() > first {
                s.bytes.clear();
                s.parcel.pack(&mut s.bytes);
                self.table.store(slot, &s.bytes);
            }
            self.list(slot, found.next.min(farewell));
        }
        self.scratch = Some(s);
    }

    fn look_at(&self, x: i64, at: Time, swapped: bool) -> Look<'_> {
        let offset = self.next_offset - 1;
        Look { program: &self.program, interner: &self.interner, x, at, offset, swapped }
    }

    /// When the parcel is to be forgotten, as things stand (SEMANTICS 8.1).
    fn farewell(&self, p: &Parcel, d: &Derived, after_terminal: i64) -> i64 {
        if !d.terminal {
            p.last_append.saturating_add(self.lifetimes.abandon_after)
        } else if p.standing.is_empty() {
            p.last_append.saturating_add(self.lifetimes.forget_after).max(after_terminal)
        } else {
            i64::MAX
        }
    }

    fn forget(&mut self, slot: SlotId, p: &Parcel, time: i64) {
        self.save_before_change(slot);
        self.table.remove(slot);
        self.remembered.insert(table::hash_of(&p.id), time.saturating_add(self.lifetimes.remember_ids));
        self.stats.forgotten += 1;
    }

    fn list(&mut self, slot: SlotId, look: i64) {
        let s = self.table.slot_mut(slot);
        if s.look != look {
            s.look = look;
            let listed = self.agenda.list(slot, look, s.listed());
            s.set_listed(listed);
        }
    }

    fn attach_evidence(&self, s: &Scratch, changes: &mut [Change]) {
        if self.keep_evidence && !changes.is_empty() {
            let json: Box<str> =
                evidence::evidence(&s.parcel, &s.now, &self.interner, &self.program.rules).into();
            for change in changes {
                change.evidence = Some(json.clone());
            }
        }
    }

    /// Records below `next_offset` were lost: what is known of the parcels now open may miss some (DESIGN §4.7).
    pub fn gap(&mut self, next_offset: i64) {
        self.next_offset = next_offset;
        let mut s = self.scratch.take().unwrap_or_default();
        for slot in 0..self.table.end() {
            if self.table.slot(slot).bytes.is_empty() {
                continue;
            }
            s.parcel.unpack(&self.table.slot(slot).bytes);
            s.parcel.incomplete = true;
            s.bytes.clear();
            s.parcel.pack(&mut s.bytes);
            self.save_before_change(slot);
            self.table.store(slot, &s.bytes);
        }
        self.scratch = Some(s);
    }

    /// A parcel as it is known: facts, occurrences, holds, what stands; a JSON object.
    #[must_use]
    pub fn parcel_json(&self, parcel_id: &str) -> Option<String> {
        let slot = self.table.find(parcel_id, table::hash_of(parcel_id))?;
        let (mut parcel, mut derived) = (Parcel::default(), Derived::default());
        parcel.unpack(&self.table.slot(slot).bytes);
        derived.of(&parcel, &self.interner);
        Some(evidence::parcel(&parcel, &derived, &self.interner, &self.program.rules))
    }
}
