//! Which rules and policies were put in force, by whom and when: the proof of what decided, years later.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::Row as _;

use super::audit::{self, Deed, Who};
use super::sql::Row;
use super::store::next_number;
use super::{Cases, CasesError};

/// Rules and policies put in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesLoad {
    /// Hash of the rules.
    pub rules_hash: String,
    /// Hash of the policies.
    pub policies_hash: String,
    /// A token's name, `SIGHUP`, `file`, `start`.
    pub by: String,
    /// Wall time.
    pub at_ms: i64,
}

impl Cases {
    /// Notes that rules and policies were put in force, unless they were the last to be. Of the texts (file name → text) those of the
    /// policies are kept under their hash; [`Cases::keep_rules`] keeps the rules'.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn rules_loaded(
        &self,
        load: &RulesLoad,
        texts: &BTreeMap<String, String>,
    ) -> Result<(), CasesError> {
        let texts =
            serde_json::to_string(texts).map_err(|e| self.failed(sqlx::Error::Encode(Box::new(e))))?;
        let mut tx = self.begin().await?;
        async {
            sqlx::query(
                "INSERT INTO policy_sets (hash, texts, kept_ms) VALUES ($1, $2, $3) ON CONFLICT (hash) DO NOTHING",
            )
            .bind(load.policies_hash.clone())
            .bind(texts)
            .bind(load.at_ms)
            .execute(&mut *tx)
            .await?;
            let number = next_number(&mut tx, "SELECT MAX(load) FROM rules_loads").await?;
            let new = sqlx::query(
                "INSERT INTO rules_loads (load, rules_hash, policies_hash, actor, at_ms) SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS \
                 (SELECT 1 FROM rules_loads WHERE load = $1 - 1 AND rules_hash = $2 AND policies_hash = $3)",
            )
            .bind(number)
            .bind(load.rules_hash.clone())
            .bind(load.policies_hash.clone())
            .bind(load.by.clone())
            .bind(load.at_ms)
            .execute(&mut *tx)
            .await?
            .rows_affected();
            if new > 0 {
                let who = Who { via: &load.by, ..Who::default() };
                let (object, detail) = (format!("rules {}", load.rules_hash), json!({"policies": load.policies_hash}));
                let deed = Deed { who, action: "reload", object: &object, detail: &detail, at_ms: load.at_ms };
                audit::append(&mut tx, &deed).await?;
            }
            Ok(())
        }
        .await
        .map_err(|e: sqlx::Error| self.failed(e))?;
        self.end(tx).await
    }

    /// Every time that rules or policies were put in force, the newest first.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn rules_loads(&self, limit: u32) -> Result<Vec<RulesLoad>, CasesError> {
        let rows = sqlx::query(
            "SELECT rules_hash, policies_hash, actor, at_ms FROM rules_loads ORDER BY load DESC LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))?;
        let load = |r: &Row| {
            Ok(RulesLoad {
                rules_hash: r.try_get(0)?,
                policies_hash: r.try_get(1)?,
                by: r.try_get(2)?,
                at_ms: r.try_get(3)?,
            })
        };
        rows.iter().map(load).collect::<sqlx::Result<_>>().map_err(|e| self.failed(e))
    }

    /// The texts kept under a hash of rules or of policies, or under one that begins so; with the whole hash.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn texts_of(
        &self,
        hash: &str,
    ) -> Result<Option<(String, BTreeMap<String, String>)>, CasesError> {
        let found: Option<(String, String)> = sqlx::query_as(
            "SELECT hash, texts FROM (SELECT hash, texts FROM rule_sets UNION ALL SELECT hash, texts FROM policy_sets) AS kept \
             WHERE substr(hash, 1, length($1)) = $1 ORDER BY hash LIMIT 1",
        )
        .bind(hash.to_owned())
        .fetch_optional(&self.inner.reader)
        .await
        .map_err(|e| self.failed(e))?;
        let Some((hash, texts)) = found else { return Ok(None) };
        let texts =
            serde_json::from_str(&texts).map_err(|e| self.failed(sqlx::Error::Decode(Box::new(e))))?;
        Ok(Some((hash, texts)))
    }
}
