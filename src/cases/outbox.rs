//! The outbox: written in the transaction that decides, done after the other side said yes (DESIGN §7).

use std::collections::BTreeMap;

use sqlx::Row as _;

use super::fence;
use super::row::small;
use super::sql::{Conn, Row};
use super::store::next_number;
use super::{Cases, CasesError, OutboxRow, OutboxStats, Outcome};
use crate::metrics::OUTBOX_STATES;

const ROW: &str =
    "id, receiver, integration, recipient, kind, subject, body, thread, attempts, created_ms, due_ms";

impl Cases {
    /// Takes messages of a receiver that may be tried now and hides them for `lease_ms`. Of one thread to one recipient only
    /// the oldest unfinished message is ever handed out, so they arrive in order. What was never handed out and is no longer to be said
    /// is withdrawn in place of that.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn outbox_due(
        &self,
        receiver: &str,
        now_ms: i64,
        limit: u32,
        lease_ms: i64,
    ) -> Result<Vec<OutboxRow>, CasesError> {
        // Most questions find nothing: those take no lock.
        let due: Option<i64> = sqlx::query_scalar(
            "SELECT seq FROM outbox WHERE receiver = $1 AND state = 'pending' AND blocked = 0 AND due_ms <= $2 AND lease_ms <= $2 LIMIT 1",
        )
        .bind(receiver.to_owned())
        .bind(now_ms)
        .fetch_optional(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))?;
        if due.is_none() {
            return Ok(Vec::new());
        }
        let mut tx = self.begin_leading().await?;
        let mut decided = BTreeMap::new();
        let clear = fence::withdraw(&mut tx, receiver, (now_ms, limit), &mut decided)
            .await
            .map_err(|e| self.failed(e))?;
        if !clear {
            self.end(tx).await?;
            self.suppress(&decided);
            return Ok(Vec::new());
        }
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE outbox SET lease_ms = $1 WHERE id IN (SELECT id FROM outbox WHERE receiver = $2 AND state = 'pending' AND blocked = 0 \
             AND due_ms <= $3 AND lease_ms <= $3 ORDER BY due_ms, seq LIMIT $4) RETURNING {ROW}, seq"
        )))
        .bind(now_ms.saturating_add(lease_ms))
        .bind(receiver.to_owned())
        .bind(now_ms)
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await
        .map_err(|e| self.failed(e))?;
        self.end(tx).await?;
        self.suppress(&decided);
        let mut taken = rows
            .iter()
            .map(|r| Ok((r.try_get::<i64, _>(11)?, outbox_row(r)?)))
            .collect::<sqlx::Result<Vec<_>>>()
            .map_err(|e| self.failed(e))?;
        taken.sort_by_key(|(seq, _)| *seq);
        Ok(taken.into_iter().map(|(_, row)| row).collect())
    }

    /// When the next message of a receiver may be tried (a retry's time, a lease's end); `None`: nothing is pending.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn outbox_next(&self, receiver: &str) -> Result<Option<i64>, CasesError> {
        sqlx::query_scalar(
            "SELECT MIN(CASE WHEN lease_ms > due_ms THEN lease_ms ELSE due_ms END) FROM outbox \
             WHERE receiver = $1 AND state = 'pending' AND blocked = 0",
        )
        .bind(receiver.to_owned())
        .fetch_one(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))
    }

    /// How the try of a message ended. One that is finished lets the next of its thread go; a late answer to a message
    /// finished already changes nothing.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn outbox_done(&self, id: &str, now_ms: i64, outcome: Outcome) -> Result<(), CasesError> {
        self.outbox_all_done(vec![(id.to_owned(), outcome)], now_ms).await
    }

    /// The same for several, in one transaction.
    ///
    /// # Errors
    /// Every [`CasesError`]; nothing is written then.
    pub async fn outbox_all_done(
        &self,
        ended: Vec<(String, Outcome)>,
        now_ms: i64,
    ) -> Result<(), CasesError> {
        let mut tx = self.begin_leading().await?;
        for (id, outcome) in ended {
            one_done(&mut tx, id, now_ms, outcome).await.map_err(|e| self.failed(e))?;
        }
        self.end(tx).await?;
        self.outbox_filled().notify_waiters();
        Ok(())
    }

    /// A message by its id, whatever its state: for the acknowledge link.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn outbox_message(&self, id: &str) -> Result<Option<OutboxRow>, CasesError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {ROW} FROM outbox WHERE id = $1")))
            .bind(id.to_owned())
            .fetch_optional(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        row.map(|r| outbox_row(&r)).transpose().map_err(|e| self.failed(e))
    }

    /// Puts messages into the outbox that no escalation decided. One whose id is there is a no-op.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn outbox_put(&self, rows: &[OutboxRow]) -> Result<(), CasesError> {
        let mut tx = self.begin().await?;
        put(&mut tx, rows, "pending").await.map_err(|e| self.failed(e))?;
        self.end(tx).await?;
        self.outbox_filled().notify_waiters();
        Ok(())
    }

    /// The outbox in figures, for metrics: every state is there, at 0 too.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn outbox_stats(&self) -> Result<OutboxStats, CasesError> {
        let rows = sqlx::query("SELECT state, COUNT(*), MIN(created_ms) FROM outbox GROUP BY state")
            .fetch_all(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        let mut stats =
            OutboxStats { rows: OUTBOX_STATES.map(|s| (s.to_owned(), 0)).into(), oldest_pending_ms: None };
        for r in &rows {
            let (state, count, oldest) = figures(r).map_err(|e| self.failed(e))?;
            if state == "pending" {
                stats.oldest_pending_ms = oldest;
            }
            stats.rows.insert(state, count);
        }
        Ok(stats)
    }

    /// Messages by (receiver, state), for metrics: of a receiver that has any, every state is there, at 0 too.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn outbox_by_receiver(&self) -> Result<BTreeMap<(String, String), i64>, CasesError> {
        let rows = sqlx::query("SELECT receiver, state, COUNT(*) FROM outbox GROUP BY receiver, state")
            .fetch_all(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        let counted = rows
            .iter()
            .map(|r| Ok(((r.try_get(0)?, r.try_get(1)?), r.try_get(2)?)))
            .collect::<sqlx::Result<Vec<((String, String), i64)>>>()
            .map_err(|e| self.failed(e))?;
        let receivers = counted.iter().map(|((receiver, _), _)| receiver);
        let mut all: BTreeMap<_, _> =
            receivers.flat_map(|r| OUTBOX_STATES.map(|s| ((r.clone(), s.to_owned()), 0))).collect();
        all.extend(counted);
        Ok(all)
    }
}

