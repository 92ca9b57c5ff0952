//! The fence before the outbox: what was decided is asked again when it is handed out for the first time, in that very transaction
//! ([`crate::escalation::fence()`]).

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;

use super::escalation::insert_unsent;
use super::outbox::free_next;
use super::row::small;
use super::sql::{Conn, Row};
use crate::escalation::body;
use crate::escalation::{After, Saying, State, Told, Why, Withdrawn, Word, fence};

/// Messages withdrawn in a transaction: nobody else writes meanwhile.
const AT_ONCE: usize = 100;

/// A message that may be handed out for the first time and of which nothing stands unacknowledged.
struct Doubtful {
    id: String,
    seq: i64,
    to: Told,
    thread: String,
    is_digest: bool,
}

/// What a message says of an exception to the recipient in question.
struct Line {
    exception: i64,
    word: Word,
    step: u32,
    state: State,
    /// In the order in which they are sent; `None`: in a digest that is being gathered.
    seq: Option<i64>,
    id: String,
    is_digest: bool,
    /// It may have arrived.
    out: bool,
}

/// Withdraws what is due for a receiver and no longer to be said; `decided` counts it. Returns whether what is due now may go: else there
/// is more to withdraw in a further transaction.
pub(super) async fn withdraw(
    tx: &mut Conn,
    receiver: &str,
    (now_ms, limit): (i64, u32),
    decided: &mut BTreeMap<Why, u64>,
) -> sqlx::Result<bool> {
    let (mut goes, mut withdrawn) = (BTreeSet::new(), 0);
    // Each round frees the next messages of the threads.
    while withdrawn < AT_ONCE {
        let before = withdrawn;
        for row in doubtful(tx, receiver, now_ms, limit).await? {
            if goes.contains(&row.id) {
                continue;
            }
            let lines = lines(tx, &row).await?;
            match fence(&sayings(&row, &lines), row.is_digest, now_ms) {
                None => _ = goes.insert(row.id),
                Some(what) => {
                    what.unsent.iter().for_each(|u| *decided.entry(u.why).or_insert(0) += 1);
                    write(tx, &row, &lines, &what, now_ms).await?;
                    withdrawn += 1;
                }
            }
        }
        if withdrawn == before {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Of what would be handed out: usually nothing, after one look at each.
async fn doubtful(tx: &mut Conn, receiver: &str, now_ms: i64, limit: u32) -> sqlx::Result<Vec<Doubtful>> {
    let rows = sqlx::query(
        "SELECT o.id, o.seq, o.receiver, o.recipient, o.thread, o.kind FROM (SELECT id, seq, receiver, recipient, thread, kind, \
         attempts, lease_ms FROM outbox WHERE receiver = $1 \
         AND state = 'pending' AND blocked = 0 AND due_ms <= $2 AND lease_ms <= $2 ORDER BY due_ms, seq LIMIT $3) AS o \
         WHERE o.attempts = 0 AND o.lease_ms = 0 AND EXISTS (SELECT 1 FROM notices WHERE outbox_id = o.id) \
         AND NOT EXISTS (SELECT 1 FROM notices AS n JOIN exceptions AS e ON e.exception = n.exception WHERE n.outbox_id = o.id \
         AND (n.change = 'resolved' OR e.state = 'open'))",
    )
    .bind(receiver.to_owned())
    .bind(now_ms)
    .bind(i64::from(limit))
    .fetch_all(tx)
    .await?;
    let read = rows.iter().map(|r| {
        Ok(Doubtful {
            id: r.try_get(0)?,
            seq: r.try_get(1)?,
            to: Told { receiver: r.try_get(2)?, recipient: r.try_get(3)? },
            thread: r.try_get(4)?,
            is_digest: r.try_get::<&str, _>(5)? == "digest",
        })
    });
    read.collect()
}

/// All that the recipient of a message is told of its exceptions, in the order of sending. A message that was purged long ago
/// counts as the first of all, to whomever it went.
async fn lines(tx: &mut Conn, row: &Doubtful) -> sqlx::Result<Vec<Line>> {
    let rows = sqlx::query(
        "SELECT n.exception, n.change, n.step, e.state, CASE WHEN o.id IS NULL AND d.id IS NULL THEN 0 ELSE o.seq END, n.outbox_id, \
         CASE WHEN d.id IS NOT NULL OR o.kind = 'digest' THEN 1 ELSE 0 END, \
         CASE WHEN d.id IS NOT NULL OR (o.state = 'pending' AND o.attempts = 0 AND o.lease_ms = 0) THEN 0 ELSE 1 END \
         FROM notices AS n JOIN exceptions AS e ON e.exception = n.exception LEFT JOIN outbox AS o ON o.id = n.outbox_id \
         LEFT JOIN digests AS d ON d.id = n.outbox_id \
         WHERE n.exception IN (SELECT exception FROM notices WHERE outbox_id = $1) \
         AND COALESCE(o.receiver, d.receiver, $2) = $2 AND COALESCE(o.recipient, d.recipient, $3) = $3 \
         AND COALESCE(o.state, '') NOT IN ('withdrawn', 'dry_run') \
         AND NOT (COALESCE(o.state, '') = 'dropped' AND o.attempts = 0 AND o.lease_ms = 0)",
    )
    .bind(row.id.clone())
    .bind(row.to.receiver.clone())
    .bind(row.to.recipient.clone())
    .fetch_all(tx)
    .await?;
    let mut lines = rows.iter().map(line).collect::<sqlx::Result<Vec<_>>>()?;
    lines.sort_by_key(|l| l.seq.unwrap_or(i64::MAX));
    Ok(lines)
}

fn line(r: &Row) -> sqlx::Result<Line> {
    let unknown = |what: &str| sqlx::Error::Decode(format!("{what:?} in the outbox's notices").into());
    let (word, state): (&str, &str) = (r.try_get(1)?, r.try_get(3)?);
    Ok(Line {
        exception: r.try_get(0)?,
        word: Word::from_name(word).ok_or_else(|| unknown(word))?,
        step: small(r, 2)?,
        state: State::from_name(state).ok_or_else(|| unknown(state))?,
        seq: r.try_get(4)?,
        id: r.try_get(5)?,
        is_digest: r.try_get::<i64, _>(6)? > 0,
        out: r.try_get::<i64, _>(7)? > 0,
    })
}

/// What a message says, seen among the others.
fn sayings(row: &Doubtful, lines: &[Line]) -> Vec<Saying> {
    let of = |n: i64| lines.iter().filter(move |l| l.exception == n && l.id != row.id);
    let says = lines.iter().filter(|l| l.id == row.id);
    says.map(|l| Saying {
        exception: l.exception,
        word: l.word,
        step: l.step,
        state: l.state,
        before: of(l.exception).rfind(|o| o.seq.is_some_and(|s| s < row.seq)).map(|o| o.word),
        after: of(l.exception).find(|o| o.seq.is_none_or(|s| s > row.seq)).map_or(After::Nothing, after),
    })
    .collect()
}

fn after(line: &Line) -> After {
    match line.word {
        Word::Opened | Word::Raised | Word::Reminder => After::News,
        Word::Resolved if line.out => After::EndSent,
        Word::Resolved if line.is_digest => After::EndInDigest,
        Word::Resolved => After::End,
    }
}

async fn write(
    tx: &mut Conn,
    row: &Doubtful,
    lines: &[Line],
    withdrawn: &Withdrawn,
    now_ms: i64,
) -> sqlx::Result<()> {
    finish(tx, &row.id, withdrawn.why, now_ms).await?;
    insert_unsent(tx, &withdrawn.unsent).await?;
    for (exception, step) in &withdrawn.untold {
        untell(tx, &row.to, *exception, *step).await?;
    }
    let mut ends: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for exception in &withdrawn.unopened {
        let behind = |l: &&Line| l.exception == *exception && l.seq.is_some_and(|s| s > row.seq);
        if let Some(end) = lines.iter().find(behind) {
            ends.entry(&end.id).or_default().push(*exception);
        }
    }
    for (id, exceptions) in ends {
        take_out(tx, id, &exceptions, now_ms).await?;
    }
    free_next(tx, row.to.receiver.clone(), row.to.recipient.clone(), row.thread.clone()).await
}

async fn finish(tx: &mut Conn, id: &str, why: Why, now_ms: i64) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE outbox SET state = 'withdrawn', done_ms = $2, reason = $3, detail = '' WHERE id = $1",
    )
    .bind(id.to_owned())
    .bind(now_ms)
    .bind(why.name())
    .execute(tx)
    .await?;
    Ok(())
}

/// Nobody told this recipient: no resolve is owed there, nor anywhere where it was the only one; and the step is still to be climbed.
async fn untell(tx: &mut Conn, to: &Told, exception: i64, step: u32) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM told WHERE exception = $1 AND receiver = $2 AND recipient = $3")
        .bind(exception)
        .bind(to.receiver.clone())
        .bind(to.recipient.clone())
        .execute(&mut *tx)
        .await?;
    sqlx::query("UPDATE exceptions SET step = $2 WHERE exception = $1 AND step > $2")
        .bind(exception)
        .bind(i64::from(step))
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "UPDATE groups SET told = told - 1 WHERE group_id = (SELECT group_id FROM exceptions WHERE exception = $1 AND told = 1) \
         AND NOT EXISTS (SELECT 1 FROM told WHERE exception = $1)",
    )
    .bind(exception)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE exceptions SET told = 0 WHERE exception = $1 AND NOT EXISTS (SELECT 1 FROM told WHERE exception = $1)",
    )
    .bind(exception)
    .execute(tx)
    .await?;
    Ok(())
}

