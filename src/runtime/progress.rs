//! What the parts of a running daemon tell each other and the outside: how far each partition is, and why folding waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::metrics::{Metrics, PartitionMetrics};
use crate::model::Time;

/// How far one partition of this process is. A new one is made with each assignment.
pub struct PartitionProgress {
    /// The partition.
    pub partition: i32,
    /// Its metrics.
    pub metrics: PartitionMetrics,
    /// The offset read next.
    pub position: AtomicI64,
    /// W, in milliseconds since 1970; `i64::MIN` before the first.
    pub watermark: AtomicI64,
    /// The end offset last heard of; -1 before the first.
    pub end: AtomicI64,
    /// All that the broker had when last asked is folded.
    pub caught_up: AtomicBool,
    /// The shard's state is what it was when the last changes were committed.
    pub restored: AtomicBool,
    /// Parcels in memory.
    pub parcels: AtomicU64,
    /// Ids remembered of forgotten ones.
    pub remembered: AtomicU64,
    /// When its last snapshot was published, wall time; 0 for none yet.
    pub saved_ms: AtomicI64,
    /// Bytes of it.
    pub saved_bytes: AtomicU64,
    durable: AtomicU64,
    durable_news: Notify,
    lost: AtomicBool,
    gaps: Mutex<VecDeque<String>>,
}

/// Gaps kept for the status; the log has all.
const GAPS: usize = 16;

impl PartitionProgress {
    fn new(partition: i32, metrics: PartitionMetrics) -> PartitionProgress {
        PartitionProgress {
            partition,
            metrics,
            position: AtomicI64::new(0),
            watermark: AtomicI64::new(i64::MIN),
            end: AtomicI64::new(-1),
            caught_up: AtomicBool::new(false),
            restored: AtomicBool::new(false),
            parcels: AtomicU64::new(0),
            remembered: AtomicU64::new(0),
            saved_ms: AtomicI64::new(0),
            saved_bytes: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            durable_news: Notify::new(),
            lost: AtomicBool::new(false),
            gaps: Mutex::default(),
        }
    }

    /// W, once there is one.
    #[must_use]
    pub fn watermark(&self) -> Option<Time> {
        let ms = self.watermark.load(Ordering::Relaxed);
        (ms != i64::MIN).then_some(Time(ms))
    }

    /// Every write up to this number is durable.
    pub fn set_durable(&self, number: u64) {
        self.durable.fetch_max(number, Ordering::AcqRel);
        self.durable_news.notify_waiters();
    }

    /// Another process has taken this partition over: no write of this one becomes durable any more. Returns whether it is news.
    pub fn lose(&self) -> bool {
        let news = !self.lost.swap(true, Ordering::AcqRel);
        self.durable_news.notify_waiters();
        news
    }

    /// Whether another process has taken it over.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Whether the write of this number is durable.
    #[must_use]
    pub fn is_durable(&self, number: u64) -> bool {
        self.durable.load(Ordering::Acquire) >= number
    }

    /// Waits until the write of this number is durable.
    pub async fn durable(&self, number: u64) {
        loop {
            let news = self.durable_news.notified();
            if self.is_durable(number) {
                return;
            }
            news.await;
        }
    }

    /// Notes a gap for the status.
    pub fn gap(&self, text: String) {
        let mut gaps = lock(&self.gaps);
        if gaps.len() == GAPS {
            gaps.pop_front();
        }
        gaps.push_back(text);
    }

    /// The latest gaps.
    #[must_use]
    pub fn gaps(&self) -> Vec<String> {
        lock(&self.gaps).iter().cloned().collect()
    }
}

/// Why folding waits; the names are label values of `folding_waits`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Wait {
    /// The database refuses.
    Cases,
    /// The disk is full.
    Disk,
    /// A broker's clock is ahead of ours.
    ClockAhead,
    /// The topic has another number of partitions than before.
    PartitionCount,
    /// What is to be committed has filled its queue.
    Queue,
}

impl Wait {
    /// Its label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Wait::Cases => "cases",
            Wait::Disk => "disk",
            Wait::ClockAhead => "clock_ahead",
            Wait::PartitionCount => "partition_count_changed",
            Wait::Queue => "queue_full",
        }
    }

    /// Whether the daemon is not ready because of it. A full queue is ordinary: the fold is quicker than the database.
    const fn unready(self) -> bool {
        !matches!(self, Wait::Queue)
    }
}

/// Shared by all parts of the runtime.
pub struct Progress {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    partitions: Mutex<BTreeMap<i32, Arc<PartitionProgress>>>,
    /// Reasons, each with who waits (a partition, or -1 for all) and why in words.
    waits: Mutex<BTreeMap<Wait, BTreeMap<i32, String>>>,
    /// Something concerns all: no shard folds.
    halted: AtomicBool,
    /// The group has answered once.
    assigned: AtomicBool,
    /// Partitions assigned whose state is still being loaded.
    loading: Mutex<BTreeSet<i32>>,
    /// Records came with the producer's clock.
    create_time: AtomicBool,
    /// The loops that must turn, and when they last did.
    beats: Mutex<BTreeMap<String, Instant>>,
}

/// A loop that has not turned for this long stands still.
const STILL: Duration = Duration::from_secs(120);

