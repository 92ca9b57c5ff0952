//! The end of a demonstration: the clock is stopped, what is due is told, and a backtest of the records says whether it was right.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::api::{self, Api};
use super::clock::FastClock;
use super::inbox::Inbox;
use super::verdict::{Account, Verdict, Written, judge, written};
use crate::cli::backtest::{self, Outcome};
use crate::model::{Change, HOUR, Time};
use crate::rules::{Policies, RuleSet};

/// How much later than its time a change may be written, in real milliseconds, before that is held against the daemon.
const LAG: i64 = 3_000;
/// Longest real wait for what should take moments.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked whether all is there, in real time.
const LOOK: Duration = Duration::from_millis(250);

/// What is needed for it; the daemon runs, the network has ended.
pub struct Check {
    /// The daemon's clock.
    pub clock: FastClock,
    /// When it started to run.
    pub began: Time,
    /// Where the daemon answers.
    pub api: Api,
    /// What the receivers got.
    pub inbox: Inbox,
    /// What decides.
    pub rules: Arc<RuleSet>,
    /// Who is told.
    pub policies: Arc<Policies>,
    /// `time.skew`, milliseconds.
    pub skew: i64,
    /// The records, one a line.
    pub records: PathBuf,
}

/// What it comes to.
pub struct Checked {
    /// Right or wrong.
    pub verdict: Verdict,
    /// What the backtest found.
    pub backtest: Outcome,
    /// Where the clock stopped.
    pub ended: Time,
}

impl Check {
    /// Runs it.
    ///
    /// # Errors
    /// The records cannot be read, or the daemon does not answer.
    pub async fn run(&self) -> anyhow::Result<Checked> {
        // No record lies within the skew before the clock's stop, so that W ends at the same time in all partitions.
        let settling = self.clock.stop_after(HOUR);
        self.reach(settling).await;
        let first = self.replay(settling)?;
        self.written(&first.changes).await?;
        // All of that is written; every group's wait begins and ends before the clock stops for good.
        let waits = self.policies.policies.iter().map(|p| p.group_wait + p.group_interval).max().unwrap_or(0);
        let ended = self.clock.stop_after(waits + HOUR);
        self.reach(ended).await;
        let backtest = self.replay(ended)?;
        let mut holds = self.written(&backtest.changes).await?;
        let until = Instant::now() + PATIENCE;
        loop {
            let idle = self.pending().await? == 0;
            let verdict = self.judge(&backtest.changes, &holds, self.last(settling), ended);
            let spoilt = !self.inbox.faults().is_empty();
            if (idle && verdict.differences.is_empty()) || spoilt || Instant::now() > until {
                return Ok(Checked { verdict, backtest, ended });
            }
            tokio::time::sleep(LOOK).await;
            holds = api::changes(&self.api.exceptions("all").await?);
        }
    }

    fn judge(&self, owed: &[Change], holds: &BTreeSet<Written>, settled: Time, ended: Time) -> Verdict {
        judge(&Account {
            rules: &self.rules,
            policies: &self.policies,
            owed,
            written: holds,
            arrivals: &self.inbox.since(0),
            began: self.began,
            settled,
            ended,
            lag: LAG * self.clock.factor(),
        })
    }

    /// The last millisecond that is decided when the clock stands at `stop`: W is the clock less the skew, and what is due
    /// before W fires.
    fn last(&self, stop: Time) -> Time {
        stop.minus(self.skew + 1)
    }

    fn replay(&self, stop: Time) -> anyhow::Result<Outcome> {
        let batches = backtest::read(std::slice::from_ref(&self.records))?;
        Ok(backtest::backtest(&self.rules, &batches, Some(self.last(stop)), 2))
    }

    async fn reach(&self, stop: Time) {
        while self.clock.now() < stop {
            tokio::time::sleep(self.clock.real_until(stop).max(Duration::from_millis(1))).await;
        }
    }

    /// Waits until cases holds these changes and no others, or patience ends; returns what it holds.
    async fn written(&self, owed: &[Change]) -> anyhow::Result<BTreeSet<Written>> {
        let owed: BTreeSet<_> = owed.iter().map(written).collect();
        let until = Instant::now() + PATIENCE;
        loop {
            let holds = api::changes(&self.api.exceptions("all").await?);
            if holds == owed || Instant::now() > until {
                return Ok(holds);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Messages that wait to be delivered, as the metrics say.
    async fn pending(&self) -> anyhow::Result<u64> {
        let metrics = self.api.get("/metrics").await?;
        let line =
            metrics.lines().find_map(|l| l.strip_prefix("parcelwatch_outbox_rows{state=\"pending\"} "));
        line.and_then(|n| n.parse().ok()).context("the metrics do not say how many messages wait")
    }
}
