//! What the auditor asks: which exceptions wait in vain (DESIGN §7).

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Row as _};

use super::row::{self, COLUMNS};
use super::{Cases, CasesError, OutboxRow, outbox};
use crate::escalation::{Group, audit};
use crate::rules::Policies;

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audit {
    /// Exceptions whose next step is overdue, by the timers that stand and among those looked at one by one.
    pub overdue: i64,
    /// Some of them: exception id and since when.
    pub some: Vec<(String, i64)>,
    /// Where the next round goes on; 0: from the beginning.
    pub next: i64,
}

impl Cases {
    /// Looks at all timers of these partitions, and at `limit` exceptions after number `from` without regard to their timers. Those
    /// whose timer was lost are given one: the escalator looks at them at once.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn audit_steps(
        &self,
        policies: &Policies,
        partitions: &BTreeSet<i32>,
        from: i64,
        limit: u32,
        now_ms: i64,
    ) -> Result<Audit, CasesError> {
        let mut audit = self.late_timers(partitions, now_ms).await.map_err(|e| self.failed(e))?;
        let lost = self
            .lost(policies, partitions, from, limit, now_ms, &mut audit)
            .await
            .map_err(|e| self.failed(e))?;
        if !lost.is_empty() {
            let mut tx = self.begin_leading().await?;
            for number in &lost {
                sqlx::query("UPDATE exceptions SET next_ms = $2 WHERE exception = $1 AND next_ms > $2")
                    .bind(*number)
                    .bind(now_ms)
                    .execute(&mut *tx)
                    .await
                    .map_err(|e| self.failed(e))?;
            }
            self.end(tx).await?;
            self.changed().notify_one();
        }
        Ok(audit)
    }

    /// By the index of timers: cheap, whatever the number of exceptions.
    async fn late_timers(&self, partitions: &BTreeSet<i32>, now_ms: i64) -> sqlx::Result<Audit> {
        let mut audit = Audit::default();
        let late = now_ms.saturating_sub(audit::LATE);
        for partition in partitions {
            let n: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM exceptions WHERE partition_id = $1 AND next_ms < $2",
            )
            .bind(i64::from(*partition))
            .bind(late)
            .fetch_one(&self.inner.reader)
            .await?;
            audit.overdue += n;
            if n > 0 && audit.some.len() < 20 {
                let rows = sqlx::query(
                    "SELECT exception_id, next_ms FROM exceptions WHERE partition_id = $1 AND next_ms < $2 ORDER BY next_ms LIMIT 20",
                )
                .bind(i64::from(*partition))
                .bind(late)
                .fetch_all(&self.inner.reader)
                .await?;
                for r in &rows {
                    audit.some.push((r.try_get(0)?, r.try_get(1)?));
                }
            }
        }
        Ok(audit)
    }

    /// Among a slice of all that stands or is owed an end: those that wait in vain without a timer that says so. Returns the numbers of
    /// those that need one.
    async fn lost(
        &self,
        policies: &Policies,
        partitions: &BTreeSet<i32>,
        from: i64,
        limit: u32,
        now_ms: i64,
        audit: &mut Audit,
    ) -> sqlx::Result<Vec<i64>> {
        let columns: Vec<String> = COLUMNS.split(", ").map(|c| format!("e.{}", c.trim())).collect();
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {}, g.policy, g.flush_ms, g.last_ms, g.told FROM exceptions AS e JOIN groups AS g ON g.group_id = e.group_id \
             WHERE e.exception > $1 AND e.state <> 'resolved' ORDER BY e.exception LIMIT $2",
            columns.join(", ")
        )))
        .bind(from)
        .bind(i64::from(limit))
        .fetch_all(&self.inner.reader)
        .await?;
        let bodies = self.bodies_of(&rows).await?;
        let late = now_ms.saturating_sub(audit::LATE);
        let mut lost = Vec::new();
        for r in &rows {
            let case = row::case_of(r, &bodies)?;
            audit.next = case.number;
            let group = Group {
                id: case.group_id.clone(),
                policy: r.try_get(row::WIDTH)?,
                values: serde_json::Map::new(),
                flush_ms: r.try_get(row::WIDTH + 1)?,
                last_ms: r.try_get(row::WIDTH + 2)?,
                told: r.try_get(row::WIDTH + 3)?,
            };
            // Counted by its timer.
            if !partitions.contains(&case.partition) || case.ladder.next_ms < late {
                continue;
            }
            let Some(since) = audit::overdue(policies, &case, &group, now_ms) else { continue };
            audit.overdue += 1;
            audit.some.push((case.exception_id.clone(), since));
            lost.push(case.number);
        }
        if rows.len() < limit as usize {
            audit.next = 0;
        }
        audit.some.sort_by_key(|(_, since)| *since);
        audit.some.truncate(20);
        Ok(lost)
    }

    /// Puts a message of our own into the outbox, unless one of its id is there, or one of its thread is not finished. Returns whether
    /// it did.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn say(&self, row: &OutboxRow, dry_run: bool) -> Result<bool, CasesError> {
        let mut tx = self.begin_leading().await?;
        let said = async {
            let known: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM outbox WHERE id = $1 OR (receiver = $2 AND recipient = $3 AND thread = $4 AND state = 'pending')",
            )
            .bind(row.id.clone())
            .bind(row.receiver.clone())
            .bind(row.recipient.clone())
            .bind(row.thread.clone())
            .fetch_one(&mut *tx)
            .await?;
            if known > 0 {
                return Ok(false);
            }
            let state = if dry_run { "dry_run" } else { "pending" };
            outbox::put(&mut tx, std::slice::from_ref(row), state).await?;
            Ok(true)
        }
        .await
        .map_err(|e| self.failed(e))?;
        self.end(tx).await?;
        self.outbox_filled().notify_waiters();
        Ok(said)
    }
}
