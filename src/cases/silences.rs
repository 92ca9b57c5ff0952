//! Silences: what operators keep quiet for a time (DESIGN §7). Each has an end; at it, what is still open is told.

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row as _};

use super::audit::{self, Deed, Who};
use super::row::{self, COLUMNS};
use super::sql::{Row, list_sql};
use super::store::next_number;
use super::{Cases, CasesError};
use crate::escalation::quiet::said;
use crate::escalation::{Case, Evidence, Silence};
use crate::model::Time;
use crate::rules::condition::Condition;

/// Exceptions counted at a time.
const SLICE: u32 = 2_000;
/// A statement's list is no longer.
const CHUNK: usize = 250;
const SHOWN: &str = "silence, matchers, starts_ms, ends_ms, created_by, remark, created_ms, ended_by";

/// A silence that is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSilence {
    /// As written: [`Condition::from_json`] reads it.
    pub matchers: Value,
    /// The same, read.
    pub on: Condition,
    /// Wall time.
    pub starts_ms: i64,
    /// Wall time, after that.
    pub ends_ms: i64,
    /// Who makes it.
    pub by: String,
    /// Why.
    pub comment: String,
    /// By what right; "" where nothing was asked for.
    pub via: String,
}

/// What a silence would keep quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// Standing exceptions that it fits.
    pub matching: u64,
    /// All that stand.
    pub standing: u64,
}

impl Cases {
    /// Counts what stands and fits. Reads in slices: nobody waits for it.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn reach(&self, on: &Condition) -> Result<Reach, CasesError> {
        self.count_reach(on).await.map_err(|e| self.failed(e))
    }

    async fn count_reach(&self, on: &Condition) -> sqlx::Result<Reach> {
        let (mut reach, mut after) = (Reach::default(), 0);
        let facts = on.needs_facts();
        loop {
            let rows = sqlx::query(AssertSqlSafe(format!(
                "SELECT {COLUMNS} FROM exceptions WHERE state <> 'resolved' AND exception > $1 ORDER BY exception LIMIT $2"
            )))
            .bind(after)
            .bind(i64::from(SLICE))
            .fetch_all(&self.inner.reader)
            .await?;
            let bodies = self.bodies_of(&rows).await?;
            let cases: Vec<Case> =
                rows.iter().map(|r| row::case_of(r, &bodies)).collect::<sqlx::Result<_>>()?;
            let Some(last) = cases.last() else { return Ok(reach) };
            after = last.number;
            reach.standing += cases.len() as u64;
            for chunk in cases.chunks(CHUNK) {
                let evidence = if facts { self.evidence_of(chunk).await? } else { Vec::new() };
                let none = Evidence::default();
                for (at, case) in chunk.iter().enumerate() {
                    let evidence = evidence.get(at).unwrap_or(&none);
                    reach.matching += u64::from(on.holds(&said(case, evidence)));
                }
            }
        }
    }

    /// What the latest changes of these exceptions knew, in their order.
    async fn evidence_of(&self, cases: &[Case]) -> sqlx::Result<Vec<Evidence>> {
        let sql =
            list_sql(self.dialect(), "SELECT exception, evidence FROM changes WHERE seq IN", cases.len(), "");
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for case in cases {
            query = query.bind(case.evidence_seq);
        }
        let mut by_number = std::collections::BTreeMap::new();
        for r in query.fetch_all(&self.inner.reader).await? {
            by_number.insert(r.try_get::<i64, _>(0)?, Evidence::parse(r.try_get(1)?));
        }
        Ok(cases.iter().map(|c| by_number.remove(&c.number).unwrap_or_default()).collect())
    }

    /// Makes a silence. Returns it as [`Cases::silences`] shows it.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn silence(&self, new: &NewSilence, now_ms: i64) -> Result<Value, CasesError> {
        let mut tx = self.begin().await?;
        let made = async {
            let number = next_number(&mut tx, "SELECT MAX(silence) FROM silences").await?;
            sqlx::query(AssertSqlSafe(format!(
                "INSERT INTO silences ({SHOWN}) VALUES ($1, $2, $3, $4, $5, $6, $7, '')"
            )))
            .bind(number)
            .bind(new.matchers.to_string())
            .bind(new.starts_ms)
            .bind(new.ends_ms)
            .bind(new.by.clone())
            .bind(new.comment.clone())
            .bind(now_ms)
            .execute(&mut *tx)
            .await?;
            let row = sqlx::query(AssertSqlSafe(format!("SELECT {SHOWN} FROM silences WHERE silence = $1")))
                .bind(number)
                .fetch_one(&mut *tx)
                .await?;
            let made = shown(&row, now_ms)?;
            let who = Who { by: &new.by, comment: &new.comment, via: &new.via };
            let (object, detail) = (format!("silence {number}"), &made["matchers"]);
            let deed = Deed { who, action: "silence", object: &object, detail, at_ms: now_ms };
            audit::append(&mut tx, &deed).await?;
            Ok(made)
        }
        .await
        .map_err(|e| self.failed(e))?;
        self.end(tx).await?;
        Ok(made)
    }

    /// Ends a silence now: what it kept quiet and is still open is told. `None`: there is no such silence; one that has ended
    /// stays as it is.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn end_silence(
        &self,
        number: i64,
        who: &Who<'_>,
        now_ms: i64,
    ) -> Result<Option<Value>, CasesError> {
        let mut tx = self.begin().await?;
        let ended = async {
            let changed = sqlx::query(
                "UPDATE silences SET ends_ms = $2, ended_by = $3, starts_ms = CASE WHEN starts_ms > $2 THEN $2 ELSE starts_ms END WHERE silence = $1 AND ends_ms > $2",
            )
            .bind(number)
            .bind(now_ms)
            .bind(who.by.to_owned())
            .execute(&mut *tx)
            .await?
            .rows_affected();
            if changed > 0 {
                sqlx::query(
                    "UPDATE exceptions SET next_ms = $2 WHERE held = 'silenced' AND held_by = $1 AND next_ms > $2 AND waiting = 0",
                )
                .bind(number)
                .bind(now_ms)
                .execute(&mut *tx)
                .await?;
                let object = format!("silence {number}");
                let deed =
                    Deed { who: *who, action: "end_silence", object: &object, detail: &Value::Null, at_ms: now_ms };
                audit::append(&mut tx, &deed).await?;
            }
            let row = sqlx::query(AssertSqlSafe(format!("SELECT {SHOWN} FROM silences WHERE silence = $1")))
                .bind(number)
                .fetch_optional(&mut *tx)
                .await?;
            row.map(|r| shown(&r, now_ms)).transpose()
        }
        .await
        .map_err(|e| self.failed(e))?;
        self.end(tx).await?;
        self.changed().notify_one();
        Ok(ended)
    }

    /// Silences, the newest first, at most a thousand: those that have not ended, or all that are kept.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn silences(&self, ended_too: bool, now_ms: i64) -> Result<Vec<Value>, CasesError> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {SHOWN} FROM silences WHERE ends_ms > $1 ORDER BY silence DESC LIMIT 1000"
        )))
        .bind(if ended_too { i64::MIN } else { now_ms })
        .fetch_all(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))?;
        rows.iter().map(|r| shown(r, now_ms)).collect::<sqlx::Result<_>>().map_err(|e| self.failed(e))
    }
}

