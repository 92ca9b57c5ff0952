//! Digests that are being gathered, and how many messages each recipient still takes (DESIGN §7).

use sqlx::{AssertSqlSafe, Row as _};

use super::outbox;
use super::sql::{self, Query};
use super::{Cases, CasesError, Escalation, OutboxRow};
use crate::escalation::{Bucket, Budget, Cause, Digest, Flushed, Message, NEVER, Notice, Told};

/// Rows of a statement.
const CHUNK: usize = 250;

/// A digest whose time has come.
#[derive(Debug, Clone, PartialEq)]
pub struct DueDigest {
    /// For whom.
    pub to: Told,
    /// By what.
    pub cause: Cause,
    /// What was gathered.
    pub digest: Digest,
}

impl Cases {
    /// When the next digest is due; [`NEVER`].
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn next_digest(&self) -> Result<i64, CasesError> {
        let next: Option<i64> = sqlx::query_scalar("SELECT MIN(due_ms) FROM digests")
            .fetch_one(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        Ok(next.unwrap_or(NEVER))
    }
}

impl Escalation {
    /// What recipients may still be sent, and what is being gathered for them.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn budget(&mut self) -> Result<Budget, CasesError> {
        self.read_budget().await.map_err(|e| self.failed(e))
    }

    async fn read_budget(&mut self) -> sqlx::Result<Budget> {
        let mut budget = Budget::default();
        let rows =
            sqlx::query("SELECT receiver, recipient, level, at_ms FROM buckets").fetch_all(self.tx()).await?;
        for r in &rows {
            let to = Told { receiver: r.try_get(0)?, recipient: r.try_get(1)? };
            budget.buckets.insert(to, Bucket { level: r.try_get(2)?, at_ms: r.try_get(3)? });
        }
        for (due, due_ms) in self.digests_where("due_ms < $1", NEVER).await? {
            budget.gathering.insert((due.to, due.cause), (due.digest, due_ms));
        }
        Ok(budget)
    }

