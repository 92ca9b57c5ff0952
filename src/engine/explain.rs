//! Why a rule did, did not or will fire for a parcel: the decision of [`evaluate`](super::evaluate), taken apart and said in words.

use serde_json::{Value as Json, json};

use super::Shard;
use super::derive::Derived;
use super::evaluate::Look;
use super::evidence::{self, seen};
use super::intern::Code;
use super::matching::View;
use super::parcel::Parcel;
use super::reading::{Anchored, body_in_force, picked_anchor, satisfied};
use super::table::hash_of;
use crate::model::{FactRef, Severity, Time};
use crate::rules::ruleset::{AnchorSource, Body, Comparison, Matcher, Rule, Scalar, Test};

/// What a rule makes of a parcel at a moment.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// None of its anchors is there.
    NoAnchor,
    /// Its anchor lies outside of `effective`.
    NotEffective,
    /// The parcel is not in its scope.
    OutOfScope,
    /// The parcel has ended.
    Terminal,
    /// What is expected has happened.
    Satisfied(Time),
    /// Its `until` has come.
    Expired(Time),
    /// `while` does not hold, or `unless` does.
    Condition,
    /// It is live, and no stage is reached: the next fires then, if nothing comes. `None`: never by the clock.
    Waits(Option<Time>),
    /// It is live, and this stage is reached.
    Reached(u8),
}

impl Verdict {
    /// Its name in outputs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Verdict::NoAnchor => "no_anchor",
            Verdict::NotEffective => "not_effective",
            Verdict::OutOfScope => "out_of_scope",
            Verdict::Terminal => "terminal",
            Verdict::Satisfied(_) => "satisfied",
            Verdict::Expired(_) => "expired",
            Verdict::Condition => "condition",
            Verdict::Waits(_) => "waits",
            Verdict::Reached(_) => "reached",
        }
    }
}

/// When a stage is due and when it fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageTime {
    /// What the rule says.
    pub due: Time,
    /// With `reporting_delay`, `zone_slack` and `grace`.
    pub fires: Time,
    /// How bad it is then.
    pub severity: Severity,
}

/// One rule and one parcel.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// The rule's id.
    pub rule: String,
    /// 0: its own body is in force; n: its n-th override.
    pub variant: u16,
    /// What its clock counts from.
    pub anchor: Option<Time>,
    /// Its stages, where there is an anchor.
    pub stages: Vec<StageTime>,
    /// What it comes to.
    pub verdict: Verdict,
    /// In words: what decided.
    pub because: Vec<String>,
}

impl Shard {
    /// Everything known of a parcel, and what each rule (or `rule` alone) makes of it at W or at a later `at`, if nothing comes
    /// until then; a JSON object. `None`: nothing is known of it.
    #[must_use]
    pub fn explain(&self, parcel_id: &str, rule: Option<&str>, at: Option<Time>) -> Option<Json> {
        let (parcel, derived) = self.unpacked(parcel_id)?;
        let rules = &self.program.rules;
        let known = evidence::parcel(&parcel, &derived, &self.interner, rules);
        let told = parcel.facts.iter().map(|f| {
            let stamp = json!({"event_time": Time(f.stamp.event_time).to_string(), "append_time": Time(f.stamp.append).to_string()});
            (rules.fact_name(f.number).to_owned(), stamp)
        });
        let at = at.map_or(self.watermark, |at| at.max(self.watermark));
        let explained = self.verdicts(&parcel, &derived, at);
        let explained = explained.iter().filter(|e| rule.is_none_or(|r| r == e.rule));
        Some(json!({
            "parcel": serde_json::from_str::<Json>(&known).unwrap_or(Json::Null),
            "facts_told": told.collect::<serde_json::Map<_, _>>(),
            "watermark": self.watermark.to_string(),
            "at": at.to_string(),
            "rules": explained.map(|e| self.shown(e)).collect::<Vec<_>>(),
        }))
    }

    /// What each rule makes of a parcel at `at`.
    #[must_use]
    pub fn explained(&self, parcel_id: &str, at: Time) -> Vec<Explained> {
        self.unpacked(parcel_id).map_or_else(Vec::new, |(p, d)| self.verdicts(&p, &d, at))
    }