impl Progress {
    /// At the start: nothing assigned.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Progress {
        Progress {
            metrics,
            partitions: Mutex::default(),
            waits: Mutex::default(),
            halted: AtomicBool::new(false),
            assigned: AtomicBool::new(false),
            loading: Mutex::default(),
            create_time: AtomicBool::new(false),
            beats: Mutex::default(),
        }
    }

    /// A partition begins.
    pub fn add(&self, topic: &str, partition: i32) -> Arc<PartitionProgress> {
        let progress = Arc::new(PartitionProgress::new(partition, self.metrics.partition(topic, partition)));
        lock(&self.partitions).insert(partition, Arc::clone(&progress));
        progress
    }

    /// A partition was taken away.
    pub fn remove(&self, partition: i32) {
        lock(&self.partitions).remove(&partition);
        lock(&self.loading).remove(&partition);
        self.metrics.forget_partition(partition);
        for wait in [Wait::ClockAhead, Wait::Queue] {
            self.goes_on(wait, partition);
        }
    }

    /// All partitions of this process.
    #[must_use]
    pub fn partitions(&self) -> Vec<Arc<PartitionProgress>> {
        lock(&self.partitions).values().cloned().collect()
    }

    /// The group gave its first answer, and these are being loaded.
    pub fn assigned(&self, partitions: &[i32]) {
        lock(&self.loading).extend(partitions);
        self.assigned.store(true, Ordering::Relaxed);
    }

    /// Whether the group has answered once.
    #[must_use]
    pub fn is_assigned(&self) -> bool {
        self.assigned.load(Ordering::Relaxed)
    }

    /// Whether the state of a partition is being loaded.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        !lock(&self.loading).is_empty()
    }

    /// A partition's state is loaded.
    pub fn loaded(&self, partition: i32) {
        lock(&self.loading).remove(&partition);
    }

    /// Folding waits, of a partition or (-1) altogether; `why` is for people. Whether that is news, which is logged.
    pub fn waits(&self, wait: Wait, partition: i32, why: &str) -> bool {
        let news = lock(&self.waits).entry(wait).or_default().insert(partition, why.to_owned()).is_none();
        if news {
            self.metrics.folding_waits(wait.name(), true);
            if wait.unready() {
                tracing::error!(reason = wait.name(), "folding waits: {why}");
            }
            self.halt();
        }
        news
    }

    /// Folding goes on.
    pub fn goes_on(&self, wait: Wait, partition: i32) {
        let mut waits = lock(&self.waits);
        let Some(who) = waits.get_mut(&wait) else { return };
        if who.remove(&partition).is_none() {
            return;
        }
        if who.is_empty() {
            waits.remove(&wait);
            self.metrics.folding_waits(wait.name(), false);
            if wait.unready() {
                tracing::info!(reason = wait.name(), "folding goes on");
            }
        }
        drop(waits);
        self.halt();
    }

    fn halt(&self) {
        let halted = lock(&self.waits).values().any(|who| who.contains_key(&-1));
        self.halted.store(halted, Ordering::Release);
    }

    /// Whether no shard may fold.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.halted.load(Ordering::Acquire)
    }

    /// Why folding waits, in words.
    #[must_use]
    pub fn waiting(&self) -> Vec<(Wait, String)> {
        let waits = lock(&self.waits);
        waits.iter().flat_map(|(w, who)| who.values().map(|why| (*w, why.clone()))).collect()
    }

    /// Records come with the producer's clock (DESIGN §4.5); whether that is news.
    pub fn saw_create_time(&self) -> bool {
        !self.create_time.swap(true, Ordering::Relaxed)
    }

    /// Whether a replay of the log decides exactly alike.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.create_time.load(Ordering::Relaxed)
    }

    /// A loop turns.
    pub fn beat(&self, name: &str) {
        let mut beats = lock(&self.beats);
        match beats.get_mut(name) {
            Some(at) => *at = Instant::now(),
            None => {
                beats.insert(name.to_owned(), Instant::now());
            }
        }
    }

    /// A loop ended as it should.
    pub fn ended(&self, name: &str) {
        lock(&self.beats).remove(name);
    }

    /// Whether our own loops turn, whatever Kafka, SQL or SMTP do.
    ///
    /// # Errors
    /// The loop that stands still.
    pub fn healthy(&self) -> Result<(), String> {
        match lock(&self.beats).iter().find(|(_, at)| at.elapsed() > STILL) {
            None => Ok(()),
            Some((name, at)) => Err(format!("{name} has not turned for {} s", at.elapsed().as_secs())),
        }
    }

    /// Whether state is restored, the first assignment is known and folding does not wait.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self) -> Result<(), String> {
        if !self.assigned.load(Ordering::Relaxed) {
            return Err("the first assignment of partitions is not known yet".to_owned());
        }
        let loading = lock(&self.loading).len();
        let restoring = self.partitions().iter().filter(|p| !p.restored.load(Ordering::Relaxed)).count();
        if loading + restoring > 0 {
            return Err(format!("the state of {} partitions is being restored", loading.max(restoring)));
        }
        match self.waiting().into_iter().find(|(w, _)| w.unready()) {
            None => Ok(()),
            Some((_, why)) => Err(format!("folding waits: {why}")),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_everything_is_restored_and_nothing_waits() {
        let progress = Progress::new(Arc::new(Metrics::new().unwrap()));
        assert!(progress.ready().unwrap_err().contains("first assignment"));
        progress.assigned(&[3]);
        assert!(progress.ready().unwrap_err().contains("1 partitions"));
        let part = progress.add("milestones", 3);
        progress.loaded(3);
        assert!(progress.ready().is_err());
        part.restored.store(true, Ordering::Relaxed);
        assert_eq!(progress.ready(), Ok(()));
        progress.waits(Wait::Queue, 3, "full");
        assert!(progress.ready().is_ok() && !progress.is_halted());
        progress.waits(Wait::Disk, -1, "disk full");
        assert!(progress.ready().unwrap_err().contains("disk full") && progress.is_halted());
        assert_eq!(progress.healthy(), Ok(()));
        progress.goes_on(Wait::Disk, -1);
        assert!(progress.ready().is_ok() && !progress.is_halted());
    }
}
