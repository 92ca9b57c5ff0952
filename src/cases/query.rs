//! What the API reads (DESIGN §11).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row as _};

use super::row::{self, COLUMNS};
use super::sql::{Row, list_sql};
use super::store::lock;
use super::{Cases, CasesError, Filter, Page, StateFilter};
use crate::escalation::{self, Case, Evidence, State, Word};
use crate::model::{Severity, Time};

/// Rows of a page at most.
const MAX_PAGE: u32 = 1_000;

/// In two halves: each has an index of its own.
const OF_GROUP: &str = " AND exception IN (SELECT exception FROM exceptions WHERE group_id = $7 AND state <> 'resolved' \
                        UNION ALL SELECT exception FROM exceptions WHERE group_id = $7 AND state = 'resolved')";

/// A change as an exception's `changes` shows it.
struct Shown {
    json: Value,
    seq: i64,
    evidence: String,
}

impl Cases {
    /// A list for the API, newest first; `limit` is at most 1,000. A cursor that is none begins at the start.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn exceptions(
        &self,
        filter: &Filter,
        limit: u32,
        cursor: Option<&str>,
        now_ms: i64,
    ) -> Result<Page, CasesError> {
        let limit = limit.clamp(1, MAX_PAGE);
        let mut sql = format!("SELECT {COLUMNS} FROM exceptions WHERE exception < $1");
        sql.push_str(match filter.state {
            StateFilter::Standing => " AND state <> 'resolved'",
            StateFilter::Open => " AND state = 'open' AND state <> 'resolved'",
            StateFilter::Acknowledged => " AND state = 'acknowledged' AND state <> 'resolved'",
            StateFilter::Resolved => " AND state = 'resolved'",
            StateFilter::All => "",
        });
        sql.push_str(if filter.rule.is_some() { " AND rule = $2" } else { " AND $2 = ''" });
        sql.push_str(if filter.parcel_id.is_some() { " AND parcel_id = $3" } else { " AND $3 = ''" });
        sql.push_str(if filter.severity.is_some() { " AND severity = $5" } else { " AND $5 = -1" });
        sql.push_str(match filter.order_id {
            Some(_) => " AND exception IN (SELECT exception FROM exception_orders WHERE order_id = $6)",
            None => " AND $6 = ''",
        });
        sql.push_str(if filter.group_id.is_some() { OF_GROUP } else { " AND $7 = ''" });
        if let Some(owner) = &filter.owner {
            self.more_bodies().await.map_err(|e| self.failed(e))?;
            sql.push_str(&self.owned_by(owner));
        }
        sql.push_str(" ORDER BY exception DESC LIMIT $4");
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(cursor.and_then(|c| c.parse::<i64>().ok()).unwrap_or(i64::MAX))
            .bind(filter.rule.clone().unwrap_or_default())
            .bind(filter.parcel_id.clone().unwrap_or_default())
            .bind(i64::from(limit) + 1)
            .bind(filter.severity.map_or(-1, |s| s as i64))
            .bind(filter.order_id.clone().unwrap_or_default())
            .bind(filter.group_id.clone().unwrap_or_default())
            .fetch_all(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        let mut cases = self.cases_of(&rows).await.map_err(|e| self.failed(e))?;
        let more = cases.len() > limit as usize;
        cases.truncate(limit as usize);
        let changes = self.changes_of(&cases).await.map_err(|e| self.failed(e))?;
        Ok(Page {
            next_cursor: cases.last().filter(|_| more).map(|c| c.number.to_string()),
            items: cases.iter().map(|c| shown(c, changes.get(&c.number), now_ms)).collect(),
        })
    }

    /// One exception with its changes, what operators did to it and what was not sent.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn exception(&self, id: &str, now_ms: i64) -> Result<Option<Value>, CasesError> {
        let rows =
            sqlx::query(AssertSqlSafe(format!("SELECT {COLUMNS} FROM exceptions WHERE exception_id = $1")))
                .bind(id.to_owned())
                .fetch_all(&self.inner.reader)
                .await
                .map_err(|e| self.failed(e))?;
        let cases = self.cases_of(&rows).await.map_err(|e| self.failed(e))?;
        let Some(case) = cases.first() else { return Ok(None) };
        let changes = self.changes_of(&cases).await.map_err(|e| self.failed(e))?;
        let mut value = shown(case, changes.get(&case.number), now_ms);
        // What was known when it was last decided: it outlives the parcel's place in memory.
        let known = changes.get(&case.number).and_then(|all| all.iter().find(|c| c.seq == case.evidence_seq));
        value["known"] = known.and_then(|c| serde_json::from_str(&c.evidence).ok()).unwrap_or(Value::Null);
        value["actions"] = self.actions(case.number).await.map_err(|e| self.failed(e))?;
        value["unsent"] = self.unsent(case.number).await.map_err(|e| self.failed(e))?;
        Ok(Some(value))
    }

    /// Messages about an exception (all of them without an id), newest first: who was told what, and whether it arrived.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn notifications(
        &self,
        exception_id: Option<&str>,
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<Page, CasesError> {
        const SHOWN: &str = "o.seq, o.id, o.receiver, o.integration, o.recipient, o.kind, o.thread, o.state, o.attempts, o.created_ms, \
                             o.done_ms, o.reason, o.detail, o.due_ms";
        let limit = limit.clamp(1, MAX_PAGE);
        let sql = match exception_id {
            Some(_) => format!(
                "SELECT {SHOWN}, n.change, n.stage, n.step, n.at FROM notices AS n JOIN outbox AS o ON o.id = n.outbox_id \
                 JOIN exceptions AS e ON e.exception = n.exception WHERE e.exception_id = $1 AND o.seq < $2 ORDER BY o.seq DESC LIMIT $3"
            ),
            None => format!(
                "SELECT {SHOWN}, '', 0, 0, 0 FROM outbox AS o WHERE $1 = '' AND o.seq < $2 ORDER BY o.seq DESC LIMIT $3"
            ),
        };
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(exception_id.unwrap_or_default().to_owned())
            .bind(cursor.and_then(|c| c.parse::<i64>().ok()).unwrap_or(i64::MAX))
            .bind(i64::from(limit) + 1)
            .fetch_all(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        let mut items = rows
            .iter()
            .map(|r| Ok((r.try_get::<i64, _>(0)?, notification(r, exception_id)?)))
            .collect::<sqlx::Result<Vec<_>>>()
            .map_err(|e| self.failed(e))?;
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        Ok(Page {
            next_cursor: items.last().filter(|_| more).map(|(seq, _)| seq.to_string()),
            items: items.into_iter().map(|(_, item)| item).collect(),
        })
    }

    /// The owner stands in the words of an exception's rule, which are few and in memory. The numbers are ours: nothing to escape.
    fn owned_by(&self, owner: &str) -> String {
        let bodies = lock(&self.inner.bodies);
        let owned = bodies.values().filter(|b| b.owner == owner).map(|b| b.number.to_string());
        // Never an empty list, which is no SQL to PostgreSQL; numbers begin at 1.
        let listed: Vec<_> = std::iter::once("0".to_owned()).chain(owned).collect();
        format!(" AND body IN ({})", listed.join(", "))
    }

    async fn cases_of(&self, rows: &[Row]) -> sqlx::Result<Vec<Case>> {
        let bodies = self.bodies_of(rows).await?;
        rows.iter().map(|r| row::case_of(r, &bodies)).collect()
    }

    async fn changes_of(&self, cases: &[Case]) -> sqlx::Result<BTreeMap<i64, Vec<Shown>>> {
        const HEAD: &str = "SELECT exception, seq, change, stage, severity, at, resolution, evidence FROM changes WHERE exception IN";
        let mut all: BTreeMap<i64, Vec<Shown>> = BTreeMap::new();
        for chunk in cases.chunks(250) {
            let mut query = sqlx::query(AssertSqlSafe(list_sql(
                self.dialect(),
                HEAD,
                chunk.len(),
                " ORDER BY exception, seq",
            )));
            for case in chunk {
                query = query.bind(case.number);
            }
            for r in query.fetch_all(&self.inner.reader).await? {
                all.entry(r.try_get(0)?).or_default().push(change_of(&r)?);
            }
        }
        Ok(all)
    }

    async fn actions(&self, exception: i64) -> sqlx::Result<Value> {
        let rows = sqlx::query(
            "SELECT action, actor, remark, at_ms FROM actions WHERE exception = $1 ORDER BY at_ms",
        )
        .bind(exception)
        .fetch_all(&self.inner.reader)
        .await?;
        rows.iter()
            .map(|r| {
                Ok(json!({
                    "action": r.try_get::<&str, _>(0)?,
                    "by": r.try_get::<&str, _>(1)?,
                    "comment": r.try_get::<&str, _>(2)?,
                    "at": Time(r.try_get(3)?).to_string(),
                }))
            })
            .collect()
    }

    async fn unsent(&self, exception: i64) -> sqlx::Result<Value> {
        let rows = sqlx::query(
            "SELECT reason, step, at_ms FROM unsent WHERE exception = $1 ORDER BY at_ms LIMIT 1000",
        )
        .bind(exception)
        .fetch_all(&self.inner.reader)
        .await?;
        rows.iter()
            .map(|r| {
                Ok(json!({
                    "reason": r.try_get::<&str, _>(0)?,
                    "step": Some(r.try_get::<i64, _>(1)?).filter(|s| *s > 0),
                    "at": Time(r.try_get(2)?).to_string(),
                }))
            })
            .collect()
    }
}