/// Takes ends out of a message that was never handed out; one with nothing else to say is withdrawn. It lists no exception twice.
async fn take_out(tx: &mut Conn, id: &str, exceptions: &[i64], now_ms: i64) -> sqlx::Result<()> {
    let all: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM notices WHERE outbox_id = $1")
        .bind(id.to_owned())
        .fetch_one(&mut *tx)
        .await?;
    if usize::try_from(all).is_ok_and(|all| all <= exceptions.len()) {
        return finish(tx, id, Why::ResolvedBeforeFlush, now_ms).await;
    }
    let text: String = sqlx::query_scalar("SELECT body FROM outbox WHERE id = $1")
        .bind(id.to_owned())
        .fetch_one(&mut *tx)
        .await?;
    let mut ids = BTreeSet::new();
    for exception in exceptions {
        let known: String = sqlx::query_scalar("SELECT exception_id FROM exceptions WHERE exception = $1")
            .bind(*exception)
            .fetch_one(&mut *tx)
            .await?;
        ids.insert(known);
        sqlx::query("DELETE FROM notices WHERE outbox_id = $1 AND exception = $2")
            .bind(id.to_owned())
            .bind(*exception)
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query("UPDATE outbox SET body = $2 WHERE id = $1")
        .bind(id.to_owned())
        .bind(body::without_ends(&text, &ids))
        .execute(tx)
        .await?;
    Ok(())
}
