//! Random rules, built in code: every shape of anchor, condition and end that SEMANTICS 5 names, and edits of them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parcelwatch::model::{
    Decimal, DerivedFact, DerivedTime, Evidence, FactRef, HOUR, MINUTE, Milestone, MilestoneSet, SECOND,
    Severity, known_fact,
};
use parcelwatch::rules::RuleSet;
use parcelwatch::rules::ruleset::{
    Anchor, AnchorSource, Body, CalendarRef, ClassFilter, Comparison, DeclaredFact, Expect, HoldsFilter,
    Matcher, Rule, Scalar, Span, Stage, Test, Tolerance,
};

use crate::random::Random;

/// Durations that rules use, so that records can be aimed at their ends.
pub const DURATIONS: [i64; 9] =
    [10 * SECOND, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 6 * HOUR];

/// The rule that every rule set holds unchanged, simple enough to be judged by a dozen lines (`naive`).
pub const PLAIN: &str = "plain";

/// One rule to be: its shape and the seed of what is drawn for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Sketch {
    shape: u64,
    seed: u64,
}

const SHAPES: u64 = 14;

/// A rule set to be, which can be edited.
#[derive(Clone)]
pub struct Rulebook {
    sketches: Vec<Sketch>,
    plain: Sketch,
    declares: bool,
}

impl Rulebook {
    pub fn new(random: &mut Random) -> Rulebook {
        let sketches = (0..random.within(2, 7)).map(|_| sketch(random)).collect();
        Rulebook {
            sketches,
            plain: Sketch { shape: u64::MAX, seed: random.next() },
            declares: random.percent(30),
        }
    }

    /// Another version of it.
    pub fn edited(&self, random: &mut Random) -> Rulebook {
        let mut new = self.clone();
        for _ in 0..random.within(1, 2) {
            let i = random.below(new.sketches.len().max(1) as u64) as usize;
            match random.below(4) {
                0 => new.sketches.push(sketch(random)),
                1 if !new.sketches.is_empty() => drop(new.sketches.remove(i)),
                2 if !new.sketches.is_empty() => new.sketches[i].seed = random.next(),
                _ => new.declares = !new.declares,
            }
        }
        new
    }

    /// The rules it stands for. A rule's id goes with its shape and place, so that an edited rule keeps its id.
    pub fn build(&self) -> Arc<RuleSet> {
        let mut rules = vec![plain(self.plain.seed)];
        let mut of_shape: BTreeMap<u64, u32> = BTreeMap::new();
        for s in &self.sketches {
            let n = of_shape.entry(s.shape).or_default();
            *n += 1;
            rules.push(rule(s.shape, &format!("r{:02}_{n}", s.shape), &mut Random::new(s.seed)));
        }
        rules.sort_by(|a, b| a.id.cmp(&b.id));
        let mut declared = Vec::new();
        if self.declares {
            declared.push(DeclaredFact { name: "warehouse_zone".into(), kind: "text".into() });
        }
        let mut set = RuleSet { hash: String::new(), rules, declared, ..RuleSet::default() };
        let mut hasher = DefaultHasher::new();
        format!("{set:?}").hash(&mut hasher);
        set.hash = format!("{:016x}", hasher.finish());
        Arc::new(set)
    }
}

fn sketch(random: &mut Random) -> Sketch {
    Sketch { shape: random.below(SHAPES), seed: random.next() }
}

pub fn text_is(fact: &str, value: &str) -> Matcher {
    Matcher::Fact(stated(fact), Test::Equals(Scalar::Text(value.into())))
}

fn stated(fact: &str) -> FactRef {
    FactRef::Stated(known_fact(fact).expect("a known fact"))
}

fn holds_open() -> Matcher {
    Matcher::Fact(FactRef::Derived(DerivedFact::HoldsOpen), Test::Compare(Comparison::Gt, Decimal::whole(0)))
}

fn anchor(sources: &[AnchorSource]) -> Anchor {
    Anchor { before: false, list: sources.len() > 1, last: false, sources: sources.to_vec() }
}

fn expect(milestones: &[Milestone]) -> Expect {
    let mut set = MilestoneSet::default();
    for m in milestones {
        set.insert(*m);
    }
    Expect { milestones: set, ..Expect::default() }
}

fn stages(random: &mut Random) -> Vec<Stage> {
    let mut ats: Vec<i64> = (0..random.within(1, 3)).map(|_| *random.pick(&DURATIONS)).collect();
    ats.sort_unstable();
    let severities = Severity::ALL;
    ats.iter().map(|at| Stage { at: elapsed(*at), severity: *random.pick(&severities) }).collect()
}

fn elapsed(ms: i64) -> Span {
    Span { ms, ..Span::default() }
}

fn body(stages: Vec<Stage>, expect: Expect) -> Body {
    Body {
        title: String::new(),
        description: String::new(),
        runbook: None,
        owner: "carrier".into(),
        policy: None,
        labels: BTreeMap::new(),
        unless: None,
        while_: None,
        expect,
        evidence: ClassFilter::default(),
        tolerance: Tolerance::Ms(0),
        grace: 0,
        reporting_delay: 0,
        calendar: CalendarRef::Elapsed,
        stages,
    }
}

