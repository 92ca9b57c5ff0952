//! The escalator's transaction: it reads what is due and writes what was decided, with nobody in between (DESIGN §7).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, Row as _};

use super::causes::Causes;
use super::row::{self, COLUMNS};
use super::sql::{self, Conn, Dialect, Query, Row, Tx, list_sql};
use super::{Cases, CasesError, operate};
use crate::escalation::feeds::Incidents;
use crate::escalation::{
    Budget, Case, Counts, Evidence, Flushed, Group, Member, NEVER, State, Told, Unsent, Why,
};

/// Rows of a statement.
const CHUNK: usize = 250;

/// Groups, as [`group_of`] reads them.
pub(super) const GROUPS: &str = "SELECT group_id, policy, group_values, told, last_ms, flush_ms FROM groups";

/// The escalator's own columns of exceptions, as [`bind_written`] binds them.
const LADDERS: &str = "WITH v (exception, state, ack_ms, ack_by, ack_comment, ladder_ms, ladder_round, step, told_seq, told, told_ms, \
    reminders, waiting, next_ms, held, held_by, held_seq) AS (VALUES";
const LADDER_WIDTH: usize = 17;
const WRITE_LADDERS: &str = ") UPDATE exceptions SET state = v.state, ack_ms = v.ack_ms, ack_by = v.ack_by, ack_comment = v.ack_comment, \
    ladder_ms = v.ladder_ms, ladder_round = v.ladder_round, step = v.step, told_seq = v.told_seq, told = v.told, told_ms = v.told_ms, \
    reminders = v.reminders, waiting = v.waiting, next_ms = v.next_ms, held = v.held, held_by = v.held_by, held_seq = v.held_seq \
    FROM v WHERE exceptions.exception = v.exception";

/// One transaction of the escalator. Dropped, it did nothing.
pub struct Escalation {
    cases: Cases,
    tx: Tx,
    pub(super) filled: bool,
    pub(super) causes: Causes,
    /// Incidents of feeds, once read.
    pub(super) incidents: Option<Incidents>,
    unsent: BTreeMap<Why, u64>,
}

impl Cases {
    /// Takes the writer for the escalator.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn escalation(&self) -> Result<Escalation, CasesError> {
        Ok(Escalation {
            cases: self.clone(),
            tx: self.begin_leading().await?,
            filled: false,
            causes: Causes::new(),
            incidents: None,
            unsent: BTreeMap::new(),
        })
    }

    /// The partitions that ever committed.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn partitions(&self) -> Result<BTreeSet<i32>, CasesError> {
        let rows = sqlx::query("SELECT partition_id FROM partitions")
            .fetch_all(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        rows.iter().map(|r| row::small(r, 0)).collect::<sqlx::Result<_>>().map_err(|e| self.failed(e))
    }

    /// When the next exception of these partitions, or the next group, wants attention; [`NEVER`].
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn next_timer(&self, partitions: &BTreeSet<i32>) -> Result<i64, CasesError> {
        // One look into the index for each partition, which IN (…) would not be. The numbers are ours: nothing to escape.
        let firsts: String = partitions
            .iter()
            .map(|p| {
                format!(
                    " UNION ALL SELECT MIN(next_ms) FROM exceptions WHERE partition_id = {p} AND next_ms < 9223372036854775807"
                )
            })
            .collect();
        let next: Option<i64> = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT MIN(due_ms) FROM (SELECT MIN(flush_ms) AS due_ms FROM groups WHERE flush_ms < 9223372036854775807{firsts}) AS timers"
        )))
        .fetch_one(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))?;
        Ok(next.unwrap_or(NEVER))
    }

    /// When the next group is flushed; [`NEVER`].
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn next_flush(&self) -> Result<i64, CasesError> {
        let next: Option<i64> =
            sqlx::query_scalar("SELECT MIN(flush_ms) FROM groups WHERE flush_ms < 9223372036854775807")
                .fetch_one(&self.inner.reader)
                .await
                .map_err(|e| self.failed(e))?;
        Ok(next.unwrap_or(NEVER))
    }

    /// Makes the time of every standing exception come where the policies are others than before.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn policies_in_force(&self, hash: &str, now_ms: i64) -> Result<(), CasesError> {
        let mut tx = self.begin_leading().await?;
        async {
            let before: Option<String> =
                sqlx::query_scalar("SELECT value FROM settings WHERE name = 'policies_hash'")
                    .fetch_optional(&mut *tx)
                    .await?;
            if before.as_deref() == Some(hash) {
                return Ok(());
            }
            sqlx::query(
                "INSERT INTO settings (name, value) VALUES ('policies_hash', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            )
            .bind(hash.to_owned())
            .execute(&mut *tx)
            .await?;
            sqlx::query("UPDATE exceptions SET next_ms = $1 WHERE state <> 'resolved' AND group_id <> ''")
                .bind(now_ms)
                .execute(&mut *tx)
                .await?;
            Ok(())
        }
        .await
        .map_err(|e: sqlx::Error| self.failed(e))?;
        self.end(tx).await
    }

    /// The backlog of these partitions is over: what waited for a flush meanwhile is looked at again.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn wake_waiting(&self, partitions: &BTreeSet<i32>, now_ms: i64) -> Result<(), CasesError> {
        let mut tx = self.begin_leading().await?;
        for partition in partitions {
            sqlx::query("UPDATE exceptions SET next_ms = $2 WHERE partition_id = $1 AND waiting = 1")
                .bind(i64::from(*partition))
                .bind(now_ms)
                .execute(&mut *tx)
                .await
                .map_err(|e| self.failed(e))?;
        }
        self.end(tx).await
    }
}

