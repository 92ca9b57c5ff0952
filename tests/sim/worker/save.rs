//! Snapshots of a shard at work, and the stop that ends with one.

use std::rc::Rc;
use std::sync::Arc;

use parcelwatch::engine::snapshot::Step;
use parcelwatch::engine::{Lifetimes, Shard};
use parcelwatch::rules::RuleSet;

use super::{Phase, Worker, World};
use crate::cases::{Place, Snapshot};
use crate::snapshots::{Save, parcels_of};

impl Worker {
    /// Begins a snapshot.
    pub fn save_begin(&mut self) {
        if self.phase == Phase::Live && self.turn.is_none() {
            let quiet = parcels_of(&Save::at_once(&mut self.shard));
            let at = self.shard.save_begin();
            let at = Place { offset: at.next_offset, watermark: at.watermark };
            assert_eq!(at, self.place());
            self.save = Some(Save::new(at, self.turns, self.out.len(), quiet));
        }
    }

    /// Goes on with a snapshot: copies parcels, then stores the sections, then the head.
    pub fn save_step(&mut self, world: &mut World, slots: u32) {
        let Some(save) = &mut self.save else { return };
        match self.shard.save_step(slots) {
            Some(Step::More) => {}
            Some(Step::Section(section)) => save.sections.push(section),
            Some(Step::Last(section, head)) => {
                save.sections.push(section);
                save.head = Some(head);
                assert_eq!(parcels_of(&save.sections), save.quiet, "a snapshot taken in slices differs");
            }
            None if save.head.is_some() => {
                if save.owed == 0 && self.committed.is_some_and(|c| c >= save.at) {
                    let book = &mut world.cases.books[self.partition];
                    match save.torn.take() {
                        // The sections first, so that a crash here leaves a torn one.
                        None => {
                            let torn = Rc::new(save.snapshot(false));
                            book.snapshots.push(torn.clone());
                            save.torn = Some(torn);
                        }
                        Some(torn) => {
                            book.snapshots.retain(|s| !Rc::ptr_eq(s, &torn));
                            book.snapshots.push(Rc::new(save.snapshot(true)));
                            let n = book.snapshots.len();
                            book.snapshots.drain(..n.saturating_sub(3));
                            self.save = None;
                        }
                    }
                }
            }
            None => self.save = None,
        }
    }

    /// Stops in good order: writes what waits, saves, publishes. What is refused stays undone.
    pub fn stop(mut self, world: &mut World) {
        self.commit(world, usize::MAX);
        self.save_begin();
        for _ in 0..3 {
            self.save_step(world, u32::MAX);
        }
    }
}

impl Snapshot {
    pub fn copy(&self) -> Snapshot {
        let (sections, head) = (self.sections.clone(), self.head.clone());
        Snapshot { at: self.at, turns: self.turns, sections, head, rotten: self.rotten }
    }

    /// The shard that was saved.
    pub fn load(&self, rules: Arc<RuleSet>, lifetimes: Lifetimes, keep_evidence: bool) -> Shard {
        let head = self.head.as_ref().expect("a whole snapshot has its head");
        let shard = Shard::load(&self.sections, head, rules, lifetimes, keep_evidence);
        shard.expect("what was saved whole is read")
    }
}
