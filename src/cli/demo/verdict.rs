//! Was what arrived what was owed? A backtest of the very records says which changes there were, the policies say who was to be
//! told of them, the receivers say what came. A pure comparison of the three.
//!
//! When a change is written and a group speaks depends on the machine, so an exception that ended soon after it opened may
//! have been told or not; but whoever is told is owed the end. All else is owed for certain.

use std::collections::{BTreeMap, BTreeSet};

use super::inbox::{Arrival, Notice};
use crate::model::{Change, ChangeKind, Severity, Time};
use crate::rules::policies::Policy;
use crate::rules::{Policies, RuleSet};

/// A change as cases holds it and as a backtest finds it: exception's id, `opened` and so on, resolution or "", stage,
/// severity, `at`.
pub type Written = (String, String, String, u64, String, String);

/// What is compared.
pub struct Account<'a> {
    /// What decided.
    pub rules: &'a RuleSet,
    /// Who is told.
    pub policies: &'a Policies,
    /// The backtest's changes, up to the last W of the run.
    pub owed: &'a [Change],
    /// What cases holds.
    pub written: &'a BTreeSet<Written>,
    /// What came, repeats left out.
    pub arrivals: &'a [Arrival],
    /// The run began here; what opened before was a backlog.
    pub began: Time,
    /// All that happened by here was written when every wait of a group still had time to pass.
    pub settled: Time,
    /// Here the clock stopped.
    pub ended: Time,
    /// How much later than its time a change may be written, milliseconds of the fast clock.
    pub lag: i64,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What is wrong, a line each; empty: nothing.
    pub differences: Vec<String>,
    /// Changes that backtest and cases agree on.
    pub changes: usize,
    /// Exceptions that were told to somebody.
    pub told: usize,
    /// Times that somebody was owed the end of an exception and got it.
    pub ends: usize,
}

/// One time that an exception stood, from opened to resolved.
struct Run<'a> {
    changes: Vec<&'a Change>,
    end: Option<&'a Change>,
}

/// The name of a change in cases.
#[must_use]
pub fn written(change: &Change) -> Written {
    let resolution = match change.kind {
        ChangeKind::Resolved(resolution) => resolution.name(),
        ChangeKind::Opened | ChangeKind::Raised => "",
    };
    (
        change.exception_id(),
        change.kind.name().to_owned(),
        resolution.to_owned(),
        u64::from(change.stage),
        change.severity.name().to_owned(),
        change.at.to_string(),
    )
}

/// Compares.
#[must_use]
pub fn judge(account: &Account<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let names = compare_changes(account, &mut verdict);
    let runs = runs(account.owed);
    let came = by_exception(account.arrivals);
    for id in came.keys().filter(|id| !runs.contains_key(*id)) {
        let notice = came[id].values().flatten().next();
        let parcel = notice.map_or("", |(n, _)| n.parcel_id.as_str());
        verdict.differences.push(format!("a message names exception {id} of {parcel}, which no rule opened"));
    }
    let nothing = BTreeMap::new();
    for (id, runs) in &runs {
        let name = names.get(id).map_or(id.as_str(), String::as_str);
        let of = Exception { account, name, runs };
        of.judge(came.get(id).unwrap_or(&nothing), &mut verdict);
    }
    verdict
}

/// Whether cases holds what the backtest found. Returns a readable name of each exception.
fn compare_changes(account: &Account<'_>, verdict: &mut Verdict) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let mut owed = BTreeSet::new();
    for change in account.owed {
        names
            .entry(change.exception_id())
            .or_insert_with(|| format!("{} of {}", change.rule, change.parcel_id));
        owed.insert(written(change));
    }
    let line = |(id, change, resolution, stage, severity, at): &Written| {
        let name = names.get(id).unwrap_or(id);
        format!("{name}: {change} {resolution} stage {stage} {severity} at {at}").replace("  ", " ")
    };
    let missing = owed.difference(account.written).map(|w| format!("not written: {}", line(w)));
    let invented = account.written.difference(&owed).map(|w| format!("written, but not owed: {}", line(w)));
    verdict.differences.extend(missing.chain(invented));
    verdict.changes = owed.intersection(account.written).count();
    names
}

