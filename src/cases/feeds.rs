//! What is known of feeds, and their incidents (DESIGN §7): heard in the transaction that records a partition's place, decided,
//! told and ended in one of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row as _};

use super::causes::wake_explained;
use super::outbox;
use super::sql::{Conn, Row, Tx};
use super::store::{lock, next_number};
use super::{Cases, CasesError, Escalation, OutboxRow};
use crate::escalation::feeds::{self, Feed, Health, Heard, Hours, Incident, Incidents, Trouble};
use crate::escalation::{Member, Told, recipients};
use crate::model::Time;
use crate::rules::Policies;

/// Feeds kept at most; what names more is not learnt.
const MAX_FEEDS: i64 = 10_000;
const COLUMNS: &str =
    "feed, source, lane, first_ms, last_ms, hours, health, health_ms, incident, since_ms, opened_ms, told";

/// Takes in what was heard of feeds. Whether an incident may begin or end by it.
pub(super) async fn hear(tx: &mut Conn, heard: &[Heard]) -> sqlx::Result<bool> {
    let mut stirred = false;
    for one in heard {
        // What a lane tells, its source has told too; what is said of the health of a lane is said of it alone.
        let whole = (!one.lane.is_empty() && one.spoke.is_some()).then(|| Heard {
            lane: String::new(),
            health: None,
            ..one.clone()
        });
        for of in std::iter::once(one).chain(&whole) {
            let known = find(tx, &of.source, &of.lane).await?;
            let mut feed = match known {
                Some(feed) => feed,
                None => match fresh(tx, of).await? {
                    Some(feed) => feed,
                    None => continue,
                },
            };
            let was = feed.health;
            if feed.hear(of) {
                stirred |= feed.incident.is_some() || feed.health != was;
                write(tx, &feed).await?;
            }
        }
    }
    Ok(stirred)
}

async fn find(tx: &mut Conn, source: &str, lane: &str) -> sqlx::Result<Option<Feed>> {
    let row =
        sqlx::query(AssertSqlSafe(format!("SELECT {COLUMNS} FROM feeds WHERE source = $1 AND lane = $2")))
            .bind(source.to_owned())
            .bind(lane.to_owned())
            .fetch_optional(tx)
            .await?;
    row.as_ref().map(feed_of).transpose()
}

/// A feed not known yet; `None`: there are too many.
async fn fresh(tx: &mut Conn, heard: &Heard) -> sqlx::Result<Option<Feed>> {
    let many: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM feeds").fetch_one(&mut *tx).await?;
    if many >= MAX_FEEDS {
        return Ok(None);
    }
    let number = next_number(tx, "SELECT MAX(feed) FROM feeds").await?;
    Ok(Some(Feed { number, source: heard.source.clone(), lane: heard.lane.clone(), ..Feed::default() }))
}

async fn write(tx: &mut Conn, feed: &Feed) -> sqlx::Result<()> {
    let told: Vec<[&str; 2]> =
        feed.told.iter().map(|t| [t.receiver.as_str(), t.recipient.as_str()]).collect();
    let incident = feed.incident;
    sqlx::query(
        "INSERT INTO feeds (feed, source, lane, first_ms, last_ms, hours, health, health_ms, incident, since_ms, opened_ms, told) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (feed) DO UPDATE SET first_ms = excluded.first_ms, \
         last_ms = excluded.last_ms, hours = excluded.hours, health = excluded.health, health_ms = excluded.health_ms, \
         incident = excluded.incident, since_ms = excluded.since_ms, opened_ms = excluded.opened_ms, told = excluded.told",
    )
    .bind(feed.number)
    .bind(feed.source.clone())
    .bind(feed.lane.clone())
    .bind(feed.first_ms)
    .bind(feed.last_ms)
    .bind(feed.hours.text())
    .bind(feed.health.map_or("", |(_, h)| h.name()))
    .bind(feed.health.map_or(0, |(at, _)| at))
    .bind(incident.map_or("", |i| i.trouble.name()))
    .bind(incident.map_or(0, |i| i.since_ms))
    .bind(incident.map_or(0, |i| i.opened_ms))
    .bind(json!(told).to_string())
    .execute(tx)
    .await?;
    Ok(())
}

