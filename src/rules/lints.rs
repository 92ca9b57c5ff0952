//! What a rule may say, and hardly means: told when it has no other problem.

use std::ops::Range;

use super::logic::{Goal, Logic};
use super::names::Names;
use super::problem::code;
use super::reader::{Fields, Reader};
use super::ruleset::{AnchorSource, Body, Matcher, Rule, Tolerance};
use crate::model::{DAY, FactKind, FactRef, Milestone, MilestoneSet, fact_words};
use crate::yaml::{Kind, Node, cut};

/// Looks at a rule that can be used. `fields` are its keys, for places.
pub fn rule(r: &mut Reader, names: &Names, fields: &Fields<'_>, rule: &Rule) {
    anchor(r, fields, rule);
    let overrides = match fields.get("overrides").map(|n| &n.kind) {
        Some(Kind::Seq(items)) => items.as_slice(),
        _ => &[],
    };
    follows(r, fields.get("expect"), rule, &rule.bodies[0]);
    for (node, body) in overrides.iter().zip(&rule.bodies[1..]) {
        follows(r, node.get("expect"), rule, body);
    }
    conditions(r, names, fields, overrides, rule);
    attended(r, names, fields, rule);
    let own = fields.get("stages").or_else(|| fields.get("within"));
    stages(r, names, own, rule, &rule.bodies[0]);
    for (node, body) in overrides.iter().zip(&rule.bodies[1..]) {
        let theirs = ["stages", "within"].into_iter().find_map(|key| node.get(key));
        stages(r, names, theirs.or(own), rule, body);
    }
}

/// `before` counts back from a time that has to be known ahead.
fn anchor(r: &mut Reader, fields: &Fields<'_>, rule: &Rule) {
    if !rule.anchor.before {
        return;
    }
    let Some(node) = fields.get("before") else { return };
    let (name, ahead) = match rule.anchor.sources[0] {
        AnchorSource::Milestone(m) => (m.name(), false),
        AnchorSource::Derived(t) => (t.name(), t.is_known_ahead()),
    };
    if !ahead {
        let message = format!("`{name}` is known only when it has come: every stage before it is then past");
        let help = "`before` takes guarantee_end, duty_due_by, hold_respond_by or next_expected_by; else count `after` what comes first";
        r.lint(code::NOT_AHEAD, &node.at, message, help);
    }
}

/// Where on the way a milestone stands, if it stands at one place: customs may hold or ask at any time.
fn place_on_the_way(m: Milestone) -> Option<u8> {
    match m.rank() {
        30 | 33 | 41..=47 | 75 | 90.. => None,
        // Where it is scanned, tried and brought back there is no order.
        15 | 18 => Some(15),
        60..=74 => Some(60),
        rank => Some(rank),
    }
}

/// An expected milestone that lies before the anchor on every parcel's way satisfies nothing.
fn follows(r: &mut Reader, expect: Option<&Node>, rule: &Rule, body: &Body) {
    let far =
        matches!(body.tolerance, Tolerance::Any) || matches!(body.tolerance, Tolerance::Ms(ms) if ms >= DAY);
    let from = rule.anchor.sources.iter().map(|s| match s {
        AnchorSource::Milestone(m) => place_on_the_way(*m),
        AnchorSource::Derived(crate::model::DerivedTime::ImportCustomsFullyCleared) => {
            place_on_the_way(Milestone::ImportCustomsCleared)
        }
        AnchorSource::Derived(_) => None,
    });
    let from: Option<Vec<u8>> = from.collect();
    let (Some(expect), Some(from), false) =
        (expect, from.and_then(|f| f.into_iter().min()), far || rule.anchor.before)
    else {
        return;
    };
    let items = match &expect.kind {
        Kind::Seq(items) => items.as_slice(),
        _ => std::slice::from_ref(expect),
    };
    for item in items {
        let (name, all) = match item.text() {
            Some(name) => (name, Milestone::from_name(name).map(MilestoneSet::of)),
            None => {
                let name = item.get("from").and_then(Node::text).unwrap_or_default();
                (name, Milestone::from_name(name).map(Milestone::or_later))
            }
        };
        let earlier = |m: Milestone| place_on_the_way(m).is_some_and(|place| place < from);
        if all.is_some_and(|all| all.iter().all(earlier)) {
            let message =
                format!("`{}` comes before the anchor on a parcel's way and cannot follow it", cut(name));
            let help =
                "expect what comes after the anchor; if the two may come in any order, say `tolerance: any`";
            r.lint(code::NEVER_FOLLOWS, &item.at, message, help);
        }
    }
}