fn runs(changes: &[Change]) -> BTreeMap<String, Vec<Run<'_>>> {
    let mut all: BTreeMap<String, Vec<Run<'_>>> = BTreeMap::new();
    for change in changes {
        let runs = all.entry(change.exception_id()).or_default();
        match (change.kind, runs.last_mut().filter(|r| r.end.is_none())) {
            (ChangeKind::Opened, _) | (_, None) => runs.push(Run { changes: vec![change], end: None }),
            (ChangeKind::Raised, Some(run)) => run.changes.push(change),
            (ChangeKind::Resolved(_), Some(run)) => run.end = Some(change),
        }
    }
    all
}

/// Of each exception what each recipient ("" is the webhook) got, in order, with the step it came with.
type Came<'a> = BTreeMap<&'a str, Vec<(&'a Notice, Option<u64>)>>;

fn by_exception(arrivals: &[Arrival]) -> BTreeMap<String, Came<'_>> {
    let mut all: BTreeMap<String, Came<'_>> = BTreeMap::new();
    for arrival in arrivals {
        for notice in &arrival.notices {
            let came = all.entry(notice.exception_id.clone()).or_default();
            came.entry(&arrival.recipient).or_default().push((notice, arrival.step));
        }
    }
    all
}

struct Exception<'a> {
    account: &'a Account<'a>,
    name: &'a str,
    runs: &'a [Run<'a>],
}

/// When a recipient is told.
struct Rung {
    /// From 1.
    step: usize,
    after: i64,
    min: Severity,
}