    fn unpacked(&self, parcel_id: &str) -> Option<(Parcel, Derived)> {
        let slot = self.table.find(parcel_id, hash_of(parcel_id))?;
        let (mut parcel, mut derived) = (Parcel::default(), Derived::default());
        parcel.unpack(&self.table.slot(slot).bytes);
        derived.of(&parcel, &self.interner);
        Some((parcel, derived))
    }

    fn verdicts(&self, parcel: &Parcel, derived: &Derived, at: Time) -> Vec<Explained> {
        let look = self.look_at(at.0, at, false);
        let rules = self.program.rules.rules.iter().zip(&self.program.codes);
        rules.map(|(rule, code)| look.explain(parcel, derived, rule, *code)).collect()
    }

    fn shown(&self, e: &Explained) -> Json {
        let rule = self.program.rules.rule(&e.rule).map(|(_, r)| r);
        let body = rule.and_then(|r| r.bodies.get(usize::from(e.variant)));
        let stages = e.stages.iter().map(|s| {
            json!({"due": s.due.to_string(), "fires": s.fires.to_string(), "severity": s.severity.name()})
        });
        let fires = match e.verdict {
            Verdict::Waits(Some(time)) => time.to_string().into(),
            _ => Json::Null,
        };
        json!({
            "rule": e.rule,
            "title": body.map(|b| &b.title),
            "rule_hash": rule.map(|r| &*r.hash),
            "shadow": rule.is_some_and(|r| r.shadow),
            "override": (e.variant > 0).then_some(e.variant),
            "anchor": e.anchor.map(|t| t.to_string()),
            "expected": body.map(|b| &b.expect.names),
            "stages": stages.collect::<Vec<_>>(),
            "verdict": e.verdict.name(),
            "stage": match e.verdict { Verdict::Reached(stage) => stage.into(), _ => Json::Null },
            "fires": fires,
            "because": e.because,
        })
    }
}

