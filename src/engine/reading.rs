//! What a rule reads of a parcel: the body in force, its conditions, its anchor, what satisfies it (SEMANTICS 3.9, 5).

use super::derive;
use super::intern::Code;
use super::matching::View;
use super::parcel::{Claim, Occurrence, Origin};
use crate::model::{DerivedTime, Milestone, Time};
use crate::rules::ruleset::{AnchorSource, Body, Rule, Tolerance};

/// An anchor that is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchored {
    pub time: Time,
    pub origin: Origin,
    /// Its place among the occurrences, which at equal times is that in the log; of a derived time, the last.
    pub place: usize,
}

/// The body that applies: 0 and the rule's own, or the first override whose `match` holds (SEMANTICS 5.8).
pub(super) fn body_in_force<'r>(view: View<'_>, rule: &'r Rule) -> (u16, &'r Body) {
    let n = rule.overrides.iter().position(|m| view.holds_for(m)).map_or(0, |i| i + 1);
    (n as u16, &rule.bodies[n])
}

/// `while` holds and `unless` does not.
pub(super) fn conditions_hold(view: View<'_>, body: &Body) -> bool {
    body.while_.as_ref().is_none_or(|m| view.holds_for(m))
        && !body.unless.as_ref().is_some_and(|m| view.holds_for(m))
}

pub(super) fn filtered_time(view: View<'_>, time: DerivedTime) -> Option<Time> {
    match time {
        DerivedTime::HoldOpened => derive::hold_opened(view.holds()),
        DerivedTime::HoldsClosed => derive::holds_closed(view.holds()),
        DerivedTime::HoldRespondBy => derive::hold_respond_by(view.holds()),
        other => view.derived.time(other),
    }
}

/// A derived time as the view sees it.
fn derived_time(view: View<'_>, time: DerivedTime) -> Option<Time> {
    if view.filter.is_some() { filtered_time(view, time) } else { view.derived.time(time) }
}

/// The anchor that the rule picks, where it is there and the rule knows it (SEMANTICS 5.0-5.2, 5.7).
pub(super) fn anchor(view: View<'_>, rule: &Rule, code: Code) -> Option<Anchored> {
    picked_anchor(view, rule, code).filter(|a| {
        rule.effective_from.is_none_or(|from| from <= a.time)
            && rule.effective_to.is_none_or(|to| a.time < to)
    })
}

/// The anchor that the rule picks, whether it knows it or not.
pub(super) fn picked_anchor(view: View<'_>, rule: &Rule, code: Code) -> Option<Anchored> {
    let mut picked: Option<Anchored> = None;
    for source in &rule.anchor.sources {
        let candidate = match source {
            AnchorSource::Milestone(m) => occurrence(view, *m, rule.anchor.last),
            AnchorSource::Derived(t) => derived_time(view, *t).map(|time| {
                let p = view.parcel;
                let through_filter = p.filtered.iter().find(|f| f.rule == code && f.time == *t as u8);
                let origin = match through_filter {
                    Some(f) if rule.holds.is_some() => Some(f.origin),
                    _ => p.origins[*t as usize],
                };
                let origin = origin.unwrap_or(Origin { append: p.last_append, zone_assumed: false });
                Anchored { time, origin, place: usize::MAX }
            }),
        };
        let Some(c) = candidate else { continue };
        let better = picked.is_none_or(|best| match c.time.cmp(&best.time) {
            std::cmp::Ordering::Equal => (c.origin.append, c.place) < (best.origin.append, best.place),
            order => order.is_gt() == rule.anchor.last,
        });
        if better {
            picked = Some(c);
        }
    }
    picked
}

/// The first or last occurrence of a milestone; at equal event time the one appended first.
fn occurrence(view: View<'_>, milestone: Milestone, last: bool) -> Option<Anchored> {
    let first = view.derived.first_of(view.parcel, milestone)?;
    let mut picked: (usize, &Occurrence) = (usize::from(view.derived.first[milestone as usize]), first);
    if last {
        for (i, o) in view.parcel.occurrences.iter().enumerate().filter(|(_, o)| o.milestone == milestone) {
            if o.stamp.event_time > picked.1.stamp.event_time {
                picked = (i, o);
            }
        }
    }
    let (place, o) = picked;
    let origin = Origin { append: o.stamp.append, zone_assumed: o.zone_assumed };
    Some(Anchored { time: Time(o.stamp.event_time), origin, place })
}

/// The time of the latest that satisfies, or of the first found where any will do; `None` where nothing satisfies
/// (SEMANTICS 3.9, 5.4, 5.10).
pub(super) fn satisfied(
    view: View<'_>,
    rule: &Rule,
    body: &Body,
    anchor: Time,
    claim: Option<Claim>,
    any: bool,
) -> Option<Time> {
    let expect = &body.expect;
    let tolerance = match body.tolerance {
        Tolerance::Ms(ms) if !rule.anchor.before => Some(ms),
        _ => None,
    };
    let floor = |from: Time| tolerance.map_or(Time::MIN, |ms| from.minus(ms));
    let claim = claim.filter(|_| expect.next_expected);
    let from = floor(anchor);
    let mut latest = None;
    if expect.milestones.meets(view.derived.seen) || claim.is_some() {
        for o in view.parcel.occurrences.iter().rev() {
            let at = Time(o.stamp.event_time);
            if at < from && claim.is_none() {
                break;
            }
            let expected = expect.milestones.contains(o.milestone) && at >= from;
            let promised = || {
                claim.is_some_and(|c| {
                    let made = Time(c.stamp.event_time);
                    // Where any time counts (SEMANTICS 5.4), that of what made the claim does too.
                    let later = c.made_by != Some(o.milestone) || at > made;
                    keeps(o.milestone, c.milestone) && (tolerance.is_none() || (at >= floor(made) && later))
                })
            };
            if body.evidence.admits(o.class) && (expected || promised()) {
                latest = latest.max(Some(at));
                // They come latest first.
                break;
            }
        }
    }
    if latest.is_none() || !any {
        for t in &expect.derived {
            latest = latest.max(derived_time(view, *t).filter(|v| *v >= from));
        }
    }
    latest
}

/// Whether a milestone keeps the promise of another: it, or one of higher rank that stands for progress.
fn keeps(occurred: Milestone, promised: Milestone) -> bool {
    occurred == promised
        || (occurred.rank() > promised.rank() && occurred.rank() < 90 && occurred != Milestone::ReturnStarted)
}
