//! A shard's changes become rows: one transaction, safe to repeat (DESIGN §6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use sqlx::AssertSqlSafe;
use sqlx::Row as _;

use super::causes;
use super::escalation::insert_unsent;
use super::feeds;
use super::fold::{self, Effect, Told};
use super::orders;
use super::row::{self, COLUMNS, OVERWRITE, WIDTH};
use super::sql::{self, Conn, Dialect, list_sql};
use super::store::{lock, next_number};
use super::{Batch, Cases, CasesError, Committed, Recorded};
use crate::escalation::{self, Body, Case, Evidence, Group, Opening, State, Unsent, Why};
use crate::model::{Change, ChangeKind, FactRef, Severity};
use crate::rules::policies::Policies;
use crate::rules::ruleset::{Matcher, Rule, RuleSet};

/// Rows of a statement; a statement is prepared once for this many.
const CHUNK: usize = 250;
/// Columns of `changes`.
const CHANGE_WIDTH: usize = 17;

/// Bodies of the rules and policies in force, by rule and body index.
#[derive(Default)]
pub(super) struct Interned {
    /// Hashes of rules and policies.
    of: (String, String),
    bodies: BTreeMap<(u16, u16), Arc<Body>>,
}

/// A change with its place in the tables.
struct Entry<'a> {
    change: &'a Change,
    exception_id: String,
    name: String,
    body: Option<Arc<Body>>,
}

/// What a transaction is going to write.
#[derive(Default)]
struct Draft {
    /// By exception id.
    cases: BTreeMap<String, Case>,
    /// Names that exceptions have already.
    names: BTreeSet<(i64, String)>,
    touched: BTreeSet<String>,
    groups: BTreeMap<String, Group>,
    /// (number, index of the entry, exception, body)
    changes: Vec<(i64, usize, i64, i64)>,
    unsent: Vec<(i64, Why)>,
    /// (exception, order)
    orders: Vec<(i64, String)>,
    moves: BTreeMap<(String, Severity), i64>,
    /// A feed's incident may begin or end.
    stirred: bool,
}

impl Cases {
    /// Writes changes, their exceptions and the partition's position in one transaction. Safe to repeat: a change whose name
    /// is there is a no-op. More than [`Cases::MAX_BATCH`] are written in several, the position with the first: a replay
    /// up to it decides the rest again, and what cases lacks is told by reconciling.
    ///
    /// # Errors
    /// Every [`CasesError`]; nothing of the failed transaction is written.
    pub async fn commit(&self, batch: &Batch<'_>) -> Result<Committed, CasesError> {
        let mut committed = Committed::default();
        let (first, mut rest) = batch.changes.split_at(batch.changes.len().min(Cases::MAX_BATCH));
        committed.new.extend(self.commit_one(batch, first, Some(batch.recorded)).await?);
        while !rest.is_empty() {
            let (these, further) = rest.split_at(rest.len().min(Cases::MAX_BATCH));
            committed.new.extend(self.commit_one(batch, these, None).await?);
            rest = further;
        }
        Ok(committed)
    }

    async fn commit_one(
        &self,
        batch: &Batch<'_>,
        changes: &[Change],
        recorded: Option<&Recorded>,
    ) -> Result<Vec<bool>, CasesError> {
        let entries = self.entries(batch, changes).await?;
        let mut tx = self.begin_owning(batch.partition).await?;
        let (new, draft) =
            self.write(&mut tx, batch, &entries, recorded).await.map_err(|e| self.failed(e))?;
        self.end(tx).await?;
        let mut decided = BTreeMap::new();
        draft.unsent.iter().for_each(|(_, why)| *decided.entry(*why).or_insert(0) += 1);
        self.suppress(&decided);
        self.count(draft.moves);
        if draft.stirred {
            self.feeds_stirred();
        }
        if !draft.changes.is_empty() {
            self.changed().notify_one();
        }
        Ok(new)
    }

