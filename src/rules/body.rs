//! The part of a rule that an override may replace (SEMANTICS 5.8): read as a draft, merged, then checked.

use std::collections::BTreeMap;
use std::ops::Range;

use super::keys;
use super::matchers::matcher;
use super::names::{Names, expectations};
use super::problem::code;
use super::reader::{Fields, Reader, kind};
use super::rule::optional;
use super::ruleset::{
    Anchor, AnchorSource, Body, CalendarRef, ClassFilter, Expect, Matcher, Span, Stage, Tolerance,
};
use crate::model::{DerivedTime, Evidence, Milestone, Severity};
use crate::yaml::{Kind, Node, cut};

/// What an override may say.
pub const OVERRIDE_KEYS: [&str; 18] = [
    "match",
    "title",
    "description",
    "unless",
    "while",
    "expect",
    "evidence",
    "tolerance",
    "grace",
    "reporting_delay",
    "calendar",
    "stages",
    "within",
    "severity",
    "owner",
    "policy",
    "labels",
    "runbook",
];

/// Who an exception can belong to.
pub const OWNERS: [&str; 7] =
    ["broker", "carrier", "seller", "ops", "compliance", "customer_service", "finance"];
/// A ladder longer than this is a mistake.
pub(super) const MAX_STAGES: usize = 50;

/// A value and where it stands.
#[derive(Clone)]
struct At<T> {
    at: Range<usize>,
    value: T,
}

/// A stage as it was written.
#[derive(Clone)]
struct DraftStage {
    at: Range<usize>,
    span: Span,
    business: bool,
    severity: Option<Severity>,
}

/// The keys that were written.
#[derive(Clone, Default)]
pub struct Draft {
    title: Option<String>,
    description: Option<String>,
    runbook: Option<String>,
    owner: Option<At<String>>,
    policy: Option<At<String>>,
    labels: Option<BTreeMap<String, String>>,
    unless: Option<Matcher>,
    while_: Option<Matcher>,
    expect: Option<At<Expect>>,
    evidence: Option<ClassFilter>,
    tolerance: Option<Tolerance>,
    grace: Option<i64>,
    reporting_delay: Option<i64>,
    calendar: Option<At<CalendarRef>>,
    stages: Option<Vec<DraftStage>>,
    severity: Option<Severity>,
}

