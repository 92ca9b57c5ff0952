//! The end of a demonstration: the clock is stopped, what is due is told, and a backtest of the records says whether it was right.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::api::{self, Api};
use super::clock::FastClock;
use super::inbox::{Arrival, Inbox};
use super::verdict::{Account, Verdict, Written, judge, written};
use crate::cli::backtest::{self, Outcome};
use crate::model::{Change, HOUR, Time};
use crate::rules::{Policies, RuleSet};

/// How much later than the policies say a message may come, in real milliseconds, before that is held against the daemon; more
/// on a machine that was seen to be slower.
const LAG: i64 = 3_000;
/// Longest real wait while nothing moves: a slow machine may take its time, a daemon that stands still may not.
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
    /// How long after its news the slowest message came, groups' waits included, milliseconds of the fast clock.
    pub slowest: i64,
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
        let mut patience = Patience::default();
        loop {
            let idle = self.pending().await? == 0;
            let verdict = self.judge(&backtest.changes, &holds, self.last(settling), ended);
            let spoilt = !self.inbox.faults().is_empty();
            if (idle && verdict.differences.is_empty()) || spoilt || patience.ends(holds.len(), &self.inbox) {
                return Ok(Checked { verdict, backtest, ended, slowest: self.slowest() });
            }
            tokio::time::sleep(LOOK).await;
            holds = api::changes(&self.api.exceptions("all").await?);
        }
    }

    fn judge(&self, owed: &[Change], holds: &BTreeSet<Written>, settled: Time, ended: Time) -> Verdict {
        let arrivals: Vec<Arrival> = self.inbox.since(0).into_iter().map(|(_, a)| a).collect();
        judge(&Account {
            rules: &self.rules,
            policies: &self.policies,
            owed,
            written: holds,
            arrivals: &arrivals,
            began: self.began,
            settled,
            ended,
            lag: self.slowest().max(LAG * self.clock.factor()),
        })
    }

    fn slowest(&self) -> i64 {
        self.inbox.since(0).iter().filter_map(|(at, a)| self.lateness(*at, a)).max().unwrap_or(0)
    }

    /// How long after its oldest news a webhook came. What ended sooner than the slowest message took may have ended untold.
    fn lateness(&self, came: Time, arrival: &Arrival) -> Option<i64> {
        let fresh = arrival.notices.iter().filter(|n| n.change != "reminder");
        let oldest = fresh.filter_map(|n| Time::parse(&n.news.as_ref()?.1)).min()?;
        Some(came.0 - oldest.max(self.began).0)
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
        let mut patience = Patience::default();
        loop {
            let holds = api::changes(&self.api.exceptions("all").await?);
            if holds == owed || patience.ends(holds.len(), &self.inbox) {
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

/// Ends when nothing has moved for [`PATIENCE`].
struct Patience {
    seen: (usize, usize),
    until: Instant,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { seen: (0, 0), until: Instant::now() + PATIENCE }
    }
}

impl Patience {
    /// Whether it is over, with so many changes written and these messages in.
    fn ends(&mut self, changes: usize, inbox: &Inbox) -> bool {
        let (mails, webhooks, _) = inbox.counts();
        let now = (changes, mails + webhooks);
        if now != self.seen {
            *self = Patience { seen: now, until: Instant::now() + PATIENCE };
        }
        Instant::now() > self.until
    }
}