impl Look<'_> {
    /// When this stage of a rule is due as things stand.
    pub(super) fn due_of(&self, parcel: &Parcel, derived: &Derived, rule: usize, stage: u8) -> Option<Time> {
        let (rule, code) = (&self.program.rules.rules[rule], self.program.codes[rule]);
        let view = View { parcel, derived, interner: self.interner, filter: rule.holds.as_ref() };
        let (_, body) = body_in_force(view, rule);
        let anchor = picked_anchor(view, rule, code)?;
        let times = self.stage_times(view, rule, body, code, anchor);
        times.get(usize::from(stage).checked_sub(1)?).map(|t| t.due)
    }

    fn explain(&self, parcel: &Parcel, derived: &Derived, rule: &Rule, code: Code) -> Explained {
        let view = View { parcel, derived, interner: self.interner, filter: rule.holds.as_ref() };
        let (variant, body) = body_in_force(view, rule);
        let anchor = picked_anchor(view, rule, code);
        let mut because = Vec::new();
        let verdict = self.verdict(view, rule, body, code, anchor, &mut because);
        let stages = anchor.map(|a| self.stage_times(view, rule, body, code, a)).unwrap_or_default();
        Explained {
            rule: rule.id.to_string(),
            variant,
            anchor: anchor.map(|a| a.time),
            stages,
            verdict,
            because,
        }
    }

    fn verdict(
        &self,
        view: View<'_>,
        rule: &Rule,
        body: &Body,
        code: Code,
        anchor: Option<Anchored>,
        because: &mut Vec<String>,
    ) -> Verdict {
        let Some(a) = anchor else {
            because.push(format!("none of what its clock counts from is there: {}", sources(rule)));
            return Verdict::NoAnchor;
        };
        let begun = rule.effective_from.is_none_or(|from| from <= a.time);
        if !begun || rule.effective_to.is_some_and(|to| a.time >= to) {
            because.push(format!("its clock counts from {}, outside of its `effective`", a.time));
            return Verdict::NotEffective;
        }
        if !view.holds_for(&rule.scope) {
            self.why(view, &rule.scope, false, because);
            return Verdict::OutOfScope;
        }
        if let Some(when) = satisfied(view, rule, body, a.time, view.parcel.claim, false) {
            because.push(format!(
                "what it expects ({}) has happened, last at {when}",
                body.expect.names.join(", ")
            ));
            return Verdict::Satisfied(when);
        }
        if view.derived.terminal && !rule.after_terminal {
            because.push("the parcel has ended".to_owned());
            return Verdict::Terminal;
        }
        if let Some(until) = rule.until.map(|u| a.time.plus(u)).filter(|u| u.0 < self.x) {
            because.push(format!("its `until` came at {until}"));
            return Verdict::Expired(until);
        }
        if let Some(m) = body.while_.as_ref().filter(|m| !view.holds_for(m)) {
            because.push("`while` does not hold".to_owned());
            self.why(view, m, false, because);
            return Verdict::Condition;
        }
        if let Some(m) = body.unless.as_ref().filter(|m| view.holds_for(m)) {
            because.push("`unless` holds".to_owned());
            self.why(view, m, true, because);
            return Verdict::Condition;
        }
        let times = self.stage_times(view, rule, body, code, a);
        match times.iter().rposition(|t| t.fires.0 < self.x) {
            Some(stage) => {
                because.push(format!("nothing that it expects happened by {}", times[stage].fires));
                Verdict::Reached(stage as u8 + 1)
            }
            None => {
                let next = times.iter().map(|t| t.fires).min();
                let until = rule.until.map(|u| a.time.plus(u));
                let next = next.filter(|next| until.is_none_or(|until| until > *next));
                because.push(match (next, until) {
                    (Some(next), _) => format!("it fires at {next} if nothing comes"),
                    (None, Some(until)) => format!("its `until` comes first, at {until}"),
                    (None, None) => "the clock brings nothing about".to_owned(),
                });
                Verdict::Waits(next)
            }
        }
    }

    /// Says which facts make a matcher hold, or keep it from it.
    fn why(&self, view: View<'_>, matcher: &Matcher, holds: bool, because: &mut Vec<String>) {
        match matcher {
            Matcher::All(all) => {
                for m in all.iter().filter(|m| view.holds_for(m) == holds) {
                    self.why(view, m, holds, because);
                }
            }
            Matcher::Any(any) => {
                for m in any.iter().filter(|m| view.holds_for(m) == holds) {
                    self.why(view, m, holds, because);
                }
            }
            Matcher::None(none) => {
                for m in none.iter().filter(|m| view.holds_for(m) != holds) {
                    self.why(view, m, !holds, because);
                }
            }
            Matcher::Fact(fact, test) => {
                let name = match fact {
                    FactRef::Stated(number) => self.program.rules.fact_name(*number),
                    FactRef::Derived(derived) => derived.name(),
                };
                let is = view.fact(*fact).map_or_else(|| "missing".to_owned(), |v| seen(&v).to_string());
                let word = if holds { "which is" } else { "which is not" };
                because.push(format!("{name} is {is}, {word} {}", asked(test)));
            }
        }
    }
}

fn sources(rule: &Rule) -> String {
    let names = rule.anchor.sources.iter().map(|s| match s {
        AnchorSource::Milestone(m) => m.name(),
        AnchorSource::Derived(t) => t.name(),
    });
    names.collect::<Vec<_>>().join(", ")
}

/// What a test asks for, as it would be written.
fn asked(test: &Test) -> String {
    let list = |tests: &[Test], word: &str| tests.iter().map(asked).collect::<Vec<_>>().join(word);
    match test {
        Test::Equals(Scalar::Text(t)) => format!("{t:?}"),
        Test::Equals(Scalar::Number(n)) => n.to_string(),
        Test::Equals(Scalar::Bool(b)) => b.to_string(),
        Test::AnyOf(tests) => format!("one of {}", list(tests, ", ")),
        Test::AllOf(tests) => list(tests, " and "),
        Test::Not(inner) => format!("other than {}", asked(inner)),
        Test::Compare(comparison, n) => {
            let sign = match comparison {
                Comparison::Gt => "above",
                Comparison::Gte => "at least",
                Comparison::Lt => "below",
                Comparison::Lte => "at most",
            };
            format!("{sign} {n}")
        }
        Test::Missing(true) => "missing".to_owned(),
        Test::Missing(false) => "there".to_owned(),
        Test::Glob(pattern) => format!("like {pattern:?}"),
    }
}
