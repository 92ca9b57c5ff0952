//! What a change does to its exception's row (DESIGN §6, §7, SEMANTICS 8.2). Pure.

use std::sync::Arc;

use crate::escalation::{Body, Case, Ladder, NEVER, News, State, Word, policy_of};
use crate::model::{Change, ChangeKind, Severity};
use crate::rules::Policies;

/// A change with what cases adds to it.
pub(super) struct Told<'a> {
    /// The change.
    pub change: &'a Change,
    /// Its number in the order of commits.
    pub seq: i64,
    /// Wall time of the commit.
    pub now_ms: i64,
    /// What its rule says; `None`: the rule is gone.
    pub body: Option<Arc<Body>>,
    /// The partition.
    pub partition: i32,
}

/// The row that a first change begins with; it is folded into it like any other.
pub(super) fn first(told: &Told<'_>, number: i64, exception_id: &str) -> Case {
    let change = told.change;
    Case {
        number,
        exception_id: exception_id.to_owned(),
        rule: change.rule.to_string(),
        parcel_id: change.parcel_id.to_string(),
        episode: change.episode_text(),
        partition: told.partition,
        state: State::Open,
        engine_open: true,
        stage: change.stage,
        severity: change.severity,
        highest_stage: 0,
        highest_severity: Severity::Info,
        anchor: change.anchor,
        due: change.due,
        opened_at: change.at,
        opened_ms: told.now_ms,
        news: News { word: Word::Opened, at: change.at, seq: told.seq },
        evidence_seq: 0,
        resolved: None,
        ack: None,
        incomplete: false,
        body: told.body.clone().unwrap_or_default(),
        group_id: String::new(),
        ladder: Ladder { start_ms: told.now_ms, ..Ladder::default() },
    }
}

/// What comes of a change for the escalation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It opened (again): its group is to be found anew.
    Opened,
    /// It stands and has news.
    Raised,
    /// It ended.
    Ended,
    /// It ended before anybody heard of it or was about to.
    EndedUnheard,
    /// An operator had ended it: nothing that anybody sees.
    Unseen,
}

/// What of an exception counts when it opens again soon after it ended.
pub(super) struct Before {
    state: State,
    ladder: Ladder,
    group_id: String,
    highest_severity: Severity,
    news_seq: i64,
}

impl Before {
    /// As it stands before a change is folded.
    pub(super) fn of(case: &Case) -> Before {
        Before {
            state: case.state,
            ladder: case.ladder,
            group_id: case.group_id.clone(),
            highest_severity: case.highest_severity,
            news_seq: case.news.seq,
        }
    }
}

/// What becomes of an exception that opened again soon after it ended, once [`fold`] has taken the opening and it has been given a group.
/// Where its end was held back and not told, it goes on as if it had never ended, and nothing is told: returns true. Within the
/// policy's `reopen_within` it stays in the group it was in.
pub(super) fn flap(case: &mut Case, before: &Before, policies: &Policies, now_ms: i64) -> bool {
    let Some(policy) = policy_of(policies, Some(&case.body.policy)) else { return false };
    if before.state != State::Resolved || before.group_id.is_empty() || case.group_id.is_empty() {
        return false;
    }
    let since = now_ms.saturating_sub(before.ladder.ended_ms);
    let held = before.ladder.told && since < policy.hold_resolve;
    if held || since < policy.reopen_within {
        case.group_id.clone_from(&before.group_id);
    }
    if !held || case.severity > before.highest_severity {
        return false;
    }
    case.highest_severity = before.highest_severity;
    // News that nobody has heard yet is still to be told.
    let heard = before.ladder.told_seq >= before.news_seq;
    let told_seq = if heard { case.news.seq } else { before.ladder.told_seq };
    case.ladder = Ladder { told_seq, next_ms: case.ladder.next_ms, ..before.ladder };
    true
}

/// Brings the row up to a change that is new.
pub(super) fn fold(case: &mut Case, told: &Told<'_>) -> Effect {
    let change = told.change;
    case.partition = told.partition;
    case.incomplete = change.incomplete || (case.incomplete && change.kind != ChangeKind::Opened);
    if change.evidence.is_some() {
        case.evidence_seq = told.seq;
    }
    if let Some(body) = &told.body {
        case.body = Arc::clone(body);
    }
    if let ChangeKind::Resolved(resolution) = change.kind {
        case.engine_open = false;
        if case.state == State::Resolved {
            return Effect::Unseen;
        }
        case.state = State::Resolved;
        case.resolved = Some((change.at, resolution));
        case.ladder.ended_ms = told.now_ms;
        case.ladder.held = None;
        let heard = case.ladder.told || case.ladder.waiting;
        case.ladder.next_ms = if heard { told.now_ms } else { NEVER };
        return if heard { Effect::Ended } else { Effect::EndedUnheard };
    }
    let opened = change.kind == ChangeKind::Opened;
    let reopened = opened || case.state == State::Resolved;
    let worse = change.severity > case.highest_severity;
    if opened {
        (case.opened_at, case.opened_ms) = (change.at, told.now_ms);
        (case.highest_stage, case.highest_severity) = (0, Severity::Info);
    }
    case.engine_open = true;
    (case.stage, case.severity) = (change.stage, change.severity);
    case.highest_stage = case.highest_stage.max(change.stage);
    case.highest_severity = case.highest_severity.max(change.severity);
    (case.anchor, case.due) = (change.anchor, change.due);
    let word = if opened { Word::Opened } else { Word::Raised };
    case.news = News { word, at: change.at, seq: told.seq };
    if reopened || worse {
        case.state = State::Open;
        case.ack = None;
        case.resolved = None;
        case.ladder.start_ms = told.now_ms;
        case.ladder.round = 0;
        case.ladder.step = 0;
    }
    if reopened {
        case.ladder.held = None;
    }
    case.ladder.next_ms = told.now_ms;
    if opened { Effect::Opened } else { Effect::Raised }
}
