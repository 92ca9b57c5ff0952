//! An exception's row: its columns in one order, from and to [`Case`].

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::Row as _;

use super::sql::{Query, Row};

use crate::escalation::{Ack, Body, Case, Held, Ladder, News, State, Why, Word};
use crate::model::{Resolution, Severity, Time};

/// The columns of `exceptions`, as [`case_of`] reads and [`bind`] writes them.
pub(super) const COLUMNS: &str = "exception, exception_id, rule, parcel_id, episode, partition_id, state, engine_open, stage, severity, \
    highest_stage, highest_severity, anchor, due, opened_at, opened_ms, news, news_at, news_seq, evidence_seq, resolved_at, resolution, \
    ack_ms, ack_by, ack_comment, incomplete, body, group_id, updated_ms, ladder_ms, ladder_round, step, told_seq, told, told_ms, \
    reminders, waiting, next_ms, held, held_by, held_seq, ended_ms";

/// How many [`COLUMNS`] there are.
pub(super) const WIDTH: usize = 42;

/// What an upsert writes over: all but the identity.
pub(super) const OVERWRITE: &str = " ON CONFLICT (exception) DO UPDATE SET state = excluded.state, engine_open = excluded.engine_open, \
    stage = excluded.stage, severity = excluded.severity, highest_stage = excluded.highest_stage, \
    highest_severity = excluded.highest_severity, anchor = excluded.anchor, due = excluded.due, opened_at = excluded.opened_at, \
    opened_ms = excluded.opened_ms, news = excluded.news, news_at = excluded.news_at, news_seq = excluded.news_seq, \
    evidence_seq = excluded.evidence_seq, resolved_at = excluded.resolved_at, resolution = excluded.resolution, \
    ack_ms = excluded.ack_ms, ack_by = excluded.ack_by, ack_comment = excluded.ack_comment, incomplete = excluded.incomplete, \
    body = excluded.body, group_id = excluded.group_id, partition_id = excluded.partition_id, updated_ms = excluded.updated_ms, \
    ladder_ms = excluded.ladder_ms, ladder_round = excluded.ladder_round, step = excluded.step, told_seq = excluded.told_seq, \
    told = excluded.told, told_ms = excluded.told_ms, reminders = excluded.reminders, waiting = excluded.waiting, \
    next_ms = excluded.next_ms, held = excluded.held, held_by = excluded.held_by, held_seq = excluded.held_seq, \
    ended_ms = excluded.ended_ms";

/// Binds [`COLUMNS`].
pub(super) fn bind<'q>(query: Query<'q>, case: &Case, now_ms: i64) -> Query<'q> {
    let query = query
        .bind(case.number)
        .bind(case.exception_id.clone())
        .bind(case.rule.clone())
        .bind(case.parcel_id.clone())
        .bind(case.episode.clone())
        .bind(i64::from(case.partition))
        .bind(case.state.name())
        .bind(i64::from(case.engine_open))
        .bind(i64::from(case.stage))
        .bind(case.severity as i64)
        .bind(i64::from(case.highest_stage))
        .bind(case.highest_severity as i64)
        .bind(case.anchor.0)
        .bind(case.due.0)
        .bind(case.opened_at.0)
        .bind(case.opened_ms)
        .bind(case.news.word.name())
        .bind(case.news.at.0)
        .bind(case.news.seq)
        .bind(case.evidence_seq)
        .bind(case.resolved.map(|(at, _)| at.0))
        .bind(case.resolved.map_or("", |(_, r)| r.name()));
    let query = bind_ack(query, case)
        .bind(i64::from(case.incomplete))
        .bind(case.body.number)
        .bind(case.group_id.clone())
        .bind(now_ms);
    bind_ladder(query, &case.ladder).bind(case.ladder.ended_ms)
}

/// Binds ack_ms, ack_by and ack_comment.
pub(super) fn bind_ack<'q>(query: Query<'q>, case: &Case) -> Query<'q> {
    let ack = case.ack.as_ref();
    query
        .bind(ack.map(|a| a.at_ms))
        .bind(ack.map_or_else(String::new, |a| a.by.clone()))
        .bind(ack.map_or_else(String::new, |a| a.comment.clone()))
}