fn feed_of(r: &Row) -> sqlx::Result<Feed> {
    let health = Health::from_name(r.try_get(6)?);
    let (health_ms, since_ms, opened_ms) = (r.try_get(7)?, r.try_get(9)?, r.try_get(10)?);
    let told: &str = r.try_get(11)?;
    let told: Vec<(String, String)> =
        serde_json::from_str(told).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    Ok(Feed {
        number: r.try_get(0)?,
        source: r.try_get(1)?,
        lane: r.try_get(2)?,
        first_ms: r.try_get(3)?,
        last_ms: r.try_get(4)?,
        hours: Hours::parse(r.try_get(5)?),
        health: health.map(|h| (health_ms, h)),
        incident: Trouble::from_name(r.try_get(8)?).map(|trouble| Incident { trouble, since_ms, opened_ms }),
        told: told.into_iter().map(|(receiver, recipient)| Told { receiver, recipient }).collect(),
    })
}

impl Cases {
    pub(super) fn feeds_stirred(&self) {
        self.inner.stirred.store(true, Ordering::Relaxed);
        self.changed().notify_one();
    }

    /// Whether something was heard since the last call that may begin or end an incident of a feed.
    #[must_use]
    pub fn take_feeds_stirred(&self) -> bool {
        self.inner.stirred.swap(false, Ordering::Relaxed)
    }

    /// Begins and ends incidents of feeds and tells of them, in one transaction. Ask while no partition has a backlog: what
    /// others told is not known then.
    ///
    /// # Errors
    /// Every [`CasesError`]; nothing is decided then.
    pub async fn watch_feeds(
        &self,
        policies: &Policies,
        dry_run: bool,
        now_ms: i64,
    ) -> Result<(), CasesError> {
        let mut tx = self.begin_leading().await?;
        let (standing, moved) =
            watch(&mut tx, policies, dry_run, now_ms).await.map_err(|e| self.failed(e))?;
        self.end(tx).await?;
        if moved {
            self.changed().notify_one();
            self.outbox_filled().notify_waiters();
        }
        *lock(&self.inner.incidents) = standing;
        Ok(())
    }

    /// How many incidents stand, by what is wrong, as last decided; no query.
    #[must_use]
    pub fn feed_incidents(&self) -> BTreeMap<Trouble, i64> {
        lock(&self.inner.incidents).clone()
    }

    /// All feeds, by source and lane.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn feeds(&self) -> Result<Vec<Value>, CasesError> {
        let rows = sqlx::query(AssertSqlSafe(format!("SELECT {COLUMNS} FROM feeds ORDER BY source, lane")))
            .fetch_all(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        let feeds: Vec<Feed> =
            rows.iter().map(feed_of).collect::<sqlx::Result<_>>().map_err(|e| self.failed(e))?;
        Ok(feeds.iter().map(shown).collect())
    }
}

fn shown(feed: &Feed) -> Value {
    let time = |ms: i64| Time(ms).to_string();
    let spoke = feed.hours.newest().is_some();
    json!({
        "source": feed.source,
        "lane": if feed.lane.is_empty() { None } else { Some(&feed.lane) },
        "first_record": spoke.then(|| time(feed.first_ms)),
        "last_record": spoke.then(|| time(feed.last_ms)),
        "health": feed.health.map(|(_, h)| h.name()),
        "health_at": feed.health.map(|(at, _)| time(at)),
        "incident": feed.incident.map(|i| json!({
            "what": i.trouble.name(), "since": time(i.since_ms), "noticed": time(i.opened_ms),
        })),
    })
}

