//! Dead letters that nobody else has been told of yet: read and marked in one transaction of the auditor's, so that a crash tells
//! all of it or nothing (DESIGN §7).

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Row as _};

use super::row::{self, COLUMNS};
use super::sql::{list_sql, placeholder};
use super::{Cases, CasesError, Escalation};
use crate::escalation::{Member, Message, Unreachable};

/// Messages of a receiver looked at in one go; the rest has its turn with the next summary.
const LETTERS: i64 = 500;
/// Exceptions told of in one go, the worst first: a storm's digest holds very many.
const MEMBERS: i64 = 2_000;
/// Rows of a statement.
const CHUNK: usize = 250;

/// What is to be done about the dead letters of a receiver.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetters {
    /// What became of them.
    pub dead: Unreachable,
    /// Exceptions that they told of, that stand, and that nobody else was told of for this receiver's sake; the worst first.
    pub members: Vec<Member>,
    /// Their ids.
    ids: Vec<String>,
}

impl Cases {
    /// Receivers with dead letters that nobody has looked at.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn unreachable(&self) -> Result<Vec<String>, CasesError> {
        sqlx::query_scalar(
            "SELECT DISTINCT receiver FROM outbox WHERE state = 'dead' AND escalated = 0 ORDER BY receiver",
        )
        .fetch_all(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))
    }
}

impl Escalation {
    /// The dead letters of a receiver; `None` where others were told in this slot of time already, or there are none.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn dead_letters(
        &mut self,
        receiver: &str,
        slot: i64,
    ) -> Result<Option<DeadLetters>, CasesError> {
        self.read_letters(receiver, slot).await.map_err(|e| self.failed(e))
    }

    async fn read_letters(&mut self, receiver: &str, slot: i64) -> sqlx::Result<Option<DeadLetters>> {
        let told: Option<String> = sqlx::query_scalar("SELECT value FROM settings WHERE name = $1")
            .bind(slot_of(receiver))
            .fetch_optional(self.tx())
            .await?;
        if told.is_some_and(|told| told == slot.to_string()) {
            return Ok(None);
        }
        let rows = sqlx::query(
            "SELECT id, reason, detail FROM outbox WHERE state = 'dead' AND escalated = 0 AND receiver = $1 ORDER BY seq LIMIT $2",
        )
        .bind(receiver.to_owned())
        .bind(LETTERS)
        .fetch_all(self.tx())
        .await?;
        let Some(last) = rows.last() else { return Ok(None) };
        let dead = Unreachable {
            receiver: receiver.to_owned(),
            messages: i64::try_from(rows.len()).unwrap_or(i64::MAX),
            reason: last.try_get(1)?,
            detail: last.try_get(2)?,
        };
        let ids = rows.iter().map(|r| r.try_get(0)).collect::<sqlx::Result<Vec<String>>>()?;
        let members = self.untold_members(receiver, &ids).await?;
        Ok(Some(DeadLetters { dead, members, ids }))
    }

    async fn untold_members(&mut self, receiver: &str, ids: &[String]) -> sqlx::Result<Vec<Member>> {
        let mut cases = BTreeMap::new();
        for chunk in ids.chunks(CHUNK) {
            let head = format!(
                "SELECT {COLUMNS} FROM exceptions AS e WHERE state = 'open' AND told = 1 AND exception IN (SELECT exception FROM notices \
                 WHERE change <> 'resolved' AND outbox_id IN"
            );
            let after = placeholder(self.dialect(), chunk.len() + 1);
            let tail = format!(
                ") AND NOT EXISTS (SELECT 1 FROM notices AS n JOIN outbox AS o ON o.id = n.outbox_id WHERE n.exception = e.exception \
                 AND n.change <> 'resolved' AND o.receiver = {after} AND o.state = 'dead' AND o.escalated = 1 \
                 AND o.created_ms >= e.opened_ms) ORDER BY severity DESC, due LIMIT {MEMBERS}"
            );
            let sql = list_sql(self.dialect(), &head, chunk.len(), &tail);
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for id in chunk {
                query = query.bind(id.clone());
            }
            query = query.bind(receiver.to_owned());
            let rows = query.fetch_all(self.tx()).await?;
            let bodies = self.cases().bodies_of(&rows).await?;
            for r in &rows {
                let case = row::case_of(r, &bodies)?;
                cases.insert(case.number, case);
            }
        }
        let mut members: Vec<Member> = cases.into_values().map(Member::unread).collect();
        members.sort_by_key(|m| (std::cmp::Reverse(m.case.severity), m.case.due, m.case.number));
        members.truncate(usize::try_from(MEMBERS).unwrap_or(usize::MAX));
        for chunk in members.chunks_mut(CHUNK) {
            self.fill(chunk).await?;
        }
        Ok(members)
    }

    /// Tells others, who are owed the resolves from now on, and marks the letters as looked at.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn tell_others(
        &mut self,
        letters: &DeadLetters,
        messages: &[Message],
        (slot, now_ms): (i64, i64),
        dry_run: bool,
    ) -> Result<(), CasesError> {
        self.write_letters(letters, messages, (slot, now_ms), dry_run).await.map_err(|e| self.failed(e))
    }

    async fn write_letters(
        &mut self,
        letters: &DeadLetters,
        messages: &[Message],
        (slot, now_ms): (i64, i64),
        dry_run: bool,
    ) -> sqlx::Result<()> {
        self.put(messages, dry_run, now_ms).await?;
        for message in messages {
            self.write_notices(&message.id, &message.notices).await?;
            let told: Vec<_> = message.notices.iter().map(|n| (n.exception, &message.to)).collect();
            self.write_told(&told).await?;
        }
        let told = !messages.is_empty();
        for chunk in letters.ids.chunks(CHUNK) {
            let head = format!("UPDATE outbox SET escalated = {} WHERE id IN", if told { 1 } else { 2 });
            let mut query = sqlx::query(AssertSqlSafe(list_sql(self.dialect(), &head, chunk.len(), "")));
            for id in chunk {
                query = query.bind(id.clone());
            }
            query.execute(self.tx()).await?;
        }
        if told {
            sqlx::query(
                "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            )
            .bind(slot_of(&letters.dead.receiver))
            .bind(slot.to_string())
            .execute(self.tx())
            .await?;
        }
        Ok(())
    }
}

/// The setting that says in which slot of time others were last told.
fn slot_of(receiver: &str) -> String {
    format!("dead letters of {receiver}")
}
