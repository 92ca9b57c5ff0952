//! One partition that is being read: its records become batches, what a full feed refuses is held.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::{Sender, TrySendError};
use rdkafka::message::{BorrowedMessage, Message, Timestamp};

use super::{Item, Watch};
use crate::model::Time;
use crate::source::{Batch, Raw, Stamp};

/// One partition that is being read.
pub(super) struct Part {
    pub(super) items: Sender<Item>,
    pub(super) watch: Arc<Watch>,
    pub(super) next: i64,
    pub(super) building: Batch,
    pub(super) held: VecDeque<Item>,
    pub(super) held_bytes: usize,
    pub(super) full_since: Option<Instant>,
    pub(super) paused: bool,
    pub(super) begun: Instant,
    pub(super) hole: Option<Hole>,
}

/// A statistics sample that says: nothing queued, and the fetch stands above the last record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) expected: i64,
    pub(super) fetched: i64,
}

/// Copies a record into its partition's batch.
pub(super) fn take(parts: &mut [Option<Part>], held_bytes: &mut usize, message: &BorrowedMessage<'_>) {
    let Some(part) = parts.get_mut(message.partition() as usize).and_then(Option::as_mut) else { return };
    let offset = message.offset();
    if offset < part.next {
        return; // again after a pause
    }
    let stamp = match message.timestamp() {
        Timestamp::NotAvailable => Stamp::None,
        Timestamp::CreateTime(ms) => Stamp::Create(Time(ms)),
        Timestamp::LogAppendTime(ms) => Stamp::Append(Time(ms)),
    };
    part.building.push(
        offset,
        stamp,
        message.key().unwrap_or_default(),
        message.payload().unwrap_or_default(),
    );
    part.next = offset + 1;
    if part.building.is_full() {
        part.hand_over(held_bytes);
    }
}

impl Part {
    /// Sends the batch at hand.
    pub(super) fn hand_over(&mut self, held_bytes: &mut usize) {
        if self.building.is_empty() {
            return;
        }
        self.watch.position.store(self.next, Ordering::Relaxed);
        let batch = std::mem::replace(&mut self.building, Batch::new(self.watch.partition));
        self.send(Item::Batch(batch), held_bytes);
    }

    /// Sends an item behind what is held.
    pub(super) fn send(&mut self, item: Item, held_bytes: &mut usize) {
        let size = size(&item);
        self.held.push_back(item);
        self.held_bytes += size;
        if !self.paused {
            *held_bytes += size;
        }
        self.flush(held_bytes);
    }

    /// Offers what is held.
    pub(super) fn flush(&mut self, held_bytes: &mut usize) {
        let mut moved = false;
        while let Some(item) = self.held.pop_front() {
            let size = size(&item);
            match self.items.try_send(item) {
                Ok(()) => moved = true,
                Err(TrySendError::Full(item)) => {
                    self.held.push_front(item);
                    break;
                }
                // Whoever folded this partition has ended; the assignment will follow.
                Err(TrySendError::Disconnected(_)) => {}
            }
            self.held_bytes -= size;
            if !self.paused {
                *held_bytes -= size;
            }
        }
        if moved {
            self.watch.doorbell.ring();
        }
        self.full_since = match (self.held.is_empty(), self.full_since) {
            (true, _) => None,
            (false, Some(since)) if !moved => Some(since),
            (false, _) => Some(Instant::now()),
        };
    }
}

fn size(item: &Item) -> usize {
    match item {
        Item::Batch(batch) => batch.size() + batch.len() * size_of::<Raw>(),
        _ => 0,
    }
}
