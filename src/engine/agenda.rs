//! When to look at which parcel next.
//!
//! There are no timers: a parcel holds one time, *look next at*. Buckets of an hour list the slots to look at; a slot
//! is listed once, in the bucket of its time or an earlier one (`listed` says which), and a later time costs nothing. A
//! bucket is opened when the clock reaches its beginning and sorted by the millisecond, so a stage is decided exactly
//! however coarse the buckets are; an ordered map has no horizon beyond which an entry could be lost.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::model::HOUR;

/// A parcel's place in its shard's table.
pub type SlotId = u32;

/// Not listed anywhere.
pub const UNLISTED: i64 = i64::MAX;

/// The calendar of one shard.
#[derive(Default)]
pub struct Agenda {
    buckets: BTreeMap<i64, Vec<SlotId>>,
    /// The open bucket, latest first.
    open: Vec<(i64, SlotId)>,
    /// What came for the open bucket after it was opened.
    late: BinaryHeap<Reverse<(i64, SlotId)>>,
    /// Buckets before this one were opened.
    opened_to: i64,
}

/// The bucket of a time.
#[must_use]
pub fn bucket_of(time: i64) -> i64 {
    time.div_euclid(HOUR)
}

impl Agenda {
    /// Lists a slot for `time`, where it is listed in bucket `listed` so far; the bucket it is listed in now.
    #[inline]
    pub fn list(&mut self, slot: SlotId, time: i64, listed: i64) -> i64 {
        if time == i64::MAX {
            return listed;
        }
        let bucket = bucket_of(time);
        if bucket < self.opened_to {
            self.late.push(Reverse((time, slot)));
            return UNLISTED;
        }
        if listed != UNLISTED && listed >= self.opened_to && listed <= bucket {
            return listed;
        }
        self.buckets.entry(bucket).or_default().push(slot);
        bucket
    }

    /// A lower bound of the next time at which a slot is to be looked at.
    #[inline]
    #[must_use]
    pub fn next(&self) -> i64 {
        let open = self.open.last().map_or(i64::MAX, |e| e.0);
        let late = self.late.peek().map_or(i64::MAX, |e| e.0.0);
        let bucket = self.buckets.first_key_value().map_or(i64::MAX, |(m, _)| m.saturating_mul(HOUR));
        open.min(late).min(bucket)
    }

    /// The next (time, slot) before `end`. `look` gives a listed slot's time and bucket now, and notes the bucket it
    /// moves to; entries that are out of date are dropped or moved.
    pub fn pop(
        &mut self,
        end: i64,
        mut slots: impl FnMut(SlotId, Option<i64>) -> (i64, i64),
    ) -> Option<(i64, SlotId)> {
        loop {
            let open = self.open.last().map_or(i64::MAX, |e| e.0);
            let late = self.late.peek().map_or(i64::MAX, |e| e.0.0);
            let bucket = self.buckets.first_key_value().map(|(m, _)| *m);
            let begins = bucket.map_or(i64::MAX, |m| m.saturating_mul(HOUR));
            if open.min(late).min(begins) >= end {
                return None;
            }
            if begins <= open.min(late) {
                self.open_bucket(bucket.unwrap_or_default(), &mut slots);
                continue;
            }
            let entry = if late < open { self.late.pop().map(|e| e.0) } else { self.open.pop() };
            let (time, slot) = entry?;
            if slots(slot, None).0 == time {
                return Some((time, slot));
            }
        }
    }

    fn open_bucket(&mut self, bucket: i64, slots: &mut impl FnMut(SlotId, Option<i64>) -> (i64, i64)) {
        let Some(listed) = self.buckets.remove(&bucket) else { return };
        self.opened_to = self.opened_to.max(bucket + 1);
        // What the bucket before left behind goes on; the two are merged by the sort.
        for slot in listed {
            let (time, in_bucket) = slots(slot, None);
            if in_bucket != bucket {
                continue;
            }
            if time == i64::MAX {
                slots(slot, Some(UNLISTED));
            } else if bucket_of(time) <= bucket {
                slots(slot, Some(UNLISTED));
                self.open.push((time, slot));
            } else {
                slots(slot, Some(UNLISTED));
                let moved = self.list(slot, time, UNLISTED);
                slots(slot, Some(moved));
            }
        }
        self.open.sort_unstable_by(|a, b| b.cmp(a));
    }
}
