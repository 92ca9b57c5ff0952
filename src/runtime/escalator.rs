//! The loop around the escalation fold: waits for changes or the next timer, decides, writes (DESIGN §7).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::clock::WallClock;
use crate::cases::{Cases, CasesError};
use crate::escalation::{self, NEVER, Quiet, Sender};
use crate::model::{MINUTE, SECOND};
use crate::rules::Policies;

/// Exceptions looked at in one transaction at most: the shards wait for the writer meanwhile, and this loop waits for theirs.
const LOOK: u32 = 4_000;
/// Exceptions told in one transaction at most.
const SLICE: u32 = 2_000;
/// Slices looked at before groups are flushed, though there be more: in a storm the first to be told do not wait for the last to be
/// looked at.
const LOOKS: usize = 3;
/// Groups flushed in one transaction at most.
const GROUPS: u32 = 100;
/// Backlog ends this long after the start, whatever the watermarks say (DESIGN §4.8).
const BACKLOG_AT_MOST: i64 = 15 * MINUTE;
/// A partition that has caught up waits this long at most for the others, so that a start on history is one message a
/// group, whichever partition was the quickest.
const WAIT_FOR_OTHERS: i64 = MINUTE;
/// How often feeds are looked at, unless something is heard of one.
const FEEDS_EVERY: i64 = 15 * SECOND;
/// How long after the database refused it is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// The longest sleep: a clock that was set is noticed then.
const NAP: Duration = Duration::from_secs(60);
/// The longest sleep where other processes write as well, and wake nobody here.
const NAP_AMONG_OTHERS: Duration = Duration::from_secs(1);

/// Which partitions are out of their backlog (DESIGN §4.8). The runtime says what begins with one and when its watermark
/// has come within a minute of the wall clock.
#[derive(Debug, Clone, Default)]
pub struct Backlog {
    state: Arc<Mutex<BTreeMap<i32, Option<i64>>>>,
    /// Those of other processes.
    others: Arc<Mutex<BTreeMap<i32, Option<i64>>>>,
    news: Arc<Notify>,
}

impl Backlog {
    /// A shard of this partition starts, with a backlog until it is said to be [`Backlog::over`].
    pub fn begins(&self, partition: i32) {
        self.lock().insert(partition, None);
    }

    /// This partition has caught up; said again, it changes nothing.
    pub fn over(&self, partition: i32, now_ms: i64) {
        let mut state = self.lock();
        let since = state.entry(partition).or_default();
        if since.is_none() {
            *since = Some(now_ms);
            drop(state);
            self.news.notify_one();
        }
    }

    /// This partition went to another process.
    pub fn leaves(&self, partition: i32) {
        self.lock().remove(&partition);
    }

    /// Since when each partition of this process has caught up, of those that have.
    #[must_use]
    pub fn ours(&self) -> BTreeMap<i32, i64> {
        self.lock().iter().filter_map(|(p, since)| Some((*p, (*since)?))).collect()
    }

    /// What all processes say of their partitions; what this one knows of its own counts more.
    pub fn others(&self, all: BTreeMap<i32, Option<i64>>) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if *others != all {
            *others = all;
            drop(others);
            self.news.notify_one();
        }
    }

    /// Whether it has caught up.
    #[must_use]
    pub fn is_over(&self, partition: i32) -> bool {
        self.lock().get(&partition).is_some_and(Option::is_some)
    }

    /// Which of these partitions may speak at `now`, and when the next one will by itself.
    fn speaking(&self, all: &BTreeSet<i32>, started: i64, now: i64) -> (BTreeSet<i32>, i64) {
        let end = started.saturating_add(BACKLOG_AT_MOST);
        if now >= end {
            return (all.clone(), NEVER);
        }
        let mut state = self.others.lock().unwrap_or_else(PoisonError::into_inner).clone();
        state.extend(self.lock().iter());
        let pending = state.values().any(Option::is_none);
        let (mut speaking, mut next) = (BTreeSet::new(), end);
        for &partition in all {
            match state.get(&partition) {
                Some(Some(since)) if pending && since.saturating_add(WAIT_FOR_OTHERS) > now => {
                    next = next.min(since.saturating_add(WAIT_FOR_OTHERS));
                }
                Some(Some(_)) => {
                    speaking.insert(partition);
                }
                _ => {}
            }
        }
        (speaking, next)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Option<i64>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of these partitions may speak at `now`, in a process that started then.
pub(super) fn speaking(backlog: &Backlog, all: &BTreeSet<i32>, started: i64, now: i64) -> BTreeSet<i32> {
    backlog.speaking(all, started, now).0
}

/// What the loop needs.
pub struct Escalator {
    /// The database.
    pub cases: Cases,
    /// The policies in force; a new value is a reload.
    pub policies: watch::Receiver<Arc<Policies>>,
    /// What time it is.
    pub clock: Arc<dyn WallClock>,
    /// Which partitions may speak.
    pub backlog: Backlog,
    /// `http.public_url`, for `url`.
    pub public_url: Option<String>,
    /// Decide and record, send nothing.
    pub dry_run: bool,
}

/// How far a flush came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flushed {
    /// The last group not to its end.
    Part,
    /// Whole groups, and others wait.
    Whole,
    /// All whose moment had come.
    All,
}