impl Escalation {
    /// Exceptions of these partitions whose time has come, the longest overdue first.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn due(
        &mut self,
        partitions: &BTreeSet<i32>,
        now_ms: i64,
        limit: u32,
    ) -> Result<Vec<Case>, CasesError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM exceptions WHERE partition_id = $1 AND next_ms <= $2 AND next_ms < 9223372036854775807 \
             ORDER BY next_ms LIMIT $3"
        );
        let mut cases = Vec::new();
        for partition in partitions {
            let room = i64::from(limit) - i64::try_from(cases.len()).unwrap_or(i64::MAX);
            if room <= 0 {
                break;
            }
            let rows = sqlx::query(AssertSqlSafe(sql.clone()))
                .bind(i64::from(*partition))
                .bind(now_ms)
                .bind(room)
                .fetch_all(&mut *self.tx)
                .await
                .map_err(|e| self.cases.failed(e))?;
            cases.extend(self.cases_of(&rows).await?);
        }
        Ok(cases)
    }

    /// The groups of these exceptions, by id.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn groups_of(&mut self, cases: &[Case]) -> Result<BTreeMap<String, Group>, CasesError> {
        let ids: Vec<&str> =
            cases.iter().map(|c| c.group_id.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
        let mut groups = BTreeMap::new();
        for chunk in ids.chunks(CHUNK) {
            let sql = list_sql(self.dialect(), &format!("{GROUPS} WHERE group_id IN"), chunk.len(), "");
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for id in chunk {
                query = query.bind((*id).to_owned());
            }
            let rows = query.fetch_all(&mut *self.tx).await.map_err(|e| self.cases.failed(e))?;
            for r in &rows {
                let group = group_of(r).map_err(|e| self.cases.failed(e))?;
                groups.insert(group.id.clone(), group);
            }
        }
        Ok(groups)
    }

    /// Groups whose flush has come, the longest overdue first.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn groups_due(&mut self, now_ms: i64, limit: u32) -> Result<Vec<Group>, CasesError> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "{GROUPS} WHERE flush_ms <= $1 AND flush_ms < 9223372036854775807 ORDER BY flush_ms, group_id LIMIT $2"
        )))
        .bind(now_ms)
        .bind(i64::from(limit))
        .fetch_all(&mut *self.tx)
        .await
        .map_err(|e| self.cases.failed(e))?;
        rows.iter().map(group_of).collect::<sqlx::Result<_>>().map_err(|e| self.cases.failed(e))
    }

    /// Members of a group that wait for its flush and may speak, the worst first, and how many of the group stand.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn members(
        &mut self,
        group: &str,
        partitions: &BTreeSet<i32>,
        limit: u32,
    ) -> Result<(Vec<Member>, Counts), CasesError> {
        self.members_of(group, partitions, limit).await.map_err(|e| self.cases.failed(e))
    }

    async fn members_of(
        &mut self,
        group: &str,
        partitions: &BTreeSet<i32>,
        limit: u32,
    ) -> sqlx::Result<(Vec<Member>, Counts)> {
        // The partitions are whole numbers of ours: nothing to escape.
        let list = partitions.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM exceptions WHERE group_id = $1 AND waiting = 1 AND partition_id IN ({list}) \
             ORDER BY severity DESC, due LIMIT $2"
        )))
        .bind(group.to_owned())
        .bind(i64::from(limit))
        .fetch_all(&mut *self.tx)
        .await?;
        let bodies = self.cases.bodies_of(&rows).await?;
        let mut members = Vec::with_capacity(rows.len());
        for r in &rows {
            let case = row::case_of(r, &bodies)?;
            members.push(Member::unread(case));
        }
        for chunk in members.chunks_mut(CHUNK) {
            self.fill(chunk).await?;
        }
        Ok((members, standing(&mut *self.tx, group).await?))
    }

    /// Reads who was told of these members, and what their latest changes knew.
    pub(super) async fn fill(&mut self, members: &mut [Member]) -> sqlx::Result<()> {
        let at: BTreeMap<i64, usize> = members.iter().enumerate().map(|(i, m)| (m.case.number, i)).collect();
        let sql = list_sql(
            self.dialect(),
            "SELECT exception, receiver, recipient FROM told WHERE exception IN",
            members.len(),
            "",
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for member in members.iter() {
            query = query.bind(member.case.number);
        }
        for r in query.fetch_all(&mut *self.tx).await? {
            if let Some(&i) = at.get(&r.try_get(0)?) {
                members[i].told.insert(Told { receiver: r.try_get(1)?, recipient: r.try_get(2)? });
            }
        }
        let sql = list_sql(
            self.dialect(),
            "SELECT exception, evidence FROM changes WHERE seq IN",
            members.len(),
            "",
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for member in members.iter() {
            query = query.bind(member.case.evidence_seq);
        }
        for r in query.fetch_all(&mut *self.tx).await? {
            if let Some(&i) = at.get(&r.try_get(0)?) {
                members[i].evidence = Evidence::parse(r.try_get(1)?);
            }
        }
        Ok(())
    }

    /// Writes what [`crate::escalation::step`] decided.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn write_step(
        &mut self,
        groups: &BTreeMap<String, Group>,
        cases: &[Case],
        unsent: &[Unsent],
        now_ms: i64,
    ) -> Result<(), CasesError> {
        async {
            self.write_cases(cases, now_ms).await?;
            for group in groups.values() {
                self.write_group(group).await?;
            }
            self.write_unsent(unsent).await
        }
        .await
        .map_err(|e| self.cases.failed(e))
    }

    /// Writes what [`crate::escalation::flush()`] decided. With `dry_run` the messages are kept, never to be sent.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn write_flush(
        &mut self,
        flushed: &Flushed,
        budget: &mut Budget,
        dry_run: bool,
        now_ms: i64,
    ) -> Result<(), CasesError> {
        self.write_messages(flushed, budget, dry_run, now_ms).await.map_err(|e| self.cases.failed(e))
    }

    async fn write_messages(
        &mut self,
        flushed: &Flushed,
        budget: &mut Budget,
        dry_run: bool,
        now_ms: i64,
    ) -> sqlx::Result<()> {
        self.write_cases(&flushed.cases, now_ms).await?;
        self.write_group(&flushed.group).await?;
        self.write_unsent(&flushed.unsent).await?;
        for chunk in flushed.settled.chunks(CHUNK) {
            let sql = list_sql(self.dialect(), "DELETE FROM told WHERE exception IN", chunk.len(), "");
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for exception in chunk {
                query = query.bind(*exception);
            }
            query.execute(&mut *self.tx).await?;
        }
        let told: Vec<(i64, &Told)> = flushed.told.iter().map(|(exception, to)| (*exception, to)).collect();
        self.write_told(&told).await?;
        self.put(&flushed.messages, dry_run, now_ms).await?;
        for message in &flushed.messages {
            self.write_notices(&message.id, &message.notices).await?;
        }
        self.write_gathered(flushed, budget).await
    }

    /// Who was told of which exception, and is owed its resolve.
    pub(super) async fn write_told(&mut self, told: &[(i64, &Told)]) -> sqlx::Result<()> {
        for chunk in told.chunks(CHUNK) {
            let sql = sql::values_sql(
                self.dialect(),
                "INSERT INTO told (exception, receiver, recipient) VALUES",
                3,
                chunk.len(),
                " ON CONFLICT (exception, receiver, recipient) DO NOTHING",
            );
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for (exception, to) in chunk {
                query = query.bind(*exception).bind(to.receiver.clone()).bind(to.recipient.clone());
            }
            query.execute(&mut *self.tx).await?;
        }
        Ok(())
    }

    /// Writes the escalator's own columns, many rows a statement: each statement is a way to SQLite's thread and back, which takes
    /// longer than the row.
    async fn write_cases(&mut self, cases: &[Case], now_ms: i64) -> sqlx::Result<()> {
        for case in cases {
            self.write_expiry(case, now_ms).await?;
        }
        for chunk in cases.chunks(CHUNK) {
            let sql = sql::values_sql(self.dialect(), LADDERS, LADDER_WIDTH, chunk.len(), WRITE_LADDERS);
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for case in chunk {
                query = bind_written(query, case);
            }
            query.execute(&mut *self.tx).await?;
        }
        Ok(())
    }

    /// An acknowledgement that ran out is an action of nobody's.
    async fn write_expiry(&mut self, case: &Case, now_ms: i64) -> sqlx::Result<()> {
        if case.state != State::Open || case.ladder.round == 0 {
            return Ok(());
        }
        let expired: Option<i64> = sqlx::query_scalar(
            "SELECT exception FROM exceptions WHERE exception = $1 AND state = 'acknowledged'",
        )
        .bind(case.number)
        .fetch_optional(&mut *self.tx)
        .await?;
        if expired.is_some() {
            operate::act(&mut self.tx, case.number, "ack_expired", "", "", now_ms).await?;
        }
        Ok(())
    }

    async fn write_group(&mut self, group: &Group) -> sqlx::Result<()> {
        sqlx::query("UPDATE groups SET told = $2, last_ms = $3, flush_ms = $4 WHERE group_id = $1")
            .bind(group.id.clone())
            .bind(group.told)
            .bind(group.last_ms)
            .bind(group.flush_ms)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    async fn write_unsent(&mut self, unsent: &[Unsent]) -> sqlx::Result<()> {
        for u in unsent {
            *self.unsent.entry(u.why).or_insert(0) += 1;
        }
        insert_unsent(&mut self.tx, unsent).await
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.cases.dialect()
    }

    pub(super) fn tx(&mut self) -> &mut Conn {
        &mut self.tx
    }

    pub(super) const fn cases(&self) -> &Cases {
        &self.cases
    }

    pub(super) fn failed(&self, error: sqlx::Error) -> CasesError {
        self.cases.failed(error)
    }

    async fn cases_of(&mut self, rows: &[Row]) -> Result<Vec<Case>, CasesError> {
        let bodies = self.cases.bodies_of(rows).await.map_err(|e| self.cases.failed(e))?;
        rows.iter()
            .map(|r| row::case_of(r, &bodies))
            .collect::<sqlx::Result<_>>()
            .map_err(|e| self.cases.failed(e))
    }

    /// Makes it durable, and wakes the dispatchers where there are messages.
    ///
    /// # Errors
    /// Every [`CasesError`]; nothing is written then.
    pub async fn commit(self) -> Result<(), CasesError> {
        let Escalation { cases, tx, filled, unsent, .. } = self;
        cases.end(tx).await?;
        cases.suppress(&unsent);
        if filled {
            cases.outbox_filled().notify_waiters();
        }
        Ok(())
    }
}

