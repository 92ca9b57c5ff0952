//! Several processes over one database (DESIGN §2, invariant 5): which of them leads the escalation, which one writes of a partition. Both
//! are leases with a fence, a number that counts up with every taking. It is looked at in the very transaction that writes, so that
//! who was deposed while it slept commits nothing. With SQLite there is one process, and nothing here is asked.

use std::collections::BTreeMap;

use sqlx::Row as _;

use super::sql::{Conn, Tx};
use super::store::lock;
use super::{Cases, CasesError};

const ESCALATION: &str = "escalation";

/// What this process holds.
#[derive(Debug, Default)]
pub(super) struct Fences {
    /// Its fence as the leader.
    lead: Option<i64>,
    /// Its fence of each partition.
    partitions: BTreeMap<i32, i64>,
}

/// The lease of the escalation as others see it. A holder that lives changes it within a second or two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    /// Who holds it; "": nobody.
    pub holder: String,
    /// How often it was taken.
    pub fence: i64,
    /// How often its holder has said that it lives.
    pub beat: i64,
}

impl Cases {
    /// Whether this process leads the escalation, as far as it knows: the transaction that writes knows better.
    #[must_use]
    pub fn leads(&self) -> bool {
        !self.is_shared() || lock(&self.inner.fences).lead.is_some()
    }

    /// Who leads.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn lead(&self) -> Result<Option<Lead>, CasesError> {
        let row = sqlx::query("SELECT holder, fence, beat FROM leases WHERE name = $1")
            .bind(ESCALATION)
            .fetch_optional(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        row.map(|r| Ok(Lead { holder: r.try_get(0)?, fence: r.try_get(1)?, beat: r.try_get(2)? }))
            .transpose()
            .map_err(|e| self.failed(e))
    }

