//! The one task that commits what the shards decide. It never gives up while it may hope: where the database refuses,
//! folding waits, and the same write is tried again until it is taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::clock::WallClock;
use super::escalator::Backlog;
use super::progress::{PartitionProgress, Progress, Wait};
use crate::cases::{Batch, Cases, CasesError, Recorded, Rejected};
use crate::escalation::feeds::Heard;
use crate::metrics::observe_ms;
use crate::model::{Change, ChangeKind, MINUTE};
use crate::rules::{Policies, RuleSet};

/// What waits to be committed at most, in writes of a turn of a shard each.
pub const QUEUE: usize = 32;

/// What a shard hands over.
pub struct Write {
    /// Of which partition.
    pub progress: Arc<PartitionProgress>,
    /// Counts the writes of this assignment.
    pub number: u64,
    /// In the order they were decided.
    pub changes: Vec<Change>,
    /// Records that could not be decoded.
    pub rejected: Vec<Rejected>,
    /// What its records told of feeds.
    pub heard: Vec<Heard>,
    /// The rules that decided.
    pub rules: Arc<RuleSet>,
    /// How far the shard is.
    pub recorded: Recorded,
}

/// The task.
pub struct Writer {
    /// The database.
    pub cases: Cases,
    /// The policies that fix the group of what opens.
    pub policies: watch::Receiver<Arc<Policies>>,
    /// What time it is.
    pub clock: Arc<dyn WallClock>,
    /// Told when a partition has caught up.
    pub backlog: Backlog,
    /// Shared.
    pub progress: Arc<Progress>,
    /// True once the process has no more time: a write that is refused is dropped, the log has it still.
    pub give_up: watch::Receiver<bool>,
}

/// Pause between tries while the database refuses.
const RETRY: Duration = Duration::from_millis(500);
/// How often it is said that it still does.
const AGAIN: Duration = Duration::from_secs(60);

impl Writer {
    /// Runs until every sender is gone and everything is written.
    pub async fn run(mut self, mut writes: mpsc::Receiver<Write>) {
        let mut taken = Vec::with_capacity(QUEUE);
        let queue = self.progress.metrics.queue("changes", QUEUE);
        loop {
            let wait =
                tokio::time::timeout(Duration::from_secs(5), writes.recv_many(&mut taken, QUEUE)).await;
            self.progress.beat("the writer");
            match wait {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => continue,
            }
            queue.items.set(i64::try_from(writes.len()).unwrap_or(i64::MAX));
            for write in merged(std::mem::take(&mut taken)) {
                self.write(write).await;
            }
        }
        self.progress.ended("the writer");
    }

    /// Commits, however long it takes.
    async fn write(&mut self, write: Write) {
        let mut said = None::<Instant>;
        loop {
            match self.try_write(&write).await {
                Ok(()) => {
                    self.progress.goes_on(Wait::Cases, -1);
                    self.progress.goes_on(Wait::Disk, -1);
                    return;
                }
                Err(error @ CasesError::Deposed { .. }) => {
                    // Nothing of it will ever be durable here; the partition's new owner decides the same from the log.
                    if write.progress.lose() {
                        tracing::error!(reason = error.reason(), "{error}");
                    }
                    return;
                }
                Err(error) => {
                    let wait =
                        if matches!(error, CasesError::Full { .. }) { Wait::Disk } else { Wait::Cases };
                    self.progress.waits(wait, -1, &error.to_string());
                    if said.is_some_and(|at| at.elapsed() > AGAIN) {
                        tracing::error!(reason = error.reason(), "folding still waits: {error}");
                    }
                    said = said.filter(|at| at.elapsed() <= AGAIN).or(Some(Instant::now()));
                }
            }
            self.progress.beat("the writer");
            if *self.give_up.borrow() {
                tracing::warn!(
                    "stopping while the database refuses: what it did not take is decided again from the log"
                );
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_write(&self, write: &Write) -> Result<(), CasesError> {
        let now_ms = self.clock.now_ms();
        let begun = Instant::now();
        if !write.rejected.is_empty() {
            self.cases.reject(&write.rejected, now_ms).await?;
        }
        let policies = Arc::clone(&self.policies.borrow());
        let batch = Batch {
            partition: write.progress.partition,
            changes: &write.changes,
            heard: &write.heard,
            rules: &write.rules,
            policies: &policies,
            recorded: &write.recorded,
            now_ms,
        };
        let committed = self.cases.commit(&batch).await?;
        let metrics = &self.progress.metrics;
        if !write.changes.is_empty() {
            observe_ms(
                &metrics.cases_write_seconds,
                i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX),
            );
        }
        let live = self.backlog.is_over(write.progress.partition);
        let written_ms = self.clock.now_ms();
        for (change, _) in write.changes.iter().zip(&committed.new).filter(|(_, new)| **new) {
            match change.kind {
                ChangeKind::Opened => metrics.exception_opened(&change.rule),
                ChangeKind::Resolved(how) => metrics.exception_resolved(&change.rule, how),
                ChangeKind::Raised => {}
            }
            if live && !matches!(change.kind, ChangeKind::Resolved(_)) {
                observe_ms(&metrics.fire_lateness_seconds, written_ms - change.at.0);
            }
        }
        write.progress.set_durable(write.number);
        // DESIGN §4.8: everything decided up to here is in the database.
        if write.recorded.watermark.0 >= written_ms.saturating_sub(MINUTE) {
            self.backlog.over(write.progress.partition, written_ms);
        }
        Ok(())
    }
}

/// Writes of one partition that follow one another under the same rules become one: a transaction is dear.
fn merged(writes: Vec<Write>) -> Vec<Write> {
    let mut out: Vec<Write> = Vec::with_capacity(writes.len());
    for write in writes {
        let same = |w: &&mut Write| {
            Arc::ptr_eq(&w.progress, &write.progress)
                && w.rules.hash == write.rules.hash
                && w.changes.len() + write.changes.len() <= Cases::MAX_BATCH
        };
        // Of its own partition only the last may take it: their order counts.
        let last = out.iter_mut().rev().find(|w| Arc::ptr_eq(&w.progress, &write.progress));
        match last.filter(same) {
            Some(into) => {
                into.changes.extend(write.changes);
                into.rejected.extend(write.rejected);
                into.heard.extend(write.heard);
                into.number = write.number;
                into.recorded = write.recorded;
            }
            None => out.push(write),
        }
    }
    out
}
