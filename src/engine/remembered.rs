//! Ids of forgotten parcels, whose stragglers are swallowed (SEMANTICS 8.1).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashTable;

use crate::model::Time;

/// Hashes of ids with the time until which they are remembered.
#[derive(Default)]
pub struct Remembered {
    index: HashTable<(u64, i64)>,
    /// By the time they end.
    ends: BinaryHeap<Reverse<(i64, u64)>>,
}

impl Remembered {
    /// Remembers an id's hash until W passes `until`.
    pub fn insert(&mut self, hash: u64, until: i64) {
        match self.index.find_mut(hash, |e| e.0 == hash) {
            Some(e) => e.1 = until,
            None => {
                self.index.insert_unique(hash, (hash, until), |e| e.0);
            }
        }
        self.ends.push(Reverse((until, hash)));
    }

    /// Whether a record appended at `append` belongs to a parcel that is remembered.
    #[must_use]
    pub fn contains(&self, hash: u64, append: Time) -> bool {
        self.index.find(hash, |e| e.0 == hash).is_some_and(|e| append.0 <= e.1)
    }

    /// W has come to `to`: drops what ended before it.
    pub fn expire(&mut self, to: Time) {
        while let Some(Reverse((until, hash))) = self.ends.peek().copied() {
            if until >= to.0 {
                return;
            }
            self.ends.pop();
            if let Ok(entry) = self.index.find_entry(hash, |e| e.0 == hash && e.1 == until) {
                entry.remove();
            }
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// All of them by the time they end, for a snapshot.
    #[must_use]
    pub fn sorted(&self) -> Vec<(i64, u64)> {
        let mut all: Vec<(i64, u64)> = self.index.iter().map(|e| (e.1, e.0)).collect();
        all.sort_unstable();
        all
    }
}
