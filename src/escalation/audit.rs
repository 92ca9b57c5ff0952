//! Is anything overdue? Asked of the rows themselves, not of the timers: a timer that was lost is the very thing to find
//! (DESIGN §7).

use super::{Case, Group, NEVER, Why, ladder, policy_in_force};
use crate::model::MINUTE;
use crate::rules::Policies;

/// What is later than this is overdue: every step is looked at within seconds.
pub const LATE: i64 = MINUTE;

/// Since when an exception has waited in vain for its next step; `None`: it does not. `group` is its group's row.
#[must_use]
pub fn overdue(policies: &Policies, case: &Case, group: &Group, now: i64) -> Option<i64> {
    let ladder = &case.ladder;
    let due = if ladder.waiting {
        // For a message of its group, which has a time.
        if group.flush_ms == NEVER { case.opened_ms } else { group.flush_ms }
    } else {
        match ladder.held {
            // Its cause ends it.
            Some(held) if held.why == Why::Inhibited && ladder.next_ms == NEVER => return None,
            Some(_) if ladder.next_ms == NEVER => case.opened_ms,
            Some(_) => ladder.next_ms,
            None => ladder::next_look(case, policy_in_force(policies, group)),
        }
    };
    (due != NEVER && due.saturating_add(LATE) < now).then_some(due)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::escalation::{Held, State};
    use crate::rules::policies::{Policy, Step};

    fn fixture() -> (Policies, Case, Group) {
        let step = |after| Step { after, notify: vec!["erp".into()], min_severity: None };
        let policy = Policy { id: "p".into(), steps: vec![step(0), step(60 * MINUTE)], ..Policy::default() };
        let policies =
            Policies { policies: vec![policy], default_policy: Some("p".into()), ..Policies::default() };
        let mut case = crate::escalation::case::sample("late", "P1");
        case.ladder.step = 1;
        let group = Group {
            id: "g".into(),
            policy: "p".into(),
            values: serde_json::Map::new(),
            told: 1,
            last_ms: 0,
            flush_ms: NEVER,
        };
        (policies, case, group)
    }

    #[test]
    fn what_waits_in_vain_is_found_and_nothing_else() {
        let (policies, mut case, mut group) = fixture();
        let due = 60 * MINUTE;
        // Its second step, whatever its timer says.
        for next_ms in [NEVER, due, 0] {
            case.ladder.next_ms = next_ms;
            assert_eq!(overdue(&policies, &case, &group, due + LATE), None);
            assert_eq!(overdue(&policies, &case, &group, due + LATE + 1), Some(due));
        }
        case.ladder.step = 2;
        assert_eq!(overdue(&policies, &case, &group, i64::MAX / 2), None, "it has climbed to the end");
        // Waiting for a message that nobody is going to write, or that is late.
        case.ladder.waiting = true;
        assert_eq!(overdue(&policies, &case, &group, LATE + 1), Some(0));
        group.flush_ms = due;
        assert_eq!(overdue(&policies, &case, &group, due), None);
        assert_eq!(overdue(&policies, &case, &group, due + LATE + 1), Some(due));
        case.ladder.waiting = false;
        // Kept quiet: until a time, or by a cause.
        case.ladder.step = 0;
        let held = |why| Some(Held { why, by: 1, seq: 1 });
        (case.ladder.held, case.ladder.next_ms) = (held(Why::Inhibited), NEVER);
        assert_eq!(overdue(&policies, &case, &group, due), None);
        case.ladder.held = held(Why::Muted);
        assert_eq!(overdue(&policies, &case, &group, due), Some(0), "nothing would end it");
        case.ladder.next_ms = 2 * due;
        assert_eq!(overdue(&policies, &case, &group, due), None);
        case.ladder.held = None;
        // A resolve that is owed.
        case.state = State::Resolved;
        assert_eq!(overdue(&policies, &case, &group, due), None, "nobody was told");
        (case.ladder.told, case.ladder.ended_ms) = (true, due);
        assert_eq!(overdue(&policies, &case, &group, due + LATE + 1), Some(due));
    }
}
