//! Which of several processes leads the escalation (DESIGN §2). Each watches the lease by its own monotonic clock: a holder whose beat stands
//! still for [`MISSED`] is taken for dead. Whoever leads gives up by itself once it cannot say that it lives, before the others notice;
//! and where it slept through all of that, its next transaction meets a fence that is not its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::escalator::Backlog;
use crate::cases::{Cases, CasesError, Lead};
use crate::metrics::Metrics;

/// How often the leader says that it lives, and the others look.
const BEAT: Duration = Duration::from_secs(1);
/// A leader that has not said so for this long gives up.
const GIVES_UP: Duration = Duration::from_secs(6);
/// A leader from whom nothing is heard for this long is taken for dead.
const MISSED: Duration = Duration::from_secs(8);
/// How often the leader counts what stands.
const COUNTS: Duration = Duration::from_secs(10);

/// What the loop needs.
pub struct Candidate {
    /// The database.
    pub cases: Cases,
    /// Which partitions may speak, of this process and of the others.
    pub backlog: Backlog,
    /// Where it says who leads.
    pub metrics: Arc<Metrics>,
    /// The name of this process.
    pub me: String,
}

/// What the loop remembers.
struct Memory {
    /// When this process last said that it lives, as the leader.
    beaten: Instant,
    counted: Option<Instant>,
    /// What was last seen of somebody else's lease, and since when it has stood still.
    seen: Option<(Option<Lead>, Instant)>,
    /// What the others were told of this process's partitions.
    told: BTreeMap<i32, i64>,
}

impl Candidate {
    /// Runs until `stop` holds true or its sender is gone; then leaves the lead to others.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut memory = Memory { beaten: Instant::now(), counted: None, seen: None, told: BTreeMap::new() };
        while !*stop.borrow() {
            let turn = timeout(GIVES_UP, self.turn(&mut memory)).await;
            if let Ok(Err(error)) = &turn {
                tracing::warn!(reason = error.reason(), %error, "the lease of the escalation cannot be looked at");
            }
            if self.cases.leads() && memory.beaten.elapsed() >= GIVES_UP {
                tracing::error!(
                    "the database was not to be reached for {} s: this process leads no more",
                    GIVES_UP.as_secs()
                );
                self.cases.deposed();
            }
            self.metrics.escalation_leader.set(i64::from(self.cases.leads()));
            tokio::select! {
                () = tokio::time::sleep(BEAT) => {}
                ended = stop.changed() => if ended.is_err() { break },
            }
        }
    }

    /// Says that it leads, or looks whether it should.
    async fn turn(&self, memory: &mut Memory) -> Result<(), CasesError> {
        let ours = self.backlog.ours();
        let news: BTreeMap<i32, i64> = ours
            .iter()
            .filter(|(p, since)| memory.told.get(p) != Some(since))
            .map(|(p, s)| (*p, *s))
            .collect();
        if !news.is_empty() {
            self.cases.tell_caught_up(&news).await?;
        }
        memory.told = ours;
        if self.cases.leads() {
            let said = Instant::now();
            if !self.cases.beat().await? {
                tracing::warn!("another process leads the escalation now");
                return Ok(());
            }
            memory.beaten = said;
            if memory.counted.is_none_or(|at| at.elapsed() >= COUNTS) {
                self.cases.count_open().await?;
                memory.counted = Some(Instant::now());
            }
            self.backlog.others(self.cases.caught_up().await?);
            return Ok(());
        }
        let lead = self.cases.lead().await?;
        // At the start it is its own: of the run before, which the lock on `state` says is over.
        let mine = memory.seen.is_none() && lead.as_ref().is_some_and(|l| l.holder == self.me);
        let vacant = mine || lead.as_ref().is_none_or(|l| l.holder.is_empty());
        let since = match &memory.seen {
            Some((seen, since)) if *seen == lead => *since,
            _ => Instant::now(),
        };
        memory.seen = Some((lead.clone(), since));
        if !vacant && since.elapsed() < MISSED {
            return Ok(());
        }
        // Before the first turn of the escalation: what others have caught up with may speak.
        self.backlog.others(self.cases.caught_up().await?);
        let said = Instant::now();
        if self.cases.take_lead(&self.me, lead.as_ref()).await? {
            (memory.beaten, memory.counted) = (said, None);
            let before = lead.map_or_else(String::new, |l| l.holder);
            tracing::info!(before, "this process leads the escalation");
        }
        Ok(())
    }
}
