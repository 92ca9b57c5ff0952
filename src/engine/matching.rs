//! Whether a matcher holds for a parcel (SEMANTICS 4).

use std::borrow::Cow;
use std::cmp::Ordering;

use super::derive::{self, Derived, Hold};
use super::intern::Interner;
use super::parcel::{Parcel, Value, index};
use crate::model::json::{Token, each_element};
use crate::model::{Decimal, DerivedFact, FactRef};
use crate::rules::condition::glob;
use crate::rules::ruleset::{Comparison, HoldsFilter, Matcher, Scalar, Test};

const ORIGIN: u16 = index("origin");
const DESTINATION: u16 = index("destination");
const DOCUMENTS: u16 = index("documents");

/// A parcel as rules see it: with all its holds, or with those that a rule's filter lets through.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub parcel: &'a Parcel,
    pub derived: &'a Derived,
    pub interner: &'a Interner,
    pub filter: Option<&'a HoldsFilter>,
}

/// A fact's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen<'a> {
    Text(Cow<'a, str>),
    Number(Decimal),
    Bool(bool),
    /// A money object's amount.
    Money(Decimal),
    /// `a ÷ b × 100`, exactly.
    Percent(Decimal, Decimal),
    List(Vec<Seen<'a>>),
    /// An object that is no money: equals nothing.
    Object,
}

impl<'a> View<'a> {
    /// The holds this view sees.
    pub fn holds(self) -> impl Iterator<Item = &'a Hold> {
        let View { parcel, derived, interner, filter } = self;
        derived.holds.iter().filter(move |h| filter.is_none_or(|f| derive::admits(f, h, parcel, interner)))
    }

    /// Whether the matcher holds.
    #[must_use]
    pub fn holds_for(self, matcher: &Matcher) -> bool {
        match matcher {
            Matcher::All(all) => all.iter().all(|m| self.holds_for(m)),
            Matcher::Any(any) => any.iter().any(|m| self.holds_for(m)),
            Matcher::None(none) => !none.iter().any(|m| self.holds_for(m)),
            Matcher::Fact(FactRef::Stated(n), Test::Equals(Scalar::Text(wanted))) => {
                self.text_equals(*n, wanted)
            }
            Matcher::Fact(fact, test) => passes(test, self.fact(*fact).as_ref()),
        }
    }

    /// The common case without building a value.
    fn text_equals(self, number: u16, wanted: &str) -> bool {
        match self.parcel.fact(number).map(|f| f.value) {
            Some(Value::Text(t)) => self.parcel.text(t, self.interner) == wanted,
            _ => passes(
                &Test::Equals(Scalar::Text(wanted.to_owned())),
                self.fact(FactRef::Stated(number)).as_ref(),
            ),
        }
    }

    /// A fact's value; `None` where it is missing.
    #[must_use]
    pub fn fact(self, fact: FactRef) -> Option<Seen<'a>> {
        match fact {
            FactRef::Stated(number) => self.stated(number),
            FactRef::Derived(d) => self.derived_fact(d),
        }
    }

    fn stated(self, number: u16) -> Option<Seen<'a>> {
        let (p, interner) = (self.parcel, self.interner);
        if number == DOCUMENTS {
            let list: Vec<_> = p.documents.iter().map(|d| Seen::Text(p.text(*d, interner).into())).collect();
            return Some(Seen::List(list));
        }
        let Some(fact) = p.fact(number) else {
            let part = match number {
                ORIGIN => 0,
                DESTINATION => 1,
                _ => return None,
            };
            return derive::lane_part(p, part, interner).map(|t| Seen::Text(t.into()));
        };
        Some(match fact.value {
            Value::Text(t) => Seen::Text(p.text(t, interner).into()),
            Value::Number(t) => Decimal::parse(p.text(t, interner)).map_or(Seen::Object, Seen::Number),
            Value::Bool(b) => Seen::Bool(b),
            Value::Json(t) => json(p.text(t, interner)),
        })
    }

    /// A derived fact; an empty list as such.
    #[must_use]
    pub fn derived_or_none(self, fact: DerivedFact) -> Option<Seen<'a>> {
        self.derived_fact(fact)
    }

    fn derived_fact(self, fact: DerivedFact) -> Option<Seen<'a>> {
        let (p, d, interner) = (self.parcel, self.derived, self.interner);
        let texts =
            |names: Vec<&'a str>| Seen::List(names.into_iter().map(|n| Seen::Text(n.into())).collect());
        let open = || self.holds().filter(|h| h.closed.is_none());
        Some(match fact {
            DerivedFact::HoldsOpen => Seen::Number(Decimal::whole(open().count() as i64)),
            DerivedFact::HoldReasons => {
                texts(open().map(|h| h.reason.map_or("unknown", |t| p.text(t, interner))).collect())
            }
            DerivedFact::Terminal => {
                texts(d.seen.iter().filter(|m| m.is_terminal()).map(|m| m.name()).collect())
            }
            DerivedFact::Seen => texts(d.seen.iter().map(|m| m.name()).collect()),
            DerivedFact::LastMilestone => Seen::Text(d.last_milestone?.name().into()),
            DerivedFact::FacilityScans => Seen::Number(Decimal::whole(i64::from(d.facility_scans?))),
            DerivedFact::WeakDescription => Seen::Bool(derive::weak_description(p, interner)?),
            DerivedFact::MissingDocuments => texts(derive::missing_documents(p, interner)),
            DerivedFact::LandedCostDrift => Seen::Number(derive::drift(p, interner)?.0),
            DerivedFact::LandedCostDriftPercent => {
                let (drift, quoted) = derive::drift(p, interner)?;
                Seen::Percent(drift, quoted)
            }
        })
    }
}

