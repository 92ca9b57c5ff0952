//! Snapshots of shards while events flow: the shard copies itself in slices, a task compresses and uploads, and what was
//! uploaded is published once everything decided up to its (offset, W) is durable (DESIGN §2).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, Semaphore, mpsc};

use super::clock::WallClock;
use super::progress::{PartitionProgress, Progress};
use crate::engine::Shard;
use crate::engine::snapshot::Step;
use crate::metrics::observe_ms;
use crate::snapshots::{Head, Published, SnapshotError, Store};

/// Parcels copied in one turn: a millisecond or so.
const SLOTS: u32 = 4_096;
/// Sections that wait for their upload.
const SECTIONS: usize = 2;
/// Uploads at once.
const UPLOADS: usize = 2;

/// What is told the group once a snapshot is safe: (partition, offset).
pub type Commit = Arc<dyn Fn(i32, i64) + Send + Sync>;

/// Takes snapshots.
#[derive(Clone)]
pub struct Saver(Arc<Inner>);

struct Inner {
    store: Store,
    handle: Handle,
    clock: Arc<dyn WallClock>,
    progress: Arc<Progress>,
    commit: Commit,
    uploads: Semaphore,
    under_way: AtomicUsize,
    news: Notify,
}

enum Part {
    Section(Vec<u8>),
    End,
}

impl Saver {
    /// Snapshots into this store.
    #[must_use]
    pub fn new(
        store: Store,
        handle: Handle,
        clock: Arc<dyn WallClock>,
        progress: Arc<Progress>,
        commit: Commit,
    ) -> Saver {
        Saver(Arc::new(Inner {
            store,
            handle,
            clock,
            progress,
            commit,
            uploads: Semaphore::new(UPLOADS),
            under_way: AtomicUsize::new(0),
            news: Notify::new(),
        }))
    }

    /// Begins to store a shard whose save has just begun; `number` is the write after which it may be published.
    pub fn begin(&self, head: Head, partition: &Arc<PartitionProgress>, number: u64) -> Saving {
        let (parts, received) = mpsc::channel(SECTIONS);
        let (inner, partition) = (Arc::clone(&self.0), Arc::clone(partition));
        inner.under_way.fetch_add(1, Ordering::AcqRel);
        self.0.handle.spawn(async move {
            inner.store(head, &partition, number, received).await;
            inner.under_way.fetch_sub(1, Ordering::AcqRel);
            inner.news.notify_waiters();
        });
        Saving { parts: Some(parts), waiting: VecDeque::new(), copied: false }
    }

    /// Waits for what is under way, but no longer than this. Whether all has ended.
    pub async fn idle(&self, within: Duration) -> bool {
        let ended = async {
            loop {
                let news = self.0.news.notified();
                if self.0.under_way.load(Ordering::Acquire) == 0 {
                    return;
                }
                news.await;
            }
        };
        tokio::time::timeout(within, ended).await.is_ok()
    }
}

impl Inner {
    async fn store(
        &self,
        head: Head,
        partition: &PartitionProgress,
        number: u64,
        mut parts: mpsc::Receiver<Part>,
    ) {
        let Ok(_permit) = self.uploads.acquire().await else { return };
        let begun = Instant::now();
        let (id, offset) = (head.partition, head.next_offset);
        match self.upload(head, partition, number, &mut parts).await {
            Ok(None) => {}
            Ok(Some(published)) => {
                let metrics = &self.progress.metrics;
                observe_ms(
                    &metrics.snapshot_seconds,
                    i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX),
                );
                partition.saved_ms.store(self.clock.now_ms(), Ordering::Relaxed);
                partition.saved_bytes.store(published.bytes, Ordering::Relaxed);
                (self.commit)(id, offset);
                tracing::debug!(partition = id, offset, bytes = published.bytes, "snapshot published");
                if let Err(error) = self.store.prune(id).await {
                    tracing::warn!(partition = id, "old snapshots were not removed: {error}");
                }
            }
            Err(error) => {
                self.progress.metrics.snapshot_failures.inc();
                tracing::error!(
                    partition = id,
                    offset,
                    "no snapshot: {error}; the next is tried at its time"
                );
            }
        }
    }

    /// `None`: the shard went before it was copied.
    async fn upload(
        &self,
        head: Head,
        partition: &PartitionProgress,
        number: u64,
        parts: &mut mpsc::Receiver<Part>,
    ) -> Result<Option<Published>, SnapshotError> {
        let mut upload = self.store.begin(head.partition).await?;
        loop {
            match parts.recv().await {
                Some(Part::Section(section)) => upload.section(section).await?,
                Some(Part::End) => break,
                None => return Ok(None),
            }
        }
        partition.durable(number).await;
        upload.finish(head).await.map(Some)
    }
}

/// What a step of copying came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stepped {
    /// There is more to copy.
    More,
    /// The upload is slower: again in a moment.
    Waits,
    /// All is copied.
    Done,
}

/// A shard being copied.
pub struct Saving {
    /// `None` once the upload failed: the copy is ended all the same, it costs memory while it is open.
    parts: Option<mpsc::Sender<Part>>,
    waiting: VecDeque<Part>,
    copied: bool,
}

impl Saving {
    /// Copies a slice.
    pub fn step(&mut self, shard: &mut Shard) -> Stepped {
        if !self.send() {
            return Stepped::Waits;
        }
        if self.copied {
            return Stepped::Done;
        }
        match shard.save_step(SLOTS) {
            Some(Step::Section(section)) => self.waiting.push_back(Part::Section(section)),
            Some(Step::More) => {}
            Some(Step::Last(section, head)) => {
                self.copied = true;
                self.waiting.extend([Part::Section(section), Part::Section(head), Part::End]);
            }
            None => return Stepped::Done,
        }
        Stepped::More
    }

    fn send(&mut self) -> bool {
        while let Some(part) = self.waiting.pop_front() {
            let Some(parts) = &self.parts else { continue };
            match parts.try_send(part) {
                Ok(()) => {}
                Err(TrySendError::Full(part)) => {
                    self.waiting.push_front(part);
                    return false;
                }
                Err(TrySendError::Closed(_)) => self.parts = None,
            }
        }
        true
    }
}