impl Draft {
    /// Reads them. `None`: one of them has a problem.
    pub fn read(r: &mut Reader, names: &Names, fields: &Fields<'_>) -> Option<Draft> {
        let text = |r: &mut Reader, key: &str| {
            optional(fields, key, |n| r.text(n, &format!("`{key}`")).map(str::to_owned))
        };
        let elapsed =
            |r: &mut Reader, key: &str| optional(fields, key, |n| r.elapsed(n, &format!("`{key}`")));
        let title = text(r, "title");
        let description = text(r, "description");
        let runbook = text(r, "runbook");
        let owner = optional(fields, "owner", |n| {
            r.word(n, "owner", &OWNERS).map(|w| At { at: n.at.clone(), value: w.to_owned() })
        });
        let policy = optional(fields, "policy", |n| policy(r, names, n));
        let labels = optional(fields, "labels", |n| labels(r, n));
        let unless = optional(fields, "unless", |n| matcher(r, names, n, "`unless`", &[]));
        let while_ = optional(fields, "while", |n| matcher(r, names, n, "`while`", &[]));
        let expect = optional(fields, "expect", |n| expect(r, n).map(|value| At { at: n.at.clone(), value }));
        let evidence = optional(fields, "evidence", |n| evidence(r, n));
        let tolerance = optional(fields, "tolerance", |n| match n.text() {
            Some("any") => Some(Tolerance::Any),
            Some(text) if text.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                let message = format!("`tolerance`: `{}` is no duration", cut(text));
                r.error(code::BAD_DURATION, &n.at, message, "write a duration such as 14h, or any");
                None
            }
            _ => r.elapsed(n, "`tolerance`").map(Tolerance::Ms),
        });
        let grace = elapsed(r, "grace");
        let reporting_delay = elapsed(r, "reporting_delay");
        let calendar = optional(fields, "calendar", |n| {
            calendar(r, names, n).map(|value| At { at: n.at.clone(), value })
        });
        let stages = stages(r, fields);
        let severity = optional(fields, "severity", |n| severity(r, n));
        Some(Draft {
            title: title?,
            description: description?,
            runbook: runbook?,
            owner: owner?,
            policy: policy?,
            labels: labels?,
            unless: unless?,
            while_: while_?,
            expect: expect?,
            evidence: evidence?,
            tolerance: tolerance?,
            grace: grace?,
            reporting_delay: reporting_delay?,
            calendar: calendar?,
            stages: stages?,
            severity: severity?,
        })
    }

    /// How much an override repeats of them.
    pub fn weight(&self) -> usize {
        let matchers = self.unless.iter().chain(&self.while_).map(Matcher::weight).sum::<usize>();
        let texts = [&self.title, &self.description, &self.runbook];
        let text: usize = texts.into_iter().flatten().map(|t| t.len() / 64).sum();
        let labels = self.labels.as_ref().map_or(0, BTreeMap::len);
        let expect = self.expect.as_ref().map_or(0, |e| e.value.names.len());
        8 + matchers + text + labels + expect + self.stages.as_ref().map_or(0, Vec::len)
    }

    /// These keys with those of an override in their place.
    pub fn overridden(&self, over: Draft) -> Draft {
        let base = self.clone();
        Draft {
            title: over.title.or(base.title),
            description: over.description.or(base.description),
            runbook: over.runbook.or(base.runbook),
            owner: over.owner.or(base.owner),
            policy: over.policy.or(base.policy),
            labels: over.labels.or(base.labels),
            unless: over.unless.or(base.unless),
            while_: over.while_.or(base.while_),
            expect: over.expect.or(base.expect),
            evidence: over.evidence.or(base.evidence),
            tolerance: over.tolerance.or(base.tolerance),
            grace: over.grace.or(base.grace),
            reporting_delay: over.reporting_delay.or(base.reporting_delay),
            calendar: over.calendar.or(base.calendar),
            stages: over.stages.or(base.stages),
            severity: over.severity.or(base.severity),
        }
    }

    /// The body, once what its keys demand of each other has been checked. `rule` is where the rule stands.
    pub fn finish(
        &self,
        r: &mut Reader,
        names: &Names,
        anchor: Option<&Anchor>,
        rule: &Range<usize>,
    ) -> Option<Body> {
        let calendar = self.calendar.as_ref().map_or(CalendarRef::Elapsed, |c| c.value);
        let stages = self.stages(r, calendar, rule);
        if let (Some(anchor), Some(stages)) = (anchor, &stages) {
            self.lint_order(r, anchor.before, stages);
        }
        let expect = self.expect(r, anchor);
        self.told(r, names, rule);
        Some(Body {
            title: self.title.clone().or_else(|| r.rule.clone()).unwrap_or_default(),
            description: self.description.clone().unwrap_or_default(),
            runbook: self.runbook.clone(),
            owner: self.owner.as_ref().map(|o| o.value.clone()).unwrap_or_default(),
            policy: self.policy.as_ref().map(|p| p.value.clone()),
            labels: self.labels.clone().unwrap_or_default(),
            unless: self.unless.clone(),
            while_: self.while_.clone(),
            expect: expect?,
            evidence: self.evidence.unwrap_or_default(),
            tolerance: self.tolerance.unwrap_or(Tolerance::Ms(0)),
            grace: self.grace.unwrap_or(0),
            reporting_delay: self.reporting_delay.unwrap_or(0),
            calendar,
            stages: stages?,
        })
    }

    fn stages(&self, r: &mut Reader, calendar: CalendarRef, rule: &Range<usize>) -> Option<Vec<Stage>> {
        let Some(drafts) = &self.stages else {
            let help = "say when it is late, as in `stages: [{at: 24h, severity: warning}]`, or `within: 24h` with `severity`";
            r.lacks(rule, "a rule has neither `stages` nor `within`".to_owned(), help);
            return None;
        };
        let mut stages = Vec::with_capacity(drafts.len());
        for draft in drafts {
            if draft.business && calendar == CalendarRef::Elapsed {
                let at = self
                    .calendar
                    .as_ref()
                    .map_or(&draft.at, |c| if c.at.start > draft.at.start { &c.at } else { &draft.at });
                let help =
                    "name one of the calendars of policies.yaml, as in `calendar: es`; or write days (d)";
                r.error(code::NO_CALENDAR, at, "business days (bd) need a calendar", help);
                return None;
            }
            let Some(severity) = draft.severity.or(self.severity) else {
                let help = "add one: info, warning, high or critical; `severity:` of the rule counts for all stages without one";
                if !r.has_refused(rule) {
                    r.error(code::MISSING_KEY, &draft.at, "this stage has no severity", help);
                }
                return None;
            };
            stages.push(Stage { at: draft.span, severity });
        }
        Some(stages)
    }

    /// Stages normally come one after the other, each at least as severe as the one before.
    fn lint_order(&self, r: &mut Reader, before: bool, stages: &[Stage]) {
        let drafts = self.stages.as_deref().unwrap_or_default();
        for (pair, draft) in stages.windows(2).zip(&drafts[1..]) {
            let [one, two] = pair else { continue };
            let comparable = (one.at.business_days > 0) == (two.at.business_days > 0);
            let size = |s: Span| (i64::from(s.business_days) + i64::from(s.days)) * crate::model::DAY + s.ms;
            let (from, to) = (size(one.at), size(two.at));
            if comparable && if before { to >= from } else { to <= from } {
                let (message, help) = if before {
                    (
                        "this stage is not nearer to the anchor than the one before it",
                        "with `before` stages count back: the farthest first, 30d, 7d, 0d",
                    )
                } else {
                    (
                        "this stage is not later than the one before it",
                        "put the earliest first: 24h, 48h, 72h",
                    )
                };
                r.lint(code::STAGES_ORDER, &draft.at, message, help);
            } else if two.severity < one.severity {
                let help = "what stands is never lowered: a later stage is at least as severe";
                r.lint(
                    code::STAGES_ORDER,
                    &draft.at,
                    "this stage is less severe than the one before it",
                    help,
                );
            }
        }
    }

    /// None of a rule's anchors may satisfy it (SEMANTICS 5.1).
    fn expect(&self, r: &mut Reader, anchor: Option<&Anchor>) -> Option<Expect> {
        let Some(At { at, value }) = &self.expect else { return Some(Expect::default()) };
        let own = anchor?.sources.iter().find_map(|source| match source {
            AnchorSource::Milestone(m) => value.milestones.contains(*m).then(|| m.name()),
            AnchorSource::Derived(t) => value.derived.contains(t).then(|| t.name()),
        });
        if let Some(name) = own {
            let message = format!("`{name}` is the rule's anchor and cannot be what it expects");
            let help = "every anchor would satisfy the rule at once; expect what comes after it (`{from: x}` begins with x itself)";
            r.error(code::BAD_ANCHOR, at, message, help);
            return None;
        }
        Some(value.clone())
    }

    /// Whether `notify: [owner]` of the policy leads anywhere.
    fn told(&self, r: &mut Reader, names: &Names, rule: &Range<usize>) {
        let policy = self.policy.as_ref().map(|p| p.value.as_str()).or(names.default_policy.as_deref());
        let Some(policy) = policy.filter(|p| names.policies.get(*p) == Some(&true)) else { return };
        match &self.owner {
            None => {
                let message = format!("the rule has no owner, whom its policy `{policy}` notifies");
                r.lint(
                    code::NOBODY_TOLD,
                    rule,
                    message,
                    format!("add `owner:`, one of: {}", OWNERS.join(", ")),
                );
            }
            Some(owner) if !names.owners.contains(&owner.value) => {
                let message = format!(
                    "the policy `{policy}` notifies the owner, but `owners:` names nobody for `{}`",
                    owner.value
                );
                r.error(
                    code::UNDEFINED,
                    &owner.at,
                    message,
                    format!("add `{}:` to `owners:` in policies.yaml", owner.value),
                );
            }
            Some(_) => {}
        }
    }
}

