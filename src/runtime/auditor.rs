//! Who watches the watchdog: looks for exceptions whose next step is overdue, says so through the fallback receiver, and gives a sign
//! of life only while there are none (DESIGN §7). It shares nothing with the escalator but the database.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::clock::WallClock;
use super::escalator::{self, Backlog};
use crate::cases::{Audit, Cases, CasesError, OutboxRow};
use crate::escalation::body::{self, Own};
use crate::escalation::{Sender, State, id_of, tell_others};
use crate::metrics::Metrics;
use crate::model::{MINUTE, Time};
use crate::rules::Policies;

/// How often it looks, in real time.
const EVERY: Duration = Duration::from_secs(30);
/// Exceptions looked at one by one in each round; all have their turn.
const SLICE: u32 = 5_000;
/// What is still overdue is said again after so long.
const AGAIN: i64 = 15 * MINUTE;

/// What the loop needs.
pub struct Auditor {
    /// The database.
    pub cases: Cases,
    /// The policies in force.
    pub policies: watch::Receiver<Arc<Policies>>,
    /// What time it is.
    pub clock: Arc<dyn WallClock>,
    /// Which partitions may speak: what is in its backlog is not overdue.
    pub backlog: Backlog,
    /// Where the figure goes.
    pub metrics: Arc<Metrics>,
    /// Decide and record, send nothing.
    pub dry_run: bool,
}

/// What the loop remembers; none of it is needed after a restart.
#[derive(Debug, Default)]
pub struct Memory {
    started: i64,
    next: i64,
}

impl Memory {
    /// Of a loop that starts now.
    #[must_use]
    pub const fn starting(now_ms: i64) -> Memory {
        Memory { started: now_ms, next: 0 }
    }
}

impl Auditor {
    /// Runs until `stop` holds true or its sender is gone.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut memory = Memory::starting(self.clock.now_ms());
        while !*stop.borrow() {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                ended = stop.changed() => {
                    if ended.is_err() {
                        return;
                    }
                    continue;
                }
            }
            if !self.cases.leads() {
                self.metrics.escalation_steps_overdue.set(0);
                memory = Memory::starting(self.clock.now_ms());
                continue;
            }
            if let Err(error) = self.round(&mut memory).await {
                tracing::error!(reason = error.reason(), %error, "the audit of escalations waits for the database");
            }
        }
    }

    /// Looks once. Returns what it found.
    ///
    /// # Errors
    /// Every [`CasesError`]; there is no sign of life then.
    pub async fn round(&mut self, memory: &mut Memory) -> Result<Audit, CasesError> {
        let policies = Arc::clone(&self.policies.borrow_and_update());
        let now = self.clock.now_ms();
        let all = self.cases.partitions().await?;
        let speaking = escalator::speaking(&self.backlog, &all, memory.started, now);
        self.dead_letters(&policies, now).await?;
        let audit = self.cases.audit_steps(&policies, &speaking, memory.next, SLICE, now).await?;
        memory.next = audit.next;
        self.metrics.escalation_steps_overdue.set(audit.overdue);
        if audit.overdue > 0 {
            tracing::error!(overdue = audit.overdue, some = ?audit.some, "escalation steps are overdue");
            self.warn(&policies, &audit, now).await?;
        } else {
            self.live(&policies, now).await?;
        }
        Ok(audit)
    }

    /// Tells others what a receiver could not be told: one summary for each receiver in each slot of time.
    async fn dead_letters(&self, policies: &Policies, now: i64) -> Result<(), CasesError> {
        let slot = now.div_euclid(AGAIN);
        for receiver in self.cases.unreachable().await? {
            let mut tx = self.cases.escalation().await?;
            let Some(letters) = tx.dead_letters(&receiver, slot).await? else { continue };
            let cases: Vec<_> = letters.members.iter().map(|m| m.case.clone()).collect();
            let groups = tx.groups_of(&cases).await?;
            let sender = Sender { policies, public_url: None };
            let messages = tell_others(&sender, &letters.dead, &groups, &letters.members, now);
            tx.tell_others(&letters, &messages, (slot, now), self.dry_run).await?;
            tx.commit().await?;
            tracing::warn!(
                %receiver, messages = letters.dead.messages, exceptions = cases.len(), told = messages.len(),
                "messages were given up; others are told"
            );
        }
        Ok(())
    }

    async fn warn(&self, policies: &Policies, audit: &Audit, now: i64) -> Result<(), CasesError> {
        let Some(receiver) = policies.auditor.fallback.as_deref() else { return Ok(()) };
        let since = audit.some.first().map_or(now, |(_, since)| *since);
        let some: Vec<String> =
            audit.some.iter().map(|(id, since)| format!("{id}, due {}", Time(*since))).collect();
        let mut summary = vec![format!(
            "Escalation is late: {} exceptions wait for a step that was due more than a minute ago, the oldest since {}.",
            audit.overdue,
            Time(since)
        )];
        summary.push("Look at the log of parcelwatch, and at whether the database answers.".to_owned());
        summary.extend(some);
        let what =
            Word { thread: "escalation overdue", kind: "exceptions.digest", reason: "digest", summary };
        self.say(policies, receiver, now.div_euclid(AGAIN), &what, now).await
    }

    async fn live(&self, policies: &Policies, now: i64) -> Result<(), CasesError> {
        let auditor = &policies.auditor;
        let Some(receiver) = auditor.dead_mans_switch.as_deref() else { return Ok(()) };
        let summary = vec!["A sign of life: nothing is overdue.".to_owned()];
        let what = Word { thread: "sign of life", kind: "alive", reason: "alive", summary };
        self.say(policies, receiver, now.div_euclid(auditor.every.max(MINUTE)), &what, now).await
    }

    /// Writes a message of our own, one in each slot of time, to each recipient.
    async fn say(
        &self,
        policies: &Policies,
        receiver: &str,
        slot: i64,
        what: &Word,
        now: i64,
    ) -> Result<(), CasesError> {
        let Some(receiver) = policies.receiver(receiver) else { return Ok(()) };
        for recipient in receiver.kind.recipients() {
            let id = id_of(&[what.thread, &receiver.id, &recipient, &slot.to_string()]);
            let thread = id_of(&[what.thread]);
            let body = body::own(&Own {
                kind: what.kind,
                reason: what.reason,
                id: &id,
                receiver: &receiver.id,
                thread: &thread,
                state: if what.kind == "alive" { State::Resolved } else { State::Open },
                summary: &what.summary,
                now,
            });
            let row = OutboxRow {
                id,
                receiver: receiver.id.clone(),
                integration: receiver.kind.integration().to_owned(),
                recipient,
                kind: what.reason.to_owned(),
                subject: format!("[parcelwatch] {}", what.thread),
                body: body.to_string(),
                thread,
                attempts: 0,
                created_ms: now,
                due_ms: now,
            };
            self.cases.say(&row, self.dry_run).await?;
        }
        Ok(())
    }
}

struct Word {
    thread: &'static str,
    kind: &'static str,
    reason: &'static str,
    summary: Vec<String>,
}
