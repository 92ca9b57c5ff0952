//! A shard at an offset as bytes, saved in slices while events flow, and read back (DESIGN §2, §9.8).
//!
//! A save begins at one (offset, W). Parcels are copied a slice at a time; one that is about to change before its turn
//! is copied first ("copy before change"), so that the whole is the shard as it was when the save began. Sections:
//!
//! 1. parcels, any number of sections: for each the length of its bytes, when to look next, its bytes (`pack`);
//! 2. last, the head: versions, W, offset, lifetimes' ids, texts. It comes last because texts only grow.
//!
//! Numbers are little-endian. Whole-file integrity (checksums) is the business of the store.

use std::sync::Arc;

use super::agenda::SlotId;
use super::evaluate::Program;
use super::intern::Interner;
use super::pack::{FORMAT, packed_id};
use super::parcel::Parcel;
use super::swap::renumber;
use super::table::hash_of;
use super::{Lifetimes, Shard};
use crate::model::Time;
use crate::rules::RuleSet;

/// Bytes after which a section is handed out.
const SECTION: usize = 4 << 20;

/// A save under way.
pub struct Saving {
    at: SlotId,
    end: SlotId,
    /// Slots that were copied before their turn, or are newer than the save.
    done: Vec<u64>,
    out: Vec<u8>,
    watermark: Time,
    next_offset: i64,
    rules: String,
    declared: Vec<String>,
    remembered: Vec<(i64, u64)>,
    parcels: u64,
}

impl Saving {
    fn is_done(&self, slot: SlotId) -> bool {
        self.done[slot as usize / 64] >> (slot % 64) & 1 == 1
    }

    fn mark(&mut self, slot: SlotId) {
        self.done[slot as usize / 64] |= 1 << (slot % 64);
    }

    fn waits(&self, slot: SlotId) -> bool {
        slot >= self.at && slot < self.end && !self.is_done(slot)
    }

    fn copy(&mut self, bytes: &[u8], look: i64) {
        self.out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.out.extend_from_slice(&look.to_le_bytes());
        self.out.extend_from_slice(bytes);
        self.parcels += 1;
    }
}

/// What a step of a save gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A section of parcels is full: store it.
    Section(Vec<u8>),
    /// Nothing to store yet.
    More,
    /// The last parcels and the head: store both, in this order, then the save is complete.
    Last(Vec<u8>, Vec<u8>),
}

/// Where a save stands on the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SavedAt {
    /// The first offset not folded.
    pub next_offset: i64,
    /// W.
    pub watermark: Time,
}

impl Shard {
    /// Begins a save of the shard as it is now. An unfinished one is dropped.
    pub fn save_begin(&mut self) -> SavedAt {
        let end = self.table.end();
        self.saving = Some(Saving {
            at: 0,
            end,
            done: vec![0; end as usize / 64 + 1],
            out: Vec::new(),
            watermark: self.watermark,
            next_offset: self.next_offset,
            rules: self.program.rules.hash.clone(),
            declared: self.program.rules.declared.iter().map(|d| d.name.clone()).collect(),
            remembered: self.remembered.sorted(),
            parcels: 0,
        });
        SavedAt { next_offset: self.next_offset, watermark: self.watermark }
    }

    /// Whether a save is under way.
    #[must_use]
    pub fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    /// Copies up to `slots` parcels. `None` where no save is under way.
    pub fn save_step(&mut self, slots: u32) -> Option<Step> {
        let saving = self.saving.as_mut()?;
        let to = saving.end.min(saving.at.saturating_add(slots));
        for id in saving.at..to {
            let slot = self.table.slot(id);
            if !saving.is_done(id) && !slot.bytes.is_empty() {
                saving.copy(&slot.bytes, slot.look);
            }
        }
        saving.at = to;
        if to < saving.end {
            let full = saving.out.len() >= SECTION;
            return Some(if full { Step::Section(std::mem::take(&mut saving.out)) } else { Step::More });
        }
        let saving = self.saving.take()?;
        let head = head(&saving, &self.interner);
        Some(Step::Last(saving.out, head))
    }

    /// A parcel is about to change or go: it is copied first where the save has not come to it.
    #[inline]
    pub(super) fn save_before_change(&mut self, slot: SlotId) {
        if let Some(saving) = &mut self.saving
            && saving.waits(slot)
        {
            let s = self.table.slot(slot);
            if !s.bytes.is_empty() {
                saving.copy(&s.bytes, s.look);
            }
            saving.mark(slot);
        }
    }

    /// A new parcel took a slot: it is no part of the save.
    #[inline]
    pub(super) fn skip_in_save(&mut self, slot: SlotId) {
        if let Some(saving) = &mut self.saving
            && saving.waits(slot)
        {
            saving.mark(slot);
        }
    }

