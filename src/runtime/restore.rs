//! What a partition begins with: the newest snapshot that can be read, and the rules that were in force since then.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::cases::{Cases, CasesError, Recorded};
use crate::engine::{Lifetimes, Shard};
use crate::model::Time;
use crate::rules::RuleSet;
use crate::snapshots::{Head, SnapshotError, Store};
use crate::source::kafka::StartAt;

use super::partition::Leg;

/// Makes a rule set of its texts (file name → text).
pub type Compile = Arc<dyn Fn(&BTreeMap<String, String>) -> Result<RuleSet, String> + Send + Sync>;

/// Loads partitions.
pub struct Restorer {
    /// Recorded positions and rules.
    pub cases: Cases,
    /// Snapshots.
    pub store: Store,
    /// The rules in force.
    pub rules: watch::Receiver<Arc<RuleSet>>,
    /// For the rules of before.
    pub compile: Compile,
    /// `time`.
    pub lifetimes: Lifetimes,
    /// `kafka.start`.
    pub start: StartAt,
    /// The name of this process.
    pub me: String,
    /// Rule sets of before, by hash.
    pub known: Mutex<BTreeMap<String, Arc<RuleSet>>>,
}

/// A partition's state, loaded.
pub struct Restored {
    /// Its shard.
    pub shard: Shard,
    /// Where reading begins.
    pub at: StartAt,
    /// The rules of before, each until its end.
    pub legs: VecDeque<Leg>,
    /// W at the last change of rules.
    pub switched: Time,
    /// Without a snapshot.
    pub fresh: bool,
}

/// Why a partition's state is not known now.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The database does not answer.
    #[error(transparent)]
    Cases(#[from] CasesError),
    /// The folder or bucket does not answer.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
}

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);

