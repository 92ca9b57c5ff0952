//! Whether conditions can hold together: what no parcel can be is a mistake worth telling.
//!
//! Sound, not complete: `false` means that no parcel of plain facts satisfies all; where it cannot tell, or where telling
//! would cost too much, it says `true`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::condition::glob;
use super::ruleset::{Comparison, Matcher, Scalar, Test};
use crate::model::{Decimal, FactRef};

/// What a condition is to do.
#[derive(Clone, Copy)]
pub enum Goal<'m> {
    /// It holds.
    Holds(&'m Matcher),
    /// It does not.
    Fails(&'m Matcher),
}

impl<'m> Goal<'m> {
    /// Of a choice: what would do.
    fn branches(self) -> impl Iterator<Item = Goal<'m>> {
        let (matchers, hold) = match self {
            Goal::Holds(Matcher::Any(ms)) | Goal::Fails(Matcher::None(ms)) => (ms.as_slice(), true),
            Goal::Fails(Matcher::All(ms)) => (ms.as_slice(), false),
            Goal::Holds(_) | Goal::Fails(_) => (&[][..], true),
        };
        matchers.iter().map(move |m| if hold { Goal::Holds(m) } else { Goal::Fails(m) })
    }
}

/// Answers within a budget of steps, which it shares among all questions of a file.
pub struct Logic<'f> {
    /// Steps left.
    budget: u32,
    /// Whether a fact holds one value: a list may equal several.
    single: &'f dyn Fn(FactRef) -> bool,
}

/// Tests of one fact, each to hold (`true`) or to fail.
type Literals<'m> = BTreeMap<FactRef, Vec<(&'m Test, bool)>>;