    /// Reads a shard back: all sections of parcels and the head. The shard has the rules that `rules` gives for the hash
    /// stored; facts that those do not declare are dropped.
    pub fn load(
        sections: &[Vec<u8>],
        head: &[u8],
        rules: Arc<RuleSet>,
        lifetimes: Lifetimes,
        keep_evidence: bool,
    ) -> Result<Shard, Broken> {
        let mut r = Bytes(head);
        let version = r.take(1)?[0];
        if version != FORMAT {
            return Err(Broken::Version(version));
        }
        let (watermark, next_offset) = (Time(r.i64()?), r.i64()?);
        let _rules_hash = r.text()?;
        let declared = (0..r.u32()?).map(|_| r.text()).collect::<Result<Vec<_>, _>>()?;
        let by_fact = (0..r.u32()?).map(|_| r.u32()).collect::<Result<Vec<_>, _>>()?;
        let texts = (0..r.u32()?).map(|_| r.text()).collect::<Result<Vec<_>, _>>()?;
        let remembered = (0..r.u32()?).map(|_| Ok((r.i64()?, r.i64()?))).collect::<Result<Vec<_>, _>>()?;
        let parcels = r.i64()? as u64;
        let mut shard = Shard::new(rules, lifetimes, keep_evidence);
        shard.interner = Interner::restore(texts, by_fact);
        shard.program = Program::new(shard.program.rules.clone(), &mut shard.interner);
        (shard.watermark, shard.next_offset) = (watermark, next_offset);
        for (until, hash) in remembered {
            shard.remembered.insert(hash as u64, until);
        }
        // A parcel takes 12 bytes and more: a damaged count reserves no memory that the sections could not fill.
        let most = sections.iter().map(Vec::len).sum::<usize>() / 12;
        shard.table.reserve(usize::try_from(parcels).map_or(most, |n| n.min(most)));
        for section in sections {
            shard.load_parcels(section)?;
        }
        if shard.table.len() as u64 != parcels {
            return Err(Broken::Count { wanted: parcels, found: shard.table.len() as u64 });
        }
        let known: Vec<&str> = shard.program.rules.declared.iter().map(|d| d.name.as_str()).collect();
        if declared != known {
            let declared: Vec<String> = declared.into_iter().map(str::to_owned).collect();
            shard.renumber_facts(&declared);
        }
        Ok(shard)
    }

    fn load_parcels(&mut self, section: &[u8]) -> Result<(), Broken> {
        let mut r = Bytes(section);
        while !r.0.is_empty() {
            let n = r.u32()? as usize;
            let look = r.i64()?;
            let bytes = r.take(n)?;
            let id = std::str::from_utf8(packed_id(bytes)).map_err(|_| Broken::Cut)?;
            let slot = self.table.insert(hash_of(id), bytes);
            self.list(slot, look);
        }
        Ok(())
    }

    /// Gives declared facts the numbers of the rules in force.
    fn renumber_facts(&mut self, before: &[String]) {
        let (mut parcel, mut bytes) = (Parcel::default(), Vec::new());
        for slot in 0..self.table.end() {
            if self.table.slot(slot).bytes.is_empty() {
                continue;
            }
            parcel.unpack(&self.table.slot(slot).bytes);
            renumber(&mut parcel, before, &self.program.rules);
            bytes.clear();
            parcel.pack(&mut bytes);
            self.table.store(slot, &bytes);
        }
    }
}

fn head(s: &Saving, interner: &Interner) -> Vec<u8> {
    let mut out = vec![FORMAT];
    let text = |out: &mut Vec<u8>, t: &str| {
        out.extend_from_slice(&(t.len() as u32).to_le_bytes());
        out.extend_from_slice(t.as_bytes());
    };
    let count = |out: &mut Vec<u8>, n: usize| out.extend_from_slice(&(n as u32).to_le_bytes());
    out.extend_from_slice(&s.watermark.0.to_le_bytes());
    out.extend_from_slice(&s.next_offset.to_le_bytes());
    text(&mut out, &s.rules);
    count(&mut out, s.declared.len());
    for name in &s.declared {
        text(&mut out, name);
    }
    count(&mut out, interner.by_fact().len());
    for n in interner.by_fact() {
        out.extend_from_slice(&n.to_le_bytes());
    }
    count(&mut out, interner.len());
    for t in interner.texts() {
        text(&mut out, t);
    }
    count(&mut out, s.remembered.len());
    for (until, hash) in &s.remembered {
        out.extend_from_slice(&until.to_le_bytes());
        out.extend_from_slice(&hash.to_le_bytes());
    }
    out.extend_from_slice(&s.parcels.to_le_bytes());
    out
}

/// The hash of the rules that a snapshot's head names.
pub fn rules_hash(head: &[u8]) -> Result<&str, Broken> {
    let mut r = Bytes(head);
    let version = r.take(1)?[0];
    if version != FORMAT {
        return Err(Broken::Version(version));
    }
    r.take(16)?;
    r.text()
}

/// Why bytes are no snapshot.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// They end too early.
    #[error("the snapshot is cut short")]
    Cut,
    /// A layout that this program does not read.
    #[error("the snapshot has format {0}, this program reads format {FORMAT}")]
    Version(u8),
    /// Parcels are missing.
    #[error("the snapshot holds {found} parcels, its head says {wanted}")]
    Count {
        /// What the head says.
        wanted: u64,
        /// What was there.
        found: u64,
    },
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Broken> {
        if n > self.0.len() {
            return Err(Broken::Cut);
        }
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, Broken> {
        self.take(4)?.try_into().map(u32::from_le_bytes).map_err(|_| Broken::Cut)
    }

    fn i64(&mut self) -> Result<i64, Broken> {
        self.take(8)?.try_into().map(i64::from_le_bytes).map_err(|_| Broken::Cut)
    }

    fn text(&mut self) -> Result<&'a str, Broken> {
        let n = self.u32()? as usize;
        std::str::from_utf8(self.take(n)?).map_err(|_| Broken::Cut)
    }
}
