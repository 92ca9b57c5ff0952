//! What was expected against what happened.

use super::run::{Happened, Ran};
use super::{Command, Expectation, Kind, Test, words};
use crate::model::Time;
use crate::rules::problem::Place;

/// What came of a test.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// What is wrong; empty: nothing.
    pub faults: Vec<Fault>,
    /// Of what happened, by its place in the list, what an expectation asked for.
    pub asked: Vec<usize>,
}

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Where the expectation stands, or the test.
    pub place: Place,
    /// In a sentence.
    pub message: String,
    /// What there is to compare it with, as lines of a file.
    pub details: Vec<String>,
}

/// How many things that nobody expected are shown, to be copied.
const SHOWN: usize = 100;
/// How many things that happened are shown beside an expectation that nothing met.
const NEAR: usize = 4;

/// Judges a test by what happened in it.
#[must_use]
pub fn judge(test: &Test, ran: &Ran) -> Verdict {
    let happened = &ran.happened;
    let counted: Vec<usize> = (0..happened.len()).filter(|i| counts(test, &happened[*i])).collect();
    let met = matching(&test.expect, happened, &counted);
    let mut verdict = Verdict { faults: Vec::new(), asked: met.iter().flatten().copied().collect() };
    for (expectation, by) in test.expect.iter().zip(&met) {
        if by.is_none() {
            verdict.faults.push(missing(test, expectation, happened, &counted, &verdict.asked));
        }
    }
    for forbidden in &test.never {
        for h in counted.iter().map(|i| &happened[*i]).filter(|h| fits(forbidden, h)) {
            verdict.faults.push(Fault {
                place: forbidden.place.clone(),
                message: format!("this must not happen: {}", words::sentence(h, test.start)),
                details: vec![words::line(h, test.start)],
            });
        }
    }
    for command in ran.in_vain.iter().map(|i| &test.commands[*i]) {
        verdict.faults.push(in_vain(test, command, happened));
    }
    if test.exact {
        unexpected(test, happened, &counted, &mut verdict);
    }
    verdict
}

/// A command that found nothing: probably its time, its parcel or its episode is not what was meant.
fn in_vain(test: &Test, command: &Command, happened: &[Happened]) -> Fault {
    let (verb, at) =
        (if command.resolve { "resolve" } else { "acknowledge" }, words::offset(command.at, test.start));
    let message = format!(
        "at {at} there is nothing to {verb}: no `{}` is open for {}",
        command.rule, command.parcel_id
    );
    let of_rule = |h: &&Happened| h.kind != Kind::Notify && h.rule == command.rule;
    let mut details: Vec<String> =
        happened.iter().filter(of_rule).take(SHOWN).map(|h| words::line(h, test.start)).collect();
    if details.is_empty() {
        details.push(format!("# of `{}` nothing happened at all", command.rule));
    }
    Fault { place: command.place.clone(), message, details }
}

fn counts(test: &Test, h: &Happened) -> bool {
    test.only.as_ref().is_none_or(|only| only.contains(&h.rule))
}

fn unexpected(test: &Test, happened: &[Happened], counted: &[usize], verdict: &mut Verdict) {
    let notifications = test.expect.iter().any(|e| e.kind == Kind::Notify);
    let left: Vec<&Happened> = counted
        .iter()
        .filter(|i| !verdict.asked.contains(i))
        .map(|i| &happened[*i])
        .filter(|h| notifications || h.kind != Kind::Notify)
        .collect();
    if left.is_empty() {
        return;
    }
    let mut details: Vec<String> = left.iter().take(SHOWN).map(|h| words::line(h, test.start)).collect();
    if left.len() > SHOWN {
        details.push(format!("# and {} more", left.len() - SHOWN));
    }
    let message = match left.len() {
        1 => "`exact: true`, and this happened too".to_owned(),
        n => format!("`exact: true`, and {n} more things happened"),
    };
    verdict.faults.push(Fault { place: test.place.clone(), message, details });
}