/// Writes decisions not to send.
pub(super) async fn insert_unsent(tx: &mut Conn, unsent: &[Unsent]) -> sqlx::Result<()> {
    for chunk in unsent.chunks(CHUNK) {
        let sql = sql::values_sql(
            Dialect::of(tx),
            "INSERT INTO unsent (exception, reason, step, at_ms) VALUES",
            4,
            chunk.len(),
            "",
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for u in chunk {
            query = query.bind(u.exception).bind(u.why.name()).bind(i64::from(u.step)).bind(u.at_ms);
        }
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

/// How many of a group stand.
pub(super) async fn standing(
    executor: impl sqlx::Executor<'_, Database = sqlx::Any>,
    group: &str,
) -> sqlx::Result<Counts> {
    let rows = sqlx::query(
        "SELECT state, COUNT(*) FROM exceptions WHERE group_id = $1 AND state <> 'resolved' GROUP BY state",
    )
    .bind(group.to_owned())
    .fetch_all(executor)
    .await?;
    let mut counts = Counts::default();
    for r in &rows {
        match State::from_name(r.try_get(0)?) {
            Some(State::Open) => counts.open = r.try_get(1)?,
            Some(State::Acknowledged) => counts.acknowledged = r.try_get(1)?,
            _ => {}
        }
    }
    Ok(counts)
}

/// Binds the columns of [`LADDERS`].
fn bind_written<'q>(query: Query<'q>, case: &Case) -> Query<'q> {
    let query = query.bind(case.number).bind(case.state.name());
    row::bind_ladder(row::bind_ack(query, case), &case.ladder)
}

pub(super) fn group_of(r: &Row) -> sqlx::Result<Group> {
    let values: &str = r.try_get(2)?;
    let values: Map<String, Value> =
        serde_json::from_str(values).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    Ok(Group {
        id: r.try_get(0)?,
        policy: r.try_get(1)?,
        values,
        told: r.try_get(3)?,
        last_ms: r.try_get(4)?,
        flush_ms: r.try_get(5)?,
    })
}
