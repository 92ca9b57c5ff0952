//! Records from one Kafka topic, and the proofs that the clock needs (DESIGN §4).
//!
//! Two threads of their own, neither ever waits for a fold:
//! - [`poll`] owns the consumer: it polls, copies records into batches, hands them to the partition's feed, and pauses
//!   the partitions whose feed stays full.
//! - [`probe`] owns a second client: metadata, where a partition starts, what was lost, and four times a second the end
//!   offset of every partition, which is what a [`Certificate`] is made of.
//!
//! A partition's life: [`Event::Assigned`] → whoever runs the shards loads its state and calls [`Kafka::start`] with the
//! position it wants → the probe compares that with what the log still holds → the feed begins with [`Item::Start`], which
//! names what was lost. Nothing is ever reset silently, and Kafka's own committed offset decides nothing.

pub mod config;
mod context;
pub mod dump;
mod part;
pub mod poll;
pub mod probe;
#[cfg(test)]
mod tests;
pub mod topic;
pub mod trouble;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

pub use config::{ConfigError, Options};
pub use trouble::Troubles;

use super::Batch;
use crate::model::Time;

/// The clocks that certificates are made with: handed in, so that `demo` can run them fast.
pub trait Clocks: Send + Sync {
    /// The wall clock.
    fn wall(&self) -> Time;
    /// A clock that no one sets and that runs at the wall clock's pace, in milliseconds from any zero.
    fn steady(&self) -> i64;
}

/// The clocks of this machine.
#[derive(Debug)]
pub struct SystemClocks(Instant);

impl Default for SystemClocks {
    fn default() -> SystemClocks {
        SystemClocks(Instant::now())
    }
}

impl Clocks for SystemClocks {
    fn wall(&self) -> Time {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn steady(&self) -> i64 {
        i64::try_from(self.0.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

/// Where a partition should begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StartAt {
    /// Go on from here.
    Offset {
        /// The next offset to fold.
        offset: i64,
        /// The topic's id when that offset was noted, where it was known.
        topic_id: Option<String>,
    },
    /// At the first record there is.
    Earliest,
    /// At the end.
    Latest,
    /// At the first record stored at or after this time.
    At(Time),
}

/// Why records are missing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum GapKind {
    /// The shard begins above offset 0 without a snapshot.
    Beginning,
    /// Retention or a deletion took records before they were read.
    Retention,
    /// The log ends below what was read already.
    Truncation,
    /// The topic was deleted and made anew.
    MadeAnew,
}

impl GapKind {
    /// All of them, for metrics that exist from the start.
    pub const ALL: [GapKind; 4] =
        [GapKind::Beginning, GapKind::Retention, GapKind::Truncation, GapKind::MadeAnew];

    /// Its name in metrics and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            GapKind::Beginning => "no_snapshot",
            GapKind::Retention => "retention",
            GapKind::Truncation => "truncation",
            GapKind::MadeAnew => "topic_recreated",
        }
    }
}

/// Records lost: those from `from` up to, not including, `to`. With a truncation or a topic made anew `to` is below
/// `from`: the log begins again there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The partition.
    pub partition: i32,
    /// The offset that was wanted.
    pub from: i64,
    /// The first offset there is.
    pub to: i64,
    /// Why.
    pub kind: GapKind,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p, from, to) = (self.partition, self.from, self.to);
        match self.kind {
            GapKind::Beginning => write!(
                f,
                "partition {p} begins at offset {to} without a snapshot: records below it are not known"
            ),
            GapKind::Retention => {
                write!(f, "partition {p}: records {from} to {} were deleted before they were read", to - 1)
            }
            GapKind::Truncation => write!(
                f,
                "partition {p}: the log was cut, it goes on from offset {to} though {from} had been reached"
            ),
            GapKind::MadeAnew => write!(
                f,
                "partition {p}: the topic was made anew, reading on from its offset {to} instead of {from}"
            ),
        }
    }
}