fn bare(id: &str, anchor: Anchor, body: Body) -> Rule {
    Rule {
        id: id.into(),
        hash: id.into(),
        version: String::new(),
        shadow: false,
        anchor,
        scope: Matcher::default(),
        holds: None,
        restart: false,
        until: None,
        after_terminal: false,
        effective_from: None,
        effective_to: None,
        zone_slack: 0,
        bodies: vec![body],
        overrides: Vec::new(),
    }
}

/// After a departure the arrival, whatever the parcel's end: no condition, one stage.
fn plain(seed: u64) -> Rule {
    let mut random = Random::new(seed);
    let stage = Stage { at: elapsed(*random.pick(&DURATIONS)), severity: Severity::High };
    let mut body = body(vec![stage], expect(&[Milestone::ArrivedDestinationCountry]));
    body.grace = *random.pick(&[0, MINUTE, 10 * MINUTE]);
    body.tolerance = Tolerance::Ms(*random.pick(&[0, HOUR]));
    bare(PLAIN, anchor(&[AnchorSource::Milestone(Milestone::DepartedOriginCountry)]), body)
}

fn rule(shape: u64, id: &str, random: &mut Random) -> Rule {
    use AnchorSource::{Derived, Milestone as At};
    use Milestone as M;
    let after = [
        anchor(&[Derived(DerivedTime::ImportCustomsFullyCleared)]),
        anchor(&[Derived(DerivedTime::LastEvent)]),
        anchor(&[Derived(DerivedTime::GuaranteeEnd)]),
        anchor(&[Derived(DerivedTime::NextExpectedBy)]),
        anchor(&[At(M::ArrivedDestinationCountry)]),
        anchor(&[Derived(DerivedTime::HoldOpened)]),
        anchor(&[At(M::Delivered)]),
        anchor(&[At(M::DomesticScan)]),
        anchor(&[At(M::ImportCustomsCleared), At(M::PickedUp)]),
        anchor(&[Derived(DerivedTime::FirstEvent)]),
        anchor(&[Derived(DerivedTime::FacilitySince)]),
        anchor(&[Derived(DerivedTime::HoldRespondBy)]),
        anchor(&[Derived(DerivedTime::LastScan)]),
        anchor(&[Derived(DerivedTime::DocumentsAdded)]),
    ];
    let scans = expect(&[M::DomesticScan, M::OutForDelivery, M::Delivered]);
    let mut rule = bare(id, after[shape as usize].clone(), body(stages(random), scans));
    let body = &mut rule.bodies[0];
    match shape {
        0 => body.unless = Some(text_is("duty_status", "unpaid")),
        1 | 10 | 12 => body.expect = Expect::default(),
        2 => {
            rule.anchor.before = true;
            body.while_ = Some(holds_open());
            body.stages.reverse();
        }
        3 => body.expect = Expect { next_expected: true, ..Expect::default() },
        4 => {
            rule.restart = true;
            body.while_ = Some(Matcher::Fact(stated("duty_status"), Test::Not(Box::new(unpaid()))));
        }
        5 | 11 => {
            rule.holds = Some(HoldsFilter { reason: Some(vec!["documents".into()]), authority: None });
            body.expect = Expect { derived: vec![DerivedTime::HoldsClosed], ..Expect::default() };
            rule.restart = random.percent(40);
        }
        6 => {
            rule.after_terminal = true;
            body.expect = expect(&[M::ReceiptConfirmed]);
        }
        7 | 8 => rule.anchor.last = random.percent(60),
        9 => body.expect.derived = vec![DerivedTime::DocumentsAdded],
        _ => {}
    }
    common(&mut rule, random);
    rule
}

fn unpaid() -> Test {
    Test::Equals(Scalar::Text("unpaid".into()))
}

/// What any rule may have besides.
fn common(rule: &mut Rule, random: &mut Random) {
    let body = &mut rule.bodies[0];
    body.grace = *random.pick(&[0, 0, MINUTE, 30 * MINUTE]);
    body.reporting_delay = *random.pick(&[0, 0, 0, 5 * MINUTE]);
    body.tolerance = *random.pick(&[Tolerance::Ms(0), Tolerance::Ms(HOUR), Tolerance::Any]);
    if random.percent(20) {
        body.evidence = ClassFilter::of([Evidence::PhysicalScan]);
    }
    rule.zone_slack = *random.pick(&[0, 10 * MINUTE]);
    if random.percent(25) || rule.after_terminal {
        rule.until = Some(*random.pick(&[HOUR, 6 * HOUR, 12 * HOUR]));
    }
    if random.percent(25) {
        rule.scope = Matcher::Fact(stated("destination"), Test::Equals(Scalar::Text("ES".into())));
    }
    if random.percent(35) {
        let mut other = rule.bodies[0].clone();
        other.stages = stages(random);
        if rule.anchor.before {
            other.stages.reverse();
        }
        rule.overrides.push(text_is("domestic_carrier", "correos"));
        rule.bodies.push(other);
    }
}
