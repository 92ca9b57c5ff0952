//! The loop between outbox and receivers: takes what is due, tries it, writes what came of it (DESIGN §7).
//!
//! A receiver has a worker of its own, so a slow one slows nobody else. A worker takes a bounded batch under a lease, holds at
//! most [`Options::concurrency`] tries in flight, and writes what ended together as it comes. The outbox hands out only the
//! oldest unfinished message of a thread, so messages arrive in order whatever fails between.
//!
//! Where a failure concerns the receiver as a whole (no connection, 429, a wrong password) the worker pauses, then probes
//! with one message at a time until one passes: a dead endpoint sees one call per pause, not one per message. Delivery is at
//! least once: a crash between the other side's yes and the row's mark sends the same id and bytes again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;

use super::clock::WallClock;
use super::restate::Restater;
use crate::metrics::{Metrics, observe_ms};
use crate::model::{HOUR, MINUTE, SECOND};
use crate::notify::backoff::{Backoff, Next, jitter};
use crate::notify::body::Body;
use crate::notify::{Delivery, Failure, FailureClass, Message, Notifier, Scope, Stated};

/// Where messages come from and their outcomes go. `cases` keeps it; tests have one in memory.
pub trait Outbox: Clone + Send + Sync + 'static {
    /// Takes messages of a receiver that may be tried at `now_ms` and hides them for `lease_ms`. Of one thread to one recipient
    /// only the oldest unfinished one.
    fn due(
        &self,
        receiver: &str,
        now_ms: i64,
        limit: u32,
        lease_ms: i64,
    ) -> impl Future<Output = Result<Vec<Message>, OutboxError>> + Send;

    /// When the next message of a receiver may be tried; `None`: nothing is pending.
    fn next(&self, receiver: &str) -> impl Future<Output = Result<Option<i64>, OutboxError>> + Send;

    /// How the tries of messages (by id) ended, in order: all of it is written or nothing.
    fn done(
        &self,
        ended: &[(String, Outcome)],
        now_ms: i64,
    ) -> impl Future<Output = Result<(), OutboxError>> + Send;

    /// Exceptions that stand and that (receiver, recipient) was told of, those after the number `after`, by number.
    fn standing(
        &self,
        to: (&str, &str),
        after: i64,
        limit: u32,
        now_ms: i64,
    ) -> impl Future<Output = Result<Vec<(i64, Stated)>, OutboxError>> + Send;

    /// Woken (`notify_waiters`) when messages were written or came free.
    fn filled(&self) -> Arc<Notify>;
}

/// The outbox cannot be reached now.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OutboxError(pub String);

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The other side said yes.
    Delivered,
    /// Not yet.
    Retry {
        /// When to try again.
        at_ms: i64,
        /// [`FailureClass::name`].
        reason: &'static str,
        /// For people.
        detail: String,
    },
    /// Never: a dead letter.
    Dead {
        /// [`FailureClass::name`].
        reason: &'static str,
        /// For people.
        detail: String,
    },
}

/// A receiver and how it is reached.
#[derive(Clone)]
pub struct Route {
    /// The receiver's id.
    pub receiver: String,
    /// The label of metrics: `email`, `webhook`.
    pub integration: &'static str,
    /// What delivers.
    pub notifier: Arc<dyn Notifier>,
    /// Its recipients, where it has to be told anew what stands; else none.
    pub restated: Vec<String>,
}

/// Bounds and schedule.
#[derive(Clone, Debug)]
pub struct Options {
    /// Messages taken at once, for each try in flight.
    pub batch: u32,
    /// Tries in flight of one receiver at most; [`Notifier::at_once`] may be less.
    pub concurrency: usize,
    /// When a message is tried again.
    pub backoff: Backoff,
    /// A receiver's first pause after it failed, milliseconds of the handed-in clock; it doubles up to a minute.
    pub pause_ms: i64,
    /// How long an idle worker sleeps at most, in real time, although nothing woke it.
    pub idle_max: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            batch: 16,
            concurrency: 64,
            backoff: Backoff::default(),
            pause_ms: 5 * SECOND,
            idle_max: Duration::from_secs(5),
        }
    }
}

/// How long a receiver that answered 410 is left alone: what is due meanwhile becomes dead letters at once.
const GONE_FOR: i64 = HOUR;
const PAUSE_MAX: i64 = MINUTE;

/// The running workers.
pub struct Dispatcher {
    stop: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
}

