//! The daemon as the listener sees it: health, readiness, status, parcels, and the gauges that are read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::clock::WallClock;
use super::escalator::Backlog;
use super::progress::{PartitionProgress, Progress};
use super::reload::{Refusal, Reloader};
use super::worker::{Order, Question, Worker};
use crate::cases::Cases;
use crate::escalation::feeds::Trouble;
use crate::http::ports::{Daemon, ReloadError};
use crate::metrics::{OUTBOX_STATES, set_time};
use crate::model::{Severity, Time};
use crate::source::kafka::Kafka;

/// The daemon as the listener sees it.
pub struct DaemonPort {
    /// How far everything is.
    pub progress: Arc<Progress>,
    /// Who reloads.
    pub reloader: Arc<Reloader>,
    /// Who knows the parcels.
    pub workers: Arc<Vec<Worker>>,
    /// What is wrong with the topic.
    pub kafka: Arc<Kafka>,
    /// What stands.
    pub cases: Cases,
    /// Who may speak.
    pub backlog: Backlog,
    /// What time it is.
    pub clock: Arc<dyn WallClock>,
    /// Facts that do not change, for the status.
    pub facts: Facts,
    /// When the process started.
    pub started: Instant,
}

/// What the status says of the configuration.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `kafka.topic`.
    pub topic: String,
    /// `kafka.group_id`.
    pub group: String,
    /// Where snapshots are.
    pub snapshots: String,
    /// Nothing is sent.
    pub dry_run: bool,
}

/// A parcel that no thread answers for in this time is not known now.
const ANSWER: Duration = Duration::from_secs(5);

impl Daemon for DaemonPort {
    fn healthy(&self) -> Result<(), String> {
        if self.workers.iter().any(Worker::has_ended) {
            return Err("a folding thread has ended".to_owned());
        }
        self.progress.healthy()
    }

    fn ready(&self) -> Result<(), String> {
        self.progress.ready()
    }

    fn status(&self) -> BoxFuture<'_, Value> {
        Box::pin(async move {
            let waits: Vec<_> = self
                .progress
                .waiting()
                .into_iter()
                .map(|(w, why)| json!({"reason": w.name(), "detail": why}))
                .collect();
            let partitions: Vec<_> = self.progress.partitions().iter().map(|p| self.partition(p)).collect();
            let rules = Arc::clone(&self.reloader.rules.borrow());
            let policies = Arc::clone(&self.reloader.policies.borrow());
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "uptime_seconds": self.started.elapsed().as_secs(),
                "time": time(self.clock.now_ms()),
                "healthy": self.healthy().is_ok(),
                "ready": self.ready().is_ok(),
                "not_ready_because": self.ready().err(),
                "dry_run": self.facts.dry_run,
                "kafka": {
                    "topic": self.facts.topic,
                    "group_id": self.facts.group,
                    "troubles": self.kafka.troubles(),
                },
                "replay_equality": if self.progress.is_exact() { "guaranteed" } else { "not guaranteed" },
                "replay_equality_detail": if self.progress.is_exact() { Value::Null } else {
                    "the topic's records carry their producers' time (CreateTime); a replay may decide otherwise than the live run".into()
                },
                "folding_waits": waits,
                "escalation": {"leader": self.cases.leads()},
                "partitions": partitions,
                "rules": {"hash": rules.hash, "count": rules.rules.len()},
                "policies": {"hash": policies.hash},
                "snapshots": {"to": self.facts.snapshots},
            })
        })
    }

    fn parcel<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Option<Value>> {
        self.ask(id, None)
    }

    fn explain<'a>(
        &'a self,
        id: &'a str,
        rule: Option<&'a str>,
        at: Option<Time>,
    ) -> BoxFuture<'a, Option<Value>> {
        self.ask(id, Some(Question { rule: rule.map(str::to_owned), at }))
    }

    fn reload<'a>(
        &'a self,
        by: &'a str,
        accept: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Value, ReloadError>> {
        // In a task of its own: a client that hangs up must not leave it half done.
        let (reloader, by, accept) = (Arc::clone(&self.reloader), by.to_owned(), accept.map(str::to_owned));
        let task = tokio::spawn(async move { reloader.reload(&by, accept.as_deref()).await });
        Box::pin(async move {
            let outcome =
                task.await.map_err(|_| ReloadError::NotNow("the reload was broken off".to_owned()))?;
            outcome.map_err(|refusal| match refusal {
                Refusal::Problems(text) => ReloadError::Refused(text),
                Refusal::Brake { hash, openings, foreseen } => {
                    ReloadError::Brake { hash, openings, foreseen }
                }
                Refusal::NotNow(why) => ReloadError::NotNow(why),
            })
        })
    }

    fn before_scrape(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let partitions = self.progress.partitions();
            let metrics = &self.progress.metrics;
            let sum = |of: fn(&PartitionProgress) -> u64| {
                i64::try_from(partitions.iter().map(|p| of(p)).sum::<u64>()).unwrap_or(i64::MAX)
            };
            metrics.parcels_tracked.set(sum(|p| p.parcels.load(Ordering::Relaxed)));
            metrics.parcels_remembered.set(sum(|p| p.remembered.load(Ordering::Relaxed)));
            metrics.snapshot_size_bytes.set(sum(|p| p.saved_bytes.load(Ordering::Relaxed)));
            let saved = partitions.iter().map(|p| p.saved_ms.load(Ordering::Relaxed)).min().unwrap_or(0);
            set_time(&metrics.snapshot_last_success, saved);
            for (why, n) in self.cases.take_suppressed() {
                metrics.suppressed(why.name(), n);
            }
            self.count_exceptions();
            self.count_feeds();
            self.count_outbox().await;
        })
    }
}

