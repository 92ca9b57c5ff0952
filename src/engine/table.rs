//! The parcels of one shard: packed bytes in slots, found by their id.
//!
//! The one hash table of the pure layers. It offers look-up, and iteration in slot order, which is the order in which
//! parcels came: a function of the log, never of a hash.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::agenda::{SlotId, UNLISTED};
use super::pack::packed_id;

/// One parcel, packed.
pub struct Slot {
    /// `pack`'s bytes; empty where the slot is free.
    pub bytes: Box<[u8]>,
    /// When to look at it next.
    pub look: i64,
    /// Upper half of the id's hash.
    hash: u32,
    /// The agenda's bucket it is listed in.
    listed: i32,
}

impl Slot {
    /// The bucket it is listed in.
    #[must_use]
    pub fn listed(&self) -> i64 {
        if self.listed == i32::MAX { UNLISTED } else { i64::from(self.listed) }
    }

    /// Notes the bucket it is listed in. One that does not fit counts as unlisted: it is listed again.
    pub fn set_listed(&mut self, bucket: i64) {
        self.listed = i32::try_from(bucket).unwrap_or(i32::MAX);
    }
}

/// Slots and their index.
#[derive(Default)]
pub struct Table {
    slots: Vec<Slot>,
    index: HashTable<SlotId>,
    free: Vec<SlotId>,
}

/// The hash that the table knows an id by.
#[inline]
#[must_use]
pub fn hash_of(id: &str) -> u64 {
    xxh3_64(id.as_bytes())
}

/// The index is asked by the 32 bits that a slot keeps, spread again.
#[inline]
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[inline]
fn upper(hash: u64) -> u32 {
    (hash >> 32) as u32
}

impl Table {
    /// The slot of a parcel.
    #[inline]
    #[must_use]
    pub fn find(&self, id: &str, hash: u64) -> Option<SlotId> {
        let slots = &self.slots;
        self.index
            .find(spread(upper(hash)), |s| {
                let slot = &slots[*s as usize];
                slot.hash == upper(hash) && packed_id(&slot.bytes) == id.as_bytes()
            })
            .copied()
    }

    /// Reads the lines that a look-up of these ids will need, so that the waiting of one overlaps that of the others;
    /// what it returns keeps the reads from being left out.
    #[must_use]
    pub fn touch(&self, hashes: impl Iterator<Item = u64>) -> u64 {
        let mut found = [0 as SlotId; 64];
        let mut n = 0;
        for hash in hashes.take(found.len()) {
            let h = upper(hash);
            if let Some(s) = self.index.find(spread(h), |s| self.slots[*s as usize].hash == h) {
                found[n] = *s;
                n += 1;
            }
        }
        let mut sum = 0u64;
        for s in &found[..n] {
            let bytes = &self.slots[*s as usize].bytes;
            // The first and the fourth line of its bytes; the hardware fetches the ones between.
            sum = sum.wrapping_add(u64::from(*bytes.first().unwrap_or(&0)));
            sum = sum.wrapping_add(u64::from(*bytes.get(192).unwrap_or(&0)));
        }
        sum
    }

    /// A slot.
    #[inline]
    #[must_use]
    pub fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[id as usize]
    }

    /// A slot, to be changed.
    #[inline]
    pub fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.slots[id as usize]
    }

    /// Replaces a slot's bytes; the old memory is used again where the size is the same.
    #[inline]
    pub fn store(&mut self, id: SlotId, bytes: &[u8]) {
        let slot = &mut self.slots[id as usize];
        if slot.bytes.len() == bytes.len() {
            slot.bytes.copy_from_slice(bytes);
        } else {
            slot.bytes = bytes.into();
        }
    }

    /// A new parcel's slot.
    pub fn insert(&mut self, hash: u64, bytes: &[u8]) -> SlotId {
        let slot = Slot { bytes: bytes.into(), look: i64::MAX, hash: upper(hash), listed: i32::MAX };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 parcels a partition")
            }
        };
        let slots = &self.slots;
        self.index.insert_unique(spread(upper(hash)), id, |s| spread(slots[*s as usize].hash));
        id
    }

    /// Forgets a parcel.
    pub fn remove(&mut self, id: SlotId) {
        let hash = self.slots[id as usize].hash;
        if let Ok(entry) = self.index.find_entry(spread(hash), |s| *s == id) {
            entry.remove();
        }
        let slot = &mut self.slots[id as usize];
        (slot.bytes, slot.look) = (Box::default(), i64::MAX);
        self.free.push(id);
    }

    /// How many parcels there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// One past the highest slot ever used.
    #[must_use]
    pub fn end(&self) -> SlotId {
        self.slots.len() as SlotId
    }

    /// Makes room for this many parcels at once.
    pub fn reserve(&mut self, parcels: usize) {
        self.slots.reserve(parcels);
        let slots = &self.slots;
        self.index.reserve(parcels, |s| spread(slots[*s as usize].hash));
    }
}