impl Dispatcher {
    /// Starts a worker per receiver. Must be called within a tokio runtime.
    pub fn start<O: Outbox>(
        outbox: &O,
        routes: Vec<Route>,
        clock: &Arc<dyn WallClock>,
        metrics: &Arc<Metrics>,
        options: &Options,
    ) -> Dispatcher {
        let (stop, stopped) = watch::channel(false);
        let again = routes.iter().filter(|r| !r.restated.is_empty()).map(|route| {
            let restater = Restater {
                outbox: outbox.clone(),
                route: route.clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
                stop: stopped.clone(),
            };
            tokio::spawn(restater.run())
        });
        let mut all: Vec<JoinHandle<()>> = again.collect();
        let workers = routes.into_iter().map(|route| {
            let worker = Worker {
                outbox: outbox.clone(),
                route,
                clock: clock.clone(),
                metrics: metrics.clone(),
                options: options.clone(),
                stop: stopped.clone(),
                health: Health::default(),
                ended: Vec::new(),
            };
            tokio::spawn(worker.run())
        });
        all.extend(workers);
        Dispatcher { stop, workers: all }
    }

    /// Stops: nothing new is begun, what is in flight may end within `within`, in real time. What does not end is cut
    /// off; its row comes free when its lease ends and is sent again under the same id.
    pub async fn stop(self, within: Duration) {
        // An error says that no worker is left.
        let _ = self.stop.send(true);
        let deadline = Instant::now() + within;
        for mut worker in self.workers {
            if tokio::time::timeout_at(deadline, &mut worker).await.is_err() {
                worker.abort();
            }
        }
    }
}

/// How a receiver is doing.
#[derive(Default)]
struct Health {
    /// Failures in a row that concerned the receiver.
    failures: u32,
    /// Nothing is begun before this.
    paused_until: i64,
    /// It asked for no more messages; until then they are dead letters.
    gone_until: i64,
    /// The database's last error was told.
    outbox_failed: bool,
    /// A configuration error was told.
    auth_told: bool,
}

struct Worker<O> {
    outbox: O,
    route: Route,
    clock: Arc<dyn WallClock>,
    metrics: Arc<Metrics>,
    options: Options,
    stop: watch::Receiver<bool>,
    health: Health,
    /// What tries came to and is not written yet.
    ended: Vec<(String, Outcome)>,
}

