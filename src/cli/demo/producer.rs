//! The thread that tells the network's records to the broker, and to a file for the backtest.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use super::clock::FastClock;
use super::network::{Network, Telling};
use crate::model::Time;
use crate::source::kafka_mock::EmbeddedProducer;

/// Shortest real time between two batches.
const PAUSE: Duration = Duration::from_millis(10);
/// Records sent before the broker's yes is waited for.
const BATCH: usize = 500;
/// Records after which an endless demonstration ends by itself: the backtest reads them all at once.
const ENOUGH: u64 = 2_000_000;

/// What others see of the thread.
#[derive(Default, Debug)]
pub struct Told {
    /// Parcels that have set out.
    pub parcels: AtomicU64,
    /// Records that the broker has.
    pub records: AtomicU64,
    /// What was told before the clock ran is all there.
    pub history: AtomicBool,
    /// There is no use in going on.
    pub enough: AtomicBool,
    stop: AtomicBool,
}

/// The running thread.
pub struct Producer {
    told: Arc<Told>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Producer {
    /// Starts it. All that the network tells up to the clock's present is told at once, under the time it was due; what comes
    /// later when the clock says so.
    ///
    /// # Errors
    /// The file cannot be made, or no thread started.
    pub fn start(
        network: Network,
        broker: EmbeddedProducer,
        clock: FastClock,
        file: &Path,
    ) -> anyhow::Result<Producer> {
        let at = || format!("cannot write {}", file.display());
        let records = BufWriter::new(File::create_new(file).with_context(at)?);
        let told = Arc::new(Told::default());
        let work = Work { network, broker, clock, records, told: Arc::clone(&told) };
        let thread = std::thread::Builder::new().name("network".to_owned()).spawn(move || work.run())?;
        Ok(Producer { told, thread })
    }

    /// What it has told.
    #[must_use]
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Whether it has ended by itself, which only an error makes it do.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it.
    ///
    /// # Errors
    /// What went wrong with the broker or the file.
    pub fn stop(self) -> anyhow::Result<()> {
        self.told.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

struct Work {
    network: Network,
    broker: EmbeddedProducer,
    clock: FastClock,
    records: BufWriter<File>,
    told: Arc<Told>,
}

/// Lets the clock run on, whatever happens to the batch.
struct Held(FastClock);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Work {
    fn run(mut self) -> anyhow::Result<()> {
        let history = self.network.tell(self.clock.now());
        self.send(&history, |telling| telling.at)?;
        self.told.history.store(true, Ordering::Release);
        while !self.told.stop.load(Ordering::Relaxed) {
            let next = self.network.next();
            if next > self.clock.now() {
                std::thread::sleep(self.clock.real_until(next).clamp(Duration::from_millis(1), PAUSE));
                continue;
            }
            let now = self.clock.hold();
            let held = Held(self.clock.clone());
            let tellings = self.network.tell(now);
            self.send(&tellings, |_| now)?;
            drop(held);
            std::thread::sleep(PAUSE);
        }
        self.records.flush().context("cannot write the records")
    }

    fn send(&mut self, tellings: &[Telling], stamp: impl Fn(&Telling) -> Time) -> anyhow::Result<()> {
        for batch in tellings.chunks(BATCH) {
            let values: Vec<(Time, &str, String)> =
                batch.iter().map(|t| (stamp(t), t.parcel_id.as_str(), t.value(stamp(t)))).collect();
            for (_, _, value) in &values {
                writeln!(self.records, "{value}").context("cannot write the records")?;
            }
            self.broker.store(values.iter().map(|(at, key, value)| (*at, *key, value.as_str())))?;
            let records = self.told.records.fetch_add(batch.len() as u64, Ordering::Relaxed);
            self.told.enough.store(records > ENOUGH, Ordering::Relaxed);
        }
        self.told.parcels.store(self.network.parcels(), Ordering::Relaxed);
        Ok(())
    }
}