/// What the loop remembers; none of it is needed after a restart.
#[derive(Debug, Default)]
pub struct Memory {
    started: i64,
    /// Partitions that could speak in the turn before.
    spoke: BTreeSet<i32>,
    /// Hash of the policies that the exceptions were looked at with.
    policies: Option<String>,
    /// When feeds are looked at again, and the hash of the policies that they were looked at with.
    feeds: (i64, Option<String>),
}

impl Memory {
    /// Of a loop that starts now.
    #[must_use]
    pub fn starting(now_ms: i64) -> Memory {
        Memory { started: now_ms, ..Memory::default() }
    }
}

impl Escalator {
    /// Runs until `stop` holds true or its sender is gone. Never fails: where the database refuses it says so in the log and
    /// tries again.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut memory = Memory::starting(self.clock.now_ms());
        let changed = self.cases.changed();
        let nap = if self.cases.is_shared() { NAP_AMONG_OTHERS } else { NAP };
        let mut leads = false;
        while !*stop.borrow() {
            if !std::mem::replace(&mut leads, self.cases.leads()) {
                // What is remembered is of the last time it led.
                memory = Memory::starting(self.clock.now_ms());
            }
            let turn = if leads { self.turn(&mut memory).await } else { self.stand_by() };
            let wait = match turn {
                Ok(NEVER) => nap,
                Ok(next) => self.clock.until(next).min(nap),
                Err(error @ CasesError::Deposed { .. }) => {
                    tracing::warn!(reason = error.reason(), %error, "the escalation goes on elsewhere");
                    nap
                }
                Err(error) => {
                    tracing::error!(reason = error.reason(), %error, "escalation waits for the database");
                    RETRY
                }
            };
            tokio::select! {
                () = changed.notified() => {}
                () = self.backlog.news.notified() => {}
                () = tokio::time::sleep(wait) => {}
                Ok(()) = self.policies.changed() => {}
                ended = stop.changed() => if ended.is_err() { return },
            }
        }
    }

    /// Another process leads: only what the API of this one asks is kept up to date.
    fn stand_by(&mut self) -> Result<i64, CasesError> {
        self.cases.comments_needed(&Arc::clone(&self.policies.borrow_and_update()));
        Ok(NEVER)
    }

    /// Does all that is due now. Returns when something will be, on the clock handed in. Dropped or failed anywhere, it has done
    /// whole decisions or none; the next turn goes on.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn turn(&mut self, memory: &mut Memory) -> Result<i64, CasesError> {
        let policies = Arc::clone(&self.policies.borrow_and_update());
        let now = self.clock.now_ms();
        if memory.policies.as_deref() != Some(&policies.hash) {
            self.cases.comments_needed(&policies);
            self.cases.policies_in_force(&policies.hash, now).await?;
            memory.policies = Some(policies.hash.clone());
        }
        let all = self.cases.partitions().await?;
        let (speaking, next_to_speak) = self.backlog.speaking(&all, memory.started, now);
        let begin: BTreeSet<i32> = speaking.difference(&memory.spoke).copied().collect();
        if !begin.is_empty() {
            self.cases.wake_waiting(&begin, now).await?;
        }
        memory.spoke.clone_from(&speaking);
        // Before anybody is told of a parcel: an incident of its feed is told in its place.
        let next_feeds =
            if speaking.len() == all.len() { self.feeds(&policies, memory, now).await? } else { NEVER };
        loop {
            // Asked of a reader: where nothing is due, which is most of the time, no writer is kept waiting.
            let next = self.cases.next_timer(&speaking).await?.min(self.cases.next_digest().await?);
            if next > now {
                return Ok(next.min(next_to_speak).min(next_feeds));
            }
            let looks = if self.cases.next_flush().await? <= now { 1 } else { LOOKS };
            for _ in 0..looks {
                if !self.look(&policies, &speaking, now).await? {
                    break;
                }
            }
            loop {
                let flushed = self.flush(&policies, &speaking, now).await?;
                // After all slices of a group: a digest holds what was said of it at this moment.
                if flushed != Flushed::Part && self.cases.next_digest().await? <= now {
                    self.digests(&policies, now).await?;
                }
                if flushed == Flushed::All {
                    break;
                }
            }
        }
    }

    /// Begins and ends incidents of feeds, where it is time to look. When it will be again.
    async fn feeds(&self, policies: &Policies, memory: &mut Memory, now: i64) -> Result<i64, CasesError> {
        let (next, seen) = &mut memory.feeds;
        let anew = seen.as_deref() != Some(&policies.hash);
        let asked = policies.feeds.is_some();
        // One that is far ahead is of a clock that was set back.
        let due = asked && (*next <= now || *next > now.saturating_add(FEEDS_EVERY));
        if anew || due || (asked && self.cases.take_feeds_stirred()) {
            self.cases.watch_feeds(policies, self.dry_run, now).await?;
            *next = now.saturating_add(FEEDS_EVERY);
            *seen = Some(policies.hash.clone());
        }
        Ok(if asked { *next } else { NEVER })
    }

    /// Looks at a slice of the exceptions whose time has come. Returns whether there may be more.
    async fn look(
        &self,
        policies: &Policies,
        speaking: &BTreeSet<i32>,
        now: i64,
    ) -> Result<bool, CasesError> {
        let mut tx = self.cases.escalation().await?;
        let mut cases = tx.due(speaking, now, LOOK).await?;
        if cases.is_empty() {
            return Ok(false);
        }
        let mut groups = tx.groups_of(&cases).await?;
        let unsent = escalation::step(policies, &mut groups, &mut cases, now);
        tx.write_step(&groups, &cases, &unsent, now).await?;
        tx.commit().await?;
        Ok(cases.len() >= LOOK as usize)
    }

    /// Flushes groups whose moment has come.
    async fn flush(
        &self,
        policies: &Policies,
        speaking: &BTreeSet<i32>,
        now: i64,
    ) -> Result<Flushed, CasesError> {
        let sender = Sender { policies, public_url: self.public_url.as_deref() };
        let mut tx = self.cases.escalation().await?;
        let groups = tx.groups_due(now, GROUPS).await?;
        if groups.is_empty() {
            return Ok(Flushed::All);
        }
        let silences = tx.silences(now).await?;
        let mut budget = tx.budget().await?;
        let mut room = SLICE;
        let mut done = if groups.len() >= GROUPS as usize { Flushed::Whole } else { Flushed::All };
        for group in groups {
            if room == 0 {
                done = Flushed::Whole;
                break;
            }
            let due = group.flush_ms;
            let (members, counts) = tx.members(&group.id, speaking, room).await?;
            let cut = members.len() >= room as usize;
            room -= u32::try_from(members.len()).unwrap_or(room).min(room);
            budget.waiting = if cut { tx.waiting(&group.id).await? } else { 0 };
            let quiet = Quiet {
                silences: silences.clone(),
                sources: tx.sources(policies, &members).await?,
                budget: Some(budget.clone()),
            };
            let mut flushed = escalation::flush_unless(&sender, &quiet, group, members, counts, now);
            if cut {
                // The rest of this very flush comes with the next transaction, before any other group.
                flushed.group.flush_ms = due.min(now) - 1;
                done = Flushed::Part;
            }
            tx.write_flush(&flushed, &mut budget, self.dry_run, now).await?;
            if cut {
                break;
            }
        }
        tx.commit().await?;
        Ok(done)
    }

    /// Sends the digests whose time has come.
    async fn digests(&self, policies: &Policies, now: i64) -> Result<(), CasesError> {
        let sender = Sender { policies, public_url: self.public_url.as_deref() };
        let mut tx = self.cases.escalation().await?;
        for due in tx.digests_due(now).await? {
            let Some(receiver) = policies.receiver(&due.to.receiver) else {
                tx.drop_digest(&due).await?;
                continue;
            };
            let (to, integration) = (&due.to, receiver.kind.integration());
            let message = escalation::digest_message(
                &sender,
                integration,
                to,
                &due.cause,
                &due.digest,
                Vec::new(),
                now,
            );
            tx.send_digest(&due, &message, self.dry_run, now).await?;
        }
        tx.commit().await
    }
}
