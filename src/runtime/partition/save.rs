//! Snapshots while it works.

use std::time::Instant;

use super::{Partition, Turn, recorded};
use crate::runtime::saver::Stepped;
use crate::snapshots::Head;

impl Partition {
    /// Begins, continues or ends a snapshot. Whether there is more to do at once.
    pub(super) fn save(&mut self) -> bool {
        if let Some(saving) = &mut self.saving {
            return match saving.step(&mut self.shard) {
                Stepped::More => true,
                Stepped::Waits => false,
                Stepped::Done => {
                    self.saving = None;
                    false
                }
            };
        }
        if self.save_due > Instant::now() || !self.restored() {
            return false;
        }
        self.begin_save()
    }

    /// Begins a snapshot where the shard stands between two records. Whether it did.
    pub fn begin_save(&mut self) -> bool {
        if !self.started
            || self.saving.is_some()
            || self.swapping.is_some()
            || self.complete != recorded(&self.shard)
        {
            return false;
        }
        // The snapshot counts once this write is durable.
        self.hand_over();
        if self.unsent.is_some() {
            return false;
        }
        self.save_due = Instant::now() + self.context.save_every;
        let at = self.shard.save_begin();
        let head = Head {
            topic: self.context.topic.clone(),
            topic_id: self.topic_id.clone(),
            partitions: self.partitions,
            partition: self.id,
            next_offset: at.next_offset,
            watermark_ms: at.watermark.0,
            rules_hash: self.shard.rules().hash.clone(),
        };
        self.saving = Some(self.context.saver.begin(head, &self.progress, self.number));
        true
    }

    /// Whether a snapshot is being copied.
    #[must_use]
    pub fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    /// Copies on for a snapshot at the end.
    pub fn continue_save(&mut self) -> Turn {
        if self.save() {
            Turn::Busy
        } else if self.saving.is_some() {
            Turn::Full
        } else {
            Turn::Idle
        }
    }
}