    /// Takes the lead from whoever was seen to have it, unless somebody was quicker or it lives after all. Returns whether it did.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn take_lead(&self, me: &str, seen: Option<&Lead>) -> Result<bool, CasesError> {
        let fence = seen.map_or(0, |s| s.fence) + 1;
        // Waits for the transaction that the one before may still have under way: what comes after this one meets the new fence.
        let mut tx = self.begin().await?;
        let taken = async {
            let taken = if let Some(seen) = seen {
                sqlx::query(
                    "UPDATE leases SET holder = $1, fence = $2, beat = 0 WHERE name = $3 AND fence = $4 AND beat = $5",
                )
                .bind(me.to_owned())
                .bind(fence)
                .bind(ESCALATION)
                .bind(seen.fence)
                .bind(seen.beat)
                .execute(&mut *tx)
                .await?
            } else {
                sqlx::query(
                    "INSERT INTO leases (name, holder, fence, beat, caught_up_ms) VALUES ($1, $2, $3, 0, 0) ON CONFLICT (name) DO NOTHING",
                )
                .bind(ESCALATION)
                .bind(me.to_owned())
                .bind(fence)
                .execute(&mut *tx)
                .await?
            };
            if taken.rows_affected() == 0 {
                return Ok(false);
            }
            free_outbox(&mut tx).await?;
            Ok(true)
        }
        .await
        .map_err(|e: sqlx::Error| self.failed(e))?;
        self.end(tx).await?;
        if taken {
            lock(&self.inner.fences).lead = Some(fence);
            self.changed().notify_one();
            self.outbox_filled().notify_waiters();
        }
        Ok(taken)
    }

    /// Says that the leader lives. False: it leads no more. Waits for no other transaction.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn beat(&self) -> Result<bool, CasesError> {
        let Some(fence) = lock(&self.inner.fences).lead else { return Ok(false) };
        let beaten = sqlx::query("UPDATE leases SET beat = beat + 1 WHERE name = $1 AND fence = $2")
            .bind(ESCALATION)
            .bind(fence)
            .execute(&self.inner.beats)
            .await
            .map_err(|e| self.failed(e))?;
        if beaten.rows_affected() == 0 {
            self.deposed();
            return Ok(false);
        }
        Ok(true)
    }

    /// Leads no more, as far as this process is concerned.
    pub fn deposed(&self) {
        lock(&self.inner.fences).lead = None;
        // Gauges of what the leader counts fall to 0: the next one counts.
        lock(&self.inner.open).values_mut().for_each(|n| *n = 0);
        lock(&self.inner.incidents).values_mut().for_each(|n| *n = 0);
    }

    /// Leaves the lead to whoever wants it, at the end of a process.
    ///
    /// # Errors
    /// Every [`CasesError`]; then others wait until they miss its beats.
    pub async fn leave_lead(&self) -> Result<(), CasesError> {
        let Some(fence) = lock(&self.inner.fences).lead else { return Ok(()) };
        self.deposed();
        sqlx::query("UPDATE leases SET holder = '' WHERE name = $1 AND fence = $2")
            .bind(ESCALATION)
            .bind(fence)
            .execute(&self.inner.beats)
            .await
            .map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// Takes a partition that was assigned to this process: whoever had it before commits nothing of it any more.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn claim(&self, partition: i32, me: &str) -> Result<(), CasesError> {
        if !self.is_shared() {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        let fence: i64 = sqlx::query_scalar(
            "INSERT INTO leases (name, holder, fence, beat, caught_up_ms) VALUES ($1, $2, 1, 0, 0) ON CONFLICT (name) DO UPDATE SET \
             holder = excluded.holder, fence = leases.fence + 1, caught_up_ms = 0 RETURNING fence",
        )
        .bind(name_of(partition))
        .bind(me.to_owned())
        .fetch_one(&mut *tx)
        .await
        .map_err(|e| self.failed(e))?;
        self.end(tx).await?;
        lock(&self.inner.fences).partitions.insert(partition, fence);
        Ok(())
    }

    /// Tells the other processes which partitions of this one have caught up, and when.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn tell_caught_up(&self, partitions: &BTreeMap<i32, i64>) -> Result<(), CasesError> {
        for (partition, since) in partitions {
            let Some(fence) = lock(&self.inner.fences).partitions.get(partition).copied() else { continue };
            sqlx::query("UPDATE leases SET caught_up_ms = $1 WHERE name = $2 AND fence = $3")
                .bind(*since)
                .bind(name_of(*partition))
                .bind(fence)
                .execute(&self.inner.beats)
                .await
                .map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    /// Since when each partition, of whatever process, has caught up; `None`: it has a backlog.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn caught_up(&self) -> Result<BTreeMap<i32, Option<i64>>, CasesError> {
        let rows = sqlx::query("SELECT name, caught_up_ms FROM leases WHERE name <> $1")
            .bind(ESCALATION)
            .fetch_all(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        let mut all = BTreeMap::new();
        for r in &rows {
            let name: &str = r.try_get(0).map_err(|e| self.failed(e))?;
            let since: i64 = r.try_get(1).map_err(|e| self.failed(e))?;
            if let Some(partition) = name.strip_prefix("partition ").and_then(|n| n.parse().ok()) {
                all.insert(partition, Some(since).filter(|s| *s != 0));
            }
        }
        Ok(all)
    }

    /// As [`Cases::begin`], for what only the leader may write.
    pub(super) async fn begin_leading(&self) -> Result<Tx, CasesError> {
        if !self.is_shared() {
            return self.begin().await;
        }
        let Some(fence) = lock(&self.inner.fences).lead else {
            return Err(self.deposed_by("this process does not lead the escalation"));
        };
        let mut tx = self.begin().await?;
        if held(&mut tx, ESCALATION).await.map_err(|e| self.failed(e))? != Some(fence) {
            self.deposed();
            return Err(self.deposed_by("another process leads the escalation now"));
        }
        Ok(tx)
    }

    /// As [`Cases::begin`], for what only the owner of a partition may write.
    pub(super) async fn begin_owning(&self, partition: i32) -> Result<Tx, CasesError> {
        let mut tx = self.begin().await?;
        if !self.is_shared() {
            return Ok(tx);
        }
        let fence = lock(&self.inner.fences).partitions.get(&partition).copied();
        if fence.is_none() || held(&mut tx, &name_of(partition)).await.map_err(|e| self.failed(e))? != fence {
            return Err(self.deposed_by(&format!("another process has taken over partition {partition}")));
        }
        Ok(tx)
    }

    fn deposed_by(&self, detail: &str) -> CasesError {
        CasesError::Deposed { path: self.place().shown(), detail: detail.to_owned() }
    }
}

/// What the process before had handed out may have arrived, and is sent again under the same ids. Not 0: that would say that it never was,
/// and could be withdrawn.
pub(super) async fn free_outbox(tx: &mut Conn) -> sqlx::Result<()> {
    sqlx::query("UPDATE outbox SET lease_ms = 1 WHERE state = 'pending' AND lease_ms > 1")
        .execute(tx)
        .await?;
    Ok(())
}

fn name_of(partition: i32) -> String {
    format!("partition {partition}")
}

async fn held(tx: &mut Conn, name: &str) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar("SELECT fence FROM leases WHERE name = $1")
        .bind(name.to_owned())
        .fetch_optional(tx)
        .await
}