fn figures(r: &Row) -> sqlx::Result<(String, i64, Option<i64>)> {
    Ok((r.try_get(0)?, r.try_get(1)?, r.try_get(2)?))
}

/// Writes messages in a state; behind an unfinished one of the same thread and recipient they wait. One that was withdrawn and is
/// decided again takes its old row: nobody has seen its id.
pub(super) async fn put(tx: &mut Conn, rows: &[OutboxRow], state: &'static str) -> sqlx::Result<()> {
    let mut seq = next_number(tx, "SELECT MAX(seq) FROM outbox").await?;
    for row in rows {
        sqlx::query(
            "INSERT INTO outbox (id, seq, receiver, integration, recipient, kind, subject, thread, state, attempts, created_ms, due_ms, \
             lease_ms, reason, detail, body, blocked) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, '', '', $13, \
             (SELECT COUNT(*) FROM (SELECT 1 FROM outbox WHERE receiver = $3 AND recipient = $5 AND thread = $8 AND state = 'pending' LIMIT 1) AS o) \
             WHERE NOT EXISTS (SELECT 1 FROM outbox WHERE id = $1 AND state <> 'withdrawn') \
             ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, integration = excluded.integration, kind = excluded.kind, subject = excluded.subject, thread = excluded.thread, \
             state = excluded.state, attempts = excluded.attempts, created_ms = excluded.created_ms, due_ms = excluded.due_ms, \
             lease_ms = 0, done_ms = NULL, reason = '', detail = '', body = excluded.body, blocked = excluded.blocked",
        )
        .bind(row.id.clone())
        .bind(seq)
        .bind(row.receiver.clone())
        .bind(row.integration.clone())
        .bind(row.recipient.clone())
        .bind(row.kind.clone())
        .bind(row.subject.clone())
        .bind(row.thread.clone())
        .bind(state)
        .bind(i64::from(row.attempts))
        .bind(row.created_ms)
        .bind(row.due_ms)
        .bind(row.body.clone())
        .execute(&mut *tx)
        .await?;
        seq += 1;
    }
    Ok(())
}