/// What comes out of a partition's feed, in the order of its log.
#[derive(Debug)]
pub enum Item {
    /// Always the first: where reading begins, and what is missing before.
    Start {
        /// The next offset.
        offset: i64,
        /// Records that were lost.
        gap: Option<Gap>,
        /// The topic's id, where the broker tells it.
        topic_id: Option<String>,
    },
    /// Records.
    Batch(Batch),
    /// Records were lost while running; what follows begins at `gap.to`.
    Gap(Gap),
    /// Every offset below this one came already or holds no record (transaction markers, aborted ones, compaction).
    Position(i64),
}

/// What concerns more than one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The topic was found.
    Topic {
        /// How many partitions it has.
        partitions: i32,
        /// Its configuration, where it may be read.
        config: Option<topic::TopicConfig>,
    },
    /// The group gave us these, besides what we have; each waits for [`Kafka::start`]. May be empty.
    Assigned(Vec<i32>),
    /// The group took these away: their feeds have ended.
    Revoked(Vec<i32>),
    /// The topic's partition count changed: a parcel's records may now be in two of them. No certificate is given any more.
    PartitionCount {
        /// Before.
        was: i32,
        /// Now.
        now: i32,
    },
    /// The consumer cannot go on.
    Fatal(String),
}

/// The proof that nothing below `end` is missing at `taken` (DESIGN §4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// The partition's end offset, uncommitted records included.
    pub end: i64,
    /// The wall clock just before the broker was asked.
    pub taken: Time,
    /// The same moment on the clock of its expiry.
    pub at: Instant,
}

/// What the threads and the fold share about one partition.
#[derive(Debug)]
pub struct Watch {
    /// The partition.
    pub partition: i32,
    /// The next offset that polling expects; `i64::MIN` before the start.
    position: AtomicI64,
    /// The newest end offset heard of; -1 before the first.
    end: AtomicI64,
    /// The last stable offset by the consumer's statistics; -1 where unknown.
    stable: AtomicI64,
    certificate: Mutex<Option<Certificate>>,
    doorbell: Doorbell,
}

impl Watch {
    /// The newest certificate, fresh or not; it is for the caller to look at its age.
    #[must_use]
    pub fn certificate(&self) -> Option<Certificate> {
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest end offset heard of.
    #[must_use]
    pub fn end(&self) -> Option<i64> {
        let end = self.end.load(Ordering::Relaxed);
        (end >= 0).then_some(end)
    }

    fn certify(&self, certificate: Certificate) {
        self.end.store(certificate.end, Ordering::Relaxed);
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate);
        self.doorbell.ring();
    }