async fn watch(
    tx: &mut Tx,
    policies: &Policies,
    dry_run: bool,
    now_ms: i64,
) -> sqlx::Result<(BTreeMap<Trouble, i64>, bool)> {
    let rows = sqlx::query(AssertSqlSafe(format!("SELECT {COLUMNS} FROM feeds ORDER BY feed")))
        .fetch_all(&mut **tx)
        .await?;
    let mut feeds: Vec<Feed> = rows.iter().map(feed_of).collect::<sqlx::Result<_>>()?;
    let watermark: Option<i64> =
        sqlx::query_scalar("SELECT MIN(watermark) FROM partitions").fetch_one(&mut **tx).await?;
    let watermark = Time(watermark.unwrap_or(i64::MIN));
    let mut changed: BTreeSet<usize> =
        feeds::decide(&mut feeds, policies.feeds.as_ref(), watermark, now_ms).into_iter().collect();
    let ended: Vec<i64> =
        changed.iter().filter(|i| feeds[**i].incident.is_none()).map(|i| -feeds[*i].number).collect();
    wake_explained(tx, &ended, now_ms).await?;
    changed.extend(tell(tx, policies, &mut feeds, dry_run, now_ms).await?);
    for at in &changed {
        write(tx, &feeds[*at]).await?;
    }
    for feed in &feeds {
        if feed.is_forgotten(watermark.0) && feed.incident.is_none() && feed.told.is_empty() {
            sqlx::query("DELETE FROM feeds WHERE feed = $1").bind(feed.number).execute(&mut **tx).await?;
        }
    }
    let mut standing: BTreeMap<Trouble, i64> = BTreeMap::new();
    for incident in feeds.iter().filter_map(|f| f.incident) {
        *standing.entry(incident.trouble).or_insert(0) += 1;
    }
    Ok((standing, !changed.is_empty()))
}

/// Tells of incidents that nobody was told of, and the end of those that somebody was. A lane's is not told while its whole source
/// has one. The places of the feeds that it told of.
async fn tell(
    tx: &mut Tx,
    policies: &Policies,
    feeds: &mut [Feed],
    dry_run: bool,
    now_ms: i64,
) -> sqlx::Result<Vec<usize>> {
    let whole: BTreeSet<String> = feeds
        .iter()
        .filter(|f| f.lane.is_empty() && f.incident.is_some())
        .map(|f| f.source.clone())
        .collect();
    let mut told = Vec::new();
    for (at, feed) in feeds.iter_mut().enumerate() {
        let to: BTreeSet<Told> = match feed.incident {
            None => std::mem::take(&mut feed.told),
            Some(_) if !feed.told.is_empty() => continue,
            Some(_) if !feed.lane.is_empty() && whole.contains(&feed.source) => continue,
            Some(_) => {
                let receivers = policies.feeds.iter().flat_map(|w| &w.notify);
                feed.told = receivers.flat_map(|r| recipients(policies, r)).collect();
                feed.told.clone()
            }
        };
        if to.is_empty() {
            continue;
        }
        let rows: Vec<OutboxRow> = to.iter().filter_map(|to| row(policies, feed, to, now_ms)).collect();
        outbox::put(tx, &rows, if dry_run { "dry_run" } else { "pending" }).await?;
        told.push(at);
    }
    Ok(told)
}

/// A message about a feed; `None`: there is no such receiver any more.
fn row(policies: &Policies, feed: &Feed, to: &Told, now_ms: i64) -> Option<OutboxRow> {
    let receiver = policies.receiver(&to.receiver)?;
    let id = feed.message_id(to, now_ms);
    Some(OutboxRow {
        body: feeds::body(feed, &id, to, now_ms),
        id,
        receiver: to.receiver.clone(),
        integration: receiver.kind.integration().to_owned(),
        recipient: to.recipient.clone(),
        kind: if feed.incident.is_some() { "feed.incident" } else { "feed.resolved" }.to_owned(),
        subject: format!("[parcelwatch] feed {}", feed.name()),
        thread: feed.thread(),
        attempts: 0,
        created_ms: now_ms,
        due_ms: now_ms,
    })
}

impl Escalation {
    /// Adds which of the members are explained by the incident of a feed.
    pub(super) async fn feeds(
        &mut self,
        policies: &Policies,
        members: &[Member],
        sources: &mut BTreeMap<i64, i64>,
    ) -> sqlx::Result<()> {
        let Some(watch) = &policies.feeds else { return Ok(()) };
        if self.incidents.is_none() {
            let rows = sqlx::query("SELECT source, lane, feed FROM feeds WHERE incident <> ''")
                .fetch_all(self.tx())
                .await?;
            let read = |r: &Row| Ok(((r.try_get(0)?, r.try_get(1)?), r.try_get(2)?));
            self.incidents = Some(rows.iter().map(read).collect::<sqlx::Result<Incidents>>()?);
        }
        if let Some(incidents) = &self.incidents {
            feeds::explain(watch, incidents, members, sources);
        }
        Ok(())
    }
}