impl DaemonPort {
    /// Asks every thread for a parcel.
    fn ask<'a>(&'a self, id: &'a str, question: Option<Question>) -> BoxFuture<'a, Option<Value>> {
        Box::pin(async move {
            let asked = self.workers.iter().filter_map(|worker| {
                let (answer, answered) = oneshot::channel();
                worker.ask(Order::Parcel(id.to_owned(), question.clone(), answer)).then(|| {
                    worker.bell().ring();
                    answered
                })
            });
            let answers = tokio::time::timeout(ANSWER, join_all(asked)).await.ok()?;
            let (partition, text) = answers.into_iter().find_map(|a| a.ok().flatten())?;
            let mut value: Value = serde_json::from_str(&text).ok()?;
            if let Some(object) = value.as_object_mut() {
                object.insert("partition".to_owned(), partition.into());
            }
            Some(value)
        })
    }

    fn partition(&self, p: &PartitionProgress) -> Value {
        let position = p.position.load(Ordering::Relaxed);
        let end = p.end.load(Ordering::Relaxed);
        json!({
            "partition": p.partition,
            "position": position,
            "end": (end >= 0).then_some(end),
            "lag": (end >= 0).then_some((end - position).max(0)),
            "watermark": p.watermark().map(|w| w.to_string()),
            "caught_up": p.caught_up.load(Ordering::Relaxed),
            "restored": p.restored.load(Ordering::Relaxed),
            "backlog": !self.backlog.is_over(p.partition),
            "parcels": p.parcels.load(Ordering::Relaxed),
            "last_snapshot": match p.saved_ms.load(Ordering::Relaxed) { 0 => Value::Null, ms => time(ms) },
            "gaps": p.gaps(),
        })
    }

    fn count_exceptions(&self) {
        let open = self.cases.open_counts();
        let mut rules: Vec<&str> = open.keys().map(|(rule, _)| rule.as_str()).collect();
        rules.dedup();
        for rule in rules {
            for severity in Severity::ALL {
                let n = open.get(&(rule.to_owned(), severity)).copied().unwrap_or(0);
                self.progress.metrics.set_exceptions_open(rule, severity, n);
            }
        }
    }

    fn count_feeds(&self) {
        let standing = self.cases.feed_incidents();
        for trouble in Trouble::ALL {
            let n = standing.get(&trouble).copied().unwrap_or(0);
            self.progress.metrics.set_feed_incidents(trouble.name(), n);
        }
    }

    async fn count_outbox(&self) {
        // One process counts for all: what several say of one database would be added up.
        if !self.cases.leads() {
            OUTBOX_STATES.iter().for_each(|state| self.progress.metrics.set_outbox_rows(state, 0));
            set_time(&self.progress.metrics.outbox_oldest_pending, 0);
            return;
        }
        // Where the database does not answer soon, the figures of before stand.
        let stats = tokio::time::timeout(Duration::from_secs(2), self.cases.outbox_stats()).await;
        let Ok(Ok(stats)) = stats else { return };
        for state in OUTBOX_STATES {
            self.progress.metrics.set_outbox_rows(state, stats.rows.get(state).copied().unwrap_or(0));
        }
        set_time(&self.progress.metrics.outbox_oldest_pending, stats.oldest_pending_ms.unwrap_or(0));
    }
}

fn time(ms: i64) -> Value {
    Time(ms).to_string().into()
}