fn change_of(r: &Row) -> sqlx::Result<Shown> {
    let severity: Severity = row::severity(r, 4)?;
    let resolution: &str = r.try_get(6)?;
    let json = json!({
        "change": r.try_get::<&str, _>(2)?,
        "stage": r.try_get::<i64, _>(3)?,
        "severity": severity.name(),
        "at": Time(r.try_get(5)?).to_string(),
        "resolution": Some(resolution).filter(|r| !r.is_empty()),
    });
    Ok(Shown { json, seq: r.try_get(1)?, evidence: r.try_get(7)? })
}

/// An exception with the fields of a webhook's and what the API adds.
fn shown(case: &Case, changes: Option<&Vec<Shown>>, now_ms: i64) -> Value {
    let changes = changes.map_or(&[][..], Vec::as_slice);
    let evidence = changes
        .iter()
        .find(|c| c.seq == case.evidence_seq)
        .map(|c| Evidence::parse(&c.evidence))
        .unwrap_or_default();
    let (word, at) = match case.resolved {
        Some((at, _)) if case.state == State::Resolved => (Word::Resolved, at),
        _ => (case.news.word, case.news.at),
    };
    let mut value = escalation::body::listed(case, &evidence, word, at, now_ms, None);
    value["opened_at"] = Value::from(case.opened_at.to_string());
    value["resolved_at"] = case.resolved.map_or(Value::Null, |(at, _)| Value::from(at.to_string()));
    value["changes"] = changes.iter().map(|c| c.json.clone()).collect();
    value
}

