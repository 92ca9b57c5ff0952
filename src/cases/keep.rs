//! What is kept beside the exceptions: positions, rule texts, rejected records, the key of links; and what is forgotten.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Row as _};

use super::commit::hex;
use super::row::{flag, severity, small};
use super::sql::{self, Row};
use super::store::next_number;
use super::{Cases, CasesError, Recorded, Rejected, Standing};
use crate::model::Time;

impl Cases {
    /// Where a partition's shard stood; `None` where it never committed.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn recorded(&self, partition: i32) -> Result<Option<Recorded>, CasesError> {
        let row =
            sqlx::query("SELECT next_offset, watermark, rules_hash FROM partitions WHERE partition_id = $1")
                .bind(i64::from(partition))
                .fetch_optional(&self.inner.reader)
                .await
                .map_err(|e| self.failed(e))?;
        row.map(|r| {
            Ok(Recorded {
                position: r.try_get(0)?,
                watermark: Time(r.try_get(1)?),
                rules_hash: r.try_get(2)?,
            })
        })
        .transpose()
        .map_err(|e| self.failed(e))
    }

    /// Each change of a partition's rules, the oldest first: from that (position, W) on it was folded with them.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn switches(&self, partition: i32) -> Result<Vec<Recorded>, CasesError> {
        let rows = sqlx::query(
            "SELECT next_offset, watermark, rules_hash FROM rule_switches WHERE partition_id = $1 \
             ORDER BY at_ms, next_offset, watermark",
        )
        .bind(i64::from(partition))
        .fetch_all(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))?;
        rows.iter()
            .map(|r| {
                Ok(Recorded {
                    position: r.try_get(0)?,
                    watermark: Time(r.try_get(1)?),
                    rules_hash: r.try_get(2)?,
                })
            })
            .collect::<sqlx::Result<_>>()
            .map_err(|e| self.failed(e))
    }

    /// Forgets where a partition's shard stood: its log was made anew, so that its offsets begin again. Exceptions stay.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn forget_position(&self, partition: i32) -> Result<(), CasesError> {
        let mut tx = self.begin_owning(partition).await?;
        for sql in [
            "DELETE FROM partitions WHERE partition_id = $1",
            "DELETE FROM rule_switches WHERE partition_id = $1",
        ] {
            sqlx::query(sql)
                .bind(i64::from(partition))
                .execute(&mut *tx)
                .await
                .map_err(|e| self.failed(e))?;
        }
        self.end(tx).await
    }

    /// What stands in a partition by the engine's account, in the order of its opening.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn standing(&self, partition: i32) -> Result<Vec<Standing>, CasesError> {
        let rows = sqlx::query(
            "SELECT exception_id, rule, parcel_id, episode, stage, severity, highest_stage, highest_severity, anchor, due, \
             CASE WHEN state = 'resolved' THEN 1 ELSE 0 END FROM exceptions WHERE partition_id = $1 AND engine_open = 1 ORDER BY exception",
        )
        .bind(i64::from(partition))
        .fetch_all(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))?;
        rows.iter().map(standing_of).collect::<sqlx::Result<_>>().map_err(|e| self.failed(e))
    }

    /// Keeps the texts of a rule set (file name → text) under its hash.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn keep_rules(
        &self,
        hash: &str,
        texts: &BTreeMap<String, String>,
        now_ms: i64,
    ) -> Result<(), CasesError> {
        let texts =
            serde_json::to_string(texts).map_err(|e| self.failed(sqlx::Error::Encode(Box::new(e))))?;
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO rule_sets (hash, texts, kept_ms) VALUES ($1, $2, $3) ON CONFLICT (hash) DO NOTHING",
        )
        .bind(hash.to_owned())
        .bind(texts)
        .bind(now_ms)
        .execute(&mut *tx)
        .await
        .map_err(|e| self.failed(e))?;
        self.end(tx).await
    }

    /// The texts kept under a hash.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn rules_texts(&self, hash: &str) -> Result<Option<BTreeMap<String, String>>, CasesError> {
        let texts: Option<String> = sqlx::query_scalar("SELECT texts FROM rule_sets WHERE hash = $1")
            .bind(hash.to_owned())
            .fetch_optional(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        texts
            .map(|t| serde_json::from_str(&t).map_err(|e| self.failed(sqlx::Error::Decode(Box::new(e)))))
            .transpose()
    }

    /// Keeps rejected records, the newest [`Cases::MAX_REJECTED`] of all; one at a position kept already is a no-op.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn reject(&self, records: &[Rejected], now_ms: i64) -> Result<(), CasesError> {
        const HEAD: &str = "INSERT INTO rejected_records (seq, partition_id, log_offset, append_ms, reason, record_key, head, at_ms) VALUES";
        if records.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        async {
            let mut seq = next_number(&mut tx, "SELECT MAX(seq) FROM rejected_records").await?;
            for chunk in records.chunks(250) {
                let sql = sql::values_sql(
                    self.dialect(),
                    HEAD,
                    8,
                    chunk.len(),
                    " ON CONFLICT (partition_id, log_offset) DO NOTHING",
                );
                let mut query = sqlx::query(AssertSqlSafe(sql));
                for r in chunk {
                    query = query
                        .bind(seq)
                        .bind(i64::from(r.partition))
                        .bind(r.offset)
                        .bind(r.append.0)
                        .bind(r.reason)
                        .bind(r.key.clone())
                        .bind(r.head.clone())
                        .bind(now_ms);
                    seq += 1;
                }
                query.execute(&mut *tx).await?;
            }
            sqlx::query(
                "DELETE FROM rejected_records WHERE seq <= (SELECT MAX(seq) FROM rejected_records) - $1",
            )
            .bind(Cases::MAX_REJECTED)
            .execute(&mut *tx)
            .await
        }
        .await
        .map_err(|e| self.failed(e))?;
        self.end(tx).await
    }

    /// The newest rejected records.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn rejected(&self, limit: u32) -> Result<Vec<serde_json::Value>, CasesError> {
        let rows = sqlx::query(
            "SELECT partition_id, log_offset, append_ms, reason, record_key, head FROM rejected_records ORDER BY seq DESC LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))?;
        rows.iter()
            .map(|r| {
                Ok(serde_json::json!({
                    "partition": r.try_get::<i64, _>(0)?,
                    "offset": r.try_get::<i64, _>(1)?,
                    "append_time": Time(r.try_get(2)?).to_string(),
                    "reason": r.try_get::<&str, _>(3)?,
                    "key": r.try_get::<&str, _>(4)?,
                    "head": r.try_get::<&str, _>(5)?,
                }))
            })
            .collect::<sqlx::Result<_>>()
            .map_err(|e| self.failed(e))
    }

    /// The random key of links in mails: made at the first call, the same ever after.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn link_key(&self) -> Result<[u8; 32], CasesError> {
        let mut fresh = [0; 32];
        getrandom::fill(&mut fresh)
            .map_err(|e| self.failed(sqlx::Error::Io(std::io::Error::other(e.to_string()))))?;
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO settings (name, value) VALUES ('link_key', $1) ON CONFLICT (name) DO NOTHING",
        )
        .bind(hex(&fresh))
        .execute(&mut *tx)
        .await
        .map_err(|e| self.failed(e))?;
        let kept: String = sqlx::query_scalar("SELECT value FROM settings WHERE name = 'link_key'")
            .fetch_one(&mut *tx)
            .await
            .map_err(|e| self.failed(e))?;
        self.end(tx).await?;
        unhex(&kept).ok_or_else(|| self.failed(sqlx::Error::Decode("the link key is not 64 digits".into())))
    }

    /// Forgets exceptions that were resolved, and messages that were finished, before this (`cases.keep`); at most `limit` of
    /// each. Returns how many exceptions.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn purge(&self, before_ms: i64, limit: u32) -> Result<u64, CasesError> {
        const OLD: &str = "(SELECT exception FROM exceptions WHERE state = 'resolved' AND updated_ms < $1 AND engine_open = 0 AND told = 0 \
                           ORDER BY updated_ms LIMIT $2)";
        let mut tx = self.begin_leading().await?;
        let gone = async {
            for table in ["changes", "notices", "unsent", "actions", "told", "exception_orders"] {
                sqlx::query(AssertSqlSafe(format!("DELETE FROM {table} WHERE exception IN {OLD}")))
                    .bind(before_ms)
                    .bind(i64::from(limit))
                    .execute(&mut *tx)
                    .await?;
            }
            sqlx::query(
                "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE state <> 'pending' AND created_ms < $1 LIMIT $2)",
            )
            .bind(before_ms)
            .bind(i64::from(limit))
            .execute(&mut *tx)
            .await?;
            sqlx::query("DELETE FROM silences WHERE ends_ms < $1").bind(before_ms).execute(&mut *tx).await?;
            sqlx::query(AssertSqlSafe(format!("DELETE FROM exceptions WHERE exception IN {OLD}")))
                .bind(before_ms)
                .bind(i64::from(limit))
                .execute(&mut *tx)
                .await
        }
        .await
        .map_err(|e| self.failed(e))?;
        self.end(tx).await?;
        Ok(gone.rows_affected())
    }
}

fn standing_of(r: &Row) -> sqlx::Result<Standing> {
    Ok(Standing {
        exception_id: r.try_get(0)?,
        rule: r.try_get(1)?,
        parcel_id: r.try_get(2)?,
        episode: r.try_get(3)?,
        stage: small(r, 4)?,
        severity: severity(r, 5)?,
        highest_stage: small(r, 6)?,
        highest_severity: severity(r, 7)?,
        anchor: Time(r.try_get(8)?),
        due: Time(r.try_get(9)?),
        by_operator: flag(r, 10)?,
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in key.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(key)
}
