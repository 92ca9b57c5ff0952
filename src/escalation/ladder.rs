//! What one exception has to say at a moment, and when it will have something to say next. Everything is derived from
//! the exception as it stands, its ladder and the policies of the moment (DESIGN §7): history does not matter.

use super::{Case, NEVER, State, Unsent, Why};
use crate::model::{Resolution, SECOND, Severity, Time};
use crate::rules::policies::{Policy, Step};
use crate::rules::ruleset::Span;

/// What an exception has to say now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Due {
    /// Steps whose time has come, counted from 1.
    pub steps: Vec<u32>,
    /// Its stage rose without a rise in severity: for everyone told so far.
    pub raise: bool,
    /// `repeat_every` has passed.
    pub reminder: bool,
    /// It ended, and somebody was told of it.
    pub resolve: bool,
}

impl Due {
    /// Nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && !self.raise && !self.reminder && !self.resolve
    }
}

/// Brings an exception up to `now` before it is asked what is [`due`]: an acknowledgement that ran out ends, steps not meant for its
/// severity are passed over, what an acknowledgement keeps quiet is marked so. Returns what was decided not to be sent.
pub fn settle(case: &mut Case, policy: &Policy, now: i64) -> Vec<Unsent> {
    let mut unsent = Vec::new();
    if case.state == State::Acknowledged {
        match ack_end(case, policy) {
            Some(end) if end <= now => {
                case.state = State::Open;
                case.ack = None;
                case.ladder.start_ms = end;
                case.ladder.step = 0;
                case.ladder.round += 1;
            }
            _ if case.ladder.told_seq < case.news.seq => {
                case.ladder.held = None;
                case.ladder.told_seq = case.news.seq;
                unsent.push(Unsent::of(case, Why::Acknowledged, 0, now));
            }
            _ => {}
        }
    }
    if case.state == State::Open && !case.body.shadow {
        while let Some(step) = next_step(case, policy)
            && step_ms(case, policy, case.ladder.step + 1) <= now
            && !meant_for(step, case.severity)
        {
            case.ladder.step += 1;
            unsent.push(Unsent::of(case, Why::BelowSeverity, case.ladder.step, now));
        }
    }
    unsent
}

/// What it has to say at `now`; ask after [`settle`].
#[must_use]
pub fn due(case: &Case, policy: &Policy, now: i64) -> Due {
    let ladder = &case.ladder;
    let mut due = Due::default();
    match case.state {
        State::Resolved => due.resolve = ladder.told && resolve_ms(case, policy) <= now,
        State::Acknowledged => {}
        State::Open if case.body.shadow => {}
        State::Open => {
            due.steps = (ladder.step + 1..)
                .zip(policy.steps.iter().skip(ladder.step as usize))
                .take_while(|(k, _)| step_ms(case, policy, *k) <= now)
                .filter(|(_, s)| meant_for(s, case.severity))
                .map(|(k, _)| k)
                .collect();
            // At step 0 the ladder began anew with this very change: its steps tell it.
            due.raise = ladder.told && ladder.step > 0 && ladder.told_seq < case.news.seq;
            due.reminder = reminder_ms(case, policy) <= now;
        }
    }
    due
}

/// When to look at it again, if nothing is told before.
#[must_use]
pub fn next_look(case: &Case, policy: &Policy) -> i64 {
    match case.state {
        State::Resolved if case.ladder.told => resolve_ms(case, policy),
        State::Resolved => NEVER,
        State::Acknowledged => ack_end(case, policy).unwrap_or(NEVER),
        State::Open if case.body.shadow => NEVER,
        State::Open => {
            let step = step_ms(case, policy, case.ladder.step + 1);
            step.min(reminder_ms(case, policy))
        }
    }
}

/// Wall time at which its end may be told.
fn resolve_ms(case: &Case, policy: &Policy) -> i64 {
    // One that an operator ended does not flap.
    let by_operator = case.resolved.is_some_and(|(_, r)| r == Resolution::ByOperator);
    let hold = if by_operator { 0 } else { policy.hold_resolve };
    case.ladder.ended_ms.saturating_add(hold)
}

fn ack_end(case: &Case, policy: &Policy) -> Option<i64> {
    Some(case.ack.as_ref()?.at_ms.saturating_add(policy.ack_timeout?))
}

fn reminder_ms(case: &Case, policy: &Policy) -> i64 {
    match policy.repeat_every {
        // A ladder that began anew reminds from there; a second at least, so that a flush leaves nothing due.
        Some(every) if case.ladder.told => {
            case.ladder.told_ms.max(case.ladder.start_ms).saturating_add(every.max(SECOND))
        }
        _ => NEVER,
    }
}

/// Wall time of a step, counted from 1: in the policy's calendar, else on the plain clock. [`NEVER`] where there is none.
#[must_use]
pub fn step_ms(case: &Case, policy: &Policy, step: u32) -> i64 {
    let (start, at) = (case.ladder.start_ms, (step as usize).wrapping_sub(1));
    let Some(found) = policy.steps.get(at) else { return NEVER };
    match &policy.calendar {
        Some(calendar) => {
            let span = policy.spans.get(at).copied();
            let span = span.unwrap_or(Span { ms: found.after, ..Span::default() });
            calendar.add(Time(start), span, false).0
        }
        None => start.saturating_add(found.after),
    }
}

fn next_step<'a>(case: &Case, policy: &'a Policy) -> Option<&'a Step> {
    policy.steps.get(case.ladder.step as usize)
}

pub(super) fn meant_for(step: &Step, severity: Severity) -> bool {
    step.min_severity.is_none_or(|least| severity >= least)
}