/// Binds ladder_ms up to held_seq.
pub(super) fn bind_ladder<'q>(query: Query<'q>, ladder: &Ladder) -> Query<'q> {
    query
        .bind(ladder.start_ms)
        .bind(i64::from(ladder.round))
        .bind(i64::from(ladder.step))
        .bind(ladder.told_seq)
        .bind(i64::from(ladder.told))
        .bind(ladder.told_ms)
        .bind(i64::from(ladder.reminders))
        .bind(i64::from(ladder.waiting))
        .bind(ladder.next_ms)
        .bind(ladder.held.map_or("", |h| h.why.name()))
        .bind(ladder.held.map_or(0, |h| h.by))
        .bind(ladder.held.map_or(0, |h| h.seq))
}

/// Which body a row of [`COLUMNS`] has.
pub(super) fn body(row: &Row) -> sqlx::Result<i64> {
    row.try_get(26)
}

/// Reads [`COLUMNS`]; `bodies` are those known so far, one missing there is an empty one.
pub(super) fn case_of(row: &Row, bodies: &BTreeMap<i64, Arc<Body>>) -> sqlx::Result<Case> {
    let ack_ms: Option<i64> = row.try_get(22)?;
    let resolved_at: Option<i64> = row.try_get(20)?;
    let body = body(row)?;
    Ok(Case {
        number: row.try_get(0)?,
        exception_id: row.try_get(1)?,
        rule: row.try_get(2)?,
        parcel_id: row.try_get(3)?,
        episode: row.try_get(4)?,
        partition: small(row, 5)?,
        state: named(row, 6, State::from_name)?,
        engine_open: flag(row, 7)?,
        stage: small(row, 8)?,
        severity: severity(row, 9)?,
        highest_stage: small(row, 10)?,
        highest_severity: severity(row, 11)?,
        anchor: Time(row.try_get(12)?),
        due: Time(row.try_get(13)?),
        opened_at: Time(row.try_get(14)?),
        opened_ms: row.try_get(15)?,
        news: News {
            word: named(row, 16, |n| [Word::Opened, Word::Raised].into_iter().find(|w| w.name() == n))?,
            at: Time(row.try_get(17)?),
            seq: row.try_get(18)?,
        },
        evidence_seq: row.try_get(19)?,
        resolved: match resolved_at {
            Some(at) => Some((Time(at), named(row, 21, Resolution::from_name)?)),
            None => None,
        },
        ack: match ack_ms {
            Some(at_ms) => Some(Ack { by: row.try_get(23)?, comment: row.try_get(24)?, at_ms }),
            None => None,
        },
        incomplete: flag(row, 25)?,
        body: bodies
            .get(&body)
            .cloned()
            .unwrap_or_else(|| Arc::new(Body { number: body, ..Body::default() })),
        group_id: row.try_get(27)?,
        ladder: Ladder {
            start_ms: row.try_get(29)?,
            round: small(row, 30)?,
            step: small(row, 31)?,
            told_seq: row.try_get(32)?,
            told: flag(row, 33)?,
            told_ms: row.try_get(34)?,
            reminders: small(row, 35)?,
            waiting: flag(row, 36)?,
            held: match row.try_get::<&str, _>(38)? {
                "" => None,
                _ => Some(Held {
                    why: named(row, 38, Why::from_name)?,
                    by: row.try_get(39)?,
                    seq: row.try_get(40)?,
                }),
            },
            next_ms: row.try_get(37)?,
            ended_ms: row.try_get(41)?,
        },
    })
}

/// A BIGINT that holds less.
pub(super) fn small<T: TryFrom<i64>>(row: &Row, column: usize) -> sqlx::Result<T> {
    let value: i64 = row.try_get(column)?;
    T::try_from(value).map_err(|_| unexpected(column, &value.to_string()))
}

/// A BIGINT that is 0 or 1.
pub(super) fn flag(row: &Row, column: usize) -> sqlx::Result<bool> {
    Ok(row.try_get::<i64, _>(column)? != 0)
}

/// A severity's code.
pub(super) fn severity(row: &Row, column: usize) -> sqlx::Result<Severity> {
    let code: u8 = small(row, column)?;
    Severity::from_code(code).ok_or_else(|| unexpected(column, &code.to_string()))
}

fn named<T>(row: &Row, column: usize, of: impl Fn(&str) -> Option<T>) -> sqlx::Result<T> {
    let name: &str = row.try_get(column)?;
    of(name).ok_or_else(|| unexpected(column, name))
}

fn unexpected(column: usize, value: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {column} holds {value:?}").into())
}