/// Conditions that no parcel meets, or all do, and overrides that are never reached.
fn conditions(r: &mut Reader, names: &Names, fields: &Fields<'_>, overrides: &[Node], rule: &Rule) {
    use Goal::Holds;
    let single = |fact: FactRef| {
        fact_words(names.fact_name(fact))
            .is_some_and(|words| !matches!(words.kind, FactKind::List | FactKind::BoolOrText))
    };
    let mut logic = Logic::new(r.effort, &single);
    let scope = &rule.scope;
    if !logic.possible(&[Holds(scope)]) {
        never(r, fields.get("scope"), "`scope` contradicts itself: no parcel is in it");
        return;
    }
    for (i, body) in rule.bodies.iter().enumerate() {
        if logic.left() == 0 {
            break;
        }
        let node = |key: &str| match i {
            0 => fields.get(key),
            i => overrides.get(i - 1).and_then(|n| n.get(key)),
        };
        let mut goals = vec![Holds(scope)];
        goals.extend(i.checked_sub(1).map(|i| Holds(&rule.overrides[i])));
        if i > 0 && !reached(r, &mut logic, node("match"), &overrides[..i], rule, i - 1) {
            continue;
        }
        live(
            r,
            &mut logic,
            &mut goals,
            (node("while"), body.while_.as_ref()),
            (node("unless"), body.unless.as_ref()),
        );
    }
    r.effort = logic.left();
}

