//! A rule set as the engine and the escalation use it: compiled, checked, immutable (DESIGN §5, SEMANTICS 4-6).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::calendar::Calendar;
use crate::model::{
    Decimal, DerivedTime, Evidence, FactRef, KNOWN_FACTS, Milestone, MilestoneSet, Severity, Time, known_fact,
};

/// All rules of a directory. Immutable; swapped whole.
#[derive(Debug, Default)]
pub struct RuleSet {
    /// SHA-256 (hexadecimal) over what decides: rules, sets, declared facts and calendars.
    pub hash: String,
    /// Enabled rules, in the order of their ids.
    pub rules: Vec<Rule>,
    /// Named calendars (`calendars:` of policies.yaml).
    pub calendars: Vec<Calendar>,
    /// Facts declared beside the known ones; the i-th has the number `KNOWN_FACTS.len() + i`.
    pub declared: Vec<DeclaredFact>,
}

/// A fact that a rules directory makes known (SEMANTICS 2.2). A dotted name looks inside an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeclaredFact {
    /// Its name.
    pub name: String,
    /// What a rule's author says it holds; kept for the schema, a fact keeps its JSON type whatever this says.
    pub kind: String,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// Stable snake_case id.
    pub id: Arc<str>,
    /// SHA-256 (hexadecimal) of this rule's own meaning: the same while its text means the same.
    pub hash: Arc<str>,
    /// `version:`, as written; "" where absent.
    pub version: String,
    /// Changes as ever, nobody is told (SEMANTICS 5.13).
    pub shadow: bool,
    /// What the clock starts from.
    pub anchor: Anchor,
    /// Which parcels.
    pub scope: Matcher,
    /// Which holds this rule sees (SEMANTICS 5.11).
    pub holds: Option<HoldsFilter>,
    /// SEMANTICS 5.5.
    pub restart: bool,
    /// Elapsed milliseconds after the anchor at which it stops being live (SEMANTICS 5.12).
    pub until: Option<i64>,
    /// Live for terminal parcels too.
    pub after_terminal: bool,
    /// Anchors from here on (SEMANTICS 5.7).
    pub effective_from: Option<Time>,
    /// Anchors before this.
    pub effective_to: Option<Time>,
    /// Milliseconds more where the anchor's zone was a guess (SEMANTICS 5.3).
    pub zone_slack: i64,
    /// The rule's own body, then one for each override, its keys replaced already.
    pub bodies: Vec<Body>,
    /// `match` of each override: the first that holds picks `bodies[i + 1]`.
    pub overrides: Vec<Matcher>,
}

/// What an override may replace (SEMANTICS 5.8).
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the keys of a rule, DESIGN §5")]
pub struct Body {
    pub title: String,
    pub description: String,
    pub runbook: Option<String>,
    pub owner: String,
    /// `None`: the default policy.
    pub policy: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub unless: Option<Matcher>,
    pub while_: Option<Matcher>,
    pub expect: Expect,
    /// Which classes satisfy.
    pub evidence: ClassFilter,
    pub tolerance: Tolerance,
    /// Milliseconds.
    pub grace: i64,
    /// Milliseconds.
    pub reporting_delay: i64,
    pub calendar: CalendarRef,
    /// Never empty.
    pub stages: Vec<Stage>,
}

/// A step of lateness.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage {
    /// After (or before) the anchor.
    pub at: Span,
    /// How bad it is then.
    pub severity: Severity,
}

/// A duration as rules write it: business days, calendar days, and the rest in milliseconds (SEMANTICS 6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// `bd`.
    pub business_days: u32,
    /// `d`: 24 h each in `elapsed`, calendar days in a named calendar.
    pub days: u32,
    /// `h`, `m`, `s` in milliseconds.
    pub ms: i64,
}

/// What a rule's times count in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CalendarRef {
    /// The plain clock; a day is 24 h.
    Elapsed,
    /// Index into [`RuleSet::calendars`].
    Named(usize),
    /// The one that names the parcel's destination, else the one with `country: any` (SEMANTICS 6.0).
    ByDestination,
}

/// `after` or `before` with `pick` (SEMANTICS 5.0, 5.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Anchor {
    /// Stages count back from it.
    pub before: bool,
    /// Written as a list: the earliest (with `pick: last` the latest) of those that are there.
    pub list: bool,
    /// `pick: last`.
    pub last: bool,
    /// One or more.
    pub sources: Vec<AnchorSource>,
}

impl Anchor {
    /// Whether each value of the anchor is an episode of its own (SEMANTICS 5.0, 5.1).
    #[must_use]
    pub fn has_episodes(&self) -> bool {
        self.last || (!self.list && matches!(self.sources[0], AnchorSource::Derived(t) if t.has_episodes()))
    }
}