/// An expectation that nothing met: with what came nearest.
fn missing(
    test: &Test,
    expectation: &Expectation,
    happened: &[Happened],
    counted: &[usize],
    asked: &[usize],
) -> Fault {
    let notify = expectation.kind == Kind::Notify;
    let alike = |h: &Happened| (h.kind == Kind::Notify) == notify;
    let about = |h: &Happened| alike(h) && h.subject == expectation.subject;
    let is_there = counted.iter().any(|i| about(&happened[*i]));
    let mut near: Vec<(bool, usize, i64, &Happened)> = counted
        .iter()
        .map(|i| (asked.contains(i), &happened[*i]))
        .filter(|(_, h)| if is_there { about(h) } else { alike(h) })
        .map(|(asked, h)| (asked, unlike(expectation, h), far(expectation, h.at), h))
        .collect();
    near.sort_by_key(|(asked, unlike, far, h)| (*asked, *unlike, *far, h.at));
    let mut details = vec![match (is_there, notify, near.is_empty()) {
        (true, ..) => "# nearest to it:".to_owned(),
        (false, true, true) => {
            format!("# `{}` was told nothing at all, nor was anybody else", expectation.subject)
        }
        (false, true, false) => format!("# `{}` was told nothing at all; others were:", expectation.subject),
        (false, false, true) => {
            format!("# of `{}` nothing happened at all, nor of any other rule", expectation.subject)
        }
        (false, false, false) => {
            format!("# of `{}` nothing happened at all; of others:", expectation.subject)
        }
    }];
    details.extend(near.iter().take(NEAR).map(|(asked, _, _, h)| {
        let line = words::line(h, test.start);
        if *asked { format!("{line} # met another one") } else { line }
    }));
    let message = format!("expected, and did not happen: {}", words::expected(expectation, test.start));
    Fault { place: expectation.place.clone(), message, details }
}

/// How many fields are otherwise.
fn unlike(e: &Expectation, h: &Happened) -> usize {
    let mut checks = fields(e, h).to_vec();
    checks.push(within(e, h.at));
    checks.iter().filter(|same| !**same).count() + if e.kind == h.kind { 0 } else { 2 }
}

/// How far outside of the expected time.
fn far(e: &Expectation, at: Time) -> i64 {
    let before = e.from.map_or(0, |from| from.0.saturating_sub(at.0).max(0));
    before + e.to.map_or(0, |to| at.0.saturating_sub(to.0).max(0))
}

fn within(e: &Expectation, at: Time) -> bool {
    e.from.is_none_or(|from| at >= from) && e.to.is_none_or(|to| at <= to)
}

fn fields(e: &Expectation, h: &Happened) -> [bool; 15] {
    fn same<T: PartialEq>(wanted: Option<&T>, is: &T) -> bool {
        wanted.is_none_or(|w| w == is)
    }
    [
        e.subject == h.subject,
        same(e.parcel_id.as_ref(), &h.parcel_id),
        same(e.episode.as_ref(), &h.episode),
        same(e.stage.as_ref(), &h.stage),
        same(e.severity.as_ref(), &h.severity),
        same(e.due.as_ref(), &h.due),
        same(e.anchor.as_ref(), &h.anchor),
        same(e.incomplete.as_ref(), &h.incomplete),
        same(e.owner.as_ref(), &h.owner),
        same(e.policy.as_ref(), &h.policy),
        e.resolution.is_none() || e.resolution == h.resolution,
        same(e.step.as_ref(), &h.step),
        e.reason.as_deref().is_none_or(|r| r == h.reason),
        same(e.rule.as_ref(), &h.rule),
        e.change.as_deref().is_none_or(|c| c == h.change),
    ]
}

/// Whether what happened is what is named.
#[must_use]
pub fn fits(e: &Expectation, h: &Happened) -> bool {
    e.kind == h.kind && within(e, h.at) && fields(e, h).iter().all(|same| *same)
}

/// Gives as many expectations as possible a thing of its own that happened, by augmenting paths: an expectation that says
/// little must not take what another one needs.
fn matching(expect: &[Expectation], happened: &[Happened], counted: &[usize]) -> Vec<Option<usize>> {
    let fitting: Vec<Vec<usize>> =
        expect.iter().map(|e| counted.iter().copied().filter(|i| fits(e, &happened[*i])).collect()).collect();
    let mut taken: Vec<Option<usize>> = vec![None; happened.len()];
    for e in 0..expect.len() {
        let mut tried = vec![false; happened.len()];
        augment(e, &fitting, &mut taken, &mut tried);
    }
    let mut met = vec![None; expect.len()];
    for (h, by) in taken.iter().enumerate() {
        if let Some(e) = by {
            met[*e] = Some(h);
        }
    }
    met
}

fn augment(e: usize, fitting: &[Vec<usize>], taken: &mut [Option<usize>], tried: &mut [bool]) -> bool {
    for &h in &fitting[e] {
        if std::mem::replace(&mut tried[h], true) {
            continue;
        }
        if taken[h].is_none_or(|other| augment(other, fitting, taken, tried)) {
            taken[h] = Some(e);
            return true;
        }
    }
    false
}