impl<O: Outbox> Worker<O> {
    async fn run(mut self) {
        let filled = self.outbox.filled();
        while !*self.stop.borrow() {
            // Registered before asking, so that what is written in between wakes it.
            let mut woken = std::pin::pin!(filled.notified());
            woken.as_mut().enable();
            let pause = self.clock.until(self.health.paused_until);
            if !pause.is_zero() {
                self.sleep(pause).await;
                continue;
            }
            let wait = match self.round().await {
                Ok(0) => match self.outbox.next(&self.route.receiver).await {
                    Ok(Some(at)) => {
                        self.clock.until(at).clamp(Duration::from_millis(5), self.options.idle_max)
                    }
                    Ok(None) => self.options.idle_max,
                    Err(error) => self.outbox_failed(&error),
                },
                Ok(_) => continue,
                Err(error) => self.outbox_failed(&error),
            };
            let mut stop = self.stop.clone();
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(wait) => {}
                // An error says that the dispatcher was dropped: stop as well.
                _ = stop.changed() => {}
            }
        }
    }

    async fn sleep(&mut self, wait: Duration) {
        let wait = wait.min(self.options.idle_max);
        // Both ways out lead to the loop's own check.
        let _ = tokio::time::timeout(wait, self.stop.changed()).await;
    }

    fn outbox_failed(&mut self, error: &OutboxError) -> Duration {
        if !std::mem::replace(&mut self.health.outbox_failed, true) {
            tracing::error!(receiver = %self.route.receiver, %error, "cannot read the outbox; trying again");
        }
        Duration::from_secs(1)
    }

    /// Takes a batch and tries it; returns how many were taken.
    async fn round(&mut self) -> Result<usize, OutboxError> {
        let limit = if self.health.failures > 0 { 1 } else { self.batch() };
        let lease = self.lease();
        let taken = Instant::now();
        let now = self.clock.now_ms();
        let rows = self.outbox.due(&self.route.receiver, now, limit, self.lease_ms(lease)).await?;
        self.health.outbox_failed = false;
        let count = rows.len();
        if now < self.health.gone_until {
            for row in rows {
                self.bury(&row, "not tried: the receiver answered 410 and asks for no more messages");
            }
            self.write().await;
            return Ok(count);
        }
        self.work(rows, taken + lease).await;
        Ok(count)
    }

    fn concurrency(&self) -> usize {
        self.options.concurrency.min(self.route.notifier.at_once()).max(1)
    }

    fn batch(&self) -> u32 {
        self.options.batch.saturating_mul(u32::try_from(self.concurrency()).unwrap_or(u32::MAX)).max(1)
    }

    /// Long enough for a batch in which every try takes its whole limit.
    fn lease(&self) -> Duration {
        (self.limit() + Duration::from_secs(2)) * self.options.batch.max(1) + Duration::from_secs(10)
    }

    /// The lease on the handed-in clock, which may run faster than the network's time limits do.
    fn lease_ms(&self, lease: Duration) -> i64 {
        let now = self.clock.now_ms();
        let mut ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        while self.clock.until(now.saturating_add(ms)) < lease && ms < 1000 * HOUR {
            ms = ms.saturating_mul(2);
        }
        ms
    }

    fn limit(&self) -> Duration {
        self.route.notifier.limit() + Duration::from_secs(2)
    }

    async fn work(&mut self, rows: Vec<Message>, lease_ends: Instant) {
        let mut waiting = VecDeque::from(rows);
        // Tasks: they go on while what came of others is written.
        let mut flying = JoinSet::new();
        let (notifier, clock, limit) = (self.route.notifier.clone(), self.clock.clone(), self.limit());
        loop {
            while flying.len() < self.concurrency() && self.may_begin(lease_ends) {
                let Some(row) = waiting.pop_front() else { break };
                flying.spawn(attempt(notifier.clone(), clock.clone(), limit, row));
            }
            // As many as end within a moment are written together: a transaction costs as much for one as for fifty.
            self.write().await;
            let Some(tried) = flying.join_next().await else { break };
            self.landed(tried);
            while let Some(tried) = flying.try_join_next() {
                self.landed(tried);
            }
        }
        for row in waiting {
            self.hold_back(&row);
        }
        self.write().await;
    }

    /// Takes in a try that ended.
    fn landed(&mut self, tried: Result<Tried, JoinError>) {
        match tried {
            Ok(tried) => self.settle(tried),
            // Its row comes free with its lease, and is tried again.
            Err(error) => {
                tracing::error!(receiver = %self.route.receiver, %error, "a try to deliver broke off")
            }
        }
    }

    fn may_begin(&self, lease_ends: Instant) -> bool {
        !*self.stop.borrow()
            && self.clock.until(self.health.paused_until).is_zero()
            && self.health.gone_until <= self.clock.now_ms()
            && Instant::now() + self.limit() < lease_ends
    }

    /// Takes in what a try came to.
    fn settle(&mut self, tried: Tried) {
        let Tried { row, delivery, ms } = tried;
        let (receiver, integration) = (self.route.receiver.clone(), self.route.integration);
        let failed = match &delivery {
            Delivery::Failed(failure) => Some(failure.class.name()),
            _ => None,
        };
        self.metrics.notification(&receiver, integration, ms, failed);
        match delivery {
            Delivery::Delivered => self.delivered(&row),
            Delivery::DeliveredPlain(why) => {
                tracing::warn!(%receiver, message = %row.id, %why, "delivered as a plain message");
                self.metrics.notification_failed(&receiver, integration, "template");
                self.delivered(&row);
            }
            Delivery::Failed(failure) => self.failed(&row, failure),
        }
    }

    fn delivered(&mut self, row: &Message) {
        if self.health.failures > 0 {
            tracing::info!(receiver = %self.route.receiver, "the receiver is back");
        }
        self.health = Health { outbox_failed: self.health.outbox_failed, ..Health::default() };
        let now = self.clock.now_ms();
        if let Some(at) = Body::read(&row.body).ok().and_then(|b| b.oldest_news()) {
            observe_ms(&self.metrics.notification_delay_seconds, now.saturating_sub(at.0));
        }
        tracing::debug!(receiver = %self.route.receiver, message = %row.id, "delivered");
        self.end(row, Outcome::Delivered);
    }

    fn failed(&mut self, row: &Message, failure: Failure) {
        let now = self.clock.now_ms();
        let next = self.options.backoff.next(&row.id, row.created_ms, row.attempts, &failure, now);
        self.note(row, &failure, next, now);
        let reason = failure.class.name();
        match next {
            Next::Retry(at_ms) => {
                self.end(row, Outcome::Retry { at_ms, reason, detail: failure.detail });
            }
            Next::GiveUp => {
                self.metrics.dead_letter(&self.route.receiver, self.route.integration);
                self.end(row, Outcome::Dead { reason, detail: failure.detail });
            }
        }
    }

    /// Logs a failure, and pauses the receiver where it concerns it.
    fn note(&mut self, row: &Message, failure: &Failure, next: Next, now: i64) {
        let (receiver, class, detail) = (&self.route.receiver, failure.class.name(), &failure.detail);
        let attempt = row.attempts.saturating_add(1);
        let loud =
            failure.class == FailureClass::Auth && !std::mem::replace(&mut self.health.auth_told, true);
        match next {
            Next::GiveUp => {
                tracing::error!(%receiver, message = %row.id, class, attempt, detail, "message given up");
            }
            Next::Retry(_) if loud => {
                tracing::error!(
                    %receiver, message = %row.id, class, attempt, detail,
                    "the receiver refuses this configuration; correct it, messages are kept and tried again"
                );
            }
            Next::Retry(at) => {
                let seconds = (at - now) / SECOND;
                tracing::warn!(%receiver, message = %row.id, class, attempt, detail, retry_in_seconds = seconds, "not delivered");
            }
        }
        match failure.scope {
            // An answer about one message shows that the receiver is there.
            Scope::Message => self.health.failures = 0,
            Scope::Gone => self.health.gone_until = now.saturating_add(GONE_FOR),
            Scope::Receiver => {
                let doubled = self.options.pause_ms.saturating_mul(1 << self.health.failures.min(10));
                let pause = jitter(doubled.min(PAUSE_MAX), receiver, self.health.failures);
                let told = match (failure.class, next) {
                    (FailureClass::RateLimited | FailureClass::Auth, Next::Retry(at)) => at,
                    _ => 0,
                };
                self.health.failures = self.health.failures.saturating_add(1);
                self.health.paused_until = now.saturating_add(pause).max(told);
            }
        }
    }

    /// Gives back a row that was taken and not tried.
    fn hold_back(&mut self, row: &Message) {
        if self.health.gone_until > self.clock.now_ms() {
            self.bury(row, "not tried: the receiver answered 410 and asks for no more messages");
            return;
        }
        let at_ms = self.health.paused_until.max(self.clock.now_ms());
        let detail = "not tried: the receiver failed just before, or the daemon stopped".to_owned();
        self.end(row, Outcome::Retry { at_ms, reason: FailureClass::Transient.name(), detail });
    }

    fn bury(&mut self, row: &Message, detail: &str) {
        self.metrics.dead_letter(&self.route.receiver, self.route.integration);
        let reason = FailureClass::Permanent.name();
        self.end(row, Outcome::Dead { reason, detail: detail.to_owned() });
    }

    fn end(&mut self, row: &Message, outcome: Outcome) {
        self.ended.push((row.id.clone(), outcome));
    }

    /// Writes what ended. Where the database refuses it is tried a few times; then the rows come free with their lease and are
    /// sent again, which their ids make harmless.
    async fn write(&mut self) {
        let ended = std::mem::take(&mut self.ended);
        if ended.is_empty() {
            return;
        }
        let mut wait = Duration::from_millis(50);
        for left in (0..6).rev() {
            match self.outbox.done(&ended, self.clock.now_ms()).await {
                Ok(()) => return,
                Err(error) if left == 0 => {
                    tracing::error!(
                        receiver = %self.route.receiver, messages = ended.len(), first = %ended[0].0, %error,
                        "cannot write what came of messages; they will be sent again under the same ids"
                    );
                }
                Err(_) => tokio::time::sleep(wait).await,
            }
            wait *= 2;
        }
    }
}

/// One try, done.
struct Tried {
    row: Message,
    delivery: Delivery,
    /// How long it took, real milliseconds.
    ms: i64,
}

async fn attempt(
    notifier: Arc<dyn Notifier>,
    clock: Arc<dyn WallClock>,
    limit: Duration,
    row: Message,
) -> Tried {
    let begun = Instant::now();
    let delivery = match tokio::time::timeout(limit, notifier.deliver(&row, clock.now_ms())).await {
        Ok(delivery) => delivery,
        Err(_) => {
            let text = format!("no outcome within {} s", limit.as_secs());
            Delivery::Failed(Failure::new(FailureClass::OutcomeUnknown, Scope::Receiver, text))
        }
    };
    let ms = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
    Tried { row, delivery, ms }
}

#[cfg(test)]
#[path = "dispatcher_tests.rs"]
mod tests;
