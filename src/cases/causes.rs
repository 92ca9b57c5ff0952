//! Which exceptions that stand explain others (`inhibit:`): found in the flush's own transaction (DESIGN §7).

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{AssertSqlSafe, Row as _};

use super::row::{self, COLUMNS};
use super::sql::{Conn, Dialect, Row, list_sql};
use super::{CasesError, Escalation};
use crate::escalation::quiet::{inhibit, said};
use crate::escalation::{Case, Evidence, Member};
use crate::rules::Policies;
use crate::rules::policies::Inhibit;

/// A statement's list is no longer.
const CHUNK: usize = 250;
/// Causes looked at for an entry that is not by parcel, the oldest first. With more of them, what only a later one explains is
/// told: too much rather than too little.
const MAX_CAUSES: i64 = 20_000;

/// Causes of entries that are not by parcel, read once in a transaction; by the place of the entry.
pub(super) type Causes = BTreeMap<usize, Vec<(Case, Evidence)>>;

impl Escalation {
    /// Which of the members are explained by what else stands, both by number.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn sources(
        &mut self,
        policies: &Policies,
        members: &[Member],
    ) -> Result<BTreeMap<i64, i64>, CasesError> {
        let mut sources = BTreeMap::new();
        for (place, entry) in policies.inhibit.iter().enumerate() {
            let targets: Vec<&Member> =
                members.iter().filter(|m| entry.target.holds(&said(&m.case, &m.evidence))).collect();
            if targets.is_empty() {
                continue;
            }
            let by_parcel = entry.equal.iter().any(|name| name == "parcel_id");
            let found = if by_parcel {
                let parcels: BTreeSet<&str> = targets.iter().map(|m| m.case.parcel_id.as_str()).collect();
                self.of_parcels(&parcels).await
            } else if let Some(known) = self.causes.remove(&place) {
                Ok(known)
            } else {
                self.of_rules(entry).await
            };
            let found = found.map_err(|e| self.failed(e))?;
            let targets = targets.iter().map(|m| (&m.case, &m.evidence));
            inhibit(entry, targets, found.iter().map(|(c, e)| (c, e)), &mut sources);
            if !by_parcel {
                self.causes.insert(place, found);
            }
        }
        self.feeds(policies, members, &mut sources).await.map_err(|e| self.failed(e))?;
        Ok(sources)
    }

    async fn of_parcels(&mut self, parcels: &BTreeSet<&str>) -> sqlx::Result<Vec<(Case, Evidence)>> {
        let mut found = Vec::new();
        let parcels: Vec<&str> = parcels.iter().copied().collect();
        for chunk in parcels.chunks(CHUNK) {
            let head = format!("SELECT {COLUMNS} FROM exceptions WHERE state <> 'resolved' AND parcel_id IN");
            let mut query = sqlx::query(AssertSqlSafe(list_sql(self.dialect(), &head, chunk.len(), "")));
            for parcel in chunk {
                query = query.bind((*parcel).to_owned());
            }
            let rows = query.fetch_all(self.tx()).await?;
            found.extend(self.with_evidence(&rows).await?);
        }
        Ok(found)
    }

    async fn of_rules(&mut self, entry: &Inhibit) -> sqlx::Result<Vec<(Case, Evidence)>> {
        let rules = entry.source.texts("rule").unwrap_or_default();
        let head = format!("SELECT {COLUMNS} FROM exceptions WHERE state <> 'resolved'");
        let tail = format!(" ORDER BY exception LIMIT {MAX_CAUSES}");
        let sql = if rules.is_empty() {
            format!("{head}{tail}")
        } else {
            list_sql(self.dialect(), &format!("{head} AND rule IN"), rules.len(), &tail)
        };
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for rule in rules {
            query = query.bind(rule.to_owned());
        }
        let rows = query.fetch_all(self.tx()).await?;
        self.with_evidence(&rows).await
    }

    async fn with_evidence(&mut self, rows: &[Row]) -> sqlx::Result<Vec<(Case, Evidence)>> {
        let bodies = self.cases().bodies_of(rows).await?;
        let mut found: Vec<(Case, Evidence)> = rows
            .iter()
            .map(|r| Ok((row::case_of(r, &bodies)?, Evidence::default())))
            .collect::<sqlx::Result<_>>()?;
        for chunk in found.chunks_mut(CHUNK) {
            let at: BTreeMap<i64, usize> =
                chunk.iter().enumerate().map(|(i, (c, _))| (c.number, i)).collect();
            let sql = list_sql(
                self.dialect(),
                "SELECT exception, evidence FROM changes WHERE seq IN",
                chunk.len(),
                "",
            );
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for (case, _) in chunk.iter() {
                query = query.bind(case.evidence_seq);
            }
            for r in query.fetch_all(self.tx()).await? {
                if let Some(&i) = at.get(&r.try_get(0)?) {
                    chunk[i].1 = Evidence::parse(r.try_get(1)?);
                }
            }
        }
        Ok(found)
    }
}

/// What these exceptions explained is looked at again: they changed.
pub(super) async fn wake_explained(tx: &mut Conn, changed: &[i64], now_ms: i64) -> sqlx::Result<()> {
    for chunk in changed.chunks(CHUNK) {
        // The list's parameters are the only ones: the time is a number of ours.
        let head = format!(
            "UPDATE exceptions SET next_ms = {now_ms} WHERE held = 'inhibited' AND waiting = 0 AND held_by IN"
        );
        let sql = list_sql(Dialect::of(tx), &head, chunk.len(), "");
        let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        for number in chunk {
            query = query.bind(*number);
        }
        query.execute(&mut *tx).await?;
    }
    Ok(())
}