impl Exception<'_> {
    fn judge(&self, came: &Came<'_>, verdict: &mut Verdict) {
        let (policy, rungs) = self.rungs();
        for to in came.keys().filter(|to| !rungs.contains_key(**to)) {
            verdict.differences.push(format!("{}: {} was told and is on no step", self.name, who(to)));
        }
        let mut first_step = BTreeMap::new();
        for (to, rung) in &rungs {
            let notices = came.get(to.as_str()).map_or(&[][..], Vec::as_slice);
            let faults = &mut verdict.differences;
            let (told, ends) = self.recipient(to, rung, policy, notices, faults);
            verdict.ends += ends;
            if rung.step == 1 {
                let tells = notices.iter().filter(|(n, _)| n.change != "resolved").count();
                first_step.insert(to.as_str(), tells);
                verdict.told += usize::from(to.is_empty() && told > 0);
            }
        }
        // Whoever is on the first step is told the same, so news that came twice to one of them is seen here.
        if first_step.values().collect::<BTreeSet<_>>().len() > 1 {
            let counts: Vec<_> = first_step.iter().map(|(to, n)| format!("{} {n} times", who(to))).collect();
            verdict.differences.push(format!("{}: told unequally: {}", self.name, counts.join(", ")));
        }
    }

    /// Who is told, by recipient; each is on one step only.
    fn rungs(&self) -> (Option<&Policy>, BTreeMap<String, Rung>) {
        let Account { rules, policies, .. } = self.account;
        let mut rungs = BTreeMap::new();
        let opened = self.runs.first().and_then(|r| r.changes.first()).and_then(|c| c.body);
        let body = opened.and_then(|(rule, body)| rules.rules.get(rule as usize)?.bodies.get(body as usize));
        let named = body.and_then(|b| b.policy.clone()).or_else(|| policies.default_policy.clone());
        let policy = named.and_then(|id| policies.policy(&id));
        for (i, step) in policy.iter().flat_map(|p| &p.steps).enumerate() {
            let owner = body.and_then(|b| policies.owners.get(&b.owner)).map_or(&[][..], |o| &o.default);
            let named =
                step.notify.iter().flat_map(|n| if n == "owner" { owner.iter().collect() } else { vec![n] });
            for receiver in named.filter_map(|id| policies.receiver(id)) {
                let min = step.min_severity.unwrap_or(Severity::Info);
                for to in receiver.kind.recipients() {
                    rungs.entry(to).or_insert(Rung { step: i + 1, after: step.after, min });
                }
            }
        }
        (policy, rungs)
    }

    /// Judges what one recipient got. Returns how many of the runs were told, and how many ends arrived.
    fn recipient(
        &self,
        to: &str,
        rung: &Rung,
        policy: Option<&Policy>,
        notices: &[(&Notice, Option<u64>)],
        faults: &mut Vec<String>,
    ) -> (usize, usize) {
        let mut fault = |text: String| faults.push(format!("{}: {} {text}", self.name, who(to)));
        let (mut told, mut ends, mut open) = (0, 0, false);
        let mut news = BTreeSet::new();
        for (notice, step) in notices {
            if let Some((stage, at)) = &notice.news {
                self.news_is_true(notice, *stage, at).unwrap_or_else(&mut fault);
                let fresh = news.insert((&notice.change, step, stage, at));
                if !fresh && notice.change != "reminder" {
                    fault(format!("got the same {} of {at} twice", notice.change));
                }
            }
            if notice.change == "resolved" {
                if !open {
                    fault("was told the end of what it had not been told of".to_owned());
                }
                (open, ends) = (false, ends + 1);
                continue;
            }
            if Severity::from_name(&notice.severity).is_none_or(|s| s < rung.min) {
                fault(format!("was told at severity {}, below its step's", notice.severity));
            }
            told += usize::from(!open);
            open = true;
        }
        let stands = self.runs.last().is_some_and(|r| r.end.is_none());
        if open && !stands {
            fault("is owed the end, which did not arrive".to_owned());
        }
        if told > self.runs.len() || ends > self.runs.iter().filter(|r| r.end.is_some()).count() {
            fault(format!("was told {told} times that it stands, {ends} times that it ended"));
        }
        let owed = self.runs.iter().filter(|run| self.is_owed(run, rung, policy)).count();
        if told < owed {
            fault(format!("was to be told {owed} times and was told {told} times"));
        }
        (told, ends)
    }

    /// Whether a webhook's news is one of the changes there were.
    fn news_is_true(&self, notice: &Notice, stage: u64, at: &str) -> Result<(), String> {
        let mut changes = self.runs.iter().flat_map(|r| r.changes.iter().chain(&r.end));
        let known = changes.any(|c| {
            let kind = notice.change == "reminder" || notice.change == c.kind.name();
            kind && u64::from(c.stage) == stage && c.at.to_string() == at
        });
        if known {
            Ok(())
        } else {
            Err(format!("was told {} stage {stage} of {at}: there was none", notice.change))
        }
    }

    /// Whether a recipient had to be told of this run, whatever the machine was busy with.
    fn is_owed(&self, run: &Run<'_>, rung: &Rung, policy: Option<&Policy>) -> bool {
        let (Some(policy), Some(opened)) = (policy, run.changes.first()) else { return false };
        let mut highest = opened.severity;
        let mut ladder = opened.at;
        for change in &run.changes {
            if change.severity > highest {
                (highest, ladder) = (change.severity, change.at);
            }
        }
        if highest < rung.min {
            return false;
        }
        let waits = policy.group_wait.saturating_add(policy.group_interval);
        match run.end {
            None if rung.step == 1 && rung.after == 0 => opened.at <= self.account.settled,
            None => {
                let from = ladder.max(self.account.began);
                from.plus(rung.after + waits + self.account.lag) <= self.account.ended
            }
            Some(end) => {
                let from = opened.at.max(self.account.began);
                rung.step == 1 && rung.after == 0 && from.plus(waits + self.account.lag) < end.at
            }
        }
    }
}