impl super::Escalation {
    /// Silences that have not ended.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn silences(&mut self, now_ms: i64) -> Result<Vec<Silence>, CasesError> {
        let rows = sqlx::query(AssertSqlSafe(format!("SELECT {SHOWN} FROM silences WHERE ends_ms > $1")))
            .bind(now_ms)
            .fetch_all(self.tx())
            .await
            .map_err(|e| self.failed(e))?;
        let read = rows.iter().map(|r| {
            let matchers: Value = serde_json::from_str(r.try_get(1)?).map_err(decode)?;
            let on = Condition::from_json(&matchers).map_err(|e| sqlx::Error::Decode(e.into()))?;
            Ok(Silence { number: r.try_get(0)?, on, starts_ms: r.try_get(2)?, ends_ms: r.try_get(3)? })
        });
        read.collect::<sqlx::Result<_>>().map_err(|e| self.failed(e))
    }
}

fn decode(error: serde_json::Error) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

fn shown(r: &Row, now_ms: i64) -> sqlx::Result<Value> {
    let (starts, ends): (i64, i64) = (r.try_get(2)?, r.try_get(3)?);
    let matchers: Value = serde_json::from_str(r.try_get(1)?).map_err(decode)?;
    let state = if ends <= now_ms {
        "ended"
    } else if starts > now_ms {
        "pending"
    } else {
        "active"
    };
    Ok(json!({
        "id": r.try_get::<i64, _>(0)?.to_string(),
        "state": state,
        "matchers": matchers,
        "starts_at": Time(starts).to_string(),
        "ends_at": Time(ends).to_string(),
        "created_by": r.try_get::<&str, _>(4)?,
        "comment": r.try_get::<&str, _>(5)?,
        "created_at": Time(r.try_get(6)?).to_string(),
        "ended_by": Some(r.try_get::<&str, _>(7)?).filter(|by| !by.is_empty()),
    }))
}