fn policy(r: &mut Reader, names: &Names, node: &Node) -> Option<At<String>> {
    let name = r.name(node, "the policy")?;
    if !names.policies.contains_key(name) && !names.policies_broken {
        let shown = cut(name);
        if names.has_policies {
            let message = format!("no policy is named `{shown}`");
            r.unknown(code::UNDEFINED, &node.at, message, name, names.policies.keys().map(String::as_str));
        } else {
            let help = "add the file with `policies:` and `receivers:`, or remove `policy`";
            let message = format!("policy `{shown}`: there is no policies.yaml beside the rules");
            r.error(code::UNDEFINED, &node.at, message, help);
        }
        return None;
    }
    Some(At { at: node.at.clone(), value: name.to_owned() })
}

fn labels(r: &mut Reader, node: &Node) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for (key, value) in r.map(node, "`labels`")? {
        let name = key.text().unwrap_or_default();
        labels.insert(name.to_owned(), r.text(value, &format!("the label `{}`", cut(name)))?.to_owned());
    }
    Some(labels)
}

/// `expect` (SEMANTICS 5.10): names and `{from: milestone}`.
fn expect(r: &mut Reader, node: &Node) -> Option<Expect> {
    let mut expect = Expect::default();
    let mut good = true;
    for item in r.one_or_many(node, "`expect`")? {
        if matches!(item.kind, Kind::Map(_)) {
            match from(r, item) {
                Some(m) => {
                    expect.milestones = expect.milestones.union(m.or_later());
                    expect.names.push(format!("from {}", m.name()));
                }
                None => good = false,
            }
            continue;
        }
        let Some(name) = r.text(item, "`expect`") else {
            good = false;
            continue;
        };
        if expect.names.iter().any(|n| n == name) {
            r.lint(
                code::WITHOUT_EFFECT,
                &item.at,
                format!("`{}` is expected twice", cut(name)),
                "once is enough",
            );
            continue;
        }
        let derived = DerivedTime::from_name(name).filter(|t| t.can_be_expected());
        match (Milestone::from_name(name), derived) {
            (Some(m), _) => expect.milestones.insert(m),
            (None, Some(t)) => expect.derived.push(t),
            (None, None) if name == "next_expected" => expect.next_expected = true,
            (None, None) => {
                let shown = cut(name);
                if DerivedTime::from_name(name).is_some() {
                    let message = format!("the derived time `{shown}` cannot be expected");
                    let help = "of derived times only import_customs_fully_cleared, holds_closed and documents_added can";
                    r.error(code::UNKNOWN_MILESTONE, &item.at, message, help);
                } else {
                    let message = format!("`{shown}` is nothing that can be expected");
                    r.unknown(code::UNKNOWN_MILESTONE, &item.at, message, name, expectations());
                }
                good = false;
                continue;
            }
        }
        expect.names.push(name.to_owned());
    }
    good.then_some(expect)
}

