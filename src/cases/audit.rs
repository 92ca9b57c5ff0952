//! The audit trail: append-only, each row chained by a hash to the one before (DESIGN §7). A row is written in the transaction
//! of what it tells of, so neither is there without the other.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::Row as _;

use super::commit::hex;
use super::sql::{Conn, Row};
use super::{Cases, CasesError};
use crate::model::Time;

/// Rows of a page at most.
const MAX_PAGE: u32 = 1_000;

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Who<'a> {
    /// As they call themselves.
    pub by: &'a str,
    /// What they say.
    pub comment: &'a str,
    /// By what right: `token erp`, `link in message …`; "" where nothing was asked for.
    pub via: &'a str,
}

/// Something that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deed<'a> {
    /// Who.
    pub who: Who<'a>,
    /// `acknowledge`, `silence`, `reload` …
    pub action: &'a str,
    /// To what: an exception's id, `group …`, `silence …`.
    pub object: &'a str,
    /// More of it, as JSON; null where there is none.
    pub detail: &'a Value,
    /// Wall time.
    pub at_ms: i64,
}

impl Cases {
    /// Writes something that was done into the trail, in a transaction of its own.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn did(&self, deed: &Deed<'_>) -> Result<(), CasesError> {
        let mut tx = self.begin().await?;
        append(&mut tx, deed).await.map_err(|e| self.failed(e))?;
        self.end(tx).await
    }

    /// Rows of the trail in their order, those after `after`; at most 1,000.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn audit(&self, after: i64, limit: u32) -> Result<Vec<Value>, CasesError> {
        let rows = sqlx::query(
            "SELECT seq, at_ms, actor, remark_by, action, object, detail, hash FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2",
        )
        .bind(after)
        .bind(i64::from(limit.clamp(1, MAX_PAGE)))
        .fetch_all(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))?;
        rows.iter().map(shown).collect::<sqlx::Result<_>>().map_err(|e| self.failed(e))
    }
}

/// Appends a row.
pub(super) async fn append(tx: &mut Conn, deed: &Deed<'_>) -> sqlx::Result<()> {
    let last =
        sqlx::query("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetch_optional(&mut *tx).await?;
    let (seq, before): (i64, String) = match last {
        Some(r) => (r.try_get::<i64, _>(0)? + 1, r.try_get(1)?),
        None => (1, String::new()),
    };
    let Deed { who, action, object, detail, at_ms } = *deed;
    let detail = match (who.comment, detail) {
        ("", Value::Null) => String::new(),
        ("", detail) => detail.to_string(),
        (comment, Value::Null) => json!({ "comment": comment }).to_string(),
        (comment, detail) => json!({"comment": comment, "detail": detail}).to_string(),
    };
    let row = json!({
        "seq": seq, "at": Time(at_ms).to_string(), "actor": who.via, "by": who.by, "action": action, "object": object, "detail": detail,
    });
    sqlx::query(
        "INSERT INTO audit (seq, at_ms, actor, remark_by, action, object, detail, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(seq)
    .bind(at_ms)
    .bind(who.via.to_owned())
    .bind(who.by.to_owned())
    .bind(action.to_owned())
    .bind(object.to_owned())
    .bind(detail)
    .bind(chained(&before, &row))
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// The hash of a row: SHA-256 over the hash of the row before it ("" for the first), a line feed, and the row as JSON with sorted
/// names and without its hash.
#[must_use]
pub fn chained(before: &str, row: &Value) -> String {
    let mut sorted = std::collections::BTreeMap::new();
    for (name, value) in row.as_object().into_iter().flatten().filter(|(name, _)| *name != "hash") {
        sorted.insert(name, value);
    }
    let text: Vec<String> = sorted.iter().map(|(n, v)| format!("{}:{v}", Value::from(n.as_str()))).collect();
    let mut hash = Sha256::new();
    hash.update(before.as_bytes());
    hash.update(b"\n");
    hash.update(format!("{{{}}}", text.join(",")).as_bytes());
    hex(&hash.finalize())
}

/// A chain of rows that is being checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// Rows so far.
    pub rows: i64,
    /// The hash of the last.
    pub hash: String,
}

impl Chain {
    /// Takes the next row, as [`Cases::audit`] gives it.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn take(&mut self, row: &Value) -> Result<(), String> {
        let seq = row["seq"].as_i64().unwrap_or(0);
        if seq != self.rows + 1 {
            return Err(format!(
                "row {} of the audit trail is missing: after row {} comes row {seq}",
                self.rows + 1,
                self.rows
            ));
        }
        let hash = chained(&self.hash, row);
        if row["hash"].as_str() != Some(&hash) {
            return Err(format!(
                "row {seq} of the audit trail ({} {} at {}) is not as it was written, or a row before it is not",
                row["action"].as_str().unwrap_or("?"),
                row["object"].as_str().unwrap_or("?"),
                row["at"].as_str().unwrap_or("?"),
            ));
        }
        (self.rows, self.hash) = (seq, hash);
        Ok(())
    }
}

fn shown(r: &Row) -> sqlx::Result<Value> {
    Ok(json!({
        "seq": r.try_get::<i64, _>(0)?,
        "at": Time(r.try_get(1)?).to_string(),
        "actor": r.try_get::<&str, _>(2)?,
        "by": r.try_get::<&str, _>(3)?,
        "action": r.try_get::<&str, _>(4)?,
        "object": r.try_get::<&str, _>(5)?,
        "detail": r.try_get::<&str, _>(6)?,
        "hash": r.try_get::<&str, _>(7)?,
    }))
}
