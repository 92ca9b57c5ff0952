//! What operators do: acknowledge, resolve.

use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::commit::hex;
use super::row::{self, COLUMNS, OVERWRITE, WIDTH};
use super::store::{Tx, lock, next_number};
use super::{Acted, Cases, CasesError};
use crate::escalation::{Ack, Case, State};
use crate::model::{Resolution, Time};

impl Cases {
    /// An operator took it on: the ladder stops until the acknowledgement runs out or it gets worse.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn acknowledge(
        &self,
        id: &str,
        by: &str,
        comment: &str,
        now_ms: i64,
    ) -> Result<Acted, CasesError> {
        let (mut tx, found) = self.find(id).await?;
        let Some(mut case) = found else { return Ok(Acted::NotFound) };
        let acted = acknowledged(&mut case, by, comment, now_ms);
        if acted != Acted::Done {
            return Ok(acted);
        }
        let deed = Deed { action: "acknowledge", by, comment, now_ms };
        write(&mut tx, &case, &deed).await.map_err(|e| self.failed(e))?;
        self.end(tx).await?;
        self.changed().notify_one();
        Ok(Acted::Done)
    }

    /// An operator ended it: a change `resolved` `by_operator`, which stands until the engine tells a raise or a new opening of
    /// it (SEMANTICS 8.2).
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn resolve(&self, id: &str, by: &str, comment: &str, now_ms: i64) -> Result<Acted, CasesError> {
        let (mut tx, found) = self.find(id).await?;
        let Some(mut case) = found else { return Ok(Acted::NotFound) };
        let acted = resolved(&mut case, now_ms);
        if acted != Acted::Done {
            return Ok(acted);
        }
        let deed = Deed { action: "resolve", by, comment, now_ms };
        async {
            write(&mut tx, &case, &deed).await?;
            write_change(&mut tx, &case, now_ms).await
        }
        .await
        .map_err(|e| self.failed(e))?;
        self.end(tx).await?;
        self.count([((case.rule.clone(), case.severity), -1)].into());
        self.changed().notify_one();
        Ok(Acted::Done)
    }

    async fn find(&self, id: &str) -> Result<(Tx, Option<Case>), CasesError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM exceptions WHERE exception_id = $1"
        )))
        .bind(id.to_owned())
        .fetch_optional(&mut *tx)
        .await
        .map_err(|e| self.failed(e))?;
        let bodies = lock(&self.inner.bodies).clone();
        let case = row.map(|r| row::case_of(&r, &bodies)).transpose().map_err(|e| self.failed(e))?;
        Ok((tx, case))
    }
}

/// What an acknowledgement does to a row.
pub(super) fn acknowledged(case: &mut Case, by: &str, comment: &str, now_ms: i64) -> Acted {
    match case.state {
        State::Resolved => return Acted::Resolved,
        State::Acknowledged => return Acted::Already,
        State::Open => {}
    }
    case.state = State::Acknowledged;
    case.ack = Some(Ack { by: by.to_owned(), comment: comment.to_owned(), at_ms: now_ms });
    wake(case, now_ms);
    Acted::Done
}

/// What a resolve by hand does to a row.
pub(super) fn resolved(case: &mut Case, now_ms: i64) -> Acted {
    if case.state == State::Resolved {
        return Acted::Already;
    }
    case.state = State::Resolved;
    case.resolved = Some((Time(now_ms), Resolution::ByOperator));
    wake(case, now_ms);
    Acted::Done
}

/// The escalator looks at it at once: a timer it may have had no longer counts.
fn wake(case: &mut Case, now_ms: i64) {
    if !case.group_id.is_empty() {
        case.ladder.next_ms = now_ms;
    }
}

struct Deed<'a> {
    action: &'static str,
    by: &'a str,
    comment: &'a str,
    now_ms: i64,
}

async fn write(tx: &mut SqliteConnection, case: &Case, deed: &Deed<'_>) -> sqlx::Result<()> {
    let head = format!("INSERT INTO exceptions ({COLUMNS}) VALUES");
    let sql = row::values_sql(&head, WIDTH, 1, OVERWRITE);
    row::bind(sqlx::query(sqlx::AssertSqlSafe(sql)), case, deed.now_ms).execute(&mut *tx).await?;
    act(tx, case.number, deed.action, deed.by, deed.comment, deed.now_ms).await
}

/// Writes who did what.
pub(super) async fn act(
    tx: &mut SqliteConnection,
    exception: i64,
    action: &'static str,
    by: &str,
    comment: &str,
    now_ms: i64,
) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO actions (exception, action, actor, remark, at_ms) VALUES ($1, $2, $3, $4, $5)")
        .bind(exception)
        .bind(action)
        .bind(by.to_owned())
        .bind(comment.to_owned())
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

async fn write_change(tx: &mut SqliteConnection, case: &Case, now_ms: i64) -> sqlx::Result<()> {
    let seq = next_number(tx, "SELECT MAX(seq) FROM changes").await?;
    // No shard names a change so: an operator's is named by its number.
    let name = format!("operator-{}", hex(&seq.to_be_bytes()));
    let rules: Option<String> = sqlx::query("SELECT rules_hash FROM changes WHERE seq = $1")
        .bind(case.news.seq)
        .fetch_optional(&mut *tx)
        .await?
        .map(|r| r.try_get(0))
        .transpose()?;
    sqlx::query(
        "INSERT INTO changes (seq, exception, name, change, stage, severity, at, anchor, due, resolution, partition_id, log_offset, \
         rules_hash, body, incomplete, committed_ms, evidence) \
         VALUES ($1, $2, $3, 'resolved', $4, $5, $6, $7, $8, $9, $10, -1, $11, $12, $13, $6, '')",
    )
    .bind(seq)
    .bind(case.number)
    .bind(name)
    .bind(i64::from(case.stage))
    .bind(case.severity as i64)
    .bind(now_ms)
    .bind(case.anchor.0)
    .bind(case.due.0)
    .bind(Resolution::ByOperator.name())
    .bind(i64::from(case.partition))
    .bind(rules.unwrap_or_default())
    .bind(case.body.number)
    .bind(i64::from(case.incomplete))
    .execute(&mut *tx)
    .await?;
    Ok(())
}