fn who(recipient: &str) -> &str {
    if recipient.is_empty() { "the webhook" } else { recipient }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::files::tests as shipped;
    use crate::model::DAY;
    use crate::rules::policies::ReceiverKind;

    /// What perfect receivers get of these changes: the webhook and the owner's desk, each change in a message of its own.
    fn told(rules: &RuleSet, policies: &Policies, changes: &[Change]) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        for change in changes {
            let rule = rules.rule(&change.rule).unwrap().1;
            let owner = &policies.owners[&rule.bodies[0].owner].default[0];
            let ReceiverKind::Email { to } = &policies.receiver(owner).unwrap().kind else {
                panic!("{owner}")
            };
            let over = change.kind.name() == "resolved";
            for recipient in [String::new(), to[0].clone()] {
                let hook = recipient.is_empty();
                let notice = Notice {
                    exception_id: change.exception_id(),
                    parcel_id: change.parcel_id.to_string(),
                    change: if hook || over { change.kind.name().to_owned() } else { String::new() },
                    severity: change.severity.name().to_owned(),
                    news: hook.then(|| (u64::from(change.stage), change.at.to_string())),
                };
                arrivals.push(Arrival {
                    id: format!("m{}", arrivals.len()),
                    recipient,
                    title: String::new(),
                    step: (!over).then_some(1),
                    notices: vec![notice],
                });
            }
        }
        arrivals
    }

    /// A perfect run, spoilt by `spoil`: what is found.
    fn found(spoil: impl FnOnce(&mut Vec<Arrival>, &mut BTreeSet<Written>)) -> Verdict {
        let (rules, policies) = shipped::rules();
        let changes = shipped::run(3, 30);
        let mut arrivals = told(&rules, &policies, &changes);
        let mut holds: BTreeSet<Written> = changes.iter().map(written).collect();
        spoil(&mut arrivals, &mut holds);
        let last = changes.last().unwrap().at;
        judge(&Account {
            rules: &rules,
            policies: &policies,
            owed: &changes,
            written: &holds,
            arrivals: &arrivals,
            began: changes[0].at,
            settled: last,
            ended: last,
            lag: 400 * DAY,
        })
    }

    /// The first message of `change` in a webhook.
    fn place(arrivals: &[Arrival], change: &str) -> usize {
        arrivals.iter().position(|a| a.recipient.is_empty() && a.notices[0].change == change).unwrap()
    }

    #[track_caller]
    fn differs(verdict: &Verdict, says: &str) {
        assert!(verdict.differences.iter().any(|d| d.contains(says)), "{says}: {:#?}", verdict.differences);
    }

    #[test]
    fn a_perfect_run_is_right() {
        let verdict = found(|_, _| {});
        assert_eq!(verdict.differences, Vec::<String>::new());
        assert!(verdict.changes > 100 && verdict.told > 50 && verdict.ends > 50, "{verdict:?}");
    }

    #[test]
    fn what_is_missing_is_seen() {
        differs(&found(|a, _| drop(a.remove(place(a, "resolved")))), "is owed the end");
        differs(&found(|a, _| a.retain(|a| !a.recipient.is_empty())), "the webhook was to be told 1 times");
        differs(&found(|a, _| a.retain(|a| a.recipient.is_empty())), "was to be told 1 times");
        differs(&found(|_, w| drop(w.pop_first())), "not written: ");
    }

    #[test]
    fn what_is_too_much_is_seen() {
        let again = |change: &'static str| {
            found(move |a, _| {
                let copy = a[place(a, change)].clone();
                a.push(Arrival { id: "again".to_owned(), ..copy });
            })
        };
        differs(&again("opened"), "got the same opened");
        differs(&again("opened"), "told unequally");
        differs(&again("resolved"), "was told the end of what it had not been told of");
        differs(&found(|a, _| a[0].recipient = "nobody@example.org".to_owned()), "is on no step");
        differs(&found(|a, _| a[0].notices[0].exception_id = "ff".to_owned()), "which no rule opened");
        differs(
            &found(|a, _| a[0].notices[0].news = Some((9, "2026-01-01T00:00:00Z".to_owned()))),
            "there was none",
        );
        let more =
            ("ff".to_owned(), "opened".to_owned(), String::new(), 1, "high".to_owned(), "now".to_owned());
        differs(
            &found(|_, w| assert!(w.insert(more))),
            "written, but not owed: ff: opened stage 1 high at now",
        );
    }
}