    /// How many of a group wait.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn waiting(&mut self, group: &str) -> Result<i64, CasesError> {
        sqlx::query_scalar("SELECT COUNT(*) FROM exceptions WHERE group_id = $1 AND waiting = 1")
            .bind(group.to_owned())
            .fetch_one(self.tx())
            .await
            .map_err(|e| self.failed(e))
    }

    /// Digests that are due.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn digests_due(&mut self, now_ms: i64) -> Result<Vec<DueDigest>, CasesError> {
        let due = self.digests_where("due_ms <= $1", now_ms).await.map_err(|e| self.failed(e))?;
        Ok(due.into_iter().map(|(digest, _)| digest).collect())
    }

    async fn digests_where(&mut self, what: &'static str, ms: i64) -> sqlx::Result<Vec<(DueDigest, i64)>> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT receiver, recipient, cause, gathered, due_ms FROM digests WHERE {what} ORDER BY due_ms, receiver, recipient, cause"
        )))
        .bind(ms)
        .fetch_all(self.tx())
        .await?;
        let read = rows.iter().map(|r| {
            let key: &str = r.try_get(2)?;
            let cause = Cause::from_key(key)
                .ok_or_else(|| sqlx::Error::Decode(format!("a digest by {key:?}").into()))?;
            let digest: Digest =
                serde_json::from_str(r.try_get(3)?).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
            let to = Told { receiver: r.try_get(0)?, recipient: r.try_get(1)? };
            Ok((DueDigest { to, cause, digest }, r.try_get(4)?))
        });
        read.collect()
    }

    /// Writes what a flush gathered and took, and brings the budget up to it.
    pub(super) async fn write_gathered(
        &mut self,
        flushed: &Flushed,
        budget: &mut Budget,
    ) -> sqlx::Result<()> {
        for (to, bucket) in &flushed.buckets {
            if budget.buckets.get(to) == Some(bucket) {
                continue;
            }
            sqlx::query(
                "INSERT INTO buckets (receiver, recipient, level, at_ms) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (receiver, recipient) DO UPDATE SET level = excluded.level, at_ms = excluded.at_ms",
            )
            .bind(to.receiver.clone())
            .bind(to.recipient.clone())
            .bind(bucket.level)
            .bind(bucket.at_ms)
            .execute(self.tx())
            .await?;
        }
        budget.buckets.extend(flushed.buckets.iter().map(|(to, bucket)| (to.clone(), *bucket)));
        for g in &flushed.gathered {
            let text = serde_json::to_string(&g.digest).map_err(|e| sqlx::Error::Encode(Box::new(e)))?;
            sqlx::query(
                "INSERT INTO digests (receiver, recipient, cause, id, due_ms, gathered) VALUES ($1, $2, $3, $4, $5, $6) \
                 ON CONFLICT (receiver, recipient, cause) DO UPDATE SET id = excluded.id, due_ms = excluded.due_ms, \
                 gathered = excluded.gathered",
            )
            .bind(g.to.receiver.clone())
            .bind(g.to.recipient.clone())
            .bind(g.cause.key())
            .bind(g.digest.id.clone())
            .bind(g.due_ms)
            .bind(text)
            .execute(self.tx())
            .await?;
            self.write_notices(&g.digest.id, &g.notices).await?;
            budget.gathering.insert((g.to.clone(), g.cause.clone()), (g.digest.clone(), g.due_ms));
        }
        Ok(())
    }

    /// Puts a digest into the outbox; what is gathered from now on is another one.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn send_digest(
        &mut self,
        due: &DueDigest,
        message: &Message,
        dry_run: bool,
        now_ms: i64,
    ) -> Result<(), CasesError> {
        async {
            self.forget_digest(due).await?;
            self.put(std::slice::from_ref(message), dry_run, now_ms).await
        }
        .await
        .map_err(|e| self.failed(e))
    }

    /// Drops a digest whose receiver is gone.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn drop_digest(&mut self, due: &DueDigest) -> Result<(), CasesError> {
        self.forget_digest(due).await.map_err(|e| self.failed(e))
    }

    async fn forget_digest(&mut self, due: &DueDigest) -> sqlx::Result<()> {
        sqlx::query("DELETE FROM digests WHERE receiver = $1 AND recipient = $2 AND cause = $3")
            .bind(due.to.receiver.clone())
            .bind(due.to.recipient.clone())
            .bind(due.cause.key())
            .execute(self.tx())
            .await?;
        Ok(())
    }

    /// Puts messages into the outbox.
    pub(super) async fn put(&mut self, messages: &[Message], dry_run: bool, now_ms: i64) -> sqlx::Result<()> {
        let rows: Vec<OutboxRow> = messages
            .iter()
            .map(|m| OutboxRow {
                id: m.id.clone(),
                receiver: m.to.receiver.clone(),
                integration: m.integration.to_owned(),
                recipient: m.to.recipient.clone(),
                kind: m.reason.name().to_owned(),
                subject: m.subject.clone(),
                body: m.body.clone(),
                thread: m.thread.clone(),
                attempts: 0,
                created_ms: now_ms,
                due_ms: now_ms,
            })
            .collect();
        outbox::put(self.tx(), &rows, if dry_run { "dry_run" } else { "pending" }).await?;
        self.filled |= !rows.is_empty();
        Ok(())
    }

    /// Writes which news a message holds.
    pub(super) async fn write_notices(&mut self, id: &str, notices: &[Notice]) -> sqlx::Result<()> {
        for chunk in notices.chunks(CHUNK) {
            let sql = sql::values_sql(
                self.dialect(),
                "INSERT INTO notices (outbox_id, exception, change, stage, step, at, reminder) VALUES",
                7,
                chunk.len(),
                // A digest may tell several things of one exception: the latest counts.
                " ON CONFLICT (outbox_id, exception) DO UPDATE SET change = excluded.change, stage = excluded.stage, \
                 step = excluded.step, at = excluded.at, reminder = excluded.reminder",
            );
            let mut query: Query<'_> = sqlx::query(AssertSqlSafe(sql));
            for n in chunk {
                query = query
                    .bind(id.to_owned())
                    .bind(n.exception)
                    .bind(n.word.name())
                    .bind(i64::from(n.stage))
                    .bind(i64::from(n.step))
                    .bind(n.at.0)
                    .bind(i64::from(n.number));
            }
            query.execute(self.tx()).await?;
        }
        Ok(())
    }
}
