//! What operators do with the outbox: look into it, have dead letters tried again, drop what is not to be sent.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row as _};

use super::audit::{self, Deed, Who};
use super::outbox::{order_thread, put};
use super::sql::{Conn, Row};
use super::{Cases, CasesError, OutboxRow, Page};
use crate::metrics::OUTBOX_STATES;
use crate::model::Time;

/// Rows of a page at most.
const MAX_PAGE: u32 = 1_000;
/// Messages put back in one transaction: the shards wait for the writer meanwhile.
const SLICE: usize = 500;
const SHOWN: &str = "seq, id, receiver, integration, recipient, kind, subject, state, attempts, created_ms, due_ms, done_ms, reason, \
                     detail, thread";

/// Receiver, recipient, thread: what is sent in order.
type Thread = (String, String, String);

/// Which dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replay {
    /// Of this receiver.
    pub receiver: String,
    /// Written at this time or later.
    pub from_ms: Option<i64>,
    /// Written before this time.
    pub to_ms: Option<i64>,
}

/// What an operator's wish about a message met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handled {
    /// It is done.
    Done,
    /// The message is in a state for which this makes no sense: its name.
    Unfit(String),
    /// There is none of this id, or it is no longer kept.
    NotFound,
}

impl Cases {
    /// Messages, newest first; a state that is none of [`OUTBOX_STATES`] is not asked about.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn outbox_list(
        &self,
        state: Option<&str>,
        receiver: Option<&str>,
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<Page, CasesError> {
        let limit = limit.clamp(1, MAX_PAGE);
        let mut sql = format!("SELECT {SHOWN} FROM outbox WHERE seq < $1");
        // Its name stands in the text, not in an argument, so that an index of dead letters alone is used.
        if let Some(state) = OUTBOX_STATES.into_iter().find(|known| Some(*known) == state) {
            sql.push_str(&format!(" AND state = '{state}'"));
        }
        sql.push_str(if receiver.is_some() { " AND receiver = $2" } else { " AND $2 = ''" });
        sql.push_str(" ORDER BY seq DESC LIMIT $3");
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(cursor.and_then(|c| c.parse::<i64>().ok()).unwrap_or(i64::MAX))
            .bind(receiver.unwrap_or_default().to_owned())
            .bind(i64::from(limit) + 1)
            .fetch_all(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        let more = rows.len() > limit as usize;
        let mut items = Vec::new();
        let mut last = 0_i64;
        for r in rows.iter().take(limit as usize) {
            last = r.try_get(0).map_err(|e| self.failed(e))?;
            items.push(shown(r).map_err(|e| self.failed(e))?);
        }
        Ok(Page { next_cursor: more.then(|| last.to_string()), items })
    }

    /// One message as [`Cases::outbox_list`] shows it.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn outbox_shown(&self, id: &str) -> Result<Option<Value>, CasesError> {
        let row = sqlx::query(AssertSqlSafe(format!("SELECT {SHOWN} FROM outbox WHERE id = $1")))
            .bind(id.to_owned())
            .fetch_optional(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        row.map(|r| shown(&r)).transpose().map_err(|e| self.failed(e))
    }

    /// Puts tests of a receiver into the outbox, and who asked for them into the trail.
    ///
    /// # Errors
    /// Every [`CasesError`]; neither is written then.
    pub async fn outbox_test(&self, rows: &[OutboxRow], deed: &Deed<'_>) -> Result<(), CasesError> {
        let mut tx = self.begin().await?;
        async {
            audit::append(&mut tx, deed).await?;
            put(&mut tx, rows, "pending").await
        }
        .await
        .map_err(|e: sqlx::Error| self.failed(e))?;
        self.end(tx).await?;
        self.outbox_filled().notify_waiters();
        Ok(())
    }

    /// Has a dead letter tried again at once, under the same id and with the same body. Its tries and its age count anew. It may have
    /// arrived before, so the fence leaves it alone: it is sent even where all of it was acknowledged or has ended since.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn outbox_retry(&self, id: &str, who: &Who<'_>, now_ms: i64) -> Result<Handled, CasesError> {
        let mut tx = self.begin().await?;
        let handled = async {
            let Some(thread) = revive(&mut tx, id, now_ms).await? else { return unfit(&mut tx, id).await };
            order_thread(&mut tx, &thread.0, &thread.1, &thread.2).await?;
            let detail = json!({ "receiver": thread.0 });
            write_deed(&mut tx, who, "retry", &format!("message {id}"), &detail, now_ms).await?;
            Ok(Handled::Done)
        }
        .await
        .map_err(|e: sqlx::Error| self.failed(e))?;
        self.end(tx).await?;
        self.outbox_filled().notify_waiters();
        Ok(handled)
    }