    async fn write(
        &self,
        tx: &mut Conn,
        batch: &Batch<'_>,
        entries: &[Entry<'_>],
        recorded: Option<&Recorded>,
    ) -> sqlx::Result<(Vec<bool>, Draft)> {
        let mut draft = Draft::default();
        let mut new = Vec::new();
        if !entries.is_empty() {
            self.load(tx, entries, &mut draft).await?;
            new = decide(tx, batch, entries, &mut draft).await?;
            insert_changes(tx, batch, entries, &draft.changes).await?;
            upsert(tx, &draft, batch.now_ms).await?;
            let changed: Vec<i64> = draft.changes.iter().map(|(_, _, exception, _)| *exception).collect();
            causes::wake_explained(tx, &changed, batch.now_ms).await?;
            insert_groups(tx, draft.groups.values()).await?;
            orders::insert(tx, &draft.orders).await?;
            insert_unheard(tx, &draft.unsent, batch.now_ms).await?;
        }
        if let Some(recorded) = recorded {
            draft.stirred = feeds::hear(tx, batch.heard).await?;
            record(tx, batch.partition, recorded, batch.now_ms).await?;
        }
        Ok((new, draft))
    }

    /// Reads the rows and the names that the exceptions of these entries have already.
    async fn load(&self, tx: &mut Conn, entries: &[Entry<'_>], draft: &mut Draft) -> sqlx::Result<()> {
        let ids: Vec<&str> =
            entries.iter().map(|e| e.exception_id.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
        let head = format!("SELECT {COLUMNS} FROM exceptions WHERE exception_id IN");
        let mut rows = Vec::new();
        for chunk in ids.chunks(CHUNK) {
            let mut query = sqlx::query(AssertSqlSafe(list_sql(Dialect::of(tx), &head, chunk.len(), "")));
            for id in chunk {
                query = query.bind((*id).to_owned());
            }
            rows.extend(query.fetch_all(&mut *tx).await?);
        }
        let bodies = self.bodies_of(&rows).await?;
        for r in &rows {
            let case = row::case_of(r, &bodies)?;
            draft.cases.insert(case.exception_id.clone(), case);
        }
        let known: Vec<i64> = draft.cases.values().map(|c| c.number).collect();
        for chunk in known.chunks(CHUNK) {
            let sql = list_sql(
                Dialect::of(tx),
                "SELECT exception, name FROM changes WHERE exception IN",
                chunk.len(),
                "",
            );
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for number in chunk {
                query = query.bind(*number);
            }
            for r in query.fetch_all(&mut *tx).await? {
                draft.names.insert((r.try_get(0)?, r.try_get(1)?));
            }
        }
        Ok(())
    }

    /// Names every change and finds the words of its rule.
    async fn entries<'a>(
        &self,
        batch: &Batch<'_>,
        changes: &'a [Change],
    ) -> Result<Vec<Entry<'a>>, CasesError> {
        let mut entries = Vec::with_capacity(changes.len());
        for change in changes {
            let body = match change.body {
                Some(at) => self.body(batch.rules, batch.policies, at).await?,
                None => None,
            };
            entries.push(Entry {
                change,
                exception_id: change.exception_id(),
                name: change_name(change, &batch.rules.hash),
                body,
            });
        }
        Ok(entries)
    }

    /// The words of a rule's body, written once.
    async fn body(
        &self,
        rules: &RuleSet,
        policies: &Policies,
        at: (u16, u16),
    ) -> Result<Option<Arc<Body>>, CasesError> {
        {
            let mut interned = lock(&self.inner.interned);
            if interned.of.0 != rules.hash || interned.of.1 != policies.hash {
                *interned =
                    Interned { of: (rules.hash.clone(), policies.hash.clone()), bodies: BTreeMap::new() };
            }
            if let Some(body) = interned.bodies.get(&at) {
                return Ok(Some(Arc::clone(body)));
            }
        }
        let Some(words) = words(rules, policies, at) else { return Ok(None) };
        let body = Arc::new(self.keep_body(words).await?);
        lock(&self.inner.bodies).insert(body.number, Arc::clone(&body));
        lock(&self.inner.interned).bodies.insert(at, Arc::clone(&body));
        Ok(Some(body))
    }

    /// Finds or writes a body, in a transaction of its own: it means nothing alone, and a batch that fails later finds
    /// it again.
    async fn keep_body(&self, words: Body) -> Result<Body, CasesError> {
        let text =
            serde_json::to_string(&words).map_err(|e| self.failed(sqlx::Error::Encode(Box::new(e))))?;
        let digest = hex(&Sha256::digest(text.as_bytes())[..]);
        let mut tx = self.begin().await?;
        let number = async {
            let found: Option<i64> = sqlx::query_scalar("SELECT body FROM bodies WHERE digest = $1")
                .bind(digest.clone())
                .fetch_optional(&mut *tx)
                .await?;
            if let Some(number) = found {
                return Ok(number);
            }
            let number = next_number(&mut tx, "SELECT MAX(body) FROM bodies").await?;
            sqlx::query("INSERT INTO bodies (body, digest, words) VALUES ($1, $2, $3)")
                .bind(number)
                .bind(digest)
                .bind(text)
                .execute(&mut *tx)
                .await?;
            Ok(number)
        }
        .await
        .map_err(|e| self.failed(e))?;
        self.end(tx).await?;
        Ok(Body { number, ..words })
    }
}

/// Folds the new ones of the entries into their exceptions. Returns which were new.
async fn decide(
    tx: &mut Conn,
    batch: &Batch<'_>,
    entries: &[Entry<'_>],
    draft: &mut Draft,
) -> sqlx::Result<Vec<bool>> {
    let mut seq = next_number(tx, "SELECT MAX(seq) FROM changes").await?;
    let mut number = next_number(tx, "SELECT MAX(exception) FROM exceptions").await?;
    let mut new = Vec::with_capacity(entries.len());
    for (at, entry) in entries.iter().enumerate() {
        let known = draft.cases.get(&entry.exception_id);
        if known.is_some_and(|c| !draft.names.insert((c.number, entry.name.clone()))) {
            new.push(false);
            continue;
        }
        let told = Told {
            change: entry.change,
            seq,
            now_ms: batch.now_ms,
            body: entry.body.clone(),
            partition: batch.partition,
        };
        let before = known.filter(|c| c.state != State::Resolved).map(|c| (c.rule.clone(), c.severity));
        let case = draft.cases.entry(entry.exception_id.clone()).or_insert_with(|| {
            number += 1;
            draft.names.insert((number - 1, entry.name.clone()));
            fold::first(&told, number - 1, &entry.exception_id)
        });
        if case.ladder.waiting
            && case.ladder.told_seq < case.news.seq
            && told.change.kind == ChangeKind::Raised
        {
            // What waited for its group's message is told with this, not by itself.
            draft.unsent.push((case.number, Why::Grouped));
        }
        let was = fold::Before::of(case);
        let effect = fold::fold(case, &told);
        let evidence = entry.change.evidence.as_deref();
        draft.orders.extend(evidence.and_then(orders::of).map(|order| (case.number, order)));
        address(case, evidence, batch.policies, effect, &mut draft.groups);
        if effect == Effect::Opened && fold::flap(case, &was, batch.policies, batch.now_ms) {
            draft.unsent.push((case.number, Why::Duplicate));
        }
        if effect == Effect::EndedUnheard && !case.group_id.is_empty() {
            draft.unsent.push((case.number, Why::ResolvedBeforeFlush));
        }
        if let Some(key) = before {
            *draft.moves.entry(key).or_insert(0) -= 1;
        }
        if case.state != State::Resolved {
            *draft.moves.entry((case.rule.clone(), case.severity)).or_insert(0) += 1;
        }
        draft.changes.push((seq, at, case.number, case.body.number));
        draft.touched.insert(entry.exception_id.clone());
        new.push(true);
        seq += 1;
    }
    Ok(new)
}

/// Finds the group of what opens; what nobody is to be told of has none and no timer.
pub(super) fn address(
    case: &mut Case,
    evidence: Option<&str>,
    policies: &Policies,
    effect: Effect,
    groups: &mut BTreeMap<String, Group>,
) {
    let anew = effect == Effect::Opened || (effect == Effect::Raised && case.group_id.is_empty());
    if anew && !case.body.shadow {
        let policy = escalation::policy_of(policies, Some(&case.body.policy));
        let evidence = evidence.map(Evidence::parse).unwrap_or_default();
        case.group_id = policy.map_or_else(String::new, |policy| {
            let group = escalation::group_of(
                policy,
                &Opening {
                    rule: &case.rule,
                    parcel_id: &case.parcel_id,
                    owner: &case.body.owner,
                    severity: case.severity,
                    facts: &evidence.facts,
                },
            );
            groups.entry(group.id.clone()).or_insert(group).id.clone()
        });
    }
    if case.group_id.is_empty() {
        case.ladder.next_ms = escalation::NEVER;
    }
}

async fn insert_changes(
    tx: &mut Conn,
    batch: &Batch<'_>,
    entries: &[Entry<'_>],
    changes: &[(i64, usize, i64, i64)],
) -> sqlx::Result<()> {
    const HEAD: &str = "INSERT INTO changes (seq, exception, name, change, stage, severity, at, anchor, due, resolution, partition_id, \
                        log_offset, rules_hash, body, incomplete, committed_ms, evidence) VALUES";
    for chunk in changes.chunks(CHUNK) {
        let mut query =
            sqlx::query(AssertSqlSafe(sql::values_sql(Dialect::of(tx), HEAD, CHANGE_WIDTH, chunk.len(), "")));
        for &(seq, at, exception, body) in chunk {
            let Entry { change: c, name, .. } = &entries[at];
            let resolution = match c.kind {
                ChangeKind::Resolved(r) => r.name(),
                ChangeKind::Opened | ChangeKind::Raised => "",
            };
            query = query
                .bind(seq)
                .bind(exception)
                .bind(name.clone())
                .bind(c.kind.name())
                .bind(i64::from(c.stage))
                .bind(c.severity as i64)
                .bind(c.at.0)
                .bind(c.anchor.0)
                .bind(c.due.0)
                .bind(resolution)
                .bind(i64::from(batch.partition))
                .bind(c.offset)
                .bind(batch.rules.hash.clone())
                .bind(body)
                .bind(i64::from(c.incomplete))
                .bind(batch.now_ms)
                .bind(c.evidence.as_deref().unwrap_or("").to_owned());
        }
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

async fn upsert(tx: &mut Conn, draft: &Draft, now_ms: i64) -> sqlx::Result<()> {
    let mut touched: Vec<&Case> = draft.touched.iter().filter_map(|id| draft.cases.get(id)).collect();
    touched.sort_by_key(|c| c.number);
    let head = format!("INSERT INTO exceptions ({COLUMNS}) VALUES");
    for chunk in touched.chunks(CHUNK) {
        let mut query = sqlx::query(AssertSqlSafe(sql::values_sql(
            Dialect::of(tx),
            &head,
            WIDTH,
            chunk.len(),
            OVERWRITE,
        )));
        for case in chunk {
            query = row::bind(query, case, now_ms);
        }
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

/// Writes groups that are not there yet.
async fn insert_groups(tx: &mut Conn, groups: impl Iterator<Item = &Group>) -> sqlx::Result<()> {
    for group in groups {
        sqlx::query(
            "INSERT INTO groups (group_id, policy, group_values, told, last_ms, flush_ms) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (group_id) DO NOTHING",
        )
        .bind(group.id.clone())
        .bind(group.policy.clone())
        .bind(serde_json::Value::Object(group.values.clone()).to_string())
        .bind(group.told)
        .bind(group.last_ms)
        .bind(group.flush_ms)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

async fn insert_unheard(tx: &mut Conn, exceptions: &[(i64, Why)], now_ms: i64) -> sqlx::Result<()> {
    let of = |&(exception, why): &(i64, Why)| Unsent { exception, why, step: 0, at_ms: now_ms };
    insert_unsent(tx, &exceptions.iter().map(of).collect::<Vec<_>>()).await
}

/// Records how far the shard is, and a change of rules where there was one. A replay, which is behind what is recorded,
/// moves nothing.
async fn record(tx: &mut Conn, partition: i32, recorded: &Recorded, now_ms: i64) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO rule_switches (partition_id, next_offset, watermark, rules_hash, at_ms) SELECT $1, $2, $3, $4, $5 \
         WHERE NOT EXISTS (SELECT 1 FROM partitions WHERE partition_id = $1 \
         AND (rules_hash = $4 OR next_offset > $2 OR (next_offset = $2 AND watermark > $3)))",
    )
    .bind(i64::from(partition))
    .bind(recorded.position)
    .bind(recorded.watermark.0)
    .bind(recorded.rules_hash.clone())
    .bind(now_ms)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "INSERT INTO partitions (partition_id, next_offset, watermark, rules_hash, updated_ms) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (partition_id) DO UPDATE SET next_offset = excluded.next_offset, watermark = excluded.watermark, \
         rules_hash = excluded.rules_hash, updated_ms = excluded.updated_ms WHERE partitions.next_offset < excluded.next_offset \
         OR (partitions.next_offset = excluded.next_offset AND partitions.watermark <= excluded.watermark)",
    )
    .bind(i64::from(partition))
    .bind(recorded.position)
    .bind(recorded.watermark.0)
    .bind(recorded.rules_hash.clone())
    .bind(now_ms)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// The name of a change within its exception (DESIGN §6), as 32 hexadecimal digits.
fn change_name(change: &Change, rules_hash: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(rules_hash.as_bytes());
    hash.update([0]);
    hash.update(change.offset.to_be_bytes());
    hash.update(change.at.0.to_be_bytes());
    hash.update(change.kind.name().as_bytes());
    hash.update([change.stage]);
    hex(&hash.finalize()[..16])
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// What a rule's body and its policy say in words; its number is yet to be given.
pub(super) fn words(rules: &RuleSet, policies: &Policies, at: (u16, u16)) -> Option<Body> {
    let rule = rules.rules.get(usize::from(at.0))?;
    let body = rule.bodies.get(usize::from(at.1))?;
    let policy = escalation::policy_of(policies, body.policy.as_deref());
    let mut facts = BTreeSet::new();
    named_facts(rules, rule, usize::from(at.1), &mut facts);
    if let Some(policy) = policy {
        let not_facts = ["rule", "severity", "owner", "parcel_id"];
        facts.extend(policy.group_by.iter().filter(|n| !not_facts.contains(&n.as_str())).cloned());
        facts.extend(policy.show.iter().cloned());
    }
    Some(Body {
        number: 0,
        rule_hash: rule.hash.to_string(),
        title: body.title.clone(),
        runbook: body.runbook.clone(),
        labels: body.labels.clone(),
        owner: body.owner.clone(),
        policy: policy.map(|p| p.id.clone()).unwrap_or_default(),
        shadow: rule.shadow,
        expected: body.expect.names.clone(),
        facts: facts.into_iter().collect(),
    })
}

/// Facts that the matchers of a rule name: its scope, its overrides, and `while` and `unless` of the body in force.
fn named_facts(rules: &RuleSet, rule: &Rule, body: usize, names: &mut BTreeSet<String>) {
    fn walk(rules: &RuleSet, matcher: &Matcher, names: &mut BTreeSet<String>) {
        match matcher {
            Matcher::All(list) | Matcher::Any(list) | Matcher::None(list) => {
                list.iter().for_each(|m| walk(rules, m, names));
            }
            Matcher::Fact(FactRef::Stated(number), _) => {
                names.insert(rules.fact_name(*number).to_owned());
            }
            Matcher::Fact(FactRef::Derived(fact), _) => {
                names.insert(fact.name().to_owned());
            }
        }
    }
    walk(rules, &rule.scope, names);
    rule.overrides.iter().for_each(|m| walk(rules, m, names));
    if let Some(body) = rule.bodies.get(body) {
        body.while_.iter().chain(&body.unless).for_each(|m| walk(rules, m, names));
    }
}