fn json(raw: &str) -> Seen<'_> {
    if raw.starts_with('[') {
        let mut list = Vec::new();
        each_element(raw, |v| list.push(token(v)));
        return Seen::List(list);
    }
    derive::money_of(raw).map_or(Seen::Object, |(amount, _)| Seen::Money(amount))
}

fn token(value: Token<'_>) -> Seen<'_> {
    match value {
        Token::Text(..) => Seen::Text(value.text().unwrap_or_default()),
        Token::Number(raw) => Decimal::parse(raw).map_or(Seen::Object, Seen::Number),
        Token::Bool(b) => Seen::Bool(b),
        Token::Null => Seen::Object,
        Token::List(raw) | Token::Object(raw) => json(raw),
    }
}

fn passes(test: &Test, value: Option<&Seen<'_>>) -> bool {
    match test {
        Test::Equals(scalar) => value.is_some_and(|v| equals(v, scalar)),
        Test::AnyOf(any) => any.iter().any(|t| passes(t, value)),
        Test::AllOf(all) => all.iter().all(|t| passes(t, value)),
        Test::Not(inner) => !passes(inner, value),
        Test::Compare(comparison, n) => value.is_some_and(|v| compares(v, *comparison, *n)),
        Test::Missing(wanted) => {
            let missing = match value {
                None => true,
                Some(Seen::List(list)) => list.is_empty(),
                Some(_) => false,
            };
            missing == *wanted
        }
        Test::Glob(pattern) => value.is_some_and(|v| globs(v, pattern)),
    }
}

fn equals(value: &Seen<'_>, scalar: &Scalar) -> bool {
    match (value, scalar) {
        (Seen::List(list), Scalar::Bool(b)) => list.is_empty() != *b,
        (Seen::List(list), _) => list.iter().any(|v| equals(v, scalar)),
        (Seen::Text(t), Scalar::Text(s)) => t == s,
        (Seen::Number(n) | Seen::Money(n), Scalar::Number(m)) => n == m,
        (Seen::Percent(a, b), Scalar::Number(m)) => a.percent_of_cmp(*b, *m) == Some(Ordering::Equal),
        (Seen::Bool(a), Scalar::Bool(b)) => a == b,
        _ => false,
    }
}

fn compares(value: &Seen<'_>, comparison: Comparison, n: Decimal) -> bool {
    let order = match value {
        Seen::Number(v) | Seen::Money(v) => v.compare(n),
        Seen::Percent(a, b) => a.percent_of_cmp(*b, n),
        Seen::Text(t) => Decimal::parse(t).and_then(|v| v.compare(n)),
        // An empty list is missing (SEMANTICS 2.1), and comparisons fail on what is missing (4.3).
        Seen::List(list) if list.is_empty() => None,
        Seen::List(list) => Decimal::whole(list.len() as i64).compare(n),
        Seen::Bool(_) | Seen::Object => None,
    };
    order.is_some_and(|o| match comparison {
        Comparison::Gt => o.is_gt(),
        Comparison::Gte => o.is_ge(),
        Comparison::Lt => o.is_lt(),
        Comparison::Lte => o.is_le(),
    })
}

fn globs(value: &Seen<'_>, pattern: &str) -> bool {
    match value {
        Seen::Text(t) => glob(pattern, t),
        Seen::List(list) => list.iter().any(|v| globs(v, pattern)),
        _ => false,
    }
}