    /// The same for all dead letters of a receiver that were written in a span of time. Returns how many.
    ///
    /// # Errors
    /// Every [`CasesError`]; what was put back before it stays so, and asking again does the rest.
    pub async fn outbox_retry_all(
        &self,
        which: &Replay,
        who: &Who<'_>,
        now_ms: i64,
    ) -> Result<u64, CasesError> {
        let ids: Vec<String> = sqlx::query_scalar(
            "SELECT id FROM outbox WHERE state = 'dead' AND receiver = $1 AND created_ms >= $2 AND created_ms < $3 ORDER BY seq",
        )
        .bind(which.receiver.clone())
        .bind(which.from_ms.unwrap_or(i64::MIN))
        .bind(which.to_ms.unwrap_or(i64::MAX))
        .fetch_all(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))?;
        let time = |ms: Option<i64>| ms.map(|ms| Time(ms).to_string());
        let detail = json!({"from": time(which.from_ms), "to": time(which.to_ms), "messages": ids.len()});
        let mut done = 0;
        for (slice, some) in ids.chunks(SLICE).enumerate() {
            let mut tx = self.begin().await?;
            done += async {
                let (mut threads, mut revived) = (BTreeSet::<Thread>::new(), 0);
                for id in some {
                    if let Some(thread) = revive(&mut tx, id, now_ms).await? {
                        threads.insert(thread);
                        revived += 1;
                    }
                }
                for (receiver, recipient, thread) in &threads {
                    order_thread(&mut tx, receiver, recipient, thread).await?;
                }
                if slice == 0 {
                    let object = format!("dead letters of {}", which.receiver);
                    write_deed(&mut tx, who, "retry", &object, &detail, now_ms).await?;
                }
                Ok(revived)
            }
            .await
            .map_err(|e: sqlx::Error| self.failed(e))?;
            self.end(tx).await?;
            self.outbox_filled().notify_waiters();
        }
        Ok(done)
    }

    /// Drops a message that is pending or dead: it is never sent, and the next of its thread goes. A try that is under way just now
    /// may still arrive. To the fence one that was never handed out was never said, so that its end is not told either.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn outbox_drop(&self, id: &str, who: &Who<'_>, now_ms: i64) -> Result<Handled, CasesError> {
        let mut tx = self.begin().await?;
        let handled = async {
            let row = sqlx::query(
                "UPDATE outbox SET state = 'dropped', done_ms = $2 WHERE id = $1 AND state IN ('pending', 'dead') \
                 RETURNING receiver, recipient, thread",
            )
            .bind(id.to_owned())
            .bind(now_ms)
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return unfit(&mut tx, id).await };
            let (receiver, recipient, thread) = thread_of(&row)?;
            order_thread(&mut tx, &receiver, &recipient, &thread).await?;
            let detail = json!({"receiver": receiver, "recipient": recipient});
            write_deed(&mut tx, who, "drop", &format!("message {id}"), &detail, now_ms).await?;
            Ok(Handled::Done)
        }
        .await
        .map_err(|e: sqlx::Error| self.failed(e))?;
        self.end(tx).await?;
        self.outbox_filled().notify_waiters();
        Ok(handled)
    }
}

/// Makes a dead letter pending; `None`: it is none.
async fn revive(tx: &mut Conn, id: &str, now_ms: i64) -> sqlx::Result<Option<Thread>> {
    let row = sqlx::query(
        "UPDATE outbox SET state = 'pending', attempts = 0, created_ms = $2, due_ms = $2, lease_ms = 1, done_ms = NULL, reason = '', \
         detail = '' WHERE id = $1 AND state = 'dead' RETURNING receiver, recipient, thread",
    )
    .bind(id.to_owned())
    .bind(now_ms)
    .fetch_optional(&mut *tx)
    .await?;
    row.map(|r| thread_of(&r)).transpose()
}

fn thread_of(r: &Row) -> sqlx::Result<Thread> {
    Ok((r.try_get(0)?, r.try_get(1)?, r.try_get(2)?))
}

async fn unfit(tx: &mut Conn, id: &str) -> sqlx::Result<Handled> {
    let state: Option<String> = sqlx::query_scalar("SELECT state FROM outbox WHERE id = $1")
        .bind(id.to_owned())
        .fetch_optional(&mut *tx)
        .await?;
    Ok(state.map_or(Handled::NotFound, Handled::Unfit))
}

async fn write_deed(
    tx: &mut Conn,
    who: &Who<'_>,
    action: &str,
    object: &str,
    detail: &Value,
    at_ms: i64,
) -> sqlx::Result<()> {
    audit::append(tx, &Deed { who: *who, action, object, detail, at_ms }).await
}

fn shown(r: &Row) -> sqlx::Result<Value> {
    let state: &str = r.try_get(7)?;
    let done: Option<i64> = r.try_get(11)?;
    let text = |column: usize| {
        Ok::<_, sqlx::Error>(Some(r.try_get::<String, _>(column)?).filter(|text| !text.is_empty()))
    };
    Ok(json!({
        "id": r.try_get::<&str, _>(1)?,
        "receiver": r.try_get::<&str, _>(2)?,
        "integration": r.try_get::<&str, _>(3)?,
        "recipient": r.try_get::<&str, _>(4)?,
        "kind": r.try_get::<&str, _>(5)?,
        "subject": r.try_get::<&str, _>(6)?,
        "state": state,
        "attempts": r.try_get::<i64, _>(8)?,
        "created_at": Time(r.try_get(9)?).to_string(),
        "due_at": if state == "pending" { Some(Time(r.try_get(10)?).to_string()) } else { None },
        "done_at": done.map(|ms| Time(ms).to_string()),
        "reason": text(12)?,
        "detail": text(13)?,
        "group_id": r.try_get::<&str, _>(14)?,
    }))
}
