//! New rules while it works (DESIGN §6): at one place of its log, in slices, so that the thread is never away for long.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Partition, Turn, names, recorded};
use crate::engine::swap::Foreseen;
use crate::rules::RuleSet;

/// Parcels taken over, or asked about, in a turn: some tens of milliseconds.
const SLOTS: u32 = 8_192;

impl Partition {
    /// These rules are wanted from now on.
    pub fn want(&mut self, rules: Arc<RuleSet>) {
        self.rules = rules;
    }

    /// Whether new rules may take over here. Rules that come, go and come again at one and the same W would give their changes
    /// names that are there already (DESIGN §6).
    pub(super) fn may_switch(&self) -> bool {
        self.shard.watermark() > self.switched
    }

    /// Begins to take the rules that are wanted over. Whether it did: until that is done nothing else happens here.
    pub(super) fn begin_switch(&mut self) -> bool {
        let wanted = self.rules.hash != self.shard.rules().hash && self.may_switch();
        // Between two records, and with nothing below W undecided; what the old rules decided goes under their hash.
        if !wanted || self.complete != recorded(&self.shard) || !self.hand_over_all() {
            return false;
        }
        let rules = Arc::clone(&self.rules);
        tracing::info!(
            partition = self.id,
            position = self.position(),
            watermark = %self.shard.watermark(),
            rules = rules.hash,
            "new rules take over"
        );
        self.switched = self.shard.watermark();
        self.names = names(&rules);
        self.swapping = Some(self.shard.swap_begin(rules, &mut self.out));
        self.complete = recorded(&self.shard);
        true
    }

    /// The next slice of a change of rules.
    pub(super) fn go_on_switching(&mut self) -> Turn {
        if let Some(swap) = &mut self.swapping
            && self.shard.swap_step(swap, SLOTS, &mut self.out)
        {
            self.swapping = None;
            // Recorded even where nothing changed: from here on it is folded with these rules.
            self.hand_over();
        } else if !self.out.is_empty() {
            self.hand_over();
        }
        if self.send() { Turn::Busy } else { Turn::Full }
    }

    /// Somebody asks what these rules would change now. It is answered once the state is restored.
    pub fn preview(&mut self, rules: Arc<RuleSet>, answer: mpsc::Sender<(i32, Foreseen)>) {
        self.previews.push_back((rules, answer));
    }

    /// Asks the next parcels. Whether there are more.
    pub(super) fn foresee(&mut self) -> bool {
        if !self.restored() {
            return false;
        }
        if self.previewing.is_none() {
            let Some((rules, answer)) = self.previews.pop_front() else { return false };
            self.previewing = Some((self.shard.preview(rules), answer));
        }
        let Some((preview, answer)) = &mut self.previewing else { return false };
        if answer.is_closed() {
            self.previewing = None;
        } else if self.shard.preview_step(preview, SLOTS) {
            // Whoever asked may have left.
            let _ = answer.try_send((self.id, std::mem::take(&mut preview.found)));
            self.previewing = None;
        }
        true
    }
}