/// What an anchor is read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum AnchorSource {
    Milestone(Milestone),
    Derived(DerivedTime),
}

/// `expect` (SEMANTICS 5.10). Empty: satisfied by nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expect {
    /// Milestones, `{from: …}` spelt out.
    pub milestones: MilestoneSet,
    /// `next_expected`.
    pub next_expected: bool,
    /// Derived times.
    pub derived: Vec<DerivedTime>,
    /// As written, for messages: `domestic_scan`, `from domestic_scan`.
    pub names: Vec<String>,
}

/// `evidence`: which classes satisfy. Empty: any, none included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClassFilter(pub u8);

impl ClassFilter {
    /// The filter that wants one of these.
    pub fn of(classes: impl IntoIterator<Item = Evidence>) -> ClassFilter {
        ClassFilter(classes.into_iter().fold(0, |bits, e| bits | 1 << e as u8))
    }

    /// Whether an occurrence of this class (0 = of no class) counts.
    #[must_use]
    pub const fn admits(self, class: u8) -> bool {
        self.0 == 0 || self.0 & (1 << class) != 0
    }
}

/// How much earlier than the anchor an expected milestone may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tolerance {
    /// `any` (SEMANTICS 5.4).
    Any,
    /// Milliseconds.
    Ms(i64),
}

/// `holds: {reason, authority}`: each a list of texts, any of which counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HoldsFilter {
    /// `None`: any reason.
    pub reason: Option<Vec<String>>,
    /// `None`: any authority.
    pub authority: Option<Vec<String>>,
}

/// A condition over facts (SEMANTICS 4).
#[derive(Clone, PartialEq, Debug)]
pub enum Matcher {
    /// Every one holds; none at all: holds always.
    All(Vec<Matcher>),
    /// `any_of`.
    Any(Vec<Matcher>),
    /// `none_of`.
    None(Vec<Matcher>),
    /// One fact.
    Fact(FactRef, Test),
}

impl Default for Matcher {
    fn default() -> Matcher {
        Matcher::All(Vec::new())
    }
}

impl Matcher {
    /// How many tests and values it is made of.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Matcher::All(ms) | Matcher::Any(ms) | Matcher::None(ms) => {
                1 + ms.iter().map(Matcher::weight).sum::<usize>()
            }
            Matcher::Fact(_, test) => 1 + test.weight(),
        }
    }
}

impl Test {
    fn weight(&self) -> usize {
        match self {
            Test::AnyOf(ts) | Test::AllOf(ts) => 1 + ts.iter().map(Test::weight).sum::<usize>(),
            Test::Not(t) => 1 + t.weight(),
            Test::Equals(Scalar::Text(t)) | Test::Glob(t) => 1 + t.len() / 64,
            Test::Equals(_) | Test::Compare(..) | Test::Missing(_) => 1,
        }
    }
}

/// What a matcher asks of one fact.
#[derive(Clone, PartialEq, Debug)]
pub enum Test {
    /// Equals (SEMANTICS 4.1, 4.2).
    Equals(Scalar),
    /// One of a list, a set's members included.
    AnyOf(Vec<Test>),
    /// Several operators in one mapping: all hold.
    AllOf(Vec<Test>),
    /// The opposite, which holds for a missing fact (SEMANTICS 4.3).
    Not(Box<Test>),
    /// `gt`, `gte`, `lt`, `lte`.
    Compare(Comparison, Decimal),
    /// `{missing: true}` or `{missing: false}`.
    Missing(bool),
    /// `*` any run, `?` one character, the whole text (SEMANTICS 4.4).
    Glob(String),
}

/// A value in a rule.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Scalar {
    Text(String),
    Number(Decimal),
    Bool(bool),
}

/// An order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Comparison {
    Gt,
    Gte,
    Lt,
    Lte,
}

impl RuleSet {
    /// The number of a stated fact, known or declared; what `source::decode` and matchers agree on.
    #[must_use]
    pub fn fact_number(&self, name: &str) -> Option<u16> {
        known_fact(name).or_else(|| {
            let i = self.declared.iter().position(|d| d.name == name)?;
            u16::try_from(KNOWN_FACTS.len() + i).ok()
        })
    }

    /// The name of a stated fact.
    #[must_use]
    pub fn fact_name(&self, number: u16) -> &str {
        let i = usize::from(number);
        KNOWN_FACTS
            .get(i)
            .copied()
            .unwrap_or_else(|| self.declared.get(i - KNOWN_FACTS.len()).map_or("", |d| d.name.as_str()))
    }

    /// The rule of this id.
    #[must_use]
    pub fn rule(&self, id: &str) -> Option<(usize, &Rule)> {
        let i = self.rules.binary_search_by(|r| (*r.id).cmp(id)).ok()?;
        Some((i, &self.rules[i]))
    }
}
