//! What the files of a directory define, for whoever refers to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::calendar::Calendar;
use super::compile::Unreadable;
use super::problem::Source;
use super::ruleset::{DeclaredFact, Scalar};
use crate::model::{DerivedFact, DerivedTime, FactRef, KNOWN_FACTS, Milestone, Severity, Time, known_fact};

/// Names and what they stand for.
#[derive(Default)]
pub struct Names {
    /// Sorted by name: the order gives them their numbers.
    pub declared: Vec<DeclaredFact>,
    /// `sets:`.
    pub sets: BTreeMap<String, Vec<Scalar>>,
    /// `calendars:`; `None` where it has problems of its own.
    pub calendars: Vec<(String, Option<Calendar>)>,
    /// There is a policies.yaml.
    pub has_policies: bool,
    /// Policies, and whether they notify `owner`.
    pub policies: BTreeMap<String, bool>,
    /// The least severity that a step of a policy listens to.
    pub listens: BTreeMap<String, Severity>,
    /// `reported_within:`: how late a milestone's reports may be, in milliseconds.
    pub reported: BTreeMap<Milestone, i64>,
    /// The time of the reading, where it is known: the core has no clock.
    pub now: Option<Time>,
    /// The policy of rules that name none.
    pub default_policy: Option<String>,
    /// Owners that have a route.
    pub owners: BTreeSet<String>,
    /// A file of rules could not be read: what it may define is not called unknown.
    pub rules_broken: bool,
    /// policies.yaml could not be read.
    pub policies_broken: bool,
    /// Files that policies.yaml names as templates.
    pub templates: BTreeMap<PathBuf, Result<Arc<Source>, Unreadable>>,
}

impl Names {
    /// What a matcher reads under this name.
    pub fn fact(&self, name: &str) -> Option<FactRef> {
        if let Some(derived) = DerivedFact::ALL.into_iter().find(|f| f.name() == name) {
            return Some(FactRef::Derived(derived));
        }
        let number = known_fact(name).or_else(|| {
            let i = self.declared.binary_search_by(|d| d.name.as_str().cmp(name)).ok()?;
            u16::try_from(KNOWN_FACTS.len() + i).ok()
        });
        number.map(FactRef::Stated)
    }

    /// All names of facts, for suggestions.
    pub fn facts(&self) -> impl Iterator<Item = &str> + Clone {
        let derived = DerivedFact::ALL.iter().map(|f| f.name());
        let declared = self.declared.iter().map(|d| d.name.as_str());
        KNOWN_FACTS.into_iter().filter(|n| !n.is_empty()).chain(derived).chain(declared)
    }

    /// The name of what a matcher reads.
    pub fn fact_name(&self, fact: FactRef) -> &str {
        match fact {
            FactRef::Derived(d) => d.name(),
            FactRef::Stated(n) => {
                let i = usize::from(n);
                let declared = || self.declared.get(i - KNOWN_FACTS.len()).map_or("", |d| d.name.as_str());
                KNOWN_FACTS.get(i).copied().unwrap_or_else(declared)
            }
        }
    }
}

/// All names that an anchor can have, for suggestions.
pub fn anchors() -> impl Iterator<Item = &'static str> + Clone {
    Milestone::ALL.iter().map(|m| m.name()).chain(DerivedTime::ALL.iter().map(|t| t.name()))
}

/// All names that `expect` takes, for suggestions.
pub fn expectations() -> impl Iterator<Item = &'static str> + Clone {
    let derived = DerivedTime::ALL.iter().filter(|t| t.can_be_expected()).map(|t| t.name());
    Milestone::ALL.iter().map(|m| m.name()).chain(["next_expected"]).chain(derived)
}
