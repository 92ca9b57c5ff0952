//! What operators do: acknowledge, give back, resolve; one exception or a group.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::Row as _;

use super::audit::{self, Deed, Who};
use super::causes;
use super::commit::hex;
use super::row::{self, COLUMNS, OVERWRITE, WIDTH};
use super::sql::{self, Conn, Dialect, Tx, list_sql};
use super::store::{lock, next_number};
use super::{Acted, Cases, CasesError};
use crate::escalation::{Ack, Case, State};
use crate::model::{Resolution, Time};
use crate::rules::Policies;

/// Exceptions of a group acted on in one transaction: the shards wait for the writer meanwhile.
const SLICE: usize = 500;

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Act {
    Acknowledge,
    Unacknowledge,
    Resolve,
}

impl Act {
    /// Its name in `actions` and in the audit trail.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Act::Acknowledge => "acknowledge",
            Act::Unacknowledge => "unacknowledge",
            Act::Resolve => "resolve",
        }
    }
}

/// What acting on a group met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupActed {
    /// Members that stood when it was asked.
    pub members: usize,
    /// Members that it changed.
    pub done: usize,
}

impl Cases {
    /// [`Act::Acknowledge`] by somebody who needs no right to.
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
        self.act(Act::Acknowledge, id, &Who { by, comment, via: "" }, now_ms).await
    }

    /// [`Act::Resolve`] by somebody who needs no right to.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn resolve(&self, id: &str, by: &str, comment: &str, now_ms: i64) -> Result<Acted, CasesError> {
        self.act(Act::Resolve, id, &Who { by, comment, via: "" }, now_ms).await
    }

    /// An operator acts on one exception.
    ///
    /// Acknowledge: they took it on; the ladder stops until that runs out or it gets worse. Unacknowledge: they gave it back; the
    /// ladder begins anew. Resolve: a change `resolved` `by_operator`, which stands until the engine tells a raise or a new
    /// opening of it (SEMANTICS 8.2).
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn act(&self, act: Act, id: &str, who: &Who<'_>, now_ms: i64) -> Result<Acted, CasesError> {
        let (mut tx, found) = self.find(id).await?;
        let Some(mut case) = found else { return Ok(Acted::NotFound) };
        let acted = apply(act, &mut case, who, &lock(&self.inner.comments), now_ms);
        if acted != Acted::Done {
            return Ok(acted);
        }
        async {
            write(&mut tx, act, &case, who, now_ms).await?;
            let deed =
                Deed { who: *who, action: act.name(), object: id, detail: &Value::Null, at_ms: now_ms };
            audit::append(&mut tx, &deed).await
        }
        .await
        .map_err(|e| self.failed(e))?;
        self.end(tx).await?;
        self.acted(act, [&case]);
        Ok(Acted::Done)
    }

    /// An operator acts on all of a group that stands at this moment; what joins it later is not touched. `None`: no such group.
    ///
    /// # Errors
    /// Every [`CasesError`]; members acted on before it stay so, and asking again does the rest.
    pub async fn act_on_group(
        &self,
        act: Act,
        group: &str,
        who: &Who<'_>,
        now_ms: i64,
    ) -> Result<Option<(GroupActed, Acted)>, CasesError> {
        let members: Vec<i64> = sqlx::query_scalar(
            "SELECT exception FROM exceptions WHERE group_id = $1 AND state <> 'resolved' ORDER BY exception",
        )
        .bind(group.to_owned())
        .fetch_all(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))?;
        if members.is_empty() {
            let known: Option<String> = sqlx::query_scalar("SELECT policy FROM groups WHERE group_id = $1")
                .bind(group.to_owned())
                .fetch_optional(&self.inner.reader)
                .await
                .map_err(|e| self.failed(e))?;
            return Ok(known.map(|_| (GroupActed::default(), Acted::Already)));
        }
        let mut done = GroupActed { members: members.len(), done: 0 };
        for slice in members.chunks(SLICE) {
            let mut tx = self.begin().await?;
            let acted = self.act_on(&mut tx, act, slice, who, now_ms).await.map_err(|e| self.failed(e))?;
            let Ok(acted) = acted else { return Ok(Some((done, Acted::CommentNeeded))) };
            if slice.first() == members.first() {
                let detail = serde_json::json!({ "members": members.len() });
                let object = format!("group {group}");
                let deed =
                    Deed { who: *who, action: act.name(), object: &object, detail: &detail, at_ms: now_ms };
                audit::append(&mut tx, &deed).await.map_err(|e| self.failed(e))?;
            }
            self.end(tx).await?;
            done.done += acted.len();
            self.acted(act, &acted);
        }
        let met = if done.done > 0 { Acted::Done } else { Acted::Already };
        Ok(Some((done, met)))
    }

    /// Returns those that were changed; an error where a comment is needed.
    async fn act_on(
        &self,
        tx: &mut Conn,
        act: Act,
        slice: &[i64],
        who: &Who<'_>,
        now_ms: i64,
    ) -> sqlx::Result<Result<Vec<Case>, ()>> {
        let head = format!("SELECT {COLUMNS} FROM exceptions WHERE exception IN");
        let mut query = sqlx::query(sqlx::AssertSqlSafe(list_sql(Dialect::of(tx), &head, slice.len(), "")));
        for number in slice {
            query = query.bind(*number);
        }
        let rows = query.fetch_all(&mut *tx).await?;
        let bodies = self.bodies_of(&rows).await?;
        let mut changed = Vec::new();
        for r in &rows {
            let mut case = row::case_of(r, &bodies)?;
            let acted = apply(act, &mut case, who, &lock(&self.inner.comments), now_ms);
            match acted {
                Acted::Done => {
                    write(tx, act, &case, who, now_ms).await?;
                    changed.push(case);
                }
                Acted::CommentNeeded => return Ok(Err(())),
                Acted::Already | Acted::Resolved | Acted::NotFound => {}
            }
        }
        Ok(Ok(changed))
    }

    /// After it is durable.
    fn acted<'c>(&self, act: Act, cases: impl IntoIterator<Item = &'c Case>) {
        if act == Act::Resolve {
            for case in cases {
                self.count([((case.rule.clone(), case.severity), -1)].into());
            }
        }
        self.changed().notify_one();
    }

    /// Policies under which nobody acknowledges without a comment.
    pub fn comments_needed(&self, policies: &Policies) {
        let ids = policies.policies.iter().filter(|p| p.comment_needed).map(|p| p.id.clone());
        *lock(&self.inner.comments) = ids.collect();
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
        let rows: Vec<_> = row.into_iter().collect();
        let bodies = self.bodies_of(&rows).await.map_err(|e| self.failed(e))?;
        let case = rows.first().map(|r| row::case_of(r, &bodies)).transpose().map_err(|e| self.failed(e))?;
        Ok((tx, case))
    }
}

