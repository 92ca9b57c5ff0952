//! What stands of that which a receiver was told: for receivers that keep an incident or an alert for it.

use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, Row as _};

use super::row::{self, COLUMNS};
use super::{Cases, CasesError};
use crate::escalation::{Evidence, body};

/// An exception that stands: its number, the values of its group, its fields in a body (DESIGN §11).
pub type ToldException = (i64, Map<String, Value>, Value);

impl Cases {
    /// Exceptions of a group that a recipient was told of and is owed the resolve of.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn told_standing(
        &self,
        receiver: &str,
        recipient: &str,
        group: &str,
    ) -> Result<i64, CasesError> {
        sqlx::query_scalar(
            "SELECT COUNT(*) FROM told AS t JOIN exceptions AS e ON e.exception = t.exception \
             WHERE t.receiver = $1 AND t.recipient = $2 AND e.group_id = $3",
        )
        .bind(receiver.to_owned())
        .bind(recipient.to_owned())
        .bind(group.to_owned())
        .fetch_one(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))
    }

    /// Exceptions that stand and that a recipient was told of, by number, those after `after`.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn told_of(
        &self,
        (receiver, recipient): (&str, &str),
        after: i64,
        limit: u32,
        public_url: Option<&str>,
        now_ms: i64,
    ) -> Result<Vec<ToldException>, CasesError> {
        let columns = COLUMNS.split(", ").map(|c| format!("e.{c}")).collect::<Vec<_>>().join(", ");
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {columns}, COALESCE(g.group_values, '{{}}') AS of_group, COALESCE(c.evidence, '') AS known FROM told AS t \
             JOIN exceptions AS e ON e.exception = t.exception LEFT JOIN groups AS g ON g.group_id = e.group_id \
             LEFT JOIN changes AS c ON c.seq = e.evidence_seq \
             WHERE t.receiver = $1 AND t.recipient = $2 AND t.exception > $3 AND e.state <> 'resolved' ORDER BY t.exception LIMIT $4"
        )))
        .bind(receiver.to_owned())
        .bind(recipient.to_owned())
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))?;
        let bodies = self.bodies_of(&rows).await.map_err(|e| self.failed(e))?;
        rows.iter()
            .map(|r| {
                let case = row::case_of(r, &bodies)?;
                let group = serde_json::from_str(r.try_get("of_group")?)
                    .map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
                let evidence = Evidence::parse(r.try_get("known")?);
                let news = case.news;
                let listed = body::listed(&case, &evidence, news.word, news.at, now_ms, public_url);
                Ok((case.number, group, listed))
            })
            .collect::<sqlx::Result<_>>()
            .map_err(|e| self.failed(e))
    }
}
