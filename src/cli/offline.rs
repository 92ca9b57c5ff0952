//! The newest snapshots of a configuration, read without the daemon's knowing: nothing is locked or changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::Context as _;

use crate::config::Config;
use crate::engine::{Lifetimes, Shard};
use crate::rules::RuleSet;
use crate::snapshots::{Head, Location, Store};

/// Partitions tried for a first snapshot: a topic seldom has more, and one of the first has been saved.
const FIRST: i32 = 64;

/// The snapshots that a configuration names.
pub struct Snapshots {
    store: Store,
    runtime: tokio::runtime::Runtime,
    lifetimes: Lifetimes,
    /// Where they are.
    pub location: String,
}

impl Snapshots {
    /// Opens the place.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn open(config: &Config) -> anyhow::Result<Snapshots> {
        let location = match &config.snapshots.to {
            Some(to) => Location::parse(to)?,
            None => Location::Folder(config.state.join("snapshots")),
        };
        if let Location::Folder(folder) = &location {
            anyhow::ensure!(
                folder.is_dir(),
                "there are no snapshots in {}: has the daemon run with {}?",
                folder.display(),
                config.path.display()
            );
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let keep = usize::try_from(config.snapshots.keep).unwrap_or(usize::MAX);
        let lifetimes = super::run::lifetimes(config);
        let store = Store::open(&location, &config.kafka.topic, keep)?;
        Ok(Snapshots { store, runtime, lifetimes, location: location.to_string() })
    }

    /// How many partitions the topic had; `None` where nothing was ever saved.
    ///
    /// # Errors
    /// The place does not answer.
    pub fn partitions(&self) -> anyhow::Result<Option<i32>> {
        for partition in 0..FIRST {
            if let Some(head) = self.runtime.block_on(self.head(partition))? {
                return Ok(Some(head.partitions));
            }
        }
        Ok(None)
    }

    async fn head(&self, partition: i32) -> anyhow::Result<Option<Head>> {
        for name in self.store.list(partition).await? {
            match self.store.load(partition, &name).await {
                Ok(loaded) => return Ok(Some(loaded.head)),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// A partition's newest snapshot that is whole, with these rules; `None` where there is none.
    ///
    /// # Errors
    /// The place does not answer, or none of its snapshots is whole.
    pub fn shard(&self, partition: i32, rules: &Arc<RuleSet>) -> anyhow::Result<Option<(Shard, Head)>> {
        let mut damaged = None;
        for name in self.runtime.block_on(self.store.list(partition))? {
            let loaded = match self.runtime.block_on(self.store.load(partition, &name)) {
                Ok(loaded) => loaded,
                Err(error) if error.is_damage() => {
                    damaged = Some(anyhow::Error::new(error));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            match Shard::load(&loaded.sections, &loaded.last, Arc::clone(rules), self.lifetimes, true) {
                Ok(shard) => return Ok(Some((shard, loaded.head))),
                Err(error) => damaged = Some(anyhow::anyhow!("{name}: {error}")),
            }
        }
        damaged.map_or(Ok(None), |error| Err(error).with_context(|| format!("partition {partition}")))
    }

    /// Loads every partition, on all cores, one at a time in each, and hands it over.
    ///
    /// # Errors
    /// What [`Snapshots::shard`] says.
    pub fn each<T: Send>(
        &self,
        partitions: i32,
        rules: &Arc<RuleSet>,
        work: impl Fn(Shard, Head) -> T + Sync,
    ) -> anyhow::Result<Vec<T>> {
        let next = AtomicI32::new(0);
        let one = || {
            let mut done = Vec::new();
            loop {
                let partition = next.fetch_add(1, Ordering::Relaxed);
                if partition >= partitions {
                    return Ok(done);
                }
                if let Some((shard, head)) = self.shard(partition, rules)? {
                    done.push((partition, work(shard, head)));
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let results: Vec<anyhow::Result<Vec<(i32, T)>>> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
            let joined =
                handles.into_iter().map(|h| h.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
            joined.collect()
        });
        let mut all = Vec::new();
        for result in results {
            all.extend(result?);
        }
        all.sort_by_key(|(partition, _)| *partition);
        Ok(all.into_iter().map(|(_, t)| t).collect())
    }
}
