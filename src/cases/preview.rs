//! What an exception would send at this moment, without sending it.

use sqlx::AssertSqlSafe;

use super::escalation::{GROUPS, group_of, standing};
use super::row::{self, COLUMNS};
use super::{Cases, CasesError};
use crate::escalation::body::{Envelope, listed, whole};
use crate::escalation::{Case, Counts, Evidence, Group, NEVER, Reason, State, Word};

/// The id that a message has which is not in the outbox.
const ID: &str = "preview";

/// A message that is not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Its subject.
    pub subject: String,
    /// Its body.
    pub body: String,
}

impl Cases {
    /// The message of an exception's latest news, alone, to `receiver`. `None`: there is no such exception.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn preview(
        &self,
        id: &str,
        receiver: &(dyn Fn(&Case) -> String + Sync),
        public_url: Option<&str>,
        now_ms: i64,
    ) -> Result<Option<Preview>, CasesError> {
        let found = self.case_to_show(id).await.map_err(|e| self.failed(e))?;
        let Some((case, evidence)) = found else { return Ok(None) };
        let group = self.group_to_show(&case).await.map_err(|e| self.failed(e))?;
        let counts = self.counts_to_show(&case).await.map_err(|e| self.failed(e))?;
        let (word, at) = match case.resolved {
            Some((at, _)) if case.state == State::Resolved => (Word::Resolved, at),
            _ => (case.news.word, case.news.at),
        };
        let reason = match word {
            Word::Resolved => Reason::Resolved,
            Word::Raised => Reason::Raised,
            _ => Reason::New,
        };
        let receiver = receiver(&case);
        let step = if word == Word::Resolved { 0 } else { case.ladder.step.max(1) };
        let envelope =
            Envelope { id: ID, receiver: &receiver, step, reason, word, counts: &counts, now: now_ms };
        let item = listed(&case, &evidence, word, at, now_ms, public_url);
        Ok(Some(Preview { subject: group.subject(), body: whole(&envelope, &group, vec![item]) }))
    }

    async fn case_to_show(&self, id: &str) -> sqlx::Result<Option<(Case, Evidence)>> {
        let sql = format!("SELECT {COLUMNS} FROM exceptions WHERE exception_id = $1");
        let row =
            sqlx::query(AssertSqlSafe(sql)).bind(id.to_owned()).fetch_optional(&self.inner.reader).await?;
        let Some(row) = row else { return Ok(None) };
        let bodies = self.bodies_of(std::slice::from_ref(&row)).await?;
        let case = row::case_of(&row, &bodies)?;
        let evidence: Option<String> = sqlx::query_scalar("SELECT evidence FROM changes WHERE seq = $1")
            .bind(case.evidence_seq)
            .fetch_optional(&self.inner.reader)
            .await?;
        Ok(Some((case, Evidence::parse(evidence.as_deref().unwrap_or_default()))))
    }

    /// Its group; one of its own where nobody is told of it.
    async fn group_to_show(&self, case: &Case) -> sqlx::Result<Group> {
        let row = sqlx::query(AssertSqlSafe(format!("{GROUPS} WHERE group_id = $1")))
            .bind(case.group_id.clone())
            .fetch_optional(&self.inner.reader)
            .await?;
        let alone = || Group {
            id: case.group_id.clone(),
            policy: case.body.policy.clone(),
            values: [("rule".to_owned(), case.rule.clone().into())].into_iter().collect(),
            told: 0,
            last_ms: 0,
            flush_ms: NEVER,
        };
        row.map_or_else(|| Ok(alone()), |r| group_of(&r))
    }

    async fn counts_to_show(&self, case: &Case) -> sqlx::Result<Counts> {
        let counts = match case.group_id.as_str() {
            "" => Counts {
                open: i64::from(case.state == State::Open),
                acknowledged: i64::from(case.state == State::Acknowledged),
                resolved: 0,
            },
            group => standing(&self.inner.reader, group).await?,
        };
        Ok(Counts { resolved: i64::from(case.state == State::Resolved), ..counts })
    }
}
