//! The loop for receivers that forget: states anew, every minute, what stands of that which they were told (DESIGN §7,
//! "Alertmanager is no inbox but a lease"). It reads the database and writes nothing: a round that is lost is made good by the
//! next.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::clock::WallClock;
use super::dispatcher::{Outbox, Route};
use crate::metrics::Metrics;
use crate::notify::Failure;

/// From round to round, in real time; the first comes at once.
const EVERY: Duration = Duration::from_secs(60);
/// Exceptions read, and stated, at once.
const SLICE: u32 = 100;
/// Exceptions stated in a round at most, the newest first to be left out: what stands longest is what is overdue most.
const MOST: usize = 20_000;

/// The loop of one receiver.
pub(super) struct Restater<O> {
    pub outbox: O,
    pub route: Route,
    pub clock: Arc<dyn WallClock>,
    pub metrics: Arc<Metrics>,
    pub stop: watch::Receiver<bool>,
}

impl<O: Outbox> Restater<O> {
    /// Runs until `stop` holds true or its sender is gone.
    pub async fn run(mut self) {
        let mut failing = false;
        let mut stop = self.stop.clone();
        while !*self.stop.borrow_and_update() {
            tokio::select! {
                () = self.round(&mut failing) => {}
                _ = stop.changed() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Tells every recipient; one that is down does not keep the others waiting for the next round.
    async fn round(&self, failing: &mut bool) {
        let mut failed = false;
        for recipient in &self.route.restated {
            if let Err(error) = self.tell(recipient).await {
                failed = true;
                if !*failing {
                    let receiver = &self.route.receiver;
                    tracing::warn!(%receiver, %recipient, %error, "what stands cannot be stated anew; trying every minute");
                }
            }
        }
        if *failing && !failed {
            tracing::info!(receiver = %self.route.receiver, "what stands is stated anew again");
        }
        *failing = failed;
    }

    async fn tell(&self, recipient: &str) -> Result<(), String> {
        let mut after = 0;
        let mut stated = 0;
        loop {
            let now = self.clock.now_ms();
            let to = (self.route.receiver.as_str(), recipient);
            let some = self.outbox.standing(to, after, SLICE, now).await.map_err(|e| e.to_string())?;
            after = some.last().map_or(after, |(number, _)| *number);
            stated += some.len();
            let last = some.len() < SLICE as usize;
            let some: Vec<_> = some.into_iter().map(|(_, s)| s).collect();
            if !some.is_empty() {
                self.state(recipient, &some).await?;
            }
            if stated >= MOST && !last {
                tracing::warn!(receiver = %self.route.receiver, %recipient, stated, "more stands than is stated anew");
            }
            if last || stated >= MOST {
                // The empty list: what ended lately.
                return self.state(recipient, &[]).await;
            }
        }
    }

    async fn state(&self, recipient: &str, some: &[crate::notify::Stated]) -> Result<(), String> {
        let failed = |failure: Failure| {
            let (receiver, integration) = (&self.route.receiver, self.route.integration);
            self.metrics.notification_failed(receiver, integration, failure.class.name());
            failure.detail
        };
        self.route.notifier.restate(recipient, some, self.clock.now_ms()).await.map_err(failed)
    }
}