fn from(r: &mut Reader, node: &Node) -> Option<Milestone> {
    let fields = r.fields(node, "an entry of `expect`", &keys::names(&keys::FROM))?;
    let Some(node) = fields.get("from") else {
        if fields.iter().next().is_none() && node.at.len() <= 2 {
            r.missing(
                &node.at,
                "an entry of `expect`",
                "from",
                "write a milestone, or {from: domestic_scan}",
            );
        }
        return None;
    };
    milestone(r, node)
}

/// A milestone's name.
pub(super) fn milestone(r: &mut Reader, node: &Node) -> Option<Milestone> {
    let name = r.text(node, "a milestone")?;
    let found = Milestone::from_name(name);
    if found.is_none() {
        let message = format!("`{}` is no milestone", cut(name));
        r.unknown(code::UNKNOWN_MILESTONE, &node.at, message, name, Milestone::ALL.iter().map(|m| m.name()));
    }
    found
}

fn evidence(r: &mut Reader, node: &Node) -> Option<ClassFilter> {
    let words: Vec<&'static str> = Evidence::ALL.iter().map(|e| e.name()).collect();
    let items = r.one_or_many(node, "`evidence`")?;
    let classes: Vec<Evidence> = items
        .iter()
        .filter_map(|n| r.word(n, "evidence class", &words).and_then(Evidence::from_name))
        .collect();
    (classes.len() == items.len()).then(|| ClassFilter::of(classes))
}