    fn withdraw(&self) {
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Wakes the thread that folds. Rung often, heard once.
#[derive(Clone, Debug)]
pub struct Doorbell(Sender<()>);

impl Doorbell {
    /// A bell and the ear that hears it.
    #[must_use]
    pub fn new() -> (Doorbell, Receiver<()>) {
        let (ring, hear) = bounded(1);
        (Doorbell(ring), hear)
    }

    /// Rings.
    pub fn ring(&self) {
        // Full: it has been rung already and not been heard yet.
        let _ = self.0.try_send(());
    }
}

/// One partition's end of the source, for the thread that folds.
#[derive(Debug)]
pub struct Feed {
    /// The partition.
    pub partition: i32,
    /// What comes. Disconnected once the partition was revoked and everything before has been taken.
    pub items: Receiver<Item>,
    /// Certificates.
    pub watch: Arc<Watch>,
}

/// A partition to begin.
#[derive(Debug)]
pub struct Start {
    partition: i32,
    at: StartAt,
    items: Sender<Item>,
    watch: Arc<Watch>,
}

/// Batches that a feed holds before polling has to keep them; a process may have some hundred feeds.
const FEED: usize = 4;

/// A feed for a partition that was assigned, and what to hand to [`Kafka::start`] for it.
#[must_use]
pub fn feed(partition: i32, at: StartAt, doorbell: Doorbell) -> (Start, Feed) {
    let (tx, rx) = bounded(FEED);
    let watch = Arc::new(Watch {
        partition,
        position: AtomicI64::new(i64::MIN),
        end: AtomicI64::new(-1),
        stable: AtomicI64::new(-1),
        certificate: Mutex::new(None),
        doorbell,
    });
    (Start { partition, at, items: tx, watch: Arc::clone(&watch) }, Feed { partition, items: rx, watch })
}

/// What is counted; read for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Gaps by [`GapKind::ALL`].
    pub gaps: [AtomicU64; 4],
    /// Times that a feed stayed full and its partition was paused.
    pub pauses: AtomicU64,
    /// Times that the consumer was made anew because a partition stood still.
    pub restarts: AtomicU64,
    /// Times that the wall clock and the steady clock went apart and certificates were withdrawn.
    pub clock_steps: AtomicU64,
    /// Certificates taken.
    pub certificates: AtomicU64,
    /// Bytes that polling holds because feeds are full.
    pub held_bytes: AtomicI64,
}

impl Counters {
    fn gap(&self, kind: GapKind) {
        if let Some(i) = GapKind::ALL.iter().position(|k| *k == kind) {
            self.gaps[i].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What the two threads share.
struct Shared {
    options: Options,
    clocks: Arc<dyn Clocks>,
    troubles: Arc<Troubles>,
    counters: Arc<Counters>,
    watches: Mutex<BTreeMap<i32, Arc<Watch>>>,
    /// The partition count changed: no certificate any more.
    frozen: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    fn watches(&self) -> BTreeMap<i32, Arc<Watch>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn watch(&self, partition: i32) -> Option<Arc<Watch>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned()
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A running source.
pub struct Kafka {
    shared: Arc<Shared>,
    events: Receiver<Event>,
    commands: Sender<poll::Command>,
    requests: Sender<probe::Request>,
    done: Receiver<()>,
}

impl Kafka {
    /// Starts both threads. Connects in the background: an unreachable broker or a missing topic is no error here but a
    /// trouble ([`Kafka::troubles`]) that lasts until it is over.
    ///
    /// # Errors
    /// A property that librdkafka does not know, whose value it refuses, or that is not the user's to set.
    pub fn spawn(options: Options, clocks: Arc<dyn Clocks>) -> Result<Kafka, ConfigError> {
        let consumer_config = options.consumer()?;
        let probe_config = options.probe()?;
        let shared = Arc::new(Shared {
            troubles: Arc::new(Troubles::new(&options)),
            options,
            clocks,
            counters: Arc::new(Counters::default()),
            watches: Mutex::new(BTreeMap::new()),
            frozen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        // All of these are small and rarely used: what flows in bulk goes through the feeds.
        let (event_tx, events) = bounded(1_024);
        let (commands, command_rx) = bounded(1_024);
        let (requests, request_rx) = bounded(1_024);
        let (done_tx, done) = bounded(2);
        let poll = poll::Poll::new(
            consumer_config,
            Arc::clone(&shared),
            command_rx,
            requests.clone(),
            event_tx.clone(),
        )?;
        let probe =
            probe::Probe::new(&probe_config, Arc::clone(&shared), request_rx, commands.clone(), event_tx)?;
        thread("kafka-poll", done_tx.clone(), move || poll.run());
        thread("kafka-probe", done_tx, move || probe.run());
        Ok(Kafka { shared, events, commands, requests, done })
    }

    /// What happens to the group and the topic.
    #[must_use]
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Begins partitions that were assigned.
    pub fn start(&self, starts: Vec<Start>) {
        let _ = self.requests.send(probe::Request::Start(starts));
    }

    /// Tells the group how far each partition is safe. For lag tools only; a failure is none of ours.
    pub fn commit(&self, positions: Vec<(i32, i64)>) {
        let _ = self.commands.try_send(poll::Command::Commit(positions));
    }

    /// What is wrong now, a line each; empty while all is well.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        self.shared.troubles.texts()
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// Leaves the group and ends both threads, waiting no longer than this: librdkafka may hang while it closes, and
    /// then the process ends around it. Whether all ended.
    pub fn stop(&self, patience: Duration) -> bool {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.commands.try_send(poll::Command::Wake);
        let _ = self.requests.try_send(probe::Request::Wake);
        let deadline = Instant::now() + patience;
        (0..2).all(|_| self.done.recv_deadline(deadline).is_ok())
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn thread(name: &str, done: Sender<()>, body: impl FnOnce() + Send + 'static) {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        body();
        let _ = done.send(());
    });
    // A machine that cannot start two threads runs nothing else either.
    spawned.expect("the system refuses a thread");
}