/// What it does to a row; `comments` are the policies under which nobody acknowledges without one.
pub(super) fn apply(
    act: Act,
    case: &mut Case,
    who: &Who<'_>,
    comments: &BTreeSet<String>,
    now_ms: i64,
) -> Acted {
    match (act, case.state) {
        (Act::Acknowledge | Act::Unacknowledge, State::Resolved) => return Acted::Resolved,
        (Act::Acknowledge, State::Acknowledged)
        | (Act::Unacknowledge, State::Open)
        | (Act::Resolve, State::Resolved) => return Acted::Already,
        (Act::Acknowledge, State::Open) => {
            if who.comment.trim().is_empty() && comments.contains(&case.body.policy) {
                return Acted::CommentNeeded;
            }
            case.state = State::Acknowledged;
            case.ack = Some(Ack { by: who.by.to_owned(), comment: remark(who), at_ms: now_ms });
        }
        (Act::Unacknowledge, State::Acknowledged) => {
            case.state = State::Open;
            case.ack = None;
            case.ladder.start_ms = now_ms;
            case.ladder.step = 0;
            case.ladder.round += 1;
        }
        (Act::Resolve, State::Open | State::Acknowledged) => {
            case.state = State::Resolved;
            case.resolved = Some((Time(now_ms), Resolution::ByOperator));
            case.ladder.ended_ms = now_ms;
            case.ladder.held = None;
        }
    }
    // The escalator looks at it at once: a timer it may have had no longer counts.
    if !case.group_id.is_empty() {
        case.ladder.next_ms = now_ms;
    }
    Acted::Done
}

/// The comment as it is kept with the exception: with the right by which somebody acted.
fn remark(who: &Who<'_>) -> String {
    match (who.comment, who.via) {
        (comment, "") => comment.to_owned(),
        ("", via) => format!("by {via}"),
        (comment, via) => format!("{comment} (by {via})"),
    }
}

async fn write(tx: &mut Conn, what: Act, case: &Case, who: &Who<'_>, now_ms: i64) -> sqlx::Result<()> {
    let head = format!("INSERT INTO exceptions ({COLUMNS}) VALUES");
    let sql = sql::values_sql(Dialect::of(tx), &head, WIDTH, 1, OVERWRITE);
    row::bind(sqlx::query(sqlx::AssertSqlSafe(sql)), case, now_ms).execute(&mut *tx).await?;
    if what == Act::Resolve {
        causes::wake_explained(tx, &[case.number], now_ms).await?;
        write_change(tx, case, now_ms).await?;
    }
    act(tx, case.number, what.name(), who.by, &remark(who), now_ms).await
}

/// Writes who did what.
pub(super) async fn act(
    tx: &mut Conn,
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

async fn write_change(tx: &mut Conn, case: &Case, now_ms: i64) -> sqlx::Result<()> {
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