fn calendar(r: &mut Reader, names: &Names, node: &Node) -> Option<CalendarRef> {
    let name = r.text(node, "`calendar`")?;
    if name == "elapsed" {
        return Some(CalendarRef::Elapsed);
    }
    if names.policies_broken {
        return None;
    }
    if name == "by_destination" {
        if names.calendars.iter().any(|(_, c)| c.as_ref().is_none_or(|c| c.any)) {
            return Some(CalendarRef::ByDestination);
        }
        let help =
            "add one to policies.yaml for all other destinations, as in {id: rest, zone: UTC, country: any}";
        r.error(code::UNDEFINED, &node.at, "`by_destination` needs a calendar with `country: any`", help);
        return None;
    }
    if let Some(i) = names.calendars.iter().position(|(id, _)| id == name) {
        return Some(CalendarRef::Named(i));
    }
    let shown = cut(name);
    if names.has_policies || !names.calendars.is_empty() {
        let ids = names.calendars.iter().map(|(id, _)| id.as_str()).chain(["elapsed", "by_destination"]);
        r.unknown(code::UNDEFINED, &node.at, format!("no calendar is named `{shown}`"), name, ids);
    } else {
        let message = format!("calendar `{shown}`: there is no policies.yaml beside the rules");
        r.error(code::UNDEFINED, &node.at, message, "add the file with `calendars:`, or remove `calendar`");
    }
    None
}

/// A severity.
pub fn severity(r: &mut Reader, node: &Node) -> Option<Severity> {
    let words: Vec<&'static str> = Severity::ALL.iter().map(|s| s.name()).collect();
    r.word(node, "severity", &words).and_then(Severity::from_name)
}

/// `stages`, or `within` for one.
fn stages(r: &mut Reader, fields: &Fields<'_>) -> Option<Option<Vec<DraftStage>>> {
    match (fields.entry("stages"), fields.entry("within")) {
        (Some((one, _)), Some((two, _))) => {
            let at = if one.at.start > two.at.start { &one.at } else { &two.at };
            let help = "`within: 48h` is short for one stage; write it into `stages`";
            r.error(code::CONTRADICTION, at, "`stages` and `within` exclude each other", help);
            None
        }
        (None, Some((_, node))) => {
            let span = r.span(node, "`within`")?;
            let business = node.text().is_some_and(|t| t.contains("bd"));
            Some(Some(vec![DraftStage { at: node.at.clone(), span, business, severity: None }]))
        }
        (Some((_, node)), None) => {
            let items = r.list(node, "`stages`")?;
            if items.len() > MAX_STAGES {
                r.error(
                    code::TOO_LARGE,
                    &node.at,
                    format!("more than {MAX_STAGES} stages"),
                    "no ladder needs that many",
                );
                return None;
            }
            let read: Vec<DraftStage> = items.iter().filter_map(|n| stage(r, n)).collect();
            (read.len() == items.len()).then_some(Some(read))
        }
        (None, None) => Some(None),
    }
}

fn stage(r: &mut Reader, node: &Node) -> Option<DraftStage> {
    if matches!(node.kind, Kind::Scalar { .. }) {
        let message = format!("a stage has to be a mapping, not {}", kind(node));
        r.error(code::WRONG_SHAPE, &node.at, message, "write {at: 24h, severity: warning}");
        return None;
    }
    let fields = r.fields(node, "a stage", &keys::names(&keys::STAGE))?;
    let severity = optional(&fields, "severity", |n| severity(r, n));
    let Some(at) = fields.get("at") else {
        r.missing(&node.at, "a stage", "at", "say how long after the anchor it is reached, as in {at: 24h}");
        return None;
    };
    let span = r.span(at, "`at`")?;
    let business = at.text().is_some_and(|t| t.contains("bd"));
    Some(DraftStage { at: node.at.clone(), span, business, severity: severity? })
}
