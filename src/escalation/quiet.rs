//! What keeps an exception quiet though it has something to say: a cause that is told in its place, a calendar, a silence
//! (DESIGN §7). Nothing here is for ever: each hold ends at a known time, or with the exception that explains it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use super::{Budget, Case, Evidence, Member, NEVER, State, Why};
use crate::model::Time;
use crate::rules::Policies;
use crate::rules::condition::Condition;
use crate::rules::policies::Inhibit;

/// An operator's silence.
#[derive(Debug, Clone, PartialEq)]
pub struct Silence {
    /// Its number.
    pub number: i64,
    /// What of.
    pub on: Condition,
    /// Wall time.
    pub starts_ms: i64,
    /// Wall time.
    pub ends_ms: i64,
}

/// What is quiet at a moment, besides the calendars of the policies.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Quiet {
    /// Those that operators made and that have not ended.
    pub silences: Vec<Silence>,
    /// Exceptions that are explained by others, both by number; by a feed, its number is negative.
    pub sources: BTreeMap<i64, i64>,
    /// How much recipients take; `None`: all, and a digest is sent where it is made.
    pub budget: Option<Budget>,
}

/// Why an exception was last kept quiet; remembered with it, so that the end of it is told as such, and once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// [`Why::Inhibited`], [`Why::Muted`] or [`Why::Silenced`].
    pub why: Why,
    /// The exception that explains it, the feed (a negative number), or the silence; 0: none of them.
    pub by: i64,
    /// Of which news.
    pub seq: i64,
}

/// The calendars that keep quiet at a moment, each with the time at which it ends.
#[derive(Debug)]
pub(super) struct Mutes<'a>(Vec<(&'a Condition, i64)>);

impl<'a> Mutes<'a> {
    pub(super) fn at(policies: &'a Policies, now: i64) -> Mutes<'a> {
        let quiet = policies.mute.iter().filter(|m| m.calendar.is_open(Time(now)) != m.outside);
        Mutes(quiet.map(|m| (&m.on, m.calendar.turns(Time(now)).0)).collect())
    }
}

/// What conditions read of an exception.
pub fn said<'a>(case: &'a Case, evidence: &'a Evidence) -> impl Fn(&str) -> Option<Value> + 'a {
    move |name| {
        let text: Cow<'_, str> = match name {
            "rule" => case.rule.as_str().into(),
            "severity" => case.severity.name().into(),
            "owner" => case.body.owner.as_str().into(),
            "policy" => case.body.policy.as_str().into(),
            "parcel_id" => case.parcel_id.as_str().into(),
            fact => return evidence.facts.get(fact).cloned(),
        };
        Some(Value::String(text.into_owned()))
    }
}

/// Why a member is to be kept quiet at `now`, and until when.
pub(super) fn hold(quiet: &Quiet, mutes: &Mutes<'_>, member: &Member, now: i64) -> Option<(Held, i64)> {
    let Member { case, evidence, .. } = member;
    let held = |why, by, until| Some((Held { why, by, seq: case.news.seq }, until));
    if let Some(source) = quiet.sources.get(&case.number) {
        return held(Why::Inhibited, *source, NEVER);
    }
    let said = said(case, evidence);
    let muted = mutes.0.iter().filter(|(on, _)| on.holds(&said)).map(|(_, until)| *until).max();
    if let Some(until) = muted {
        return held(Why::Muted, 0, until);
    }
    let in_force = |s: &&Silence| s.starts_ms <= now && now < s.ends_ms && s.on.holds(&said);
    let silence = quiet.silences.iter().filter(in_force).max_by_key(|s| s.ends_ms)?;
    held(Why::Silenced, silence.number, silence.ends_ms)
}

/// Adds to `sources` which of the targets are explained by which of the others that stand, by one entry of `inhibit`. What matches
/// both sides explains nothing that does too: two could silence each other for ever.
pub fn inhibit<'a>(
    entry: &Inhibit,
    targets: impl Iterator<Item = (&'a Case, &'a Evidence)>,
    others: impl Iterator<Item = (&'a Case, &'a Evidence)>,
    sources: &mut BTreeMap<i64, i64>,
) {
    let key = |case: &Case, evidence: &Evidence| -> Vec<Option<Value>> {
        let said = said(case, evidence);
        entry.equal.iter().map(|name| said(name).filter(|v| !v.is_null())).collect()
    };
    let mut causes: Vec<(Vec<Option<Value>>, i64, bool)> = Vec::new();
    for (case, evidence) in others {
        let stands = case.state != State::Resolved && !case.body.shadow;
        if stands && entry.source.holds(&said(case, evidence)) {
            causes.push((key(case, evidence), case.number, entry.target.holds(&said(case, evidence))));
        }
    }
    if causes.is_empty() {
        return;
    }
    let mut by_key: BTreeMap<String, Vec<(i64, bool)>> = BTreeMap::new();
    let text = |key: &[Option<Value>]| {
        key.iter()
            .map(|v| v.as_ref().map_or_else(|| "-".to_owned(), Value::to_string) + "\n")
            .collect::<String>()
    };
    for (key, number, both) in causes {
        by_key.entry(text(&key)).or_default().push((number, both));
    }
    for (case, evidence) in targets {
        if sources.contains_key(&case.number) || !entry.target.holds(&said(case, evidence)) {
            continue;
        }
        let Some(causes) = by_key.get(&text(&key(case, evidence))) else { continue };
        let both = entry.source.holds(&said(case, evidence));
        let cause = causes.iter().find(|(number, also)| *number != case.number && !(both && *also));
        if let Some((number, _)) = cause {
            sources.insert(case.number, *number);
        }
    }
}