impl<'f> Logic<'f> {
    /// With so many steps.
    pub fn new(budget: u32, single: &'f dyn Fn(FactRef) -> bool) -> Logic<'f> {
        Logic { budget, single }
    }

    /// Steps that are left.
    pub fn left(&self) -> u32 {
        self.budget
    }

    /// Whether a parcel could meet all goals.
    pub fn possible(&mut self, goals: &[Goal<'_>]) -> bool {
        self.solve(goals.to_vec(), Literals::new())
    }

    fn spend(&mut self, steps: usize) -> bool {
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.budget = self.budget.saturating_sub(steps);
        self.budget > 0
    }

    fn solve<'m>(&mut self, mut goals: Vec<Goal<'m>>, mut literals: Literals<'m>) -> bool {
        // Choices come last: what is certain may settle it.
        let mut choices: Vec<Goal<'m>> = Vec::new();
        while let Some(goal) = goals.pop() {
            if !self.spend(1) {
                return true;
            }
            match goal {
                Goal::Holds(Matcher::All(ms)) => goals.extend(ms.iter().map(Goal::Holds)),
                Goal::Holds(Matcher::None(ms)) | Goal::Fails(Matcher::Any(ms)) => {
                    goals.extend(ms.iter().map(Goal::Fails));
                }
                Goal::Holds(Matcher::Any(_)) | Goal::Fails(Matcher::None(_) | Matcher::All(_)) => {
                    choices.push(goal);
                }
                Goal::Holds(Matcher::Fact(f, t)) => literals.entry(*f).or_default().push((t, true)),
                Goal::Fails(Matcher::Fact(f, t)) => literals.entry(*f).or_default().push((t, false)),
            }
        }
        for (fact, tests) in &literals {
            if !self.spend(tests.len()) {
                return true;
            }
            if !self.consistent(tests, (self.single)(*fact)) {
                return false;
            }
        }
        let Some(choice) = choices.pop() else { return true };
        choice.branches().any(|branch| {
            if !self.spend(1 + literals.len() + choices.len()) {
                return true;
            }
            let mut goals = choices.clone();
            goals.push(branch);
            self.solve(goals, literals.clone())
        })
    }

    /// Whether one value of a fact could pass all tests.
    fn consistent(&mut self, tests: &[(&Test, bool)], single: bool) -> bool {
        if tests.iter().any(|(t, hold)| missing_needed(t, *hold)) {
            return tests.iter().all(|(t, hold)| of_missing(t) == *hold);
        }
        let opposed = |t: &Test, hold: bool| tests.iter().any(|(u, h)| *h != hold && *u == t);
        if tests.iter().any(|(t, hold)| *hold && opposed(t, true)) {
            return false;
        }
        for (t, hold) in tests {
            let Some(values) = values(t, *hold) else { continue };
            if !self.spend(values.len().saturating_mul(tests.len())) {
                return true;
            }
            let passes = |v: &&Scalar| {
                tests.iter().all(|(u, h)| {
                    (!single && asks_for_one(u, *h)) || of_value(u, v).is_none_or(|yes| yes == *h)
                })
            };
            if !values.iter().any(passes) {
                return false;
            }
        }
        in_range(tests)
    }
}

/// Whether a list passes by one of its elements, whatever the others are.
fn asks_for_one(t: &Test, hold: bool) -> bool {
    match t {
        Test::Not(t) => asks_for_one(t, !hold),
        _ => hold,
    }
}

/// Whether only a missing fact passes.
fn missing_needed(t: &Test, hold: bool) -> bool {
    match t {
        Test::Missing(yes) => *yes == hold,
        Test::Not(t) => missing_needed(t, !hold),
        Test::AllOf(ts) => hold && ts.iter().any(|t| missing_needed(t, true)),
        _ => false,
    }
}

/// What a test says of a missing fact (SEMANTICS 4.3).
fn of_missing(t: &Test) -> bool {
    match t {
        Test::Missing(yes) => *yes,
        Test::Not(t) => !of_missing(t),
        Test::AllOf(ts) => ts.iter().all(of_missing),
        Test::AnyOf(ts) => ts.iter().any(of_missing),
        Test::Equals(_) | Test::Compare(..) | Test::Glob(_) => false,
    }
}

/// The values that a test names, where it passes for no others.
fn values(t: &Test, hold: bool) -> Option<Vec<&Scalar>> {
    match (t, hold) {
        (Test::Equals(v), true) => Some(vec![v]),
        (Test::Not(t), hold) => values(t, !hold),
        (Test::AnyOf(ts), true) => {
            let each: Option<Vec<Vec<&Scalar>>> = ts.iter().map(|t| values(t, true)).collect();
            each.map(|each| each.into_iter().flatten().collect())
        }
        (Test::AllOf(ts), true) => ts.iter().find_map(|t| values(t, true)),
        _ => None,
    }
}

/// What a test says of a value; `None` where that is left open.
fn of_value(t: &Test, v: &Scalar) -> Option<bool> {
    match t {
        Test::Equals(w) => Some(v == w),
        Test::Not(t) => of_value(t, v).map(|yes| !yes),
        Test::Missing(yes) => Some(!yes),
        Test::Compare(c, n) => match v {
            Scalar::Number(m) => Some(holds(*c, m.compare(*n)?)),
            Scalar::Bool(_) => Some(false),
            Scalar::Text(_) => None,
        },
        Test::Glob(pattern) => match v {
            Scalar::Text(text) => Some(glob(pattern, text)),
            Scalar::Number(_) | Scalar::Bool(_) => Some(false),
        },
        Test::AnyOf(ts) => {
            let each: Vec<Option<bool>> = ts.iter().map(|t| of_value(t, v)).collect();
            if each.contains(&Some(true)) {
                Some(true)
            } else {
                each.iter().all(Option::is_some).then_some(false)
            }
        }
        Test::AllOf(ts) => {
            let each: Vec<Option<bool>> = ts.iter().map(|t| of_value(t, v)).collect();
            if each.contains(&Some(false)) {
                Some(false)
            } else {
                each.iter().all(Option::is_some).then_some(true)
            }
        }
    }
}

fn holds(c: Comparison, order: Ordering) -> bool {
    match c {
        Comparison::Gt => order == Ordering::Greater,
        Comparison::Gte => order != Ordering::Less,
        Comparison::Lt => order == Ordering::Less,
        Comparison::Lte => order != Ordering::Greater,
    }
}

/// Whether a number lies within all bounds. Only where one comparison has to hold is the value a number at all.
fn in_range(tests: &[(&Test, bool)]) -> bool {
    let mut bounds: Vec<(Comparison, Decimal)> = Vec::new();
    let mut denied: Vec<(Comparison, Decimal)> = Vec::new();
    let mut todo: Vec<(&Test, bool)> = tests.to_vec();
    while let Some((t, hold)) = todo.pop() {
        match t {
            Test::Compare(c, n) if hold => bounds.push((*c, *n)),
            Test::Compare(c, n) => denied.push((opposite(*c), *n)),
            Test::Not(t) => todo.push((t, !hold)),
            Test::AllOf(ts) if hold => todo.extend(ts.iter().map(|t| (t, true))),
            Test::AnyOf(ts) if !hold => todo.extend(ts.iter().map(|t| (t, false))),
            _ => {}
        }
    }
    if bounds.is_empty() {
        return true;
    }
    bounds.extend(denied);
    let least = |c: Comparison| matches!(c, Comparison::Gt | Comparison::Gte);
    let strict = |c: Comparison| matches!(c, Comparison::Gt | Comparison::Lt);
    // The tightest on each side, and then one against the other.
    let mut low: Option<(Comparison, Decimal)> = None;
    let mut high: Option<(Comparison, Decimal)> = None;
    for (c, n) in bounds {
        let (side, tighter) =
            if least(c) { (&mut low, Ordering::Greater) } else { (&mut high, Ordering::Less) };
        let Some((d, m)) = *side else {
            *side = Some((c, n));
            continue;
        };
        let Some(order) = n.compare(m) else { return true };
        if order == tighter || (order == Ordering::Equal && strict(c) && !strict(d)) {
            *side = Some((c, n));
        }
    }
    let (Some((c, low)), Some((d, high))) = (low, high) else { return true };
    match low.compare(high) {
        Some(Ordering::Greater) => false,
        Some(Ordering::Equal) => !strict(c) && !strict(d),
        Some(Ordering::Less) | None => true,
    }
}

const fn opposite(c: Comparison) -> Comparison {
    match c {
        Comparison::Gt => Comparison::Lte,
        Comparison::Gte => Comparison::Lt,
        Comparison::Lt => Comparison::Gte,
        Comparison::Lte => Comparison::Gt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(n: u16, t: Test) -> Matcher {
        Matcher::Fact(FactRef::Stated(n), t)
    }

    fn text(t: &str) -> Test {
        Test::Equals(Scalar::Text(t.into()))
    }

    fn number(n: i64) -> Decimal {
        Decimal::whole(n)
    }

    #[track_caller]
    fn check(expected: bool, goals: &[Goal<'_>]) {
        // Fact 1 is a list.
        let single = |f: FactRef| f != FactRef::Stated(1);
        assert_eq!(Logic::new(10_000, &single).possible(goals), expected);
    }

    #[test]
    fn values_exclude_each_other_unless_the_fact_is_a_list() {
        for (n, expected) in [(0, false), (1, true)] {
            let both = Matcher::All(vec![fact(n, text("ES")), fact(n, text("FR"))]);
            check(expected, &[Goal::Holds(&both)]);
        }
        let not = Test::Not(Box::new(Test::AnyOf(vec![text("ES"), text("FR")])));
        for n in [0, 1] {
            check(false, &[Goal::Holds(&fact(n, text("ES"))), Goal::Holds(&fact(n, not.clone()))]);
        }
        check(true, &[Goal::Holds(&fact(0, not.clone()))]);
        check(false, &[Goal::Holds(&fact(0, not)), Goal::Holds(&fact(0, Test::AnyOf(vec![text("ES")])))]);
    }

    #[test]
    fn bounds_have_to_leave_room() {
        use Comparison::{Gt, Gte, Lt, Lte};
        for (a, b, expected) in [
            ((Gt, 10), (Lt, 5), false),
            ((Gt, 5), (Lt, 10), true),
            ((Gte, 5), (Lte, 5), true),
            ((Gt, 5), (Lte, 5), false),
            ((Gt, 5), (Gt, 9), true),
        ] {
            let test = |(c, n): (Comparison, i64)| Test::Compare(c, number(n));
            let both = fact(0, Test::AllOf(vec![test(a), test(b)]));
            check(expected, &[Goal::Holds(&both)]);
        }
        // Above 200 is above 100.
        let (more, less) = (fact(0, Test::Compare(Gt, number(200))), fact(0, Test::Compare(Gt, number(100))));
        check(false, &[Goal::Holds(&more), Goal::Fails(&less)]);
        check(true, &[Goal::Holds(&less), Goal::Fails(&more)]);
        check(true, &[Goal::Fails(&less)]);
        check(false, &[Goal::Holds(&more), Goal::Holds(&fact(0, Test::Missing(true)))]);
        check(false, &[Goal::Holds(&more), Goal::Holds(&fact(0, Test::Equals(Scalar::Number(number(7)))))]);
    }

    #[test]
    fn choices_are_tried_one_by_one() {
        let es = fact(0, text("ES"));
        let other = Matcher::Any(vec![
            fact(0, text("FR")),
            Matcher::All(vec![fact(0, text("DE")), fact(2, text("x"))]),
        ]);
        check(false, &[Goal::Holds(&es), Goal::Holds(&other)]);
        check(true, &[Goal::Holds(&es), Goal::Fails(&other)]);
        let none = Matcher::None(vec![es.clone(), fact(2, text("x"))]);
        check(false, &[Goal::Holds(&es), Goal::Holds(&none)]);
        check(true, &[Goal::Holds(&es), Goal::Fails(&none)]);
        check(
            true,
            &[Goal::Holds(&Matcher::Any(vec![fact(0, text("FR")), fact(2, text("y"))])), Goal::Holds(&es)],
        );
    }

    #[test]
    fn what_would_cost_too_much_is_possible() {
        let branch = |i: u16| Matcher::Any((0..40).map(|j| fact(i, text(&j.to_string()))).collect());
        let many: Vec<Matcher> = (10..40).map(branch).collect();
        let contradiction = Matcher::All(vec![fact(0, text("ES")), fact(0, text("FR"))]);
        let mut goals: Vec<Goal<'_>> = many.iter().map(Goal::Holds).collect();
        check(true, &goals);
        goals.push(Goal::Holds(&contradiction));
        check(false, &goals);
    }
}