impl Restorer {
    /// Loads a partition, however often it takes: a state that is there but cannot be read now must not be taken for none.
    /// `tell` hears what is wrong meanwhile.
    pub async fn load(
        &self,
        partition: i32,
        partitions: i32,
        tell: impl Fn(Option<&RestoreError>),
    ) -> Restored {
        loop {
            match self.try_load(partition, partitions).await {
                Ok(restored) => {
                    tell(None);
                    return restored;
                }
                Err(error) => {
                    tell(Some(&error));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn try_load(&self, partition: i32, partitions: i32) -> Result<Restored, RestoreError> {
        // Before it is read how far the one before had come: from here on it comes no further.
        self.cases.claim(partition, &self.me).await?;
        let recorded = self.cases.recorded(partition).await?;
        let switches = self.cases.switches(partition).await?;
        let Some((shard, head)) = self.newest(partition).await? else {
            return self.replay(recorded, &switches).await;
        };
        let mut shard = shard;
        if head.partitions != partitions {
            tracing::warn!(
                partition,
                "the topic had {} partitions when this one's snapshot was taken and has {partitions} now: a parcel's records may \
                 be in two of them, so exceptions of the parcels known so far say evidence: incomplete",
                head.partitions
            );
            shard.gap(head.next_offset);
        }
        let saved = Recorded {
            position: head.next_offset,
            watermark: head.watermark(),
            rules_hash: head.rules_hash.clone(),
        };
        let legs = self.legs(saved, &switches, recorded.as_ref()).await?;
        let at = StartAt::Offset { offset: head.next_offset, topic_id: head.topic_id };
        let switched = switches.last().map_or(Time::MIN, |s| s.watermark);
        Ok(Restored { shard, at, legs, switched, fresh: false })
    }

    /// Without a snapshot: from the beginning, with the rules of then.
    async fn replay(
        &self,
        recorded: Option<Recorded>,
        switches: &[Recorded],
    ) -> Result<Restored, RestoreError> {
        let empty = |rules| Shard::new(rules, self.lifetimes, true);
        let Some(recorded) = recorded else {
            let shard = empty(Arc::clone(&self.rules.borrow()));
            let (at, legs, switched) = (self.start.clone(), VecDeque::new(), Time::MIN);
            return Ok(Restored { shard, at, legs, switched, fresh: true });
        };
        let first = switches.first().map_or(&recorded.rules_hash, |s| &s.rules_hash);
        let rules = self.rules_of(first).await?;
        let begin = Recorded { position: i64::MIN, watermark: Time::MIN, rules_hash: first.clone() };
        let legs = self.legs(begin, switches.get(1..).unwrap_or_default(), Some(&recorded)).await?;
        // Whatever `start` says: what was folded once must be folded again.
        let switched = switches.last().map_or(Time::MIN, |s| s.watermark);
        Ok(Restored { shard: empty(rules), at: StartAt::Earliest, legs, switched, fresh: true })
    }

    /// The rules from a point on, up to what is recorded.
    async fn legs(
        &self,
        from: Recorded,
        switches: &[Recorded],
        recorded: Option<&Recorded>,
    ) -> Result<VecDeque<Leg>, RestoreError> {
        let point = |r: &Recorded| (r.position, r.watermark);
        let mut legs = VecDeque::new();
        let (mut hash, mut at) = (from.rules_hash.clone(), point(&from));
        for switch in switches {
            // One at the very place of a snapshot came after it, unless the snapshot has its rules already.
            if point(switch) < at || switch.rules_hash == hash {
                continue;
            }
            legs.push_back(Leg { until: switch.clone(), rules: self.rules_of(&hash).await? });
            (hash, at) = (switch.rules_hash.clone(), point(switch));
        }
        // One that ends where it begins still puts its rules in force: those of today may have to wait for W (DESIGN §6).
        if let Some(recorded) = recorded.filter(|r| point(r) >= at) {
            legs.push_back(Leg { until: recorded.clone(), rules: self.rules_of(&hash).await? });
        }
        Ok(legs)
    }

    /// The newest snapshot that is whole and that the engine reads.
    async fn newest(&self, partition: i32) -> Result<Option<(Shard, Head)>, RestoreError> {
        for name in self.store.list(partition).await? {
            let loaded = match self.store.load(partition, &name).await {
                Ok(loaded) => loaded,
                Err(error) if error.is_damage() => {
                    tracing::error!(partition, "{error}; the one before is used, else the log is read again");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let rules = self.rules_of(&loaded.head.rules_hash).await?;
            let lifetimes = self.lifetimes;
            let shard = tokio::task::spawn_blocking(move || {
                Shard::load(&loaded.sections, &loaded.last, rules, lifetimes, true).map(|s| (s, loaded.head))
            });
            match shard.await.map_err(SnapshotError::from)? {
                Ok(found) => return Ok(Some(found)),
                Err(error) => tracing::error!(
                    partition,
                    snapshot = name,
                    "{error}; the one before is used, else the log is read again"
                ),
            }
        }
        Ok(None)
    }

    /// The rules of a hash; where their texts are gone or no longer understood, those in force.
    async fn rules_of(&self, hash: &str) -> Result<Arc<RuleSet>, CasesError> {
        let today = Arc::clone(&self.rules.borrow());
        if hash == today.hash {
            return Ok(today);
        }
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(hash) {
            return Ok(Arc::clone(known));
        }
        let rules = match self.cases.rules_texts(hash).await? {
            None => Err("their texts are not kept".to_owned()),
            Some(texts) => (self.compile)(&texts),
        };
        let rules = match rules {
            Ok(rules) if rules.hash == hash => Arc::new(rules),
            Ok(_) => {
                tracing::warn!(
                    hash,
                    "the recorded rules mean something else to this version; today's rules stand in"
                );
                today
            }
            Err(why) => {
                tracing::warn!(hash, "the recorded rules cannot be used: {why}; today's rules stand in");
                today
            }
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(hash.to_owned(), Arc::clone(&rules));
        Ok(rules)
    }
}