fn notification(r: &Row, exception_id: Option<&str>) -> sqlx::Result<Value> {
    let done: Option<i64> = r.try_get(10)?;
    let state: &str = r.try_get(7)?;
    let pending = state == "pending";
    let failed =
        |column: usize| Ok::<_, sqlx::Error>(Some(r.try_get::<String, _>(column)?).filter(|t| !t.is_empty()));
    let mut value = json!({
        "notification_id": r.try_get::<&str, _>(1)?,
        "receiver": r.try_get::<&str, _>(2)?,
        "integration": r.try_get::<&str, _>(3)?,
        "recipient": r.try_get::<&str, _>(4)?,
        "reason": r.try_get::<&str, _>(5)?,
        "group_id": r.try_get::<&str, _>(6)?,
        "state": state,
        "attempts": r.try_get::<i64, _>(8)?,
        "created_at": Time(r.try_get(9)?).to_string(),
        "delivered_at": done.filter(|_| state == "delivered").map(|at| Time(at).to_string()),
        "next_attempt_at": if pending { Some(Time(r.try_get(13)?).to_string()) } else { None },
        "failure": failed(11)?,
        "failure_detail": failed(12)?,
    });
    if let Some(id) = exception_id {
        value["exception_id"] = Value::from(id);
        value["change"] = Value::from(r.try_get::<String, _>(14)?);
        value["stage"] = Value::from(r.try_get::<i64, _>(15)?);
        value["step"] = json!(Some(r.try_get::<i64, _>(16)?).filter(|s| *s > 0));
        value["at"] = Value::from(Time(r.try_get(17)?).to_string());
    }
    Ok(value)
}