/// Whether `while` and `unless` leave anything.
fn live<'m>(
    r: &mut Reader,
    logic: &mut Logic<'_>,
    goals: &mut Vec<Goal<'m>>,
    (while_node, while_): (Option<&Node>, Option<&'m Matcher>),
    (unless_node, unless): (Option<&Node>, Option<&'m Matcher>),
) {
    if let Some(m) = while_ {
        goals.push(Goal::Holds(m));
        if while_node.is_some() && !logic.possible(goals) {
            let alone = !logic.possible(&[Goal::Holds(m)]);
            let message = if alone {
                "`while` contradicts itself: it never holds"
            } else {
                "`while` never holds for a parcel in scope"
            };
            return never(r, while_node, message);
        }
    }
    if let Some(m) = unless {
        if unless_node.is_some() && !logic.possible(&[Goal::Holds(m)]) {
            return never(r, unless_node, "`unless` contradicts itself: it never holds");
        }
        goals.push(Goal::Fails(m));
        if !logic.possible(goals) {
            never(
                r,
                unless_node.or(while_node),
                "`unless` holds for every parcel that the rule looks at: it is never live",
            );
        }
    }
}

fn never(r: &mut Reader, node: Option<&Node>, message: &str) {
    let Some(node) = node else { return };
    let help =
        "every entry of a mapping has to hold; for one or the other write a list of values, or `any_of`";
    r.lint(code::NEVER_HOLDS, &node.at, message, help);
}

/// How many overrides above one are compared with it.
const MAX_ABOVE: usize = 200;

/// Whether a parcel can reach the override: its `match` can hold, and none above it takes all of its parcels.
fn reached(
    r: &mut Reader,
    logic: &mut Logic<'_>,
    node: Option<&Node>,
    nodes: &[Node],
    rule: &Rule,
    i: usize,
) -> bool {
    let Some(node) = node else { return true };
    let (scope, own) = (Goal::Holds(&rule.scope), Goal::Holds(&rule.overrides[i]));
    if !logic.possible(&[own]) {
        never(r, Some(node), "`match` contradicts itself: the override never applies");
        return false;
    }
    if !logic.possible(&[scope, own]) {
        let help = "compare it with the rule's `scope`: together they hold for no parcel";
        r.lint(code::OVERRIDE_UNREACHED, &node.at, "this override never applies to a parcel in scope", help);
        return false;
    }
    let mut covers =
        |j: usize| logic.left() > 0 && !logic.possible(&[scope, own, Goal::Fails(&rule.overrides[j])]);
    // The nearest are looked at first: with thousands of overrides not all pairs are.
    let above = (0..i).rev().take(MAX_ABOVE).find(|j| covers(*j));
    if let Some(other) = above.and_then(|j| nodes[j].get("match")) {
        let also = (r.place(&other.at), "this takes all of its parcels");
        let help = "the first override that matches applies, alone: put the narrower one first, or remove it";
        r.lint_also(
            code::OVERRIDE_UNREACHED,
            &node.at,
            "this override is hidden by one above it",
            help,
            also,
        );
    }
    above.is_none()
}

/// Where somebody is told, somebody has to feel responsible and know what to do.
fn attended(r: &mut Reader, names: &Names, fields: &Fields<'_>, rule: &Rule) {
    if names.policies.is_empty() {
        return;
    }
    let body = &rule.bodies[0];
    let at: Range<usize> = fields.get("id").map_or(fields.at.clone(), |n| n.at.clone());
    let policy = body.policy.as_deref().or(names.default_policy.as_deref());
    let owner_told = policy.is_some_and(|p| names.policies.get(p) == Some(&true));
    let (owner, runbook) = (!body.owner.is_empty() || owner_told, body.runbook.is_some());
    let (lacks, help) = match (owner, runbook) {
        (true, true) => return,
        (false, true) => ("owner", "say whose it is, as in `owner: carrier`"),
        (true, false) => ("runbook", "say in `runbook:` what is to be done, or where that is written"),
        (false, false) => {
            ("owner and no runbook", "say whose it is (`owner:`) and what is to be done (`runbook:`)")
        }
    };
    r.lint(code::UNATTENDED, &at, format!("the rule has no {lacks}"), help);
}

/// Stages that nobody hears of, or that come before a report can.
fn stages(r: &mut Reader, names: &Names, node: Option<&Node>, rule: &Rule, body: &Body) {
    let Some(node) = node else { return };
    let place = |i: usize| match &node.kind {
        Kind::Seq(items) => items.get(i).map_or(node.at.clone(), |n| n.at.clone()),
        _ => node.at.clone(),
    };
    let policy = body.policy.as_deref().or(names.default_policy.as_deref());
    if let Some((policy, least)) = policy.and_then(|p| Some((p, names.listens.get(p)?))) {
        for (i, stage) in body.stages.iter().enumerate().filter(|(_, s)| s.severity < *least) {
            let message = format!(
                "nobody is told of `{}`: every step of the policy `{policy}` wants at least `{}`",
                stage.severity.name(),
                least.name()
            );
            let help = "raise the severity, or add a step to the policy without `min_severity`";
            r.lint(code::UNHEARD, &place(i), message, help);
        }
    }
    let reported = body.expect.milestones.iter().find_map(|m| Some((m, *names.reported.get(&m)?)));
    let (Some((milestone, delay)), false) = (reported, rule.anchor.before) else { return };
    let at = body.stages[0].at;
    let window = (i64::from(at.business_days) + i64::from(at.days)) * DAY + at.ms;
    if window + body.reporting_delay.max(0) < delay {
        let show = |ms: i64| super::duration::show(super::ruleset::Span { ms, ..Default::default() });
        let message = format!(
            "`{}` is reported up to {} late, and this stage is reached after {}: a parcel that is in time is told too late",
            milestone.name(),
            show(delay),
            show(window + body.reporting_delay)
        );
        let help = format!("wait for reports that are on their way: `reporting_delay: {}`", show(delay));
        r.lint(code::SHORT_WINDOW, &place(0), message, help);
    }
}