async fn one_done(tx: &mut Conn, id: String, now_ms: i64, outcome: Outcome) -> sqlx::Result<()> {
    let (state, due, done, reason, detail) = match outcome {
        Outcome::Delivered => ("delivered", None, Some(now_ms), String::new(), String::new()),
        Outcome::Retry { at_ms, reason, detail } => ("pending", Some(at_ms), None, reason, detail),
        Outcome::Dead { reason, detail } => ("dead", None, Some(now_ms), reason, detail),
    };
    let row = sqlx::query(
        "UPDATE outbox SET state = $2, due_ms = COALESCE($3, due_ms), done_ms = $4, reason = $5, detail = $6, \
         attempts = attempts + 1, lease_ms = 0 WHERE id = $1 AND state = 'pending' RETURNING receiver, recipient, thread",
    )
    .bind(id)
    .bind(state)
    .bind(due)
    .bind(done)
    .bind(reason)
    .bind(detail)
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(r) = row.filter(|_| state != "pending") {
        free_next(tx, r.try_get(0)?, r.try_get(1)?, r.try_get(2)?).await?;
    }
    Ok(())
}

/// Lets the oldest unfinished message of a thread to a recipient go.
pub(super) async fn free_next(
    tx: &mut Conn,
    receiver: String,
    recipient: String,
    thread: String,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE outbox SET blocked = 0 WHERE seq = (SELECT MIN(seq) FROM outbox WHERE receiver = $1 AND recipient = $2 \
         AND thread = $3 AND state = 'pending')",
    )
    .bind(receiver)
    .bind(recipient)
    .bind(thread)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Of a thread to a recipient the oldest unfinished message may go and the others wait, whatever it was before. One that is in
/// flight just now may cross with an older one that was put back.
pub(super) async fn order_thread(
    tx: &mut Conn,
    receiver: &str,
    recipient: &str,
    thread: &str,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE outbox SET blocked = CASE WHEN seq = (SELECT MIN(o.seq) FROM outbox AS o WHERE o.receiver = $1 AND o.recipient = $2 \
         AND o.thread = $3 AND o.state = 'pending') THEN 0 ELSE 1 END \
         WHERE receiver = $1 AND recipient = $2 AND thread = $3 AND state = 'pending'",
    )
    .bind(receiver.to_owned())
    .bind(recipient.to_owned())
    .bind(thread.to_owned())
    .execute(&mut *tx)
    .await?;
    Ok(())
}

pub(super) fn outbox_row(r: &Row) -> sqlx::Result<OutboxRow> {
    Ok(OutboxRow {
        id: r.try_get(0)?,
        receiver: r.try_get(1)?,
        integration: r.try_get(2)?,
        recipient: r.try_get(3)?,
        kind: r.try_get(4)?,
        subject: r.try_get(5)?,
        body: r.try_get(6)?,
        thread: r.try_get(7)?,
        attempts: small(r, 8)?,
        created_ms: r.try_get(9)?,
        due_ms: r.try_get(10)?,
    })
}
