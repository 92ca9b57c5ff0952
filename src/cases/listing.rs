//! What a message told of, one by one: of a digest that is everything it counts and does not list.

use serde_json::{Value, json};
use sqlx::Row as _;

use super::store::lock;
use super::{Cases, CasesError, Page};
use crate::escalation::Evidence;
use crate::escalation::body::plain;
use crate::model::{Severity, Time};

/// Rows of a page at most.
const MAX_PAGE: u32 = 1_000;
/// Facts by name, as they stand beside each exception.
const FACTS: [&str; 7] =
    ["lane", "origin", "destination", "domestic_carrier", "carrier_code", "tracking_number", "order_id"];

impl Cases {
    /// Exceptions that a message told of, the oldest first, as they stand now; what each was told as is its `told`. `None`: there
    /// is no such message. A cursor that is none begins at the start.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn outbox_exceptions(
        &self,
        id: &str,
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<Option<Page>, CasesError> {
        let after = cursor.and_then(|c| c.parse::<i64>().ok()).unwrap_or(0);
        let limit = limit.clamp(1, MAX_PAGE);
        let there: Option<i64> = sqlx::query_scalar("SELECT seq FROM outbox WHERE id = $1")
            .bind(id.to_owned())
            .fetch_optional(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        if there.is_none() {
            return Ok(None);
        }
        self.told_page(id, after, limit).await.map(Some).map_err(|e| self.failed(e))
    }

    async fn told_page(&self, id: &str, after: i64, limit: u32) -> sqlx::Result<Page> {
        let rows = sqlx::query(
            "SELECT n.exception, n.change, e.exception_id, e.rule, e.parcel_id, e.severity, e.state, e.due, e.opened_at, e.resolution, \
             e.ack_by, e.body, COALESCE(c.evidence, '') FROM notices AS n JOIN exceptions AS e ON e.exception = n.exception \
             LEFT JOIN changes AS c ON c.seq = e.evidence_seq WHERE n.outbox_id = $1 AND n.exception > $2 ORDER BY n.exception LIMIT $3",
        )
        .bind(id.to_owned())
        .bind(after)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.inner.reader)
        .await?;
        let shown = usize::try_from(limit).unwrap_or(usize::MAX);
        self.more_bodies().await?;
        let bodies = lock(&self.inner.bodies).clone();
        let (mut items, mut last) = (Vec::new(), 0);
        for r in rows.iter().take(shown) {
            let text = |column: usize| r.try_get::<String, _>(column);
            let number = |column: usize| r.try_get::<i64, _>(column);
            let code = u8::try_from(number(5)?).ok();
            let severity = code.and_then(Severity::from_code);
            let words = bodies.get(&number(11)?);
            let mut item = json!({
                "exception_id": text(2)?,
                "rule": text(3)?,
                "title": words.map(|b| &b.title),
                "parcel_id": text(4)?,
                "severity": severity.map(Severity::name),
                "state": text(6)?,
                "told": text(1)?,
                "owner": words.map(|b| &b.owner),
                "acknowledged_by": text(10)?,
                "due": Time(number(7)?).to_string(),
                "opened_at": Time(number(8)?).to_string(),
                "resolution": text(9)?,
            });
            let evidence = Evidence::parse(&text(12)?);
            for name in FACTS {
                let stated = evidence.facts.get(name).filter(|v| !v.is_null());
                item[name] = stated.map_or(Value::Null, |v| Value::from(plain(v)));
            }
            items.push(item);
            last = number(0)?;
        }
        let next_cursor = (rows.len() > shown).then(|| last.to_string());
        Ok(Page { items, next_cursor })
    }
}
