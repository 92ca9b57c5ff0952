//! What a change does to its exception's row (DESIGN §6, §7, SEMANTICS 8.2). Pure.

use std::sync::Arc;

use crate::escalation::{Body, Case, Ladder, NEVER, News, State, Word};
use crate::model::{Change, ChangeKind, Severity};

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
